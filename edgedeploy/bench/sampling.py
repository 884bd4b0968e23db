"""The timing loop: passes over real samples, each part between two readings of a clock that is given in."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgedeploy.bench.measurement import Passes
from edgedeploy.bench.target import Target
from edgedeploy.bench.telemetry import Clock
from edgedeploy.errors import UsageError
from edgedeploy.runtime import Outputs, Session
from edgedeploy.tensors import Array

#: Medians of consecutive windows agree where the largest is at most this share above the smallest.
AGREEMENT = 0.05
#: As many consecutive windows have to agree.
WINDOWS = 3
#: A window has at least so many passes, and lasts at least this share of the longest allowed warm-up: a model of
#: 50 microseconds would else be declared steady before the clocks of the processor had moved.
WINDOW_PASSES, WINDOW_SHARE = 5, 0.05
#: Passes kept per process at most: the record of more would be tens of megabytes and say nothing new.
LIMIT = 200_000


#: Told the share of the duration that is over.
Report = Callable[[float], None]


class Steps(Protocol):
    """One pass in three parts. What `prepare` gives is handed to the other two and not looked at."""

    def prepare(self, index: int) -> Any:
        """Tensors for pass ``index`` (0, 1, ...)."""
        ...

    def compute(self, ready: Any) -> Any:
        """The graph's outputs."""
        ...

    def finish(self, ready: Any, outputs: Any) -> Any:
        """The results."""
        ...


@dataclass(frozen=True)
class Ready:
    """A prepared batch: inputs by name, and a context per sample."""

    inputs: Mapping[str, Array]
    contexts: tuple[Any, ...]


class BatchSteps:
    """Passes of ``batch`` samples through a session, cycling through the target's samples."""

    def __init__(self, target: Target, session: Session, graph: str, batch: int) -> None:
        self._task, self._samples, self._batch = target.task, target.samples, batch
        self._inputs = tuple(spec.name for spec in target.signature.inputs)
        self._outputs = tuple(spec.name for spec in target.signature.outputs)
        self._session, self._graph = session, graph

    def prepare(self, index: int) -> Ready:
        """Prepare the next ``batch`` samples and stack them along the first axis."""
        start, count = index * self._batch, len(self._samples)
        prepared = [self._task.prepare(self._samples[(start + i) % count]) for i in range(self._batch)]
        contexts = tuple(p.context for p in prepared)
        if self._batch == 1:
            return Ready(dict(zip(self._inputs, prepared[0].tensors, strict=True)), contexts)
        columns = zip(*(p.tensors for p in prepared), strict=True)
        stacked = (np.concatenate(column) for column in columns)
        return Ready(dict(zip(self._inputs, stacked, strict=True)), contexts)

    def compute(self, ready: Ready) -> Outputs:
        """Run the graph."""
        return self._session.run(ready.inputs, self._graph)

    def finish(self, ready: Ready, outputs: Outputs) -> list[Any]:
        """One result per sample.

        Raises:
            UsageError: an output does not have one row per sample.
        """
        if self._batch == 1:
            return [self._task.finish([outputs[name] for name in self._outputs], ready.contexts[0])]
        return [
            self._task.finish([self._row(name, outputs[name], i) for name in self._outputs], context)
            for i, context in enumerate(ready.contexts)
        ]

    def _row(self, name: str, tensor: Array, i: int) -> Array:
        """Row ``i`` of an output that has one per sample; a slice of any other would be no result."""
        if tensor.ndim == 0 or tensor.shape[0] != self._batch:
            raise UsageError(
                f"Output '{name}' has shape {list(tensor.shape)} for a batch of {self._batch}: "
                "the graph does not keep the batch as first axis. Measure it with batch 1."
            )
        return tensor[i : i + 1]


class Recorder:
    """Runs passes and keeps their times, in columns that are allocated before the first pass of a run."""

    def __init__(self, steps: Steps, clock: Clock) -> None:
        self._steps, self._clock = steps, clock
        self._columns = (array("q"), array("q"), array("q"))
        self.count = 0

    def passes(self, start: int = 0, stop: int | None = None) -> Passes:
        """The recorded passes from ``start`` to ``stop``."""
        stop = self.count if stop is None else stop
        prepare, compute, finish = (tuple(column[start:stop]) for column in self._columns)
        return Passes(prepare, compute, finish)

    def reserve(self, more: int) -> None:
        """Make room for ``more`` passes, so that no memory has to be found between two of them."""
        missing = self.count + more - len(self._columns[0])
        for column in self._columns:
            column.frombytes(bytes(8 * max(0, missing)))

    def run(
        self, duration: float, minimum: int, limit: int = LIMIT, report: Report = lambda share: None, every: float = 1.0
    ) -> int:
        """Make passes for ``duration`` seconds, at least ``minimum`` and at most ``limit``; the number made.

        About every ``every`` seconds, between two passes, the share of ``duration`` that is over is reported. The
        tensors and outputs of a pass are let go of before its last clock reading: freeing them is a cost of the pass.
        """
        clock, prepare, compute, finish = self._clock, self._steps.prepare, self._steps.compute, self._steps.finish
        prepared, computed, finished = self._columns
        made, first, room = 0, self.count, len(prepared) - self.count
        begin = clock()
        end, next_report = begin + int(duration * 1e9), begin + int(every * 1e9)
        while True:
            if made == room:
                self.reserve(made + max(made, WINDOW_PASSES))
                room = len(prepared) - first
            t0 = clock()
            ready = prepare(first + made)
            t1 = clock()
            outputs = compute(ready)
            t2 = clock()
            finish(ready, outputs)
            ready = outputs = None
            t3 = clock()
            position = first + made
            prepared[position], computed[position], finished[position] = t1 - t0, t2 - t1, t3 - t2
            made += 1
            if (t3 >= end and made >= minimum) or made >= limit:
                break
            if t3 >= next_report:
                next_report = t3 + int(every * 1e9)
                report(min(1.0, (t3 - begin) / max(1, end - begin)))
        self.count = first + made
        return made


def warm_up(recorder: Recorder, longest: float, report: Report = lambda share: None) -> bool:
    """Make windows of passes until the medians of the last ones agree, or for ``longest`` seconds; whether they did."""
    medians: list[float] = []
    spent = 0.0
    while True:
        start = recorder.count
        recorder.run(longest * WINDOW_SHARE, WINDOW_PASSES, report=report)
        times = recorder.passes(start).seconds()
        medians.append(float(np.median(times)))
        spent += float(times.sum())
        last = medians[-WINDOWS:]
        if len(last) == WINDOWS and max(last) <= min(last) * (1 + AGREEMENT):
            return True
        if spent >= longest or recorder.count >= LIMIT:
            return False
