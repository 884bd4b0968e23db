"""Issue queries as a scenario says, through a recorder.

Single-stream, multi-stream and sustained issue a query when the last one is answered. Server and paced issue it when it
is due, or as soon after as the session is free: the wait counts. Offline has all samples from the start, and prepares
one while another is computed and a third is finished.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgedeploy.bench.measurement import PARTS
from edgedeploy.bench.sampling import EVERY, LIMIT, Enough, Recorder, Report
from edgedeploy.bench.scenario import Scenario
from edgedeploy.bench.telemetry import Clock, Reading

#: Nanoseconds before a query is due from which on sleeping gives way to reading the clock over and over: an ordinary
#: kernel wakes a process some 50 us late, even from a sleep of no length.
SPIN = 200_000
#: Nanoseconds that must be left until a query is due before anything that is not a query is done.
LEISURE = 20_000_000
#: Share of the duration for which a queue is worked off when the duration is over; what is left stays unanswered.
PATIENCE = 0.1
#: Prepared passes that may wait to be computed, and computed ones that may wait to be finished.
DEPTH = 2
#: Seconds that prepare and finish take together from which on threads pay: handing a pass from one to the next and back
#: costs tens of microseconds.
WORTH = 100e-6

Sleep = Callable[[float], None]


@dataclass(frozen=True)
class Limits:
    """When sampling ends: after ``duration`` seconds and ``minimum`` passes, or earlier where ``enough`` says so."""

    duration: float
    minimum: int
    enough: Enough | None = None


@dataclass(frozen=True)
class Drive:
    """What is known of a run besides its passes: seconds from its begin to its last result, and what was told."""

    wall: float
    readings: tuple[Reading, ...] = ()


def drive(
    scenario: Scenario,
    recorder: Recorder,
    limits: Limits,
    report: Report = lambda share: None,
    sleep: Sleep = time.sleep,
) -> Drive:
    """Take the samples that count.

    Raises:
        Unavailable: the scenario's engine is not installed.
    """
    if scenario.engine == "loadgen":
        from edgedeploy.bench import loadgen

        return loadgen.drive(scenario, recorder, limits, report)
    match scenario.name:
        case "offline":
            _offline(recorder, limits, report)
        case "server" | "paced":
            _on_time(scenario, recorder, limits, Pause(recorder.clock, sleep, Progress(recorder, limits, report)))
        case "sustained":
            stride = math.ceil(limits.duration / (recorder.typical() * LIMIT * 0.8))
            recorder.run(limits.duration, limits.minimum, report=report, enough=limits.enough, stride=max(1, stride))
        case _:
            recorder.run(limits.duration, limits.minimum, report=report, enough=limits.enough)
    return Drive((recorder.clock() - recorder.begun) / 1e9)


class Progress:
    """Reports about once a second how much of a run is over, and asks whether there are samples enough."""

    def __init__(self, recorder: Recorder, limits: Limits, report: Report) -> None:
        self._recorder, self._limits, self._report = recorder, limits, report
        self._next = recorder.clock() + EVERY
        self.enough = False

    def look(self, now: int, ask: bool = True) -> None:
        """Report if it is time to, and ``ask`` whether there is enough; ``now`` is the clock's reading."""
        if now < self._next:
            return
        recorder, limits = self._recorder, self._limits
        self._next = now + EVERY
        self._report(min(1.0, (now - recorder.begun) / max(1.0, limits.duration * 1e9)))
        if ask and limits.enough is not None and recorder.count - recorder.first >= limits.minimum:
            self.enough = limits.enough(recorder.seconds(recorder.first))


class Pause:
    """Waits until a reading of the clock, asleep for most of the time, and precisely: the last moment is awake.

    It sleeps for a second at most, so that whoever waits for this process hears of it.
    """

    def __init__(self, clock: Clock, sleep: Sleep, progress: Progress) -> None:
        self._clock, self._sleep, self.progress = clock, sleep, progress

    def until(self, due: int) -> None:
        """Return when the clock reads ``due``, or later; or as soon as there are samples enough."""
        clock, sleep, progress = self._clock, self._sleep, self.progress
        left = due - clock()
        progress.look(clock(), ask=left > LEISURE)
        while left > 0 and not progress.enough:
            if left > SPIN:
                sleep(min(left - SPIN, EVERY) / 1e9)
            left = due - clock()
            if left > SPIN:
                progress.look(clock(), ask=left > LEISURE)


def _on_time(scenario: Scenario, recorder: Recorder, limits: Limits, pause: Pause) -> None:
    """Issue each query when it is due. Those due within the duration are answered, but not a queue that takes long."""
    begin = now = recorder.begin(due=True)
    end, patience = begin + int(limits.duration * 1e9), int(limits.duration * PATIENCE * 1e9)
    for made, offset in enumerate(scenario.due()):
        due = begin + offset
        if made >= LIMIT or (made >= limits.minimum and (due >= end or now >= end + patience)):
            return
        pause.until(due)
        if pause.progress.enough:
            return
        now = recorder.once(due)


def _offline(recorder: Recorder, limits: Limits, report: Report) -> None:
    """All samples at once, until the time is over."""
    progress = Progress(recorder, limits, report)
    overlap = Overlap(recorder, progress)
    end = recorder.begin() + int(limits.duration * 1e9)

    def indices() -> Iterator[int]:
        first = recorder.index
        for made in range(LIMIT):
            if progress.enough or (recorder.clock() >= end and made >= limits.minimum):
                return
            yield first + made

    overlap.run(indices())


def bottleneck(recorder: Recorder) -> float:
    """Seconds from pass to pass that `Overlap` can come down to, as the latter half of the passes so far suggests."""
    prepare, compute, finish = _parts(recorder)
    return max(1e-9, max(prepare, compute, finish) if _pays(recorder) else prepare + compute + finish)


def _pays(recorder: Recorder) -> bool:
    prepare, _, finish = _parts(recorder)
    return prepare + finish >= WORTH


def _parts(recorder: Recorder) -> list[float]:
    """Median seconds of each part."""
    passes = recorder.passes(recorder.count // 2)
    return [float(np.median(passes.seconds(part))) for part in PARTS]


class Overlap:
    """Makes passes whose parts overlap: one thread prepares, this one computes, another finishes, each in order.

    Where prepare and finish are too short for that to pay (`WORTH`), the calling thread does all of it; the session is
    used by no other one. Outputs that a session would overwrite in its next call are copied as a part of compute.
    """

    def __init__(
        self, recorder: Recorder, progress: Progress, done: Callable[[int], None] = lambda number: None
    ) -> None:
        self._recorder, self._progress, self._done = recorder, progress, done
        self._steps, self._clock = recorder.steps, recorder.clock
        self._pays = _pays(recorder)
        self._keep = _copied if _overwrites(recorder) else _as_it_is
        self._ready: queue.Queue[tuple[int, int, Any] | None] = queue.Queue(DEPTH)
        self._computed: queue.Queue[tuple[tuple[int, int, int], Any, Any] | None] = queue.Queue(DEPTH)
        self._stopped = threading.Event()
        self._failure: BaseException | None = None

    def run(self, indices: Iterable[int]) -> None:
        """Make the passes of ``indices``, and tell ``done`` the number of each, from 0, when it is finished.

        Raises:
            Exception: what a part of a pass raised; no thread is left behind then either.
        """
        if not self._pays:
            self._alone(indices)
            return
        threads = [
            threading.Thread(target=self._guarded, args=(part, *given), daemon=True)
            for part, *given in ((self._prepare, iter(indices)), (self._finish,))
        ]
        for thread in threads:
            thread.start()
        try:
            self._compute()
            self._put(self._computed, None)
        except BaseException:
            self._stopped.set()
            raise
        finally:
            for thread in threads:
                thread.join()
        if self._failure is not None:
            raise self._failure

    def _alone(self, indices: Iterable[int]) -> None:
        for number, index in enumerate(indices):
            self._recorder.index = index
            now = self._recorder.once()
            self._done(number)
            self._progress.look(now)

    def _guarded(self, part: Callable[..., None], *given: Any) -> None:
        try:
            part(*given)
        except BaseException as error:
            self._failure = self._failure or error
            self._stopped.set()

    def _prepare(self, indices: Iterator[int]) -> None:
        clock = self._clock
        for index in indices:
            began = clock()
            ready = self._steps.prepare(index)
            if not self._put(self._ready, (began, clock() - began, ready)):
                return
        self._put(self._ready, None)

    def _compute(self) -> None:
        clock, compute, keep = self._clock, self._steps.compute, self._keep
        while (item := self._get(self._ready, lambda: self._progress.look(clock()))) is not None:
            began, prepared, ready = item
            start = clock()
            outputs = keep(compute(ready))
            if not self._put(self._computed, ((began, prepared, clock() - start), ready, outputs)):
                return
            ready = outputs = item = None
            self._progress.look(clock())

    def _finish(self) -> None:
        clock, number = self._clock, 0
        while (item := self._get(self._computed)) is not None:
            (began, prepared, computed), ready, outputs = item
            start = clock()
            self._steps.finish(ready, outputs)
            ready = outputs = item = None
            self._recorder.add(began, prepared, computed, clock() - start)
            self._done(number)
            number += 1

    def _put(self, where: queue.Queue[Any], item: Any) -> bool:
        """Hand ``item`` on as soon as there is room; whether anybody is left to take it."""
        while not self._stopped.is_set():
            try:
                where.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def _get(self, where: queue.Queue[Any], idle: Callable[[], None] = lambda: None) -> Any:
        """The next item, or ``None`` where there will be none; ``idle`` is called while there is none yet."""
        while not self._stopped.is_set():
            try:
                return where.get(timeout=0.1)
            except queue.Empty:
                idle()
        return None


def _overwrites(recorder: Recorder) -> bool:
    """Whether the outputs of one call are where those of the call before were."""
    steps = recorder.steps
    ready = steps.prepare(recorder.index)
    first, second = steps.compute(ready), steps.compute(ready)
    if not isinstance(first, Mapping):
        return False
    return any(np.shares_memory(first[name], second[name]) for name in first)


def _copied(outputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tensor.copy() for name, tensor in outputs.items()}


def _as_it_is(outputs: Any) -> Any:
    return outputs
