"""The numbers of a `Row` as text: the same wherever a report shows them."""

from __future__ import annotations

from edgedeploy.bench.statistics.quantiles import TooFew
from edgedeploy.report.entry import Accuracy, Row
from edgedeploy.units import show

UNKNOWN = "-"


def time(value: float | TooFew | None) -> str:
    """Seconds with a prefix, or how many samples the percentile would need."""
    if isinstance(value, TooFew) and value.mean_of > 1:
        return f"only means of {value.mean_of}"
    if isinstance(value, TooFew):
        return f"needs {value.needed} samples"
    return UNKNOWN if value is None else show(value, "s")


def interval(bounds: tuple[float, float] | TooFew) -> str:
    """``19.83 ms to 20.12 ms``; nothing where it is refused."""
    return "" if isinstance(bounds, TooFew) else f"{show(bounds[0], 's', 4)} to {show(bounds[1], 's', 4)}"


def size(value: float | None) -> str:
    """Bytes with a binary prefix."""
    return UNKNOWN if value is None else show(value, "B")


def energy(value: float | None) -> str:
    """Joules with a prefix."""
    if value is None:
        return UNKNOWN
    return show(value, "W").replace("W", "J")


def accuracy(value: Accuracy | None) -> str:
    """``AP50-95 0.3712``."""
    return UNKNOWN if value is None else f"{value.name} {value.value:.4f}"


def accuracy_change(value: Accuracy) -> str:
    """How far from the checkpoint, with the interval: ``-0.0020 from FP32 (90 %: -0.0050 to +0.0010)``."""
    sure = "" if value.confidence is None else f"{value.confidence:.0%}: "
    return f"{value.difference:+.4f} from FP32 ({sure}{value.low:+.4f} to {value.high:+.4f})"


def rate(row: Row) -> str:
    """``117 FPS, one stream, back to back``."""
    return f"{row.rate}, {row.rate.name}"


def doubts(row: Row) -> str:
    """``none``, ``1 doubt``, ``3 doubts``."""
    count = len(row.doubts)
    return "none" if count == 0 else f"{count} doubt{'s'[: count != 1]}"
