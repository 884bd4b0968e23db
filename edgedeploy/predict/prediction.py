"""A prediction: seconds as an interval, what it was fitted on, and where it goes outside of that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgedeploy.cost import GraphCost
from edgedeploy.device import Device
from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.parts import PRECISIONS
from edgedeploy.predict.features import Features, Roofs, features
from edgedeploy.predict.fit import LEAST, fit, held_out, spread
from edgedeploy.predict.observation import Calibration, Observation, Setting, name_of

#: How sure an interval is.
CONFIDENCE = 0.8
#: How far a graph may be from those of the fit, as a factor, before it is outside.
REACH = 1.5
#: The unit that a runtime computes on, where it is not the CPU; by kind, the first that a device has.
_UNITS: Mapping[str, tuple[str, ...]] = {"tensorrt": ("gpu",), "qnn": ("npu",), "coreml": ("npu", "gpu")}


@dataclass(frozen=True)
class Prediction:
    """What one pass of a graph will take. Nothing of it was measured on the device, unless ``here`` says so.

    Args:
        graph: its name.
        setting: device, unit, runtime, precision, threads.
        seconds: the estimate.
        low: lower end of the interval that holds it with ``confidence``; ``high`` the upper.
        confidence: 0.8 is 80 %.
        here: whether graphs were measured on this very device; else the interval is from other devices.
        fitted_on: how many graphs were measured, by device.
        shares: of the estimate, by class of node.
        outside: sentences: where this goes beyond what was measured.
    """

    graph: str
    setting: Setting
    seconds: float
    low: float
    high: float
    confidence: float
    here: bool
    fitted_on: Mapping[str, int]
    shares: Mapping[str, float]
    outside: tuple[str, ...]


def setting_of(device: Device, runtime: str, precision: str, threads: int | None = None) -> Setting:
    """Where a graph would run: on the unit of ``device`` that ``runtime`` computes on.

    Raises:
        Unavailable: the device has no such unit.
    """
    kinds = _UNITS.get(runtime, ("cpu",))
    units = {accelerator.kind for accelerator in device.accelerators} | {"cpu"}
    unit = next((kind for kind in kinds if kind in units), None)
    if unit is None:
        raise Unavailable(f"{device.name} has no {' or '.join(kinds)}, which {runtime} computes on.")
    if unit == "cpu":
        return Setting(name_of(device), device.arch, unit, runtime, precision, threads)
    return Setting(name_of(device), device.arch, unit, runtime, precision, generation=_generation(device, unit))


def _generation(device: Device, kind: str) -> str:
    found = next(one for one in device.accelerators if one.kind == kind)
    numbers = {"sm": found.sm, "htp": found.htp}
    return next((f"{name} {fact.value}" for name, fact in numbers.items() if fact and fact.value), "")


def roofs_of(device: Device, setting: Setting) -> Roofs:
    """The peaks of the unit of ``setting``, as the profile states them.

    Raises:
        Unavailable: the memory bandwidth is unknown.
    """
    unit = next((a.name for a in device.accelerators if a.kind == setting.unit), "cpu")
    return Roofs.of(device, unit, setting.threads)


def predict(
    graph: str, cost: GraphCost, device: Device, setting: Setting, calibration: Calibration | None = None
) -> Prediction:
    """Predict one pass of batch 1 of a graph on a device.

    Args:
        graph: its name; observations of a graph of this name are not used.
        cost: see `edgedeploy.cost.graph_cost`.
        device: its profile, with peaks.
        setting: see `setting_of`.
        calibration: what to fit on; `Calibration.load` where ``None``.

    Raises:
        Unavailable: too little was measured, or a peak is unknown.
        UsageError: the precision is none.
    """
    if setting.precision not in PRECISIONS:
        raise UsageError(f"'{setting.precision}' is no precision. Known: {', '.join(PRECISIONS)}.")
    known = (calibration or Calibration.load()).observations
    alike = [one for one in known if one.setting.family == setting.family and one.graph != graph]
    own = [one for one in alike if one.setting.device == setting.device and one.setting.threads == setting.threads]
    here = len(own) > LEAST
    used = own if here else alike
    found = features(cost, own[-1].roofs if own else roofs_of(device, setting))
    if len(used) < LEAST:
        counts = Counter(one.setting.family for one in known)
        usable = [f"{run} {kind} on a {unit}" for (unit, run, kind), count in counts.items() if count >= LEAST]
        raise Unavailable(
            f"Nothing can be predicted for {setting}: {len(used)} graphs were measured with {setting.runtime} "
            f"{setting.precision} on a {setting.unit}, and {LEAST} are the least. Measure some with "
            f"'edgedeploy predict BUNDLE --learn' on such a machine. Known: {', '.join(usable) or 'none'}."
        )
    made = fit(used)
    seconds, (factor, unsure) = made.seconds(found), _factor(used, here)
    return Prediction(
        graph=graph,
        setting=setting,
        seconds=seconds,
        low=seconds / factor,
        high=seconds * factor,
        confidence=CONFIDENCE,
        here=here,
        fitted_on=_counted(used),
        shares=made.shares(found),
        outside=(*_outside(found, setting, used, here), *unsure),
    )


def _factor(used: Sequence[Observation], here: bool) -> tuple[float, list[str]]:
    """On a device that was measured, from graphs left out; on another, from whole devices left out. And what it is not.

    Devices differ more than the graphs on one of them, and a few devices are no basis for a quantile: the largest
    error is taken then, which the next device keeps with n / (n + 1) where there were n.
    """
    counts = _counted(used).values()
    by_device = not here and len(counts) > 1
    errors = held_out(used, by_device)
    if not len(errors):
        raise Unavailable(f"{len(used)} measured graphs are too few to say how far off a prediction may be.")
    found = spread(errors, CONFIDENCE) if here else None
    factor = found or spread(errors, len(errors) / (len(errors) + 1)) or 1.0
    devices = sum(len(used) - count >= LEAST for count in counts)
    if not by_device or devices / (devices + 1) >= CONFIDENCE:
        return factor, []
    told = "one device" if devices == 1 else f"{devices} devices"
    return factor, [
        f"The interval is the largest error of {len(errors)}, on {told} that {'was' if devices == 1 else 'were'} left "
        f"out: too few devices to be sure of {CONFIDENCE:.0%}."
    ]


def _counted(used: Sequence[Observation]) -> dict[str, int]:
    devices = sorted({one.setting.device for one in used})
    return {name: sum(one.setting.device == name for one in used) for name in devices}


def _outside(found: Features, setting: Setting, used: Sequence[Observation], here: bool) -> list[str]:
    sentences = []
    counted = _counted(used)
    if not here:
        count = counted.get(setting.device, 0)
        others = ", ".join(name for name in counted if name != setting.device)
        sentences.append(
            f"Outside what it was fitted on: {count or 'no'} graph{'s'[: count != 1]} measured on {setting.device} "
            f"itself, the rest on {others}."
        )
        if all(one.setting.generation != setting.generation for one in used):
            known = ", ".join(sorted({one.setting.generation for one in used}))
            sentences.append(
                f"Outside what it was fitted on: this is {setting.generation or 'unknown'}, those were {known}."
            )
        if all(one.setting.arch != setting.arch for one in used):
            sentences.append(f"Outside what it was fitted on: no machine with {setting.arch} was measured.")
        if len(counted) == 1:
            sentences.append("One machine was measured, so that what devices differ by is not in the interval.")
        threads = {one.setting.threads for one in used}
        if setting.threads not in threads:
            sentences.append(f"Outside what it was fitted on: nothing was measured with {setting.threads} threads.")
    for what in ("flops", "bytes", "nodes"):
        values = [getattr(one.features, what) for one in used]
        value = getattr(found, what)
        if not min(values) / REACH <= value <= max(values) * REACH:
            sentences.append(
                f"Outside what it was fitted on: it has {value:.3g} {what}, the graphs that were measured "
                f"{min(values):.3g} to {max(values):.3g}."
            )
    return sentences


def without(calibration: Calibration, graphs: Sequence[str]) -> Calibration:
    """The observations of all other graphs: to predict what was measured as if it had not been."""
    return replace(calibration, observations=tuple(o for o in calibration.observations if o.graph not in graphs))
