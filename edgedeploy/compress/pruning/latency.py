"""What channels are worth on a device: how much faster a network gets where they are missing.

*Predicted*: the nodes of the network at several widths against the roofs of the device, with the multiples of them that
were measured there or on devices like it (`edgedeploy.predict`); channels count as the next multiple of what the device
computes at once. *Measured*: the network with one block narrowed and the whole one take turns in ONNX Runtime on this
machine; that is slow, and true. Either says which it is.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Literal

from edgedeploy.compress.pruning.granularity import granularity, step_of
from edgedeploy.compress.pruning.groups import Group, pairs
from edgedeploy.compress.pruning.prune import prune
from edgedeploy.compress.pruning.split import skeleton
from edgedeploy.compress.pruning.timing import Clocked, Stopwatch
from edgedeploy.compress.pruning.traced import traced_cost
from edgedeploy.device import THIS_MACHINE, Device, load
from edgedeploy.errors import UsageError
from edgedeploy.predict.features import Roofs, features
from edgedeploy.predict.fit import LEAST, PRIOR, Fit, fit
from edgedeploy.predict.observation import Calibration, Observation
from edgedeploy.predict.prediction import roofs_of, setting_of
from edgedeploy.units import show

__all__ = ["Predictor", "Worth", "WorthOptions", "Worths", "granularity", "worth"]

Origin = Literal["predicted", "measured"]
#: Share of a group's channels without which it is looked at.
NARROW = 0.5


@dataclass(frozen=True)
class Worth:
    """What a group of channels buys.

    Args:
        seconds: of a pass, for every channel that is removed, while half of them are.
        low: lower end of its interval, ``high`` the upper; ``None`` where a prediction has none.
        points: seconds that the pass takes less, by number of channels that are left.
        origin: which of the two it is.
    """

    seconds: float
    low: float | None
    high: float | None
    points: Mapping[int, float]
    origin: Origin

    def __float__(self) -> float:
        """``seconds``."""
        return self.seconds


@dataclass(frozen=True)
class WorthOptions:
    """How it is found out.

    Args:
        measure: whether networks are timed on this machine, instead of predicted.
        budget: seconds that measuring may take, exports included; what it does not suffice for is predicted.
        precision: that the network will be computed in; only fp32 is measured.
        threads: of the CPU; all, or the runtime's default, where ``None``.
        follow: told what is going on, and the share that is done.
        clock: seconds.
    """

    measure: bool = False
    budget: float = 300.0
    precision: str = "fp32"
    threads: int | None = 1
    follow: Callable[[str, float], None] = lambda _, __: None
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            UsageError: names the value.
        """
        if not (math.isfinite(self.budget) and self.budget > 0):
            raise UsageError(f"A budget of {self.budget} s measures nothing; give more than zero.")
        if self.measure and self.precision != "fp32":
            raise UsageError(f"A network in {self.precision} is not measured here: leave out measure, or take fp32.")


@dataclass(frozen=True, eq=False)
class Worths(Mapping[str, Worth]):
    """The worth of every group by its name.

    Args:
        groups: by name.
        device: name of the profile; ``precision`` and ``threads`` as in `WorthOptions`.
        whole: seconds of a pass of the network that nothing is removed from.
        origin: ``measured`` where at least one group is.
        step: channels that the device computes at once.
        notes: sentences: what it rests on, and what to doubt.
    """

    groups: Mapping[str, Worth]
    device: str
    precision: str
    threads: int | None
    whole: float
    origin: Origin
    step: int
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Worth:
        return self.groups[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def per_channel(self) -> dict[str, float]:
        """Seconds saved per removed channel, by name of the group."""
        return {name: one.seconds for name, one in self.groups.items()}


@dataclass(frozen=True)
class Predictor:
    """Seconds of a pass on a device from the shapes of a network alone.

    Args:
        device: name of the profile.
        roofs: peaks and bandwidth of the unit.
        weights: multiples of the roofs' seconds by class of node, and seconds per node.
        precision: that is computed in.
        step: channels that are computed at once.
        notes: sentences: what it rests on.
    """

    device: str
    roofs: Roofs
    weights: Fit
    precision: str
    step: int
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, device: Device | str | None, precision: str = "fp32", threads: int | None = 1) -> Predictor:
        """Of a device's profile; of this machine (``None``) measured in a few seconds, unless it was learned before.

        Raises:
            UsageError: there is no such device or precision.
            Unavailable: the profile lacks the memory bandwidth or the peak, or scipy is not installed.
        """
        profile = _profile(device)
        setting = setting_of(profile, profile.backend or "onnxruntime", precision, threads)
        alike = [one for one in Calibration.load().observations if one.setting.family == setting.family]
        here = (setting.device, setting.threads)
        own = [one for one in alike if (one.setting.device, one.setting.threads) == here]
        if not own and profile.name == THIS_MACHINE:
            profile = _probed()
        roofs = own[-1].roofs if own else roofs_of(profile, setting)
        used = own if len(own) > LEAST else alike
        step = step_of(profile, precision)
        notes = (_rests_on(used, setting.device), *(() if step.known else (step.reason,)))
        weights = fit(used) if len(used) >= LEAST else Fit(tuple(PRIOR.tolist()))
        return cls(profile.name, roofs, weights, precision, step.channels, notes)

    def seconds(self, network: Any, size: tuple[int, int]) -> float:
        """Of a pass of one image of (height, width); the network may be on the meta device.

        Raises:
            Unavailable: the peak in this precision is unknown.
        """
        precision: Any = self.precision
        return self.weights.seconds(features(traced_cost(network, size, self.step), self.roofs, precision))


def worth(
    network: Any,
    groups: Sequence[Group],
    size: tuple[int, int],
    device: Device | str | None = None,
    options: WorthOptions | None = None,
) -> Worths:
    """What each group's channels buy on a device.

    Args:
        network: of Ultralytics' classes, batch normalisation not folded; it is left as it is.
        groups: those of `edgedeploy.compress.pruning.groups.groups`.
        size: (height, width) of the input.
        device: a profile or its name; this machine where ``None``.
        options: how it is found out.

    Raises:
        UsageError: no such device; it is not this machine, and is to be measured.
        Unavailable: too little is known of the device; or what exports or runs a network is not installed.
    """
    options = options or WorthOptions()
    predictor = Predictor.of(device, options.precision, options.threads)
    if options.measure and predictor.device != THIS_MACHINE:
        raise UsageError(f"{predictor.device} is not here to be measured: leave out measure, or the device.")
    found = _predicted(network, groups, size, predictor, options)
    return _measured(network, groups, size, found, options) if options.measure else found


def _predicted(
    network: Any, groups: Sequence[Group], size: tuple[int, int], predictor: Predictor, options: WorthOptions
) -> Worths:
    bones = skeleton(network)
    whole = predictor.seconds(bones, size)
    found: dict[str, Worth] = {}
    joint = list(pairs(groups))
    for number, members in enumerate(joint):
        width = members[0].width
        points = {
            left: whole - predictor.seconds(prune(bones, _only(members, left), groups), size)
            for left in _lefts(width, predictor.step)
        }
        half = min(points, key=lambda left: abs(left - width * (1 - NARROW)))
        each = points[half] / max(1, width - half) / len(members)
        shared = {left: saved / len(members) for left, saved in points.items()}
        found |= {member.name: Worth(each, None, None, shared, "predicted") for member in members}
        options.follow("predicting", (number + 1) / len(joint))
    notes = ("Predicted from shapes, not measured.", *predictor.notes)
    return Worths(
        found, predictor.device, options.precision, options.threads, whole, "predicted", predictor.step, notes
    )


def _measured(
    network: Any, groups: Sequence[Group], size: tuple[int, int], found: Worths, options: WorthOptions
) -> Worths:
    """Each block narrowed and timed: how many times the predicted saving it saves really."""
    began = options.clock()
    blocks: dict[str, list[Group]] = {}
    for group in groups:
        blocks.setdefault(group.block, []).append(group)
    expected = {block: _saving(found, members) for block, members in blocks.items()}
    share = options.budget / max(1, len(blocks)) / 2  # the other half is for exports
    factors: dict[str, tuple[float, float, float]] = {}
    whole = found.whole
    with Stopwatch(size, options.threads) as watch:
        watch.add("whole", network)
        for block in sorted(blocks, key=lambda name: -expected[name]):
            if factors and options.clock() - began > options.budget:
                break
            members = blocks[block]
            kept = {group.name: tuple(range(_half(group.width))) for group in members}
            watch.add("narrow", prune(network, kept, groups))
            clocked = watch.clock(share, "whole")
            watch.remove("narrow")
            whole = clocked["whole"].seconds
            factors[block] = _factors(clocked["narrow"], whole, expected[block])
            options.follow(f"measured {block}", len(factors) / len(blocks))
    typical = median(one[0] for one in factors.values())
    corrected = {group.name: _corrected(found[group.name], factors.get(group.block), typical) for group in groups}
    left_out = len(blocks) - len(factors)
    notes = [f"Measured in turn on this machine, {len(factors)} blocks narrowed one by one."]
    if left_out:
        budget = show(options.budget, "s")
        notes.append(f"{left_out} blocks that buy least are predicted: the budget of {budget} did not suffice.")
    return replace(found, groups=corrected, whole=whole, origin="measured", notes=tuple(notes))


def _factors(narrow: Clocked, whole: float, expected: float) -> tuple[float, float, float]:
    """The measured saving over the expected one, and the ends of its interval; nothing below zero."""
    ratio = narrow.ratio if narrow.ratio is not None else narrow.seconds / whole
    low, high = narrow.ratio_low or 0.0, narrow.ratio_high or 1.0
    saved = [max(0.0, whole * (1 - value)) / max(expected, 1e-12) for value in (ratio, high, low)]
    return saved[0], saved[1], saved[2]


def _corrected(one: Worth, factors: tuple[float, float, float] | None, typical: float) -> Worth:
    value, low, high = factors or (typical, None, None)
    points = {left: saved * value for left, saved in one.points.items()}
    if low is None or high is None:
        return replace(one, seconds=one.seconds * value, points=points)
    return Worth(one.seconds * value, one.seconds * low, one.seconds * high, points, "measured")


def _saving(found: Worths, members: Sequence[Group]) -> float:
    """What a block saves that is half as wide, were its groups to save it one by one."""
    return sum(found[group.name].seconds * (group.width - _half(group.width)) for group in members)


def _only(members: Sequence[Group], left: int) -> dict[str, tuple[int, ...]]:
    """The first ``left`` channels of these groups, and all of the others."""
    return {group.name: tuple(range(left)) for group in members}


def _lefts(width: int, step: int) -> tuple[int, ...]:
    """Numbers of channels that are looked at: about half of them, and a step less; whole steps where there are some."""
    half = max(1, round(width * (1 - NARROW) / step)) * step if width > step else _half(width)
    return tuple(sorted({left for left in (half, width - step) if half <= left < width}, reverse=True)) or (width,)


def _half(width: int) -> int:
    return max(1, round(width * (1 - NARROW)))


@functools.cache
def _probed() -> Device:
    from edgedeploy.probe import probe

    return probe(seconds=0.5)


def _profile(device: Device | str | None) -> Device:
    return device if isinstance(device, Device) else load(device or THIS_MACHINE)


def _rests_on(used: Sequence[Observation], device: str) -> str:
    own = [one for one in used if one.setting.device == device]
    if len(own) > LEAST:
        return f"The device reaches the share of its peaks that {len(own)} graphs reached on it."
    if len(used) >= LEAST:
        names = ", ".join(sorted({one.setting.device for one in used}))
        return f"{device} is taken to reach the share of its peaks that graphs reached on {names}."
    return f"No graph was measured on {device} or its like: the share of its peaks that it reaches is a guess."
