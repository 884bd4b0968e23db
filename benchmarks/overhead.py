"""What the harness adds to a call: the same session in a bare timing loop and in the harness, in turns, in one process.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --onnx model.onnx --threads 1

Each round is a block of the one and a block of the other, and the order alternates, so that a machine that changes its
speed changes it for both. A row is the median over the rounds. *compute* and *end to end* are how much more the harness
reports than the bare loop, which times nothing but `Session.run`; *between* is how much longer its loop is busy between
two calls, with recording. Rows with *one by one* are of the loop that server and paced make their passes with. The exit
status is 1 where end to end and between together are above 1 % of a call and above 20 microseconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy import plugins
from edgedeploy.bench.sampling import BatchSteps, Recorder
from edgedeploy.bench.target import Target
from edgedeploy.runtime import Outputs, Session
from edgedeploy.tasks.raw import Raw
from edgedeploy.tensors import Array, Signature, TensorSpec, random_input
from edgedeploy.testing import SIGNATURE
from edgedeploy.units import show

SHARE, SECONDS = 0.01, 20e-6


class Spin:
    """A session that keeps the processor busy for a known time and gives the same outputs each time."""

    facts: Mapping[str, str | int | float] = {}

    def __init__(self, seconds: float) -> None:
        self._nanoseconds = int(seconds * 1e9)
        self._outputs: Outputs = {"scores": np.zeros((1, 2), np.float32)}

    def run(self, inputs: Mapping[str, Array], graph: str = "main") -> Outputs:
        """Wait, busily."""
        end = time.perf_counter_ns() + self._nanoseconds
        while time.perf_counter_ns() < end:
            pass
        return self._outputs

    def reset(self) -> None:
        """There is no state."""

    def close(self) -> None:
        """There is nothing to free."""


@dataclass(frozen=True)
class Added:
    """What one session's call costs in the bare loop, and what the harness adds to it; seconds."""

    bare: float
    compute: float
    end_to_end: float
    between: float

    @property
    def small(self) -> bool:
        """Whether what is added is within the limits."""
        return max(self.compute, self.end_to_end + self.between) <= max(SHARE * self.bare, SECONDS)


def bare_block(session: Session, inputs: Mapping[str, Array], calls: int) -> tuple[float, float]:
    """Median seconds of a call, and mean seconds between two, of a loop with nothing in it but the call."""
    clock, times = time.perf_counter_ns, [0] * calls
    begin = clock()
    for i in range(calls):
        start = clock()
        session.run(inputs)
        times[i] = clock() - start
    return float(np.median(times)) / 1e9, (clock() - begin - sum(times)) / calls / 1e9


def harness_block(recorder: Recorder, calls: int, one_by_one: bool) -> tuple[float, float, float]:
    """Median seconds of compute and of end to end, and mean seconds between two passes, of the harness' loop."""
    first, begin = recorder.count, time.perf_counter_ns()
    if one_by_one:
        recorder.begin()
        for _ in range(calls):
            recorder.once()
    else:
        recorder.run(0.0, calls)
    wall = (time.perf_counter_ns() - begin) / 1e9
    passes = recorder.passes(first)
    between = (wall - float(passes.seconds().sum())) / calls
    return float(np.median(passes.seconds("compute"))), float(np.median(passes.seconds())), between


def compare(session: Session, signature: Signature, block: float, rounds: int, one_by_one: bool = False) -> Added:
    """The bare loop and the harness in turns, blocks of about ``block`` seconds."""
    samples = tuple(random_input(spec, {"batch": 1}, seed=i) for i, spec in enumerate(signature.inputs))
    inputs = dict(zip((spec.name for spec in signature.inputs), samples, strict=True))
    target = Target("overhead", "", "", None, signature, Raw(), (samples,), lambda: "", lambda: session)
    recorder = Recorder(BatchSteps(target, session, "main", 1), time.perf_counter_ns)
    typical = max(bare_block(session, inputs, 5)[0], 1e-7)
    calls = max(5, int(block / typical))
    harness_block(recorder, calls, one_by_one)
    recorder.reserve(rounds * calls)
    found = []
    for number in range(rounds):
        if number % 2:
            harness = harness_block(recorder, calls, one_by_one)
            bare = bare_block(session, inputs, calls)
        else:
            bare = bare_block(session, inputs, calls)
            harness = harness_block(recorder, calls, one_by_one)
        found.append((bare[0], harness[0] - bare[0], harness[1] - bare[0], harness[2] - bare[1]))
    return Added(*(float(value) for value in np.median(found, axis=0)))


def onnx_session(path: Path, threads: int) -> tuple[Session, Signature]:
    """An ONNX file as a session of this project's ONNX Runtime plug-in; dynamic dimensions are 1."""
    import onnxruntime

    described = onnxruntime.InferenceSession(str(path))
    signature = Signature(tuple(map(_spec, described.get_inputs())), tuple(map(_spec, described.get_outputs())))
    runtime = plugins.find(plugins.RUNTIMES, "onnxruntime")(threads=threads)
    session: Session = runtime.open({"main": path}, {"main": signature})
    return session, signature


def _spec(end: Any) -> TensorSpec:
    dtype = {"float": "float32", "double": "float64"}.get(end.type[7:-1], end.type[7:-1])
    return TensorSpec(end.name, dtype, tuple(size if isinstance(size, int) else 1 for size in end.shape))


def main() -> int:
    """Print a row per session."""
    parser = argparse.ArgumentParser(description="What the harness adds to a call.")
    parser.add_argument("--onnx", type=Path, help="also measure this model with ONNX Runtime")
    parser.add_argument("--threads", type=int, default=1, help="threads of ONNX Runtime (1)")
    parser.add_argument("--block", type=float, default=0.2, help="seconds of a block (0.2)")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of two blocks (20)")
    arguments = parser.parse_args()
    sessions: list[tuple[str, Session, Signature]] = [
        (f"busy for {show(seconds, 's')}", Spin(seconds), SIGNATURE) for seconds in (0.0, 1e-5, 1e-4, 1e-3, 1e-2)
    ]
    if arguments.onnx is not None:
        sessions.append((arguments.onnx.name, *onnx_session(arguments.onnx, arguments.threads)))
    rows = [(name, session, signature, False) for name, session, signature in sessions]
    rows += [(f"{name}, one by one", session, signature, True) for name, session, signature in sessions]
    print(f"{'session':<32}{'bare call':>12}{'+ compute':>12}{'+ end to end':>14}{'+ between':>12}")
    small = True
    for name, session, signature, one_by_one in rows:
        added = compare(session, signature, arguments.block, arguments.rounds, one_by_one)
        columns = (added.bare, added.compute, added.end_to_end, added.between)
        texts = [show(value, "s") for value in columns]
        mark = "" if added.small else "   too much"
        print(f"{name:<32}{texts[0]:>12}{texts[1]:>12}{texts[2]:>14}{texts[3]:>12}{mark}", flush=True)
        small = small and added.small
    return 0 if small else 1


if __name__ == "__main__":
    sys.exit(main())
