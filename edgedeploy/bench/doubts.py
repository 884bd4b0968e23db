"""Reasons to distrust a measurement: sentences with the number that gave rise to each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgedeploy.bench.environment import changes
from edgedeploy.bench.measurement import Measurement
from edgedeploy.bench.quantiles import needed
from edgedeploy.units import show

#: Two medians that should be the same differ where the larger is more than this share above the smaller.
DISAGREEMENT = 0.05
#: Shares of the processors' time above which others have disturbed: load, hypervisor, time spent waiting in line.
FOREIGN, STEAL, PRESSURE = 0.05, 0.01, 0.10
#: Involuntary context switches per second; an idle two-core machine shows some tens.
SWITCHES = 100.0
#: The clock is too coarse where a step of it is more than this share of the median.
COARSE = 0.01
#: Samples with more than so many times the values of the model's input are mostly resized.
LARGE = 4.0
#: How many earlier measurements are looked at.
RECENT = 4


def doubts(measurement: Measurement, earlier: Sequence[Measurement] = ()) -> tuple[str, ...]:
    """Every reason not to trust ``measurement``; empty where there is none.

    ``earlier`` may hold anything: those of the same artifact under the same conditions are picked out.
    """
    checks: tuple[Callable[[Measurement], list[str]], ...] = (
        _unsteady, _few, _spread, _drift, _disturbed, _coarse, _changed, _threads, _fallback, _large,
    )  # fmt: skip
    found = [sentence for check in checks for sentence in check(measurement)]
    return (*found, *_earlier(measurement, earlier))


def _unsteady(measurement: Measurement) -> list[str]:
    return [
        f"{_which(measurement, i)} reached no steady state in {len(process.warmup)} warm-up passes "
        f"({_time(float(process.warmup.seconds().sum()))}); it may still have been warming up."
        for i, process in enumerate(measurement.processes)
        if not process.steady
    ]


def _few(measurement: Measurement) -> list[str]:
    count, least = measurement.count, needed(0.9)
    if count >= least:
        return []
    seconds = least * measurement.mean()
    return [f"{count} samples support no p90, which needs {least}; measure for about {_time(seconds)}."]


def _spread(measurement: Measurement) -> list[str]:
    medians = measurement.process_medians()
    if not _disagree(medians):
        return []
    listed = ", ".join(_time(median) for median in medians)
    return [f"The medians of the {len(medians)} processes are {listed}: {_apart(medians)} apart."]


def _drift(measurement: Measurement) -> list[str]:
    found = []
    for i, process in enumerate(measurement.processes):
        times = process.samples.seconds()
        half = len(times) // 2
        if half < needed(0.5):
            continue
        first, second = float(np.median(times[:half])), float(np.median(times[half:]))
        if _disagree((first, second)):
            found.append(
                f"{_which(measurement, i)} drifted: its median was {_time(first)} in the first half of its samples "
                f"and {_time(second)} in the second."
            )
    return found


def _disturbed(measurement: Measurement) -> list[str]:
    """One sentence per kind, about the process that had the most of it."""

    def worst(value: Callable[[int], float | None]) -> tuple[float, str]:
        known = [(found, i) for i in range(len(measurement.processes)) if (found := value(i)) is not None]
        share, i = max(known, default=(0.0, 0))
        return share, _which(measurement, i)

    telemetry = [process.telemetry for process in measurement.processes]
    found = []
    share, which = worst(lambda i: telemetry[i].foreign)
    if share > FOREIGN:
        found.append(f"Others used {share:.0%} of the processors' time while {which.lower()} was sampled.")
    share, which = worst(lambda i: telemetry[i].steal)
    if share > STEAL:
        found.append(f"The hypervisor took {share:.1%} of the processors' time while {which.lower()} was sampled.")
    share, which = worst(lambda i: telemetry[i].pressure)
    if share > PRESSURE:
        found.append(f"Some task waited for a processor {share:.0%} of the time while {which.lower()} was sampled.")
    rates = [None if t.involuntary_switches is None else t.involuntary_switches / t.wall for t in telemetry]
    rate, which = worst(lambda i: rates[i])
    if rate > SWITCHES:
        found.append(f"{which} was taken off its processor {rate:.0f} times per second.")
    return found


def _coarse(measurement: Measurement) -> list[str]:
    step = max(process.telemetry.resolution for process in measurement.processes)
    median = measurement.median("compute")
    if step <= COARSE * median:
        return []
    return [f"The clock moves in steps of {_time(step)}, and the median of compute is {_time(median)}."]


def _changed(measurement: Measurement) -> list[str]:
    found = changes(measurement.environment.conditions(), measurement.environment_after.conditions())
    return [f"The environment changed while it was measured ({'; '.join(found)})."] if found else []


def _threads(measurement: Measurement) -> list[str]:
    threads = measurement.conditions.threads
    inside = measurement.processes[0].facts.get("threads")
    used = inside if isinstance(inside, int) else threads
    environment = measurement.environment
    found = []
    if used is not None and environment.affinity is not None and used > len(environment.affinity):
        allowed = len(environment.affinity)
        found.append(f"{used} threads share the {allowed} logical core{'s'[: allowed != 1]} that the process may use.")
    if used is not None and environment.cpu_limit is not None and used > environment.cpu_limit:
        found.append(
            f"{used} threads share the time of {environment.cpu_limit:g} cores that the control group may use."
        )
    return found


def _fallback(measurement: Measurement) -> list[str]:
    """Options that the session does not confirm: it names, under the same key, what is really in force."""
    conditions = measurement.conditions
    asked = {**conditions.options, **({"threads": conditions.threads} if conditions.threads else {})}
    found = [
        f"{key} was to be {value}, and the session runs with {process.facts[key]}."
        for process in measurement.processes
        for key, value in asked.items()
        if key in process.facts and not _confirmed(value, process.facts[key])
    ]
    return list(dict.fromkeys(found))


def _confirmed(asked: object, fact: str | int | float) -> bool:
    """A fact may be a list with commas; true and false may come as 1 and 0."""
    wanted = int(asked) if isinstance(asked, bool) else asked
    return wanted == fact or str(wanted).lower() in str(fact).lower().split(",")


def _large(measurement: Measurement) -> list[str]:
    conditions = measurement.conditions
    shapes = [shape[1:] for shape in conditions.inputs.values()]
    if len(conditions.sample_shape) < 2 or not shapes:
        return []
    sample, largest = int(np.prod(conditions.sample_shape)), max(int(np.prod(shape)) for shape in shapes)
    if sample <= LARGE * largest:
        return []
    height, width = conditions.sample_shape[:2]
    return [
        f"The samples are up to {height}x{width}, {sample / largest:.0f} times the values that the model takes: "
        f"prepare ({_time(measurement.median('prepare'))}) is for samples of that size."
    ]


def _earlier(measurement: Measurement, earlier: Sequence[Measurement]) -> list[str]:
    fingerprint, digest = measurement.fingerprint(), measurement.conditions.digest
    alike = [m for m in earlier if m.conditions.digest == digest and m.fingerprint() == fingerprint]
    medians = [m.latency for m in alike[-RECENT:]]
    if not medians or not _disagree((*medians, measurement.latency)):
        return []
    low, high = min((*medians, measurement.latency)), max((*medians, measurement.latency))
    return [
        f"The last {len(medians) + 1} runs under the same conditions, this one included, gave medians "
        f"from {_time(low)} to {_time(high)}."
    ]


def _disagree(medians: Sequence[float]) -> bool:
    return max(medians) > min(medians) * (1 + DISAGREEMENT)


def _apart(medians: Sequence[float]) -> str:
    return f"{max(medians) / min(medians) - 1:.0%}" if min(medians) > 0 else "infinitely"


def _which(measurement: Measurement, i: int) -> str:
    total = len(measurement.processes)
    return f"Process {i + 1} of {total}" if total > 1 else "The process"


def _time(seconds: float) -> str:
    return show(seconds, "s")
