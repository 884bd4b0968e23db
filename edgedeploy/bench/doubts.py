"""Reasons to distrust a measurement: sentences with the number that gave rise to each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgedeploy.bench.environment import changes
from edgedeploy.bench.measurement import Measurement
from edgedeploy.bench.patterns import patterns
from edgedeploy.bench.sampling import AGREEMENT
from edgedeploy.bench.statistics.quantiles import TooFew, label, needed
from edgedeploy.bench.statistics.series import steps
from edgedeploy.bench.statistics.uncertainty import between
from edgedeploy.bench.stopping import stopped
from edgedeploy.bench.telemetry import Series
from edgedeploy.units import show

#: Two medians that should be the same differ where the larger is more than this share above the smaller.
DISAGREEMENT = AGREEMENT
#: Shares of the processors' time above which others have disturbed: load, hypervisor, time spent waiting in line.
FOREIGN, STEAL, PRESSURE = 0.05, 0.01, 0.10
#: Involuntary context switches per second; an idle two-core machine shows some tens.
SWITCHES = 100.0
#: The clock is too coarse where a step of it is more than this share of the median.
COARSE = 0.01
#: A clock moved where the top of its readings is so much above the bottom; a device got hotter by so many degrees.
MOVED, HOTTER = 0.10, 5.0
#: A real-time factor above which frames of a stream leave little time for anything else.
NEAR = 0.8
#: Readings over time of a sensor that say something about a change.
READINGS = 4
#: Samples with more than so many times the values of the model's input are mostly resized.
LARGE = 4.0
#: Processes of which the same is told one by one.
SINGLY = 3
#: How many earlier measurements are looked at.
RECENT = 4


def doubts(
    measurement: Measurement, earlier: Sequence[Measurement] = (), asked: Sequence[float] = (0.9,)
) -> tuple[str, ...]:
    """Every reason not to trust ``measurement``; empty where there is none.

    Args:
        measurement: what is doubted.
        earlier: may hold anything: those of the same artifact under the same conditions are picked out.
        asked: the percentiles that somebody wants to read from it, as shares.
    """
    checks: tuple[Callable[[Measurement], list[str]], ...] = (
        _unreached, _unsteady, _means, _spread, patterns, *CIRCUMSTANCES, _large, _real_time, _rate,
    )  # fmt: skip
    found = [sentence for check in checks for sentence in check(measurement)]
    return (*_few(measurement, asked), *found, *_earlier(measurement, earlier))


def circumstances(measurement: Measurement) -> tuple[str, ...]:
    """The doubts that come from around the passes, and not from their times: what disturbed, moved or was not so."""
    return tuple(sentence for check in CIRCUMSTANCES for sentence in check(measurement))


def _unreached(measurement: Measurement) -> list[str]:
    stop = stopped(measurement)
    return [f"The goal was not reached: {stop.why}."] if stop is not None and not stop.reached else []


def _unsteady(measurement: Measurement) -> list[str]:
    if measurement.conditions.mean_of > 1:
        return []  # nobody tells how its passes went
    found = [(i, process) for i, process in enumerate(measurement.processes) if not process.steady]
    if len(found) > SINGLY:
        passes = sum(len(process.warmup) for _, process in found)
        return [
            f"{len(found)} of {len(measurement.processes)} processes reached no steady state in {passes} warm-up "
            "passes; they may still have been warming up."
        ]
    return [
        f"{_which(measurement, i)} reached no steady state in {len(process.warmup)} warm-up passes "
        f"({_time(float(process.warmup.seconds().sum()))}); it may still have been warming up."
        for i, process in found
    ]


def _few(measurement: Measurement, asked: Sequence[float]) -> list[str]:
    if measurement.conditions.mean_of > 1:
        return []
    wall = sum(process.telemetry.wall for process in measurement.processes)
    each = max(measurement.mean(), wall / measurement.count if measurement.conditions.scenario.rate else 0.0)
    return [
        f"{measurement.count} samples support no {label(q)}, which needs {needed(q)}; "
        f"measure for about {_time(needed(q) * each)}."
        for q in sorted(set(asked))
        if measurement.count < needed(q)
    ]


def _means(measurement: Measurement) -> list[str]:
    mean_of = measurement.conditions.mean_of
    if mean_of == 1:
        return []
    return [
        f"Each of the {measurement.count} samples is the mean of {mean_of} passes: how long single ones took is "
        "unknown, and so are percentiles and spikes."
    ]


def _spread(measurement: Measurement) -> list[str]:
    medians = measurement.process_medians()
    if not _disagree(medians):
        return []
    ends = [between([process.samples.seconds()]) for process in measurement.processes]
    known = [end for end in ends if not isinstance(end, TooFew)]
    if len(known) == len(ends) and max(low for low, _ in known) <= min(high for _, high in known):
        return []  # they differ by no more than their samples leave open
    listed = ", ".join(_time(median) for median in medians)
    return [f"The medians of the {len(medians)} processes are {listed}: {_apart(medians)} apart."]


def _emulated(measurement: Measurement) -> list[str]:
    if "emulat" not in (measurement.environment.hosted or ""):  # a processor, or all of a phone
        return []
    return ["The processor is emulated: what is computed is right, and how long it takes says nothing of the device."]


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
    seen = steps(measurement.seconds("compute"))
    step = max(step, seen.step if seen.coarse else 0.0)
    median = measurement.median("compute")
    if step <= COARSE * median:
        return []
    return [f"The clock moves in steps of {_time(step)}, and the median of compute is {_time(median)}."]


def _clocks(measurement: Measurement) -> list[str]:
    """About the clock that moved most."""

    def ends(series: Series) -> tuple[float, float]:
        low, high = np.quantile(series.values, [0.1, 0.9])
        return float(low), float(high)

    moved = [
        (*ends(series), series.name, i)
        for i, process in enumerate(measurement.processes)
        for series in process.telemetry.series
        if series.unit == "Hz" and "clock" in series.name.split() and len(series.values) >= READINGS
    ]
    low, high, name, i = max(moved, key=lambda found: found[1] / max(found[0], 1.0), default=(1.0, 1.0, "", 0))
    if high <= low * (1 + MOVED):
        return []
    return [
        f"The {name} moved between {show(low, 'Hz')} and {show(high, 'Hz')} while "
        f"{_which(measurement, i).lower()} was sampled; hold it at one frequency, or cool the device."
    ]


def _temperatures(measurement: Measurement) -> list[str]:
    """About the sensor that rose most; getting hot is what a sustained run is for."""
    if measurement.conditions.scenario.name == "sustained":
        return []
    rises = []
    for i, process in enumerate(measurement.processes):
        for series in process.telemetry.series:
            if series.name.startswith("temperature") and len(series.values) >= READINGS:
                part = max(1, len(series.values) // 4)
                first, last = float(np.median(series.values[:part])), float(np.median(series.values[-part:]))
                rises.append((last - first, first, last, series, i))
    if not rises:
        return []
    rise, first, last, series, i = max(rises, key=lambda found: found[0])
    if rise < HOTTER:
        return []
    return [
        f"The {series.name} rose from {first:.0f} to {last:.0f} {series.unit} while "
        f"{_which(measurement, i).lower()} was sampled: a number of a cool device is none of a hot one. "
        "Measure the scenario 'sustained'."
    ]


def _throttled(measurement: Measurement) -> list[str]:
    found: dict[str, str] = {}
    for i, process in enumerate(measurement.processes):
        for reading in process.telemetry.readings:
            held = reading.name.startswith(("throttl", "held down"))
            if held and reading.value:
                much = f"{reading.value:.0%} of the time" if reading.unit == "share" else f"{reading.value:g} times"
                found[reading.name] = (
                    f"The device slowed itself down ({reading.name}: {much}) while "
                    f"{_which(measurement, i).lower()} was sampled; cool it, or give it more power."
                )
    return list(found.values())


def _handset(measurement: Measurement) -> list[str]:
    """What a phone says of itself: one that is fed by the cable gets warm, and its battery tells no power."""
    readings = {
        reading.name: reading.value for process in measurement.processes for reading in process.telemetry.readings
    }
    found = []
    if readings.get("charging before"):
        found.append("The phone was charging, which warms it: measure again with a full battery, or without the cable.")
    heat = readings.get("thermal status after")
    if heat:
        found.append(f"The phone's thermal status was {heat:g} at the end (0 is none): let it cool down (--cool-down).")
    return found


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


def _real_time(measurement: Measurement) -> list[str]:
    """Frames of a stream that are late, or nearly so."""
    frames, factor = measurement.conditions.frames, measurement.real_time_factor
    if frames is None or factor is None or factor <= NEAR:
        return []
    left = "does not keep up with the stream" if factor > 1 else "leaves little time for anything else"
    return [
        f"A frame takes {_time(factor * frames.period)} on average and the next one is due after "
        f"{_time(frames.period)}: a real-time factor of {factor:.2f} {left}."
    ]


def _rate(measurement: Measurement) -> list[str]:
    """Frames that came at another rate than the stream has."""
    frames, rate = measurement.conditions.frames, measurement.conditions.scenario.rate
    if frames is None or rate is None or abs(rate * frames.period - 1) < 1e-6:
        return []
    return [
        f"Frames came at {show(rate, 'Hz')}, and the stream has {1 / frames.period:g} per second: missed deadlines are "
        f"not those of the stream. Give --rate {1 / frames.period:g}Hz."
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


#: What `circumstances` looks at.
CIRCUMSTANCES: tuple[Callable[[Measurement], list[str]], ...] = (
    *(_emulated, _disturbed, _coarse, _clocks, _temperatures, _throttled, _handset, _changed, _threads, _fallback),
)
