"""A Jetson: power of its rails, load and clock of its GPU and memory controller, and the memory that its GPU holds.

Rails are read where the kernel shows the INA3221; ``tegrastats`` adds the rest, and jetson-stats (``jtop``) stands in
where neither is there, as in a container. Of a quantity that two sources tell, the first is kept.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

from edgedeploy.bench.sensors.sensor import Found, Quantity, Sensor, absent, degrees, gauge, number, text
from edgedeploy.bench.telemetry import Reading

GPU_LOAD, GPU_CLOCK = Quantity("gpu load", "share"), Quantity("gpu clock", "Hz")
MEMORY_LOAD, MEMORY_CLOCK = Quantity("memory controller load", "share"), Quantity("memory controller clock", "Hz")
#: Who holds memory of the GPU, for root only. On a Jetson it is main memory, and not among a process's resident one.
CLIENTS = "sys/kernel/debug/nvmap/iovmm/clients"


def find(pid: int, interval: float, root: Path = Path("/")) -> Found:
    """What a Jetson tells; nothing on any other machine."""
    if not is_jetson(root):
        return []
    found = ina3221(root)
    if shutil.which("tegrastats"):
        found.append(Tegrastats(interval).sensor())
    elif not found:
        found.append(_jtop(interval))
    held = Quantity("gpu memory", "B")
    if os.access(root / CLIENTS, os.R_OK):
        found.append(gauge(held, "sampled", f"/{CLIENTS}", partial(_held, pid, root)))
    else:
        found.append(absent(held.name, held.unit, f"/{CLIENTS} is readable for root only"))
    return found


def is_jetson(root: Path = Path("/")) -> bool:
    """Whether the system below ``root`` says that it is NVIDIA's Tegra."""
    return bool(text(root / "etc/nv_tegra_release")) or "nvidia,tegra" in text(root / "proc/device-tree/compatible")


def ina3221(root: Path = Path("/")) -> Found:
    """Watts of each rail: milliamperes times millivolts of JetPack 5 and 6, milliwatts of JetPack 4."""
    found: Found = []
    for monitor in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if text(monitor / "name") == "ina3221":
            for channel in (1, 2, 3):
                rail, paths = text(monitor / f"in{channel}_label"), _channel(monitor, channel)
                if _connected(rail) and all(path.exists() for path in paths):
                    source = f"/sys/class/hwmon/{monitor.name} (INA3221): in{channel}_input x curr{channel}_input"
                    found.append(gauge(Quantity(f"power {rail}", "W"), "shared", source, partial(_product, *paths)))
    for device in sorted(root.glob("sys/bus/i2c/drivers/ina3221x/*/iio:device*")):
        for channel in (0, 1, 2):
            rail, path = text(device / f"rail_name_{channel}"), device / f"in_power{channel}_input"
            if _connected(rail) and path.exists():
                source = f"/sys/bus/i2c/drivers/ina3221x: in_power{channel}_input"
                found.append(gauge(Quantity(f"power {rail}", "W"), "shared", source, partial(_milli, path)))
    return found


class Tegrastats:
    """``tegrastats`` running beside us; the last line that it has printed is what it says now."""

    def __init__(self, interval: float, command: str = "tegrastats") -> None:
        self._command = (command, "--interval", str(max(100, round(interval * 1000))))
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = b""
        self._line = ""

    def sensor(self) -> Sensor:
        """It as a sensor."""
        return Sensor("tegrastats", "sampled", " ".join(self._command), self.read, close=self.close)

    def read(self) -> Mapping[Quantity, float]:
        """What its last line says; nothing before the first one.

        Raises:
            OSError, ValueError: it cannot be started, or has ended.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            os.set_blocking(self._output.fileno(), False)
        *lines, self._begun = (self._begun + self._new()).split(b"\n")
        if lines:
            self._line = lines[-1].decode("ascii", "replace")
        elif self._process.poll() is not None:
            raise ValueError(f"tegrastats ended with status {self._process.returncode}")
        return read_tegrastats(self._line)

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._output.close()

    @property
    def _output(self) -> IO[bytes]:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout

    def _new(self) -> bytes:
        try:
            return os.read(self._output.fileno(), 1 << 16)
        except BlockingIOError:
            return b""


def read_tegrastats(line: str) -> Mapping[Quantity, float]:
    """Quantities in one line of ``tegrastats`` of JetPack 4, 5 or 6: watts, degrees, shares, hertz.

    Sensors that are off (``CV0@-256C``) and rails that are not connected (``NC``) are left out, and so is ``PMIC``, for
    which Jetsons print a fixed number.
    """
    found: dict[Quantity, float] = {}
    # a rail is NAME now/average, with or without mW; RAM and SWAP look alike, and have MB behind them
    for rail, now in re.findall(r"\b([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/\d+(?:mW)?(?![\w.])", line):
        if _connected(rail):
            found[Quantity(f"power {rail}", "W")] = int(now) / 1e3
    for zone, value in re.findall(r"\b(\w+)@(-?\d+(?:\.\d+)?)C\b", line):
        if zone != "PMIC" and _plausible(float(value)):
            found[Quantity(f"temperature {zone.lower()}", "degC")] = float(value)
    for key, load, clock in (("GR3D_FREQ", GPU_LOAD, GPU_CLOCK), ("EMC_FREQ", MEMORY_LOAD, MEMORY_CLOCK)):
        said = re.search(rf"\b{key} (\d+)%(?:@\[?(\d+))?", line)
        if said:
            found[load] = int(said[1]) / 100
            if said[2] and int(said[2]):
                found[clock] = int(said[2]) * 1e6
    return found


def read_jtop(client: Any) -> Mapping[Quantity, float]:
    """Quantities of a connected ``jtop`` client of jetson-stats 4: milliwatts, degrees, percent, kilohertz there."""
    found: dict[Quantity, float] = {}
    power = client.power
    for rail, said in {**power["rail"], power["tot"].get("name", ""): power["tot"]}.items():
        if _connected(rail):
            found[Quantity(f"power {rail}", "W")] = float(said["power"]) / 1e3
    for zone, said in client.temperature.items():
        if said.get("online", True) and _plausible(float(said["temp"])):
            found[Quantity(f"temperature {zone.lower()}", "degC")] = float(said["temp"])
    for said in list(client.gpu.values())[:1]:
        found[GPU_LOAD] = float(said["status"]["load"]) / 100
        found[GPU_CLOCK] = float(said["freq"]["cur"]) * 1e3
    return found


def read_clients(said: str, pid: int) -> float:
    """Bytes that process ``pid`` holds of the GPU's memory, from nvmap's table: client, process, pid, size in K.

    Raises:
        ValueError: it is not in the table.
    """
    held = [
        int(size) for owner, size in re.findall(r"^\S+\s+\S+\s+(\d+)\s+(\d+)K", said, re.MULTILINE) if int(owner) == pid
    ]
    if not held:
        raise ValueError(f"process {pid} holds none")
    return sum(held) * 1024.0


def _jtop(interval: float) -> Sensor | Reading:
    try:
        from jtop import jtop
    except ImportError:
        return absent("power", "W", "no INA3221 in /sys, no tegrastats, and jetson-stats is not installed")
    client = jtop(interval=interval)

    def read() -> Mapping[Quantity, float]:
        if not client.is_alive():
            client.start()
        return read_jtop(client)

    return Sensor("jtop", "sampled", "jetson-stats (jtop)", read, close=client.close)


def _connected(rail: str) -> bool:
    return rail not in ("", "NC")


def _plausible(value: float) -> bool:
    try:
        return degrees(value) == value
    except ValueError:
        return False


def _channel(monitor: Path, channel: int) -> tuple[Path, Path]:
    return monitor / f"in{channel}_input", monitor / f"curr{channel}_input"


def _product(millivolts: Path, milliamperes: Path) -> float:
    return number(millivolts) * number(milliamperes) / 1e6


def _milli(path: Path) -> float:
    return number(path) / 1e3


def _held(pid: int, root: Path) -> float:
    return read_clients((root / CLIENTS).read_text("ascii", "replace"), pid)
