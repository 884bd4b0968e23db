"""The timing loop: passes over real samples, each part between two readings of a clock that is given in."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

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
#: Nanoseconds between two reports.
EVERY = 1_000_000_000

#: Told the share of the duration that is over.
Report = Callable[[float], None]
#: Whether these end-to-end times, in seconds, suffice.
Enough = Callable[[npt.NDArray[np.float64]], bool]


class Steps(Protocol):
    """One pass in three parts. What `prepare` gives is handed to the other two and not looked at."""

    #: Samples of one pass.
    batch: int

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
        self._task, self._samples, self.batch = target.task, target.samples, batch
        self._inputs = tuple(spec.name for spec in target.signature.inputs)
        self._outputs = tuple(spec.name for spec in target.signature.outputs)
        self._session, self._graph = session, graph

    def prepare(self, index: int) -> Ready:
        """Prepare the next ``batch`` samples and stack them along the first axis."""
        start, count = index * self.batch, len(self._samples)
        prepared = [self._task.prepare(self._samples[(start + i) % count]) for i in range(self.batch)]
        contexts = tuple(p.context for p in prepared)
        if self.batch == 1:
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
        if self.batch == 1:
            return [self._task.finish([outputs[name] for name in self._outputs], ready.contexts[0])]
        return [
            self._task.finish([self._row(name, outputs[name], i) for name in self._outputs], context)
            for i, context in enumerate(ready.contexts)
        ]

    def _row(self, name: str, tensor: Array, i: int) -> Array:
        """Row ``i`` of an output that has one per sample; a slice of any other would be no result."""
        if tensor.ndim == 0 or tensor.shape[0] != self.batch:
            raise UsageError(
                f"Output '{name}' has shape {list(tensor.shape)} for a batch of {self.batch}: "
                "the graph does not keep the batch as first axis. Measure it with batch 1."
            )
        return tensor[i : i + 1]


class QuerySteps:
    """Queries of several passes each, in place of passes: a query's parts are the sums of those of its passes."""

    def __init__(self, steps: Steps, passes: int) -> None:
        self._steps, self._passes, self.batch = steps, passes, steps.batch * passes

    def prepare(self, index: int) -> list[Any]:
        """Prepare every pass of query ``index``."""
        return [self._steps.prepare(index * self._passes + i) for i in range(self._passes)]

    def compute(self, ready: list[Any]) -> list[Any]:
        """Run them one after the other."""
        return [self._steps.compute(one) for one in ready]

    def finish(self, ready: list[Any], outputs: list[Any]) -> list[Any]:
        """The results of all of them."""
        return [self._steps.finish(one, found) for one, found in zip(ready, outputs, strict=True)]


@dataclass(frozen=True)
class _Run:
    """Where a run begins: the number of its first pass, the clock's reading, and whether its queries were due."""

    first: int
    begin: int
    due: bool


class Recorder:
    """Runs passes and keeps their times, in columns that are allocated before the first pass of a run."""

    def __init__(self, steps: Steps, clock: Clock) -> None:
        self.steps, self.clock = steps, clock
        self._began, self._waited = array("q"), array("q")
        self._prepared, self._computed, self._finished = array("q"), array("q"), array("q")
        self._runs = [_Run(0, 0, False)]
        self.count = self.index = 0

    @property
    def begun(self) -> int:
        """The clock's reading at the begin of the latest run."""
        return self._runs[-1].begin

    @property
    def first(self) -> int:
        """The number of the first pass of the latest run."""
        return self._runs[-1].first

    def begin(self, due: bool = False) -> int:
        """Begin a run, whose queries are ``due`` at times of their own or not; the clock's reading."""
        self._runs.append(_Run(self.count, self.clock(), due))
        return self.begun

    def passes(self, start: int = 0, stop: int | None = None) -> Passes:
        """The recorded passes from ``start`` to ``stop``; times are from the begin of the run that has ``start``."""
        stop = self.count if stop is None else stop
        run = next(run for run in reversed(self._runs) if run.first <= start)
        columns = (self._prepared, self._computed, self._finished)
        prepare, compute, finish = (tuple(column[start:stop]) for column in columns)
        wait = tuple(self._waited[start:stop]) if run.due else ()
        return Passes(prepare, compute, finish, wait, tuple(at - run.begin for at in self._began[start:stop]))

    def seconds(self, start: int = 0) -> npt.NDArray[np.float64]:
        """End-to-end seconds of the passes from ``start`` on, their waits included."""
        columns = (self._prepared, self._computed, self._finished, self._waited)
        total = sum(np.frombuffer(column[start : self.count], np.int64) for column in columns)
        return np.asarray(total) / 1e9

    def typical(self) -> float:
        """Seconds of a pass: the median of the latter half of all that were made so far."""
        return max(1e-9, float(np.median(self.seconds(self.count // 2))))

    def reserve(self, more: int) -> None:
        """Make room for ``more`` passes, so that no memory has to be found between two of them."""
        missing = self.count + more - len(self._began)
        for column in (self._began, self._waited, self._prepared, self._computed, self._finished):
            column.frombytes(bytes(8 * max(0, missing)))

    def add(self, began: int, prepare: int, compute: int, finish: int, wait: int = 0) -> None:
        """Keep a pass that was made elsewhere: the clock's reading at its begin, and nanoseconds."""
        at = self.count
        if at == len(self._began):
            self.reserve(max(at, WINDOW_PASSES))
        self._began[at], self._waited[at] = began, wait
        self._prepared[at], self._computed[at], self._finished[at] = prepare, compute, finish
        self.count = at + 1

    def set_waits(self, waits: Sequence[int]) -> None:
        """How long each query of the latest run waited, where that is known only after it; nanoseconds.

        Raises:
            UsageError: there are not as many as passes.
        """
        run = self._runs[-1]
        if len(waits) != self.count - run.first:
            raise UsageError(f"There are {len(waits)} waits for {self.count - run.first} passes.")
        self._waited[run.first : self.count] = array("q", waits)
        self._runs[-1] = replace(run, due=True)

    def once(self, due: int | None = None) -> int:
        """Make one pass, which was ``due`` at that reading of the clock; the reading at its end."""
        clock, steps = self.clock, self.steps
        t0 = clock()
        ready = steps.prepare(self.index)
        t1 = clock()
        outputs = steps.compute(ready)
        t2 = clock()
        steps.finish(ready, outputs)
        ready = outputs = None
        t3 = clock()
        self.index += 1
        self.add(t0, t1 - t0, t2 - t1, t3 - t2, 0 if due is None else t0 - due)
        return t3

    def run(
        self,
        duration: float,
        minimum: int,
        limit: int = LIMIT,
        report: Report = lambda share: None,
        enough: Enough | None = None,
        stride: int = 1,
    ) -> int:
        """Make passes back to back for ``duration`` seconds, at least ``minimum``; the number kept, ``limit`` at most.

        Of ``stride`` passes one is kept. About once a second, between two passes, the share of ``duration`` that is
        over is reported, and ``enough`` is asked whether the times of the run suffice. The tensors and outputs of a
        pass are let go of before its last clock reading: freeing them is a cost of the pass.
        """
        clock, prepare, compute, finish = self.clock, self.steps.prepare, self.steps.compute, self.steps.finish
        began, prepared, computed, finished = self._began, self._prepared, self._computed, self._finished
        first = at = self.count
        least, most, room, left_out = first + minimum, first + limit, len(began), stride - 1
        ahead = self.index - first  # of the number of the pass kept; one more for each that is left out
        begin = self.begin()
        end, next_report = begin + int(duration * 1e9), begin + EVERY
        while True:
            if at == room:
                self.count = at
                self.reserve(max(at - first, WINDOW_PASSES))
                room = len(began)
            t0 = clock()
            ready = prepare(at + ahead)
            t1 = clock()
            outputs = compute(ready)
            t2 = clock()
            finish(ready, outputs)
            ready = outputs = None
            t3 = clock()
            began[at] = t0
            prepared[at], computed[at], finished[at] = t1 - t0, t2 - t1, t3 - t2
            at += 1
            if (t3 >= end and at >= least) or at >= most:
                break
            if t3 >= next_report:
                next_report = t3 + EVERY
                self.count = at
                report(min(1.0, (t3 - begin) / max(1, end - begin)))
                if enough is not None and at >= least and enough(self.seconds(first)):
                    break
            if left_out:
                for index in range(at + ahead, at + ahead + left_out):
                    ready = prepare(index)
                    finish(ready, compute(ready))
                ahead += left_out
        self.count, self.index = at, at + ahead
        return at - first


def warm_up(recorder: Recorder, longest: float, report: Report = lambda share: None) -> bool:
    """Make windows of passes until the medians of the last ones agree, or for ``longest`` seconds; whether they did."""
    medians: list[float] = []
    spent = 0.0
    while True:
        start = recorder.count
        recorder.run(longest * WINDOW_SHARE, WINDOW_PASSES, report=report)
        times = recorder.seconds(start)
        medians.append(float(np.median(times)))
        spent += float(times.sum())
        last = medians[-WINDOWS:]
        if len(last) == WINDOWS and max(last) <= min(last) * (1 + AGREEMENT):
            return True
        if spent >= longest or recorder.count >= LIMIT:
            return False
