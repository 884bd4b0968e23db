"""Doubts that the series itself gives rise to: it drifted, had two speeds, was hit by bursts, or repeats itself."""

from __future__ import annotations

import numpy as np

from edgedeploy.bench.measurement import Measurement, Process
from edgedeploy.bench.statistics.quantiles import needed
from edgedeploy.bench.statistics.series import Bursts, Drift, Modes, bursts, drift, likeness, modes, steps
from edgedeploy.units import show

#: A drift is told from this share of the median on; it and likeness, where chance shows the like in less than this
#: share of runs.
DRIFT, CHANCE = 0.03, 1e-3
#: Passes far above the rest rule the mean where there are so many, and they took this share of the time.
SEVERAL, RULING = 5, 0.10
#: The speeds follow the samples where which one it was explains this share of the variance of being slow.
FOLLOWS = 0.8
#: The fewest samples whose likeness to one another is told.
MANY = 30
#: Processes of which something is told one by one.
SINGLY = 3


def patterns(measurement: Measurement) -> list[str]:
    """What the times show of each process, in the order they were taken; waits for a query to be due are left out."""
    found: list[str] = []
    for i, process in enumerate(measurement.processes):
        which = f"Process {i + 1} of {len(measurement.processes)}" if len(measurement.processes) > 1 else "The process"
        found += _of_process(measurement, process, which)
    if len(found) > SINGLY:
        found[SINGLY:] = [f"Of {len(found) - SINGLY} more processes something like that can be told."]
    series = [process.samples.own_seconds() for process in measurement.processes]
    seen = bursts(series, [process.samples.times() for process in measurement.processes])
    return found if seen is None else [*found, *_bursts(seen, float(np.median(np.concatenate(series))))]


def _of_process(measurement: Measurement, process: Process, which: str) -> list[str]:
    """At most one sentence: what changes slowly is a drift, two speeds, or likeness, and looks like all three."""
    values, times = process.samples.own_seconds(), process.samples.times()
    seen = steps(values)
    two = modes(values, times, max(process.telemetry.resolution, seen.step if seen.coarse else 0.0))
    if two is not None:
        return [] if _follows(two, measurement.conditions.sample_count) else [_two_speeds(two, which)]
    if measurement.conditions.scenario.name == "sustained":  # getting slower is what it looks for
        return []
    trend = drift(values, times)
    if trend is not None and abs(trend.rise) >= DRIFT and trend.p * len(measurement.processes) < CHANCE:
        return [_drifted(trend, float(np.median(values)), which)]
    alike = likeness(values)
    by_chance = alike.p * len(measurement.processes) >= CHANCE
    if alike.count < MANY or alike.effective >= needed(0.9) or by_chance:
        return []
    return [
        f"{which}: consecutive passes are alike for about {alike.time:.0f}, so that its {alike.count} samples tell as "
        f"much as {alike.effective:.0f} independent ones; the intervals allow for it. Measure longer."
    ]


def _drifted(found: Drift, median: float, which: str) -> str:
    before, after = median * (1 - found.rise / 2), median * (1 + found.rise / 2)
    if found.rise > 0:
        why = "Does it get hot, or throttle? Let it cool and fix its clocks, or measure the scenario 'sustained'."
    else:
        why = "It may still have been warming up: measure longer."
    return (
        f"{which} drifted: from {_time(before)} to {_time(after)} over its samples, {abs(found.rise):.0%} "
        f"{'slower' if found.rise > 0 else 'faster'} at the end. {why}"
    )


def _two_speeds(found: Modes, which: str) -> str:
    speeds = f"{_time(found.low)} and {_time(found.high)} ({found.high / found.low - 1:.0%} apart)"
    if found.lasting:
        times = "once" if found.switches == 1 else f"{found.switches} times"
        return (
            f"{which} ran at two speeds, {speeds}, and changed {times}; each lasted {_time(found.dwell)} on average "
            f"and {found.share:.0%} of the passes were slow: clocks or neighbours change. Compare by passes taken in "
            "turn, or measure for many times as long."
        )
    return (
        f"{which} ran at two speeds, {speeds}, mixed pass by pass, {found.share:.0%} of them slow: its median says "
        "little about either. Do the samples differ, or do threads share a core?"
    )


def _bursts(found: Bursts, median: float) -> list[str]:
    told = f"{found.count} passes took {_time(found.typical)} or so, where the median is {_time(median)}"
    if found.period is not None and found.seconds is not None:
        return [
            f"{told}: one in {found.period:.0f}, every {_time(found.seconds)}. Something runs regularly beside it or "
            "in it (a timer, garbage collection, another program)."
        ]
    if found.groups is not None:
        return [f"{told}, in {found.groups} bursts: something else ran for moments. Close it, or measure longer."]
    if found.count >= SEVERAL and found.excess >= RULING:
        return [f"{told}, and that is {found.excess:.0%} of all time: quote percentiles, not the mean or a rate."]
    return []


def _follows(found: Modes, samples: int) -> bool:
    """Whether it depends on the sample how long a pass takes: nothing to distrust."""
    if not 1 < samples <= len(found.slow) // 4:
        return False
    slow = np.asarray(found.slow, np.float64)
    shares = np.array([slow[start::samples].mean() for start in range(samples)])
    return bool(np.var(np.resize(shares, len(slow))) >= FOLLOWS * np.var(slow))


def _time(seconds: float) -> str:
    return show(seconds, "s")
