"""Which channels stay: the same share of every group, one threshold over all, or those that buy the most time.

In all three the least important channels of a group go first, and groups that are tied keep equal numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np

from edgedeploy.compress.pruning.groups import Group, named, pairs
from edgedeploy.compress.recipe import Pruning
from edgedeploy.errors import UsageError
from edgedeploy.tensors import Array

#: What floating point takes away from a share.
_ROUNDING = 1e-9
#: Indices of the channels that are kept, ascending, by name of the group.
Kept = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Gain:
    """What pruning by ``latency`` needs to know.

    Args:
        worth: seconds saved per channel removed, by name of the group.
        saved: the share of the whole network's time that keeping these channels saves, 0 to 1. Without it every channel
            is taken to save what ``worth`` says whatever else is removed, which promises too much: the time of a
            convolution is a product of what it reads and what it writes.
    """

    worth: Mapping[str, SupportsFloat]
    saved: Callable[[Kept], float] | None = None


def choose(
    groups: Sequence[Group],
    scores: Mapping[str, Array],
    pruning: Pruning,
    gain: Gain | Mapping[str, SupportsFloat] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Indices of the channels that are kept, ascending, for every group.

    Args:
        groups: what may be pruned.
        scores: importance of the channels of each.
        pruning: how; ``pruning.ratios`` decide alone over the groups that they name (and those tied to them), whatever
            the policy. ``round_to`` is at least 1 here.
        gain: for ``latency``, what channels buy; a mapping is the worth of a channel by group.

    Raises:
        UsageError: a ratio names no group, two tied groups are given different ratios, a ratio would empty a group,
            ``round_to`` is still 0, or the policy is ``latency`` and worth is missing or the ratio out of reach.
    """
    named(groups, pruning.ratios)
    if pruning.round_to < 1:
        raise UsageError("round_to is 0, which asks the device; here it has to be a number of channels.")
    units = [_Unit(members, pruning.round_to, pruning.least) for members in pairs(groups)]
    counts: dict[str, int] = {}
    free: list[_Unit] = []
    for unit in units:
        ratio = unit.ratio(pruning.ratios)
        if ratio is None and pruning.policy != "uniform":
            free.append(unit)
        else:
            counts |= unit.counts(unit.share(pruning.ratio if ratio is None else ratio))
    if free and pruning.policy == "latency":
        if gain is None:
            raise UsageError("Pruning by latency needs to know what channels are worth on the device.")
        counts |= _by_time(free, scores, pruning.ratio, Gain(gain) if isinstance(gain, Mapping) else gain)
    elif free:
        counts |= _by_channels(free, scores, pruning.ratio)
    return _kept(groups, scores, counts)


@dataclass(frozen=True)
class _Unit:
    """Groups that keep equal numbers of channels: one, or two halves."""

    groups: tuple[Group, ...]
    round_to: int
    least: int

    @property
    def width(self) -> int:
        return self.groups[0].width

    def ratio(self, ratios: Mapping[str, float]) -> float | None:
        """The share that is asked for by name."""
        given = {group.name: ratios[group.name] for group in self.groups if group.name in ratios}
        if len(set(given.values())) > 1:
            told = " and ".join(f"{ratio:g} of {name}" for name, ratio in given.items())
            raise UsageError(f"{told} cannot both be pruned: the halves of a block keep equal numbers. Give one ratio.")
        return next(iter(given.values()), None)

    def counts(self, kept: int) -> dict[str, int]:
        return {group.name: kept for group in self.groups}

    def share(self, ratio: float) -> int:
        """How many channels stay if this share goes: the nearest multiple, halves rounded up.

        Raises:
            UsageError: none would stay.
        """
        if ratio == 0:
            return self.width
        wanted = self.width * (1 - ratio)
        if _nearest(wanted) < 1:
            most = math.floor(100 * (1 - 0.5 / self.width)) / 100
            raise UsageError(
                f"Pruning {ratio:g} of {self.groups[0].name} leaves none of its {self.width} channels. "
                f"Prune at most {most:g} of it."
            )
        step = self._step
        fitting = max(1, _nearest(wanted / step)) * step
        kept = fitting if fitting <= self.width else self.width // step * step
        return max(kept, self.floor)

    @property
    def floor(self) -> int:
        """The fewest channels that may stay."""
        least = math.ceil(self.least / self._step) * self._step
        return min(least, self.width)

    def lefts(self) -> Iterator[int]:
        """How many channels are left after each step of removing, down to the floor."""
        left = self.width
        while left > self.floor:
            left = (left - 1) // self._step * self._step
            yield left

    @property
    def _step(self) -> int:
        return self.round_to if self.width >= self.round_to else 1


@dataclass(frozen=True)
class _Step:
    """Narrowing a unit to ``left`` channels, if it was narrowed by all its steps before."""

    unit: _Unit
    left: int
    price: float  # importance lost for what is gained
    gain: float  # channels removed, or seconds saved


@dataclass(frozen=True)
class _Descent:
    """Every step that all units can be narrowed by, the cheapest first; some number of them is taken."""

    steps: tuple[_Step, ...]
    widths: Mapping[str, int]

    @classmethod
    def of(cls, units: Sequence[_Unit], scores: Mapping[str, Array], worth: Mapping[str, SupportsFloat]) -> _Descent:
        steps = [step for unit in units for step in _priced(unit, scores, worth)]
        steps.sort(key=lambda step: (step.price, -step.left / step.unit.width))  # among equals all give the same share
        return cls(tuple(steps), {group.name: group.width for unit in units for group in unit.groups})

    def counts(self, taken: int) -> dict[str, int]:
        """Numbers of channels by group after so many steps."""
        found = dict(self.widths)
        for step in self.steps[:taken]:
            found |= step.unit.counts(step.left)
        return found


def _priced(unit: _Unit, scores: Mapping[str, Array], worth: Mapping[str, SupportsFloat]) -> Iterator[_Step]:
    ordered = [np.sort(scores[group.name]) for group in unit.groups]
    each = sum(float(worth.get(group.name, 0.0)) for group in unit.groups)
    price, width = 0.0, unit.width
    for left in unit.lefts() if each > 0 else ():
        lost = sum(float(one[unit.width - width : unit.width - left].sum()) for one in ordered)
        price = max(price, lost / (each * (width - left)))  # within a unit the order is given
        yield _Step(unit, left, price, each * (width - left))
        width = left


def _by_channels(units: Sequence[_Unit], scores: Mapping[str, Array], ratio: float) -> dict[str, int]:
    """One threshold over all: the least important channels go until the ratio is reached, or nothing more may go."""
    descent = _Descent.of(units, scores, {group.name: 1.0 for unit in units for group in unit.groups})
    return descent.counts(_enough(descent, ratio * sum(descent.widths.values())))


def _by_time(units: Sequence[_Unit], scores: Mapping[str, Array], ratio: float, gain: Gain) -> dict[str, int]:
    """The channels that matter least for the time that they take go until the ratio of the time is saved."""
    descent = _Descent.of(units, scores, gain.worth)
    groups = [group for unit in units for group in unit.groups]

    def saved(taken: int) -> float:
        counts = descent.counts(taken)
        if gain.saved is not None:
            return gain.saved(_kept(groups, scores, counts))
        whole = sum(float(gain.worth.get(group.name, 0.0)) * group.width for group in groups)
        return sum(step.gain for step in descent.steps[:taken]) / whole if whole else 0.0

    if (most := saved(len(descent.steps))) < ratio - _ROUNDING:
        raise UsageError(f"Pruning saves at most {most:.2f} of the predicted time here, not {ratio:g}. Ask for less.")
    low, high = 0, len(descent.steps)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if saved(middle) >= ratio - _ROUNDING else (middle + 1, high)
    return descent.counts(low)


def _enough(descent: _Descent, wanted: float) -> int:
    """How many steps gain what is wanted; all where they do not."""
    sums = np.cumsum([0.0, *(step.gain for step in descent.steps)])
    reached = sums >= wanted - _ROUNDING
    return int(np.argmax(reached)) if reached.any() else len(descent.steps)


def _kept(
    groups: Sequence[Group], scores: Mapping[str, Array], counts: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    kept = {}
    for group in groups:
        order = np.argsort(np.negative(scores[group.name]), kind="stable")  # among equals the first stay
        kept[group.name] = tuple(sorted(int(i) for i in order[: counts[group.name]]))
    return kept


def _nearest(value: float) -> int:
    """The nearest integer, halves up."""
    return math.floor(value + 0.5 + _ROUNDING)
