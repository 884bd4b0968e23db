"""What tests of reports share: noisy, drifting, bimodal, spiky measurements with series, the same for a seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from edgedeploy.bench.measurement import Measurement, Passes, Place, Process
from edgedeploy.bench.telemetry import Reading, Series
from edgedeploy.report.entry import Accuracy
from edgedeploy.testing.fakes import fake_measurement, fake_passes, fake_process

NASTY = "<script>document.title='owned'</script> \"'&<!--]]> $x$ \x00\u202e\ud800 |`*"


def process(seed: int, count: int = 200, base: float = 20e6, **shape: float) -> Process:
    """Passes of about ``base`` ns. ``drift`` and ``bimodal`` are shares; ``spike``: every so many, 70 ms are added."""
    draw = np.random.default_rng(seed)
    times = base * (1 + 0.02 * np.abs(draw.standard_normal(count)))
    times *= 1 + shape.get("drift", 0.0) * np.linspace(0, 1, count)
    times *= 1 + shape.get("bimodal", 0.0) * (np.arange(count) // max(1, count // 7) % 2)
    if shape.get("spike"):
        times[:: int(shape["spike"])] += 70e6
    columns = [times * 0.08, times, times * 0.03]
    prepare, compute, finish = (tuple(int(value) for value in column) for column in columns)
    whole = np.sum([prepare, compute, finish], axis=0)
    began = tuple(int(value) for value in np.cumsum(whole) - whole)
    end = float(whole.sum()) / 1e9
    at = tuple(np.linspace(0, end, 30).tolist())
    clock = Series("clock of the gpu", "Hz", "sampled", "nvml", at, tuple(918e6 - 1e5 * i for i in range(30)))
    heat = Series("temperature", "degC", "sampled", "thermal_zone0", at, tuple(45.0 + 0.1 * i for i in range(30)))
    readings = (
        Reading("energy", 0.19 * count, "J", "sampled", "INA3221: VDD_IN"),
        Reading("package power", None, "W", "absent", "no /sys/class/powercap here"),
    )
    quiet = fake_process([1])
    return replace(
        quiet,
        first=fake_passes([int(base * 2.7)]),
        warmup=fake_passes([int(base * (1 + np.exp(-i / 4))) for i in range(20)]),
        samples=Passes(prepare, compute, finish, (), began),
        telemetry=replace(quiet.telemetry, wall=end, series=(clock, heat), readings=readings),
    )


def made(seed: int = 0, count: int = 200, base: float = 20e6, **changed: Any) -> Measurement:
    """Three such processes; ``device`` and ``created`` are of the measurement, the rest is shape or conditions."""
    shape = {key: changed.pop(key) for key in ("drift", "bimodal", "spike") if key in changed}
    device, created = changed.pop("device", "jetson-orin-nano"), changed.pop("created", f"2025-01-{seed + 1:02d}")
    processes = [process(100 * seed + i, count, base, **shape) for i in range(3)]
    measurement = fake_measurement(*processes, **{"name": "net", "digest": f"{seed:x}" * 8, **changed})
    return replace(measurement, created=created, place=Place(device, "ssh://bench@nano"))


def accuracy(value: float, data: str = "scenes") -> Accuracy:
    """An AP50-95 of a checkpoint that has 0.5."""
    return Accuracy("AP50-95", value, 0.5, value - 0.5, value - 0.51, value - 0.49, 0.9, data)


@dataclass(frozen=True)
class Kit:
    """The makers above, for tests that ask for the fixture of this name."""

    nasty: str = NASTY

    def process(self, seed: int, count: int = 200, base: float = 20e6, **shape: float) -> Process:
        """See `process`."""
        return process(seed, count, base, **shape)

    def made(self, seed: int = 0, count: int = 200, base: float = 20e6, **changed: Any) -> Measurement:
        """See `made`."""
        return made(seed, count, base, **changed)

    def accuracy(self, value: float, data: str = "scenes") -> Accuracy:
        """See `accuracy`."""
        return accuracy(value, data)


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()
