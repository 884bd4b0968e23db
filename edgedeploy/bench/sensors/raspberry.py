"""A Raspberry Pi: the flags of its firmware, and the power of the regulator chip of a Pi 5."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from edgedeploy.bench.sensors.sensor import Found, Quantity, Sensor, gauge, text

#: Bits of ``get_throttled`` that are about now; the same ones 16 higher are about the time since the start.
FLAGS = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}
#: Where kernels for the Pi show the same number, in hexadecimal.
FILE = "sys/devices/platform/soc/soc:firmware/get_throttled"


def find(root: Path = Path("/")) -> Found:
    """The firmware's flags where this is a Pi, and watts where it is one that measures them."""
    if "Raspberry Pi" not in text(root / "proc/device-tree/model"):
        return []
    found: Found = []
    if (root / FILE).exists() or shutil.which("vcgencmd"):
        source = f"/{FILE}" if (root / FILE).exists() else "vcgencmd get_throttled"
        found.append(Sensor("throttled by the firmware", "sampled", source, Flags(root)))
    if shutil.which("vcgencmd") and read_pmic(_ask("pmic_read_adc")) is not None:
        source = "vcgencmd pmic_read_adc: the rails of the regulator chip, without its losses and the USB ports"
        found.append(gauge(Quantity("power pmic", "W"), "shared", source, _pmic))
    return found


class Flags:
    """What the firmware says now, or has first said since the last reading."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._sticky: int | None = None

    def __call__(self) -> Mapping[Quantity, float]:
        """1 for each flag that is or was set, 0 for the others.

        Raises:
            OSError, ValueError: the firmware cannot be asked.
        """
        bits = throttled(self._root)
        if bits is None:
            raise ValueError("the firmware did not answer")
        risen = (bits >> 16) & ~(bits >> 16 if self._sticky is None else self._sticky)
        self._sticky = bits >> 16
        return {Quantity(name, "share"): float((bits | risen) >> bit & 1) for bit, name in FLAGS.items()}


def throttled(root: Path = Path("/")) -> int | None:
    """The bits of ``get_throttled``; ``None`` where nobody tells."""
    shown = text(root / FILE)
    if re.fullmatch(r"(0x)?[0-9a-f]+", shown):
        return int(shown, 16)
    return read_throttled(_ask("get_throttled")) if shutil.which("vcgencmd") else None


def read_throttled(said: str) -> int | None:
    """The bits in ``throttled=0x50000``."""
    found = re.search(r"throttled=(0x[0-9a-fA-F]+)", said)
    return int(found[1], 16) if found else None


def since_start(bits: int) -> tuple[str, ...]:
    """What has happened since the start of the machine, once at least."""
    return tuple(name for bit, name in FLAGS.items() if bits >> (bit + 16) & 1)


def read_pmic(said: str) -> float | None:
    """Watts of all rails of which ``vcgencmd pmic_read_adc`` tells both the current and the voltage."""
    told: dict[str, dict[str, float]] = {"A": {}, "V": {}}
    for rail, unit, value in re.findall(r"^\s*(\S+)_([AV])\s+(?:current|volt)\(\d+\)=([\d.]+)[AV]", said, re.MULTILINE):
        told[unit][rail] = float(value)
    both = told["A"].keys() & told["V"].keys()
    return sum(told["A"][rail] * told["V"][rail] for rail in both) if both else None


def _pmic() -> float:
    watts = read_pmic(_ask("pmic_read_adc"))
    if watts is None:
        raise ValueError("the firmware did not answer")
    return watts


def _ask(what: str) -> str:
    try:
        done = subprocess.run(("vcgencmd", what), capture_output=True, text=True, timeout=2, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
