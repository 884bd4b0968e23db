"""What an Android device says of itself: the environment of a measurement, and what can spoil it (heat, a charger).

Everything comes from one shell command, whose parts stand between marks; what a device does not tell stays unknown.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgedeploy.bench.environment import ISA, Environment
from edgedeploy.bench.phone.adb import AdbDevice
from edgedeploy.bench.telemetry import Reading, Trust

#: Android's thermal statuses, by number (``PowerManager.THERMAL_STATUS_*``).
THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
_MARK = "edgedeploy-part:"
_ENVIRONMENT = {
    "properties": "getprop",
    "cpuinfo": "cat /proc/cpuinfo",
    "memory": "cat /proc/meminfo",
    "kernel": "uname -r",
    "cores": "ls -d /sys/devices/system/cpu/cpu[0-9]*",
    "governor": "cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor",
    "clocks": (
        "for p in /sys/devices/system/cpu/cpufreq/policy*; do "
        "echo $(cat $p/scaling_min_freq) $(cat $p/scaling_max_freq); done"
    ),
    "load": "cat /proc/loadavg",
}
_STATE = {"thermal": "dumpsys thermalservice", "battery": "dumpsys battery", "power": "dumpsys power"}


def properties(device: AdbDevice) -> Mapping[str, str]:
    """Android's properties, ``ro.product.model`` and the like.

    Raises:
        RunFailed: the device went away.
    """
    return _properties(device.shell("getprop").text)


def environment(device: AdbDevice, packages: Mapping[str, str]) -> Environment:
    """The machine and the software as far as the device tells; ``packages`` are what was brought there, with versions.

    Raises:
        RunFailed: the device went away.
    """
    parts = _ask(device, _ENVIRONMENT)
    told, cpuinfo = _properties(parts["properties"]), parts["cpuinfo"]
    features = set(" ".join(re.findall(r"^(?:Features|flags)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)[:1]).split())
    total = re.search(r"^MemTotal:\s*(\d{1,12}) kB", parts["memory"], re.MULTILINE)
    swap = re.search(r"^SwapTotal:\s*(\d{1,12}) kB", parts["memory"], re.MULTILINE)
    load = re.match(r"(\d{1,6}\.\d+) (\d{1,6}\.\d+) (\d{1,6}\.\d+) ", parts["load"])
    soc = " ".join(filter(None, (told.get("ro.soc.manufacturer"), told.get("ro.soc.model"))))
    hardware = re.search(r"^(?:Hardware|model name)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    release = " ".join(filter(None, (told.get("ro.build.version.release"), told.get("ro.build.id"))))
    model = " ".join(filter(None, (told.get("ro.product.manufacturer"), told.get("ro.product.model"))))
    return Environment(
        machine=hashlib.sha256((told.get("ro.serialno") or device.serial).encode()).hexdigest()[:12],
        board=model or None,
        cpu=soc or (hardware[1].strip() if hardware else told.get("ro.board.platform")),
        isa=tuple(name for name in ISA if name in features),
        cores=len(re.findall(r"/cpu\d+$", parts["cores"], re.MULTILINE)) or None,
        affinity=None,
        cpu_limit=None,
        governor=",".join(sorted(set(re.findall(r"^[a-z_]+$", parts["governor"], re.MULTILINE)))) or None,
        turbo=None,
        clock_limits=_clock_limits(parts["clocks"]),
        memory=int(total[1]) * 1024 if total else None,
        swap=int(swap[1]) * 1024 if swap else None,
        system=f"Android {release}".strip(),
        kernel=(parts["kernel"].split() or ["unknown"])[0],
        hosted="emulator" if "1" in (told.get("ro.boot.qemu"), told.get("ro.kernel.qemu")) else None,
        python="none",
        packages=dict(packages),
        load_average=(float(load[1]), float(load[2]), float(load[3])) if load else None,
    )


@dataclass(frozen=True)
class State:
    """How warm the device is and what it is doing; ``None`` is not told.

    Args:
        thermal: Android's thermal status: 0 is none, 3 severe.
        temperatures: degrees Celsius, by sensor.
        level: of the battery, 0 to 1.
        charging: whether something feeds it.
        battery: temperature of the battery, degrees Celsius.
        awake: whether the screen is on.
    """

    thermal: int | None
    temperatures: Mapping[str, float]
    level: float | None
    charging: bool | None
    battery: float | None
    awake: bool | None

    def readings(self, when: str) -> tuple[Reading, ...]:
        """As a record keeps them; ``when`` is ``before`` or ``after``."""
        service, battery = "dumpsys thermalservice", "dumpsys battery"
        told: list[tuple[str, float | None, str, str]] = [
            ("thermal status", self.thermal, "", service),
            *((f"temperature {name}", value, "degC", service) for name, value in sorted(self.temperatures.items())),
            ("battery level", self.level, "", battery),
            ("charging", None if self.charging is None else float(self.charging), "", battery),
            ("battery temperature", self.battery, "degC", battery),
            ("screen on", None if self.awake is None else float(self.awake), "", "dumpsys power"),
        ]
        return tuple(_reading(f"{name} {when}", value, unit, source) for name, value, unit, source in told)


def state(device: AdbDevice) -> State:
    """How the device is now.

    Raises:
        RunFailed: the device went away.
    """
    return parse_state(_ask(device, _STATE))


def parse_state(parts: Mapping[str, str]) -> State:
    """The state that the texts of ``dumpsys`` describe, by the names ``thermal``, ``battery`` and ``power``."""
    thermal, battery = parts["thermal"], parts["battery"]
    status = re.search(r"^Thermal Status: (\d)\s*$", thermal, re.MULTILINE)
    current = thermal.partition("Current temperatures from HAL")[2] or thermal
    sensors = re.findall(r"Temperature\{mValue=(-?\d{1,4}(?:\.\d+)?), mType=-?\d+, mName=([^,\s}]+),", current)
    level, scale = _number(battery, "level"), _number(battery, "scale")
    feeds = re.findall(r"^\s*\w[\w ]* powered: (true|false)", battery, re.MULTILINE)
    tenths = _number(battery, "temperature")
    wake = re.search(r"mWakefulness=(\w+)", parts["power"])
    return State(
        thermal=int(status[1]) if status and int(status[1]) < len(THERMAL) else None,
        temperatures={name: float(value) for value, name in sensors},
        level=level / scale if level is not None and scale else None,
        charging="true" in feeds if feeds else None,
        battery=None if tenths is None else tenths / 10,
        awake=wake[1] == "Awake" if wake else None,
    )


def _clock_limits(text: str) -> str | None:
    """Lowest and highest clock of each cluster, of lines with both in kHz; heat lowers the highest."""
    found = sorted({(int(low), int(high)) for low, high in re.findall(r"^(\d{1,9}) (\d{1,9})$", text, re.MULTILINE)})
    return ", ".join(f"{low / 1e6:g} to {high / 1e6:g} GHz" for low, high in found) or None


def _number(text: str, key: str) -> int | None:
    found = re.search(rf"^\s*{key}: (-?\d{{1,9}})\s*$", text, re.MULTILINE)
    return int(found[1]) if found else None


def _reading(name: str, value: float | None, unit: str, source: str) -> Reading:
    trust: Trust = "absent" if value is None else "sampled"
    return Reading(name, value, unit, trust, f"{source} does not tell it" if value is None else source)


def _ask(device: AdbDevice, commands: Mapping[str, str]) -> dict[str, str]:
    """What each command printed; nothing for one that is not there."""
    script = "; ".join(f"echo; echo {_MARK}{name}; {command} 2>/dev/null" for name, command in commands.items())
    parts = re.split(rf"^{_MARK}(\w+)\n", device.shell(script).text, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    return {name: found.get(name, "").strip("\n") for name in commands}


def _properties(text: str) -> dict[str, str]:
    return dict(re.findall(r"^\[([^\]]+)\]: \[(.*)\]\s*$", text, re.MULTILINE))
