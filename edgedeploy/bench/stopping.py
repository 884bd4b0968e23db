"""When there are samples enough: the intervals of percentiles are narrow, or processes agree, or the time is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgedeploy.bench.measurement import Measurement, Process
from edgedeploy.bench.sampling import AGREEMENT
from edgedeploy.bench.statistics.quantiles import TooFew, label
from edgedeploy.bench.statistics.uncertainty import Times, between
from edgedeploy.bench.telemetry import Reading
from edgedeploy.units import show

#: Percentiles whose intervals have to be narrow.
PERCENTILES = (0.5, 0.9)
#: Processes at most: what so many do not agree on, more will not.
MOST = 24
#: The name of the reading that keeps why a run with a goal stopped: 1 where the goal was reached, else 0.
REACHED = "goal reached"


@dataclass(frozen=True)
class Goal:
    """What a run goes on for.

    Args:
        processes: workers that there are in any case.
        precision: the intervals of `PERCENTILES` are to reach at most this share to either side.
        sampling: seconds of sampling over all processes, at most, while that is not so.
        stable: seconds, everything included, that may pass until the last ``processes`` reached a steady state and
            have medians that agree; ``None`` where that is no goal.
    """

    processes: int
    precision: float | None = None
    sampling: float = float("inf")
    stable: float | None = None


@dataclass(frozen=True)
class Stop:
    """Why a run ended: whether its goal was ``reached`` (``None``: it had none), with how many ``processes``."""

    reached: bool | None
    processes: int
    why: str

    def reading(self) -> Reading:
        """As it is kept with the last process."""
        return Reading(REACHED, float(bool(self.reached)), "", "exact", self.why)


def precise(times: Times, precision: float) -> bool:
    """Whether the interval of each of `PERCENTILES` reaches at most ``precision`` of its middle to either side.

    ``times`` are those of one process in time order; their autocorrelation widens the interval.
    """
    return all(reach is not None and reach <= precision for reach in reaches([times]).values())


def reaches(groups: Sequence[Times]) -> dict[float, float | None]:
    """How far the interval of each of `PERCENTILES` reaches to either side, as a share; ``None``: too few samples."""
    return {q: _reach(between(groups, q)) for q in PERCENTILES}


def share_of(goal: Goal) -> float | None:
    """The precision that one process has to reach by itself, so that all together reach the goal's."""
    return None if goal.precision is None else goal.precision * goal.processes**0.5


def agree(medians: Sequence[float]) -> bool:
    """Whether the largest is at most `AGREEMENT` above the smallest."""
    return max(medians) <= min(medians) * (1 + AGREEMENT)


def decide(processes: Sequence[Process], goal: Goal, elapsed: float) -> Stop | None:
    """Whether to stop now; ``None``: another process is started. ``elapsed`` are seconds since the begin."""
    count = len(processes)
    if count < goal.processes:
        return None
    if goal.precision is None and goal.stable is None:
        return Stop(None, count, f"{count} processes were asked for")
    narrow, stable = _narrow(processes, goal), _stable(processes, goal)
    unmet = [sentence for met, sentence in (narrow, stable) if not met]
    if not unmet:
        return Stop(True, count, "; ".join(sentence for _, sentence in (narrow, stable) if sentence))
    sampled = sum(process.telemetry.wall for process in processes)
    more = (not narrow[0] and sampled < 0.95 * goal.sampling, not stable[0] and elapsed < (goal.stable or 0.0))
    if any(more) and count < MOST:
        return None
    over = "no more are started" if count >= MOST else f"the time was over ({show(sampled, 's')} of sampling)"
    return Stop(False, count, f"{'; '.join(unmet)}; {over}")


def stopped(measurement: Measurement) -> Stop | None:
    """Why the run that gave ``measurement`` ended, where it had a goal."""
    readings = measurement.processes[-1].telemetry.readings
    found = next((reading for reading in readings if reading.name == REACHED), None)
    return None if found is None else Stop(bool(found.value), len(measurement.processes), found.source)


def _narrow(processes: Sequence[Process], goal: Goal) -> tuple[bool, str]:
    if goal.precision is None:
        return True, ""
    found = reaches([process.samples.seconds() for process in processes])
    met = all(reach is not None and reach <= goal.precision for reach in found.values())
    told = ", ".join(
        f"{label(q)} {'with too few samples' if reach is None else f'within {reach:.1%}'}" for q, reach in found.items()
    )
    return met, f"{told} after {len(processes)} processes, where {goal.precision:.2%} was asked for"


def _stable(processes: Sequence[Process], goal: Goal) -> tuple[bool, str]:
    if goal.stable is None:
        return True, ""
    last = processes[-goal.processes :]
    unsteady = sum(not process.steady for process in last)
    medians = [float(np.median(process.samples.seconds())) for process in last]
    share = max(medians) / max(min(medians), 1e-12) - 1
    apart = f"the medians of the last {len(last)} of {len(processes)} processes are {share:.1%} apart"
    if unsteady:
        return False, f"{unsteady} of the last {len(last)} processes reached no steady state"
    return agree(medians), apart


def _reach(found: tuple[float, float] | TooFew) -> float | None:
    """Half the width over the middle."""
    if isinstance(found, TooFew):
        return None
    low, high = found
    return (high - low) / (high + low) if high + low > 0 else 0.0
