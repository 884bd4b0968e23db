"""The roofs: what a unit of a device can do at most, in operations and in bytes per second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgedeploy.device import Device
from edgedeploy.facts import Bandwidth, Quantity
from edgedeploy.parts import PRECISIONS


@dataclass(frozen=True)
class Roofs:
    """Peaks of one unit, each with its source; what nobody states is unknown, and nothing is divided by it.

    Args:
        device: its name.
        unit: ``cpu``, or an accelerator by name.
        peaks: dense, by precision.
        bandwidth: of main memory; measured by copying where it is known, else the theoretical one.
        notes: what qualifies them.
    """

    device: str
    unit: str
    peaks: Mapping[str, Quantity] = field(default_factory=dict)
    bandwidth: Quantity = field(default_factory=Bandwidth)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, device: Device, unit: str = "cpu", notes: tuple[str, ...] = ()) -> Roofs:
        """The roofs of a device's unit.

        Raises:
            UsageError: it has no such unit.
        """
        peaks: dict[str, Quantity] = {precision: device.peak(unit, precision) for precision in PRECISIONS}
        copied = device.memory.copy
        bandwidth = copied if copied is not None and copied.si is not None else device.memory.bandwidth
        return cls(device.name, unit, peaks, bandwidth, notes)

    @property
    def engine(self) -> bool:
        """Whether it is an accelerator, not the processor."""
        return self.unit != "cpu"

    def peak(self, dtype: str) -> float | None:
        """Operations per second in ``dtype``; ``None`` where that is unknown."""
        return self.peaks[dtype].si if dtype in self.peaks else None

    def seconds(self, flops: int, dtype: str) -> float | None:
        """What ``flops`` take at the peak; 0 of none."""
        peak = self.peak(dtype)
        return 0.0 if not flops else None if peak is None else flops / peak

    def moving(self, size: int) -> float | None:
        """Seconds that ``size`` bytes take at the bandwidth; 0 of none."""
        return 0.0 if not size else None if self.bandwidth.si is None else size / self.bandwidth.si


def at_the_roof(roofs: Roofs, flops: int, size: int, dtype: str) -> float | None:
    """The least that a node can take: the longer of its arithmetic and its bytes; ``None`` where a roof is unknown."""
    computing, moving = roofs.seconds(flops, dtype), roofs.moving(size)
    return None if computing is None or moving is None else max(computing, moving)


def percent(share: float) -> str:
    """``23 %``; small ones with a digit more."""
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.1f} %"
