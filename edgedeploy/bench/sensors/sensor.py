"""What a sensor is, and those that every Linux has: memory of a process, clocks, temperatures, throttling.

Finders look below a root folder (``/``, or a recorded one) and give a `Sensor` for what is there and an absent
`Reading`, with the reason, for what is not. Nothing here imports numpy: the process that reads sensors is light.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from edgedeploy.bench.telemetry import Reading, Trust

#: Temperature zones that are watched at most; those of processors come first. Phones have fifty.
ZONES = 16
#: Degrees Celsius outside of which a zone is switched off, or stands for something else.
COLDEST, HOTTEST = -55.0, 150.0


class Quantity(NamedTuple):
    """What a number is about. A ``total`` only grows, and counts by its difference; any other is of the moment."""

    name: str
    unit: str
    total: bool = False


@dataclass(frozen=True)
class Sensor:
    """Something that can be read.

    Args:
        name: what is absent where the first reading fails.
        trust: of its quantities; ``source`` is where they are read.
        read: what it says now. Any exception means that it says nothing more.
        ends: it is read at the begin and at the end only, and the larger value counts.
        close: lets go of what it holds.
    """

    name: str
    trust: Trust
    source: str
    read: Callable[[], Mapping[Quantity, float]]
    ends: bool = False
    close: Callable[[], None] = lambda: None


Found = list[Sensor | Reading]


def gauge(quantity: Quantity, trust: Trust, source: str, read: Callable[[], float], ends: bool = False) -> Sensor:
    """A sensor of one quantity."""
    return Sensor(quantity.name, trust, source, lambda: {quantity: read()}, ends)


def absent(name: str, unit: str, why: str) -> Reading:
    """A reading that nobody tells here."""
    return Reading(name, None, unit, "absent", why)


def number(path: Path) -> int:
    """The whole number in a file.

    Raises:
        OSError, ValueError: it is not there, or it is no number.
    """
    return int(path.read_text("ascii"))


def text(path: Path) -> str:
    """What a file says, without white space around it; nothing where it cannot be read."""
    try:
        return path.read_text("utf-8", "replace").strip().strip("\0")
    except OSError:
        return ""


def memory(pid: int, root: Path = Path("/")) -> Found:
    """What a process holds, what its control group held at most, and what the machine has in use; bytes."""
    process, page = root / "proc" / str(pid), os.sysconf("SC_PAGE_SIZE")

    def resident() -> float:
        return int((process / "statm").read_text().split()[1]) * page

    def in_use() -> float:
        said = text(root / "proc/meminfo")
        return _kib(said, "MemTotal") - _kib(said, "MemAvailable")

    return [
        gauge(Quantity("memory resident", "B"), "sampled", "/proc/PID/statm: resident", resident),
        gauge(Quantity("memory in use", "B"), "shared", "/proc/meminfo: MemTotal - MemAvailable", in_use),
        gauge(
            Quantity("proportional memory", "B"),
            "sampled",
            "/proc/PID/smaps_rollup: Pss, at the begin and the end only: reading it holds up the process",
            lambda: _kib((process / "smaps_rollup").read_text(), "Pss"),
            ends=True,
        ),
        gauge(
            Quantity("memory swapped out", "B"),
            "sampled",
            "/proc/PID/status: VmSwap, at the begin and the end",
            lambda: _kib((process / "status").read_text(), "VmSwap"),
            ends=True,
        ),
        _group_peak(pid, root),
    ]


def clocks(pid: int, root: Path = Path("/")) -> Found:
    """Of each cluster of processors that the process may run on, hertz; of several cores the fastest.

    A cluster is what shares a frequency policy; cores with a policy each are taken together where their limits agree.
    """
    clusters: dict[object, dict[Path, set[int]]] = {}
    allowed = _cpus(_field(text(root / f"proc/{pid}/status"), "Cpus_allowed_list"))
    for policy in sorted(root.glob("sys/devices/system/cpu/cpufreq/policy*"), key=_natural):
        cores = _cpus(text(policy / "related_cpus"))
        if cores and (not allowed or cores & allowed):
            key = text(policy / "cpuinfo_max_freq") if len(cores) == 1 else policy
            clusters.setdefault(key, {})[policy / "scaling_cur_freq"] = cores
    if not clusters:
        why = "no /sys/devices/system/cpu/cpufreq/policy*: a virtual machine, or a kernel without frequency scaling"
        return [absent("clock", "Hz", why)]
    return [
        gauge(
            Quantity(f"clock cpu{_ranges(set().union(*files.values()))}", "Hz"),
            "sampled",
            "/sys/devices/system/cpu/cpufreq: scaling_cur_freq" + (", the fastest core" if len(files) > 1 else ""),
            partial(_fastest, tuple(files)),
        )
        for files in clusters.values()
    ]


def temperatures(root: Path = Path("/")) -> Found:
    """Of each thermal zone by its type, and of processors whose only sensor is a hardware monitor; degrees Celsius."""
    places: dict[str, Path] = {}
    zones = sorted(root.glob("sys/class/thermal/thermal_zone*"), key=_natural)
    for zone in sorted(
        zones, key=lambda zone: not re.search("cpu|soc|pkg|core|gpu|tj|big|little", text(zone / "type"))
    ):
        kind = re.sub(r"[-_]therm(al)?$", "", text(zone / "type")).lower() or zone.name
        name = kind if kind not in places else f"{kind} {zone.name.removeprefix('thermal_zone')}"
        if kind != "pmic-die" and text(zone / "mode") != "disabled":  # Jetson's says a fixed number
            places[name] = zone / "temp"
    for monitor in sorted(root.glob("sys/class/hwmon/hwmon*"), key=_natural):
        for label in sorted(monitor.glob("temp*_label"), key=_natural):
            if text(monitor / "name") in ("coretemp", "k10temp", "zenpower") and _whole_chip(text(label)):
                name = text(label).lower()
                places[name] = monitor / label.name.replace("_label", "_input")
    if not places:
        why = "no thermal zone in /sys/class/thermal and no processor in /sys/class/hwmon"
        return [absent("temperature", "degC", why)]
    return [
        gauge(
            Quantity(f"temperature {name}", "degC"),
            "sampled",
            "/sys/class/" + path.relative_to(root / "sys/class").as_posix(),
            partial(_celsius, path),
        )
        for name, path in list(places.items())[:ZONES]
    ]


def degrees(value: float) -> float:
    """``value``, where it can be a temperature in degrees Celsius.

    Raises:
        ValueError: sensors that are off say such numbers.
    """
    if not COLDEST < value < HOTTEST:
        raise ValueError(f"{value:g} degC is no temperature; the sensor is off")
    return value


def throttling(root: Path = Path("/")) -> Found:
    """Events that an x86 counts, and the time in which Linux held clocks down because of heat."""
    found: Found = []
    counts = sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle"), key=_natural)
    if counts:
        packages = {text(folder.parent / "topology/physical_package_id"): folder for folder in counts}
        found += [
            gauge(
                Quantity(f"throttle events, {what}", "", total=True),
                "shared",
                f"/sys/devices/system/cpu/cpu*/thermal_throttle/{what}_throttle_count",
                partial(_sum, files),
            )
            for what, files in (
                ("core", [folder / "core_throttle_count" for folder in counts]),
                ("package", [folder / "package_throttle_count" for folder in packages.values()]),
            )
        ]
    coolers: dict[str, list[Path]] = {}
    for cooler in sorted(root.glob("sys/class/thermal/cooling_device*"), key=_natural):
        kind = text(cooler / "type")
        if re.search("cpu|processor|devfreq|gpu", kind, re.IGNORECASE):
            coolers.setdefault(kind, []).append(cooler / "cur_state")
    found += [
        gauge(
            Quantity(f"held down {kind}", "share"),
            "sampled",
            "/sys/class/thermal: cur_state of the cooling device is above 0",
            partial(_above_zero, files),
        )
        for kind, files in coolers.items()
    ]
    if not found:
        why = "no thermal_throttle counters of an x86, and no cooling device of a processor"
        found.append(absent("throttling", "", why))
    return found


def accelerator_clocks(root: Path = Path("/")) -> Found:
    """Of a GPU on the chip that Linux scales (Mali, Adreno, Tegra), hertz; nothing where there is none."""
    found: Found = []
    for device in sorted(root.glob("sys/class/devfreq/*")):
        if re.search(r"gpu|mali|kgsl|g[pv]1\db|ga10b", device.name + text(device / "name"), re.IGNORECASE):
            source = f"/sys/class/devfreq/{device.name}/cur_freq"
            found.append(gauge(Quantity("gpu clock", "Hz"), "sampled", source, partial(number, device / "cur_freq")))
    return found[:1]


def finite(values: Mapping[Quantity, float]) -> Mapping[Quantity, float]:
    """``values``, where all are numbers.

    Raises:
        ValueError: one is not.
    """
    for quantity, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{quantity.name} is {value}")
    return values


def _group_peak(pid: int, root: Path) -> Sensor | Reading:
    """The most that the control group of a process held at once, page cache included, since it was made."""
    quantity = Quantity("peak memory of the control group", "B")
    for line in text(root / f"proc/{pid}/cgroup").splitlines():
        _, controllers, group = (*line.split(":", 2), "", "")[:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        tree = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        name = "memory.max_usage_in_bytes" if controllers else "memory.peak"
        parts = [part for part in group.split("/") if part not in ("", "..")]
        folders = (tree.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))
        folder = next((folder for folder in folders if (folder / name).exists()), None)
        if folder is not None:
            members = set(text(folder / "cgroup.procs").split())
            alone = bool(members) and members <= {str(pid), str(os.getpid())}
            who = "this process and its watcher alone" if alone else f"{len(members)} processes, and of groups below"
            source = f"{name} of {who}, page cache included, since the group was made"
            trust: Trust = "exact" if alone else "shared"
            return gauge(quantity, trust, source, partial(number, folder / name), ends=True)
    why = "no memory.peak (version 2) or memory.max_usage_in_bytes (version 1) on the way to its control group"
    return absent(quantity.name, quantity.unit, why)


def _fastest(files: Sequence[Path]) -> float:
    return max(map(number, files)) * 1e3


def _celsius(path: Path) -> float:
    return degrees(number(path) / 1e3)


def _sum(files: Sequence[Path]) -> float:
    return sum(map(number, files))


def _above_zero(files: Sequence[Path]) -> float:
    return float(max(map(number, files)) > 0)


def _kib(said: str, key: str) -> float:
    found = re.search(rf"^{key}:\s*(\d+) kB", said, re.MULTILINE)
    if not found:
        raise ValueError(f"no {key}")
    return int(found[1]) * 1024.0


def _field(said: str, key: str) -> str:
    found = re.search(rf"^{key}:\s*(.*)$", said, re.MULTILINE)
    return found[1] if found else ""


def _cpus(said: str) -> set[int]:
    """The numbers in ``0-3,7`` or ``0 1 2 3``."""
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", said):
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _ranges(cpus: set[int]) -> str:
    """``0-3,7``."""
    ordered = sorted(cpus)
    begins = [cpu for cpu in ordered if cpu - 1 not in cpus]
    ends = [cpu for cpu in ordered if cpu + 1 not in cpus]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(begins, ends, strict=True))


def _whole_chip(label: str) -> bool:
    """Of all the sensors of a processor, the one that stands for all of it."""
    return bool(re.match(r"Package id|Tctl|Tdie", label))


def _natural(path: Path) -> list[Any]:
    """A key that puts policy10 behind policy9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.as_posix())]
