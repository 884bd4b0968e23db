"""Where the time of a program goes: one run with ExecuTorch's event tracer, read per operator.

Operators inside XNNPACK have XNNPACK's names, and times in whole microseconds; those outside have ExecuTorch's names.
"""

from __future__ import annotations

import re
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.precision.program import quiet
from edgedeploy.runtime import NodeTime
from edgedeploy.tensors import Array, Signature
from edgedeploy_executorch.runtime import Program, binding
from edgedeploy_executorch.words import caught

#: Events that hold others.
_TOTALS = ("Method::execute", "DELEGATE_CALL", "OPERATOR_CALL")


@dataclass(frozen=True)
class OperatorTime:
    """One operator of a program: its name, whether a delegate ran it, the median of its times, and all of them; s."""

    name: str
    delegated: bool
    time: float
    times: tuple[float, ...] = ()


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

    def work(call: Callable[[], object]) -> None:
        for _ in range(runs + 1):  # the first run also warms up
            call()

    return traced(file, Call(signature, inputs, graph), work, 1)


@dataclass(frozen=True)
class Call:
    """What is run: ``graph`` on ``inputs``."""

    signature: Signature
    inputs: Mapping[str, Array]
    graph: str


def traced(file: Path, call: Call, work: Callable[[Callable[[], object]], object], skipped: int) -> list[OperatorTime]:
    """The operators of a .pte file in order of execution, over all runs that ``work`` makes but the first ``skipped``.

    Raises:
        Unavailable: ExecuTorch's devtools are not installed.
        UsageError, Incompatible, RunFailed: see `edgedeploy.runtime.Runtime.open`.
    """
    inspector = _inspector()
    program = Program(binding(), file, traced=True)
    loaded = program.graph(call.graph)
    work(lambda: loaded.call(call.signature, call.inputs, call.graph))
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
            time=statistics.median(event.perf_data.raw[skipped:]) * 1e-9,
            times=tuple(time * 1e-9 for time in event.perf_data.raw[skipped:]),
        )
        for event in events
        if event.perf_data is not None and event.name not in _TOTALS
    ]


_PORTABLE = "portable kernels"
_TYPES = {"F32": "fp32", "F16": "fp16", "PF32": "fp32", "PF16": "fp16", "X32": "fp32", "X16": "fp16", "X8": "int8"}
_TYPES |= dict.fromkeys(("QS8", "QU8", "QC8", "QD8", "QC8W", "S8", "U8"), "int8")


def node_times(operators: Sequence[OperatorTime], backends: Sequence[str]) -> tuple[NodeTime, ...]:
    """Operators in the words of a `Profile`. A program with one delegate has its name; of several it is not told which.

    XNNPACK's names hold their kind and types, ``Convolution (NHWC, F32) IGEMM #1``, and count from 1 in each delegate.
    """
    delegate = backends[0] if len(backends) == 1 else "delegate"
    return tuple(_node(i, one, delegate if one.delegated else _PORTABLE) for i, one in enumerate(operators))


def _node(place: int, operator: OperatorTime, unit: str) -> NodeTime:
    kind = re.split(r" \(|\.|#", operator.name)[0].strip()
    types = re.findall(r"\w+", (re.findall(r"\(([^)]*)\)", operator.name) or [""])[0])
    dtype = next((_TYPES[word] for word in types if word in _TYPES), "")
    return NodeTime(f"{place}: {operator.name}", kind, operator.time, unit, dtype=dtype)


def _inspector() -> Any:
    try:
        with quiet(), caught():
            from executorch.devtools import inspector
    except ImportError as error:
        raise Unavailable.extra("ExecuTorch with its devtools", "executorch") from error
    return inspector
