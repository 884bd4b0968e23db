"""Where the time of a program goes: one run with ExecuTorch's event tracer, read per operator.

Operators inside XNNPACK have XNNPACK's names, and times in whole microseconds; those outside have ExecuTorch's names.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.precision.program import quiet
from edgedeploy.tensors import Array, Signature
from edgedeploy_executorch.runtime import Program, binding
from edgedeploy_executorch.words import caught

#: Events that hold others.
_TOTALS = ("Method::execute", "DELEGATE_CALL", "OPERATOR_CALL")


@dataclass(frozen=True)
class OperatorTime:
    """One operator of a program: its name, whether a delegate ran it, and the median of its times in seconds."""

    name: str
    delegated: bool
    time: float


def operator_times(
    file: Path, signature: Signature, inputs: Mapping[str, Array], graph: str = "main", runs: int = 5
) -> list[OperatorTime]:
    """Run ``graph`` of a .pte file ``runs`` times and say how long each operator took, in order of execution.

    Raises:
        UsageError: inputs that the graph does not take; less than one run.
        Unavailable: ExecuTorch's devtools are not installed.
        Incompatible, RunFailed: see `edgedeploy.runtime.Runtime.open`.
    """
    if runs < 1:
        raise UsageError(f"{runs} runs are too few: give 1 or more.")
    inspector = _inspector()
    program = Program(binding(), file, traced=True)
    loaded = program.graph(graph)
    for _ in range(runs + 1):
        loaded.call(signature, inputs, graph)
    with tempfile.TemporaryDirectory() as folder, quiet(), caught():
        trace = Path(folder) / "etdump.bin"
        program.write_trace(trace)
        scale = inspector.TimeScale.NS
        read = inspector.Inspector(etdump_path=str(trace), source_time_scale=scale, target_time_scale=scale)
    events = [event for block in read.event_blocks if block.name == "Execute" for event in block.events]
    return [
        OperatorTime(
            name=event.name.removeprefix("native_call_"),
            delegated=bool(event.is_delegated_op),
            time=statistics.median(event.perf_data.raw[1:]) * 1e-9,  # the first run also warms up
        )
        for event in events
        if event.perf_data is not None and event.name not in _TOTALS
    ]


def _inspector() -> Any:
    try:
        with quiet(), caught():
            from executorch.devtools import inspector
    except ImportError as error:
        raise Unavailable.extra("ExecuTorch with its devtools", "executorch") from error
    return inspector
