"""What there is to say of a measurement whose answers come by a clock: the real-time factor, and what a frame is."""

from __future__ import annotations

from edgedeploy.bench.measurement import Measurement
from edgedeploy.bench.outcome import Outcome
from edgedeploy.units import show

Facts = tuple[tuple[str, str, str], ...]


def facts(measurement: Measurement, found: Outcome) -> Facts:
    """Name, value, and what qualifies it; empty where nothing sets a pace."""
    said, frames, factor = [], measurement.conditions.frames, found.real_time_factor
    if frames is not None:
        said.append(("a pass is", frame(measurement), "of samples strung together, the state never reset"))
    if factor is not None and factor.value is not None:
        said.append(("real-time factor", f"{factor.value:.3g}", _between(found, "above 1 it cannot keep up")))
    load = None if found.schedule is None else found.schedule.load
    if load is not None and (factor is None or factor.value is None or abs(load - factor.value) > 1e-6 * load):
        said.append(("load at this rate", f"{load:.3g}", "above 1 it cannot keep up with it"))
    if frames is not None:
        ahead = f"frame {_time(frames.length)}, look-ahead {frames.lookahead} x {_time(frames.period)}"
        said.append(("an answer waits for", _time(frames.wait), f"{ahead}; the time of a pass comes on top"))
    return tuple(said)


def frame(measurement: Measurement) -> str:
    """What a frame is: ``a frame of 25.0 ms, one each 10.0 ms``; nothing where a pass is none."""
    frames = measurement.conditions.frames
    return "" if frames is None else f"a frame of {_time(frames.length)}, one each {_time(frames.period)}"


def sentence(measurement: Measurement, found: Outcome) -> str:
    """All of it in words, for text that has no table of its own; empty where a pass is no frame."""
    if measurement.conditions.frames is None:
        return ""
    _, *rest = facts(measurement, found)
    told = "; ".join(f"{name} {value} ({more})" for name, value, more in rest)
    return f"A pass is {frame(measurement)}; {told}."


def factor_text(found: Outcome) -> str:
    """``real-time factor 0.031 (0.03 to 0.033)``; empty where nothing sets a pace."""
    factor = found.real_time_factor
    if factor is None or factor.value is None:
        return ""
    between = _between(found, "")
    return f"real-time factor {factor.value:.3g}{f' ({between})' if between else ''}"


def _between(found: Outcome, more: str) -> str:
    """The range of the factor, and ``more``."""
    factor = found.real_time_factor
    known = factor is not None and factor.low is not None and factor.high is not None
    between = f"{factor.low:.3g} to {factor.high:.3g}" if known and factor is not None else ""
    return "; ".join(filter(None, (between, more)))


def _time(seconds: float) -> str:
    return show(seconds, "s")
