"""NVIDIA graphics cards, by NVIDIA's management library (nvidia-ml-py).

Only cards that the process has opened are asked: a card that nobody uses is asleep, and asking would wake it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from edgedeploy.bench.sensors.sensor import Found, Quantity, Sensor, absent, gauge

#: Reasons for which a clock is held down, by the bits of the library: heat, and a limit of power or current.
HEAT = ("HwThermalSlowdown", "SwThermalSlowdown", "HwSlowdown")
POWER = ("SwPowerCap", "HwPowerBrakeSlowdown")


def find(pid: int, root: Path = Path("/")) -> Found:
    """Memory, clocks, power, temperature and slow-downs of each card that the process has opened."""
    opened = cards(pid, root)
    if not opened:
        return [absent("gpu", "", "this process has opened no NVIDIA card")]
    try:
        import pynvml
    except ImportError:
        return [absent("gpu", "", "nvidia-ml-py is not installed: pip install 'edgedeploy[nvidia]'")]
    return read_cards(pynvml, pid, opened)


def cards(pid: int, root: Path = Path("/")) -> set[int]:
    """The numbers N of ``/dev/nvidiaN`` that a process has opened."""
    folder = root / f"proc/{pid}/fd"
    try:
        links = [str(link.readlink()) for link in folder.iterdir()]
    except OSError:
        return set()
    found = (re.fullmatch(r"/dev/nvidia(\d+)", link) for link in links)
    return {int(match[1]) for match in found if match}


def read_cards(library: ModuleType | Any, pid: int, opened: set[int]) -> Found:
    """Sensors of those cards that ``opened`` names by their minor number; ``library`` is ``pynvml``."""
    try:
        library.nvmlInit()
        handles = [library.nvmlDeviceGetHandleByIndex(i) for i in range(library.nvmlDeviceGetCount())]
        known = {library.nvmlDeviceGetMinorNumber(handle): handle for handle in handles}
    except library.NVMLError as error:
        return [absent("gpu", "", f"NVIDIA's management library: {error}")]
    used = {minor: handle for minor, handle in known.items() if minor in opened}
    found: Found = []
    for minor, handle in used.items():
        found += _card(library, pid, handle, f"gpu{minor}" if len(used) > 1 else "gpu")
    return found or [absent("gpu", "", f"the library does not list the cards {sorted(opened)} that are open")]


def _card(library: Any, pid: int, handle: Any, name: str) -> Found:
    """Each quantity is a sensor of its own: what a card does not support is absent, and the rest is there."""
    flags = Sensor(f"{name} slow-down", "sampled", "NVML: clock event reasons", partial(_slowed, library, handle, name))
    readers: tuple[tuple[Quantity, str, Callable[[], float]], ...] = (
        (
            Quantity(f"{name} memory in use", "B"),
            "nvmlDeviceGetMemoryInfo: used, by all processes",
            lambda: library.nvmlDeviceGetMemoryInfo(handle).used,
        ),
        (
            Quantity(f"{name} clock", "Hz"),
            "nvmlDeviceGetClockInfo: SM",
            lambda: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_SM) * 1e6,
        ),
        (
            Quantity(f"{name} memory clock", "Hz"),
            "nvmlDeviceGetClockInfo: MEM",
            lambda: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_MEM) * 1e6,
        ),
        (
            Quantity(f"{name} load", "share"),
            "nvmlDeviceGetUtilizationRates: time in which some kernel ran",
            lambda: library.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
        ),
        (
            Quantity(f"temperature {name}", "degC"),
            "nvmlDeviceGetTemperature",
            lambda: library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU),
        ),
        (
            Quantity(f"power {name}", "W"),
            "nvmlDeviceGetPowerUsage, the whole card",
            lambda: library.nvmlDeviceGetPowerUsage(handle) / 1e3,
        ),
        (
            Quantity(f"energy {name}", "J", total=True),
            "nvmlDeviceGetTotalEnergyConsumption, the whole card",
            lambda: library.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3,
        ),
    )
    own = gauge(Quantity(f"{name} memory", "B"), "sampled", "NVML: processes", partial(_own, library, handle, pid))
    shared = ("memory in use", "power", "energy")
    return [
        own,
        *(
            gauge(quantity, "shared" if any(word in quantity.name for word in shared) else "sampled", source, read)
            for quantity, source, read in readers
        ),
        flags,
    ]


def _own(library: Any, handle: Any, pid: int) -> float:
    """Bytes of the card's memory that the process holds."""
    listed = [*library.nvmlDeviceGetComputeRunningProcesses(handle)]
    held = [process.usedGpuMemory for process in listed if process.pid == pid]
    if not held:
        raise ValueError(f"process {pid} is not among the {len(listed)} listed; in a container they have other numbers")
    if held[0] is None:
        raise ValueError("the driver does not tell it")
    return float(held[0])


def _slowed(library: Any, handle: Any, name: str) -> Mapping[Quantity, float]:
    """1 where the clock is held down now because of heat, or of a limit of power; else 0."""
    try:
        bits = library.nvmlDeviceGetCurrentClocksEventReasons(handle)
    except AttributeError:  # the name that it had before driver 535
        bits = library.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    return {
        Quantity(f"{name} slowed by heat", "share"): float(bool(bits & _mask(library, HEAT))),
        Quantity(f"{name} slowed by its power limit", "share"): float(bool(bits & _mask(library, POWER))),
    }


def _mask(library: Any, reasons: tuple[str, ...]) -> int:
    mask = 0
    for reason in reasons:
        new, old = f"nvmlClocksEventReason{reason}", f"nvmlClocksThrottleReason{reason}"
        mask |= int(getattr(library, new, getattr(library, old, 0)))
    return mask
