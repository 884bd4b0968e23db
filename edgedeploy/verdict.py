"""Is it good enough? A budget, a measurement, and the answer with its reasons: pass, fail, or not enough data.

A number that lies too close to its budget for the samples there are is *not enough data*, on either side: a verdict
that changes when the run is repeated is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgedeploy.bench.measurement import Measurement
from edgedeploy.bench.outcome import SHORTEST, STRETCHES, outcome
from edgedeploy.bench.scenario import TIMED
from edgedeploy.bench.statistics.quantiles import TooFew, label
from edgedeploy.device import THIS_MACHINE, Device, unmet
from edgedeploy.errors import UsageError
from edgedeploy.units import show

Outcome = Literal["pass", "fail", "not enough data"]

#: Blocks whose means are compared for a mean: the range of six independent values has the median of what they are
#: drawn from inside it with 1 - 2 * 0.5**6 = 97 %.
BLOCKS = 6


@dataclass(frozen=True)
class Budget:
    """What is allowed; ``None`` is no limit.

    Args:
        latency: seconds of one pass end to end, at most, at ``percentile``.
        fps: samples per second of one stream back to back, at least.
        memory: bytes resident in the process that runs the model, at most.
        percentile: which percentile the latency is about; 0.5 is the median.
    """

    latency: float | None = None
    fps: float | None = None
    memory: float | None = None
    percentile: float = 0.5

    def __post_init__(self) -> None:
        limits = {"latency": self.latency, "fps": self.fps, "memory": self.memory}
        for name, limit in limits.items():
            if limit is not None and not (math.isfinite(limit) and limit > 0):
                raise UsageError(f"A budget cannot have {name} {limit:g}; give a number above zero.")
        if all(limit is None for limit in limits.values()):
            raise UsageError("This budget limits nothing; give a latency, frames per second or memory.")
        if not 0 < self.percentile < 1:
            raise UsageError(
                f"A budget cannot be about percentile {self.percentile:g}; 0.5 is the median, 0.99 is p99."
            )


@dataclass(frozen=True)
class Verdict:
    """The answer, and a sentence per limit with the number and the budget."""

    outcome: Outcome
    reasons: tuple[str, ...]


def judge(measurement: Measurement, budget: Budget) -> Verdict:
    """Whether ``measurement`` keeps ``budget``: *fail* if a limit is clearly broken, *pass* if all are clearly kept."""
    if measurement.environment.emulated:
        return Verdict("not enough data", ("It ran on an emulated processor, which says nothing of the budget.",))
    found: list[tuple[Outcome, str]] = []
    if budget.latency is not None:
        found.append(_latency(measurement, budget.latency, budget.percentile))
    if budget.fps is not None:
        found.append(_fps(measurement, budget.fps))
    if budget.memory is not None:
        found.append(_memory(measurement, budget.memory))
    outcomes = [outcome for outcome, _ in found]
    ranked: tuple[Outcome, ...] = ("fail", "not enough data", "pass")
    worst = next(outcome for outcome in ranked if outcome in outcomes)
    return Verdict(worst, tuple(reason for _, reason in found))


def _latency(measurement: Measurement, limit: float, q: float) -> tuple[Outcome, str]:
    value, between = measurement.percentile(q), measurement.interval(q)
    budget = f"the budget of {_time(limit)}"
    if isinstance(value, TooFew) or isinstance(between, TooFew):
        return "not enough data", f"The end-to-end latency cannot be judged against {budget}: {value}."
    text = f"End-to-end latency {label(q)} is {_time(value)} (95 % interval {_time(between[0])} to {_time(between[1])})"
    tail = measurement.percentile(0.9)
    if q == 0.5 and not isinstance(tail, TooFew):
        text += f", p90 {_time(tail)}"
    return _against(between, limit, text, budget)


def _fps(measurement: Measurement, limit: float) -> tuple[Outcome, str]:
    """What one stream runs at; offline, what goes through. Where queries come by a clock, the clock is the rate."""
    name = measurement.conditions.scenario.name
    if name in TIMED:
        raise UsageError(f"Under '{name}' the rate is given and not found: give a latency as the budget instead.")
    budget = f"the budget of {limit:g} frames per second"
    if name == "offline":
        found = outcome(measurement).throughput
        if found.value is None or found.low is None or found.high is None:
            return "not enough data", (
                f"The throughput cannot be judged against {budget}: it needs {STRETCHES * SHORTEST} passes, spread "
                f"over the processes, and there are {measurement.count}."
            )
        text = f"Offline throughput is {found.value:.4g} samples per second ({found.low:.4g} to {found.high:.4g})"
        return _against((found.low, found.high), limit, text, budget, wanted_above=True)
    means = _block_means(measurement)
    if means is None:
        return "not enough data", (
            f"The frame rate cannot be judged against {budget}: "
            f"it needs {BLOCKS} samples, and there are {measurement.count}."
        )
    batch = measurement.conditions.samples_per_pass
    rates = batch / max(means), batch / min(means)
    text = f"One stream back to back runs at {measurement.fps:.4g} frames per second ({rates[0]:.4g} to {rates[1]:.4g})"
    return _against(rates, limit, text, budget, wanted_above=True)


def _memory(measurement: Measurement, limit: float) -> tuple[Outcome, str]:
    peak, budget = measurement.peak_memory, f"the budget of {show(limit, 'B')}"
    if peak is None:
        return "not enough data", f"Peak memory could not be read on this system, and {budget} is not judged."
    text = f"Peak memory of the process is {show(peak, 'B')}"
    return ("pass", f"{text}, within {budget}.") if peak <= limit else ("fail", f"{text}, above {budget}.")


def _against(
    between: tuple[float, float], limit: float, text: str, budget: str, wanted_above: bool = False
) -> tuple[Outcome, str]:
    low, high = between
    kept, broken = (low >= limit, high < limit) if wanted_above else (high <= limit, low > limit)
    if kept:
        return "pass", f"{text}, within {budget}."
    if broken:
        return "fail", f"{text}, {'below' if wanted_above else 'above'} {budget}."
    return "not enough data", f"{text}: too close to {budget} to tell. Measure longer, or on a quieter machine."


def _block_means(measurement: Measurement) -> list[float] | None:
    """Mean seconds of at least `BLOCKS` stretches of consecutive samples, none across two processes."""
    per_process = math.ceil(BLOCKS / len(measurement.processes))
    times = [process.samples.seconds() for process in measurement.processes]
    if min(map(len, times)) < per_process:
        return None
    return [float(np.mean(block)) for series in times for block in np.array_split(series, per_process)]


def _time(seconds: float) -> str:
    return show(seconds, "s")


def judge_fit(measurement: Measurement, requires: Sequence[str], device: Device) -> Verdict:
    """Whether what was measured *here* can run on ``device``: its requirements and its memory, never its latency.

    A latency belongs to the machine it was measured on, so for another device the reasons say that it is unknown.
    """
    found: list[tuple[Outcome, str]] = []
    for missing in unmet(requires, device):  # what a profile does not know can be installed or looked up there
        found.append(("fail" if missing.known else "pass", str(missing)))
    found.append(_fit_memory(measurement, device))
    if device.name not in (THIS_MACHINE, measurement.place.device):
        found.append(("pass", f"The latency was measured here; on {device.name} it has to be measured there."))
    outcomes = [outcome for outcome, _ in found]
    ranked: tuple[Outcome, ...] = ("fail", "not enough data", "pass")
    worst = next(outcome for outcome in ranked if outcome in outcomes)
    return Verdict(worst, tuple(reason for _, reason in found))


def _fit_memory(measurement: Measurement, device: Device) -> tuple[Outcome, str]:
    stated = device.memory.smallest or device.memory.size
    if stated.si is None or measurement.peak_memory is None:
        return "not enough data", f"The memory of {device.name if stated.si is None else 'the process'} is unknown."
    peak = show(measurement.peak_memory, "B")
    if measurement.peak_memory > stated.si:
        return "fail", f"The process took {peak}, and {device.name} has {stated} in all."
    return "pass", f"The process took {peak} of the {stated} that {device.name} has at least."
