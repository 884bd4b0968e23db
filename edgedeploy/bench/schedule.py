"""Queries that come by a clock of their own: which were answered in time, and whether the session keeps up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice, takewhile

import numpy as np

from edgedeploy.bench.measurement import WAIT, Measurement, Passes
from edgedeploy.bench.sampling import LIMIT
from edgedeploy.bench.scenario import Scenario
from edgedeploy.bench.statistics.uncertainty import Times, effective_share
from edgedeploy.units import show

#: A pass takes another time at a pace than back to back where the medians differ by more than this share.
APART = 0.1
#: The timer is told of where it is late by more than this share of an answer.
LATE = 0.01


@dataclass(frozen=True)
class Schedule:
    """How queries that came by a clock of their own were answered; times in seconds.

    Args:
        queries: that were due.
        late: answered, but after the deadline.
        unanswered: due before the run ended, and not begun.
        misses: share of the queries that were late or unanswered; ``None`` without a deadline.
        misses_interval: two shares that have the true one between them with 95 % confidence; misses that follow one
            another count for less than as many apart.
        load: time that the answers took over the time that the queries span. Above 1 they cannot keep up at this rate.
        growth: seconds that the queue grew by each second; 0 where it keeps up.
        behind: wait of the last query that was begun.
        wake_up: median of how late queries were begun that found the session free: the timer's fault.
        wake_up_latest: the latest of them.
        service: median of an answer, the wait not counted.
        back_to_back: the same at the end of the warm-up, where one pass follows the other.
    """

    queries: int
    late: int
    unanswered: int
    misses: float | None
    misses_interval: tuple[float, float] | None
    load: float
    growth: float
    behind: float
    wake_up: float
    wake_up_latest: float
    service: float
    back_to_back: float | None


def schedule(measurement: Measurement) -> Schedule:
    """How the queries of ``measurement``, of server or paced, were answered."""
    scenario = measurement.conditions.scenario
    assert scenario.rate is not None
    samples = [process.samples for process in measurement.processes]
    own = np.concatenate([passes.own_seconds() for passes in samples])
    duration = measurement.conditions.duration / len(samples)
    limit = math.inf if scenario.limit is None else scenario.limit
    late = [passes.seconds() > limit for passes in samples]
    unanswered = [_unanswered(scenario.of_process(i), passes, duration) for i, passes in enumerate(samples)]
    missed = [
        np.pad(one.astype(np.float64), (0, n), constant_values=1.0) for one, n in zip(late, unanswered, strict=True)
    ]
    queries, misses = sum(map(len, missed)), int(np.concatenate(missed).sum())
    alike = effective_share(missed)  # one that is late makes those behind it late
    load = scenario.rate * float(own.mean())
    wake_ups = np.concatenate([_wake_ups(passes) for passes in samples])
    warm = [process.warmup.own_seconds()[-max(1, len(process.warmup) // 3) :] for process in measurement.processes]
    return Schedule(
        queries=queries,
        late=int(np.concatenate(late).sum()),
        unanswered=sum(unanswered),
        misses=None if scenario.limit is None else misses / queries,
        misses_interval=None if scenario.limit is None else share_interval(misses / queries * alike, alike),
        load=load,
        growth=float(np.median([_growth(passes) for passes in samples])) if load > 1 else 0.0,
        behind=float(np.median([passes.seconds(WAIT)[-1] for passes in samples])) if samples[0].wait else 0.0,
        wake_up=float(np.median(wake_ups)) if len(wake_ups) else 0.0,
        wake_up_latest=float(wake_ups.max()) if len(wake_ups) else 0.0,
        service=float(np.median(own)),
        back_to_back=float(np.median(np.concatenate(warm))) if any(len(one) for one in warm) else None,
    )


def _unanswered(scenario: Scenario, passes: Passes, duration: float) -> int:
    """Queries that were due before the last answer came, and within the duration, and are not among ``passes``."""
    end = min(duration, float((passes.times() + passes.own_seconds())[-1]))
    due = islice(scenario.due(), len(passes), None)
    return 0 if len(passes) >= LIMIT else sum(1 for _ in takewhile(lambda at: at < end * 1e9, due))


def _wake_ups(passes: Passes) -> Times:
    """Waits of the queries that were due when the one before was answered."""
    if not passes.wait:
        return np.zeros(0)
    began, wait = passes.times(), passes.seconds(WAIT)
    free = np.concatenate([[0.0], (began + passes.own_seconds())[:-1]])
    return wait[free <= began - wait + 1e-9]


def _growth(passes: Passes) -> float:
    """Seconds of wait that each second adds: the slope of a straight line."""
    if len(passes) < 2 or not passes.wait:
        return 0.0
    began, wait = passes.times(), passes.seconds(WAIT)
    centred = began - began.mean()
    return max(0.0, float((centred * wait).sum() / max(1e-18, float((centred**2).sum()))))


def notes(rate: float, found: Schedule) -> list[str]:
    """What has to be known beside the numbers, of queries that come at ``rate`` per second."""
    told = []
    if found.load > 1:
        told.append(
            f"It cannot keep up: an answer takes {_time(found.load / rate)} on average and a query is due "
            f"every {_time(1 / rate)}; the queue grew by {_time(found.growth)} each second, and the last query waited "
            f"{_time(found.behind)}. It answers {rate / found.load:.4g} per second."
        )
    if found.back_to_back and abs(found.service / found.back_to_back - 1) > APART:
        times = found.service / found.back_to_back
        told.append(
            f"An answer takes {_time(found.service)} at this rate and took {_time(found.back_to_back)} back to back in "
            f"the warm-up: {times:.2f} times as long."
        )
    if found.wake_up > LATE * found.service:
        told.append(
            f"The timer woke up {_time(found.wake_up)} late (median, {_time(found.wake_up_latest)} at most), which "
            "counts as wait."
        )
    return told


def share_interval(part: float, whole: float) -> tuple[float, float]:
    """95 % interval of a share (E. B. Wilson, "Probable inference, the law of succession", 1927)."""
    z = 1.959964
    share, spread = part / whole, z * z / whole
    middle = (share + spread / 2) / (1 + spread)
    reach = z / (1 + spread) * math.sqrt(share * (1 - share) / whole + spread / (4 * whole))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def _time(seconds: float) -> str:
    return show(seconds, "s")
