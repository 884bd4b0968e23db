"""Power and energy: RAPL, hardware monitors, batteries; and which of several rails make up the whole.

Rails are named after what the source calls them. `whole` knows which of them contain the others: adding a rail to the
one that feeds it would count it twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from edgedeploy.bench.sensors.sensor import Found, Quantity, absent, gauge, number, text

#: Rails that feed everything else there is, and what that is; the first one that is known counts.
INPUTS = {
    "VDD_IN": "the input of the module",
    "POM_5V_IN": "the input of the module",
    "VIN": "the input of the module",
    "power_meter": "the whole machine",
    "battery": "the whole device, its screen included",
}
#: Rails that make up a module without a rail at its input: Jetson AGX Orin, AGX Xavier.
MODULES = (
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)
#: Parts of a machine that do not overlap: of RAPL, and graphics cards.
PARTS = r"(package|dram)-\d+.*|gpu\d*"


@dataclass
class Energy:
    """A counter of microjoules that begins again at 0 behind ``limit``; the total since the first reading, in joules.

    Right as long as it is read at least once per round: the smallest RAPL counters take about a minute for one.
    """

    counter: Path
    limit: int | None
    last: int | None = field(default=None, init=False)
    total: int = field(default=0, init=False)

    def __call__(self) -> float:
        """Joules since the first call.

        Raises:
            OSError, ValueError: it cannot be read, or went backwards without a limit.
        """
        now = number(self.counter)
        if self.last is not None:
            gained = now - self.last
            if gained < 0:
                if self.limit is None:
                    raise ValueError("the counter went backwards")
                gained += self.limit + 1
            self.total += gained
        self.last = now
        return self.total / 1e6


def rapl(root: Path = Path("/")) -> Found:
    """Joules that each processor package and its memory took, as the processor itself counts them; for root only."""
    found: Found = []
    for zone in sorted(root.glob("sys/class/powercap/intel-rapl:*")):
        name, counter, limit = text(zone / "name"), zone / "energy_uj", text(zone / "max_energy_range_uj")
        package = re.match(r"intel-rapl:(\d+)", zone.name)
        if name == "dram" and package:
            name = f"dram-{package[1]}"
        if not re.fullmatch(r"(package|dram)-\d+.*|psys", name):
            continue  # core and uncore are parts of the package
        try:
            number(counter)
        except PermissionError:
            found.append(absent(f"energy {name}", "J", f"{zone.name}/energy_uj is readable for root only"))
        except (OSError, ValueError) as error:
            found.append(absent(f"energy {name}", "J", f"{zone.name}/energy_uj: {error}"))
        else:
            read = Energy(counter, int(limit) if limit.isdigit() else None)
            source = f"/sys/class/powercap/{zone.name}/energy_uj, all that ran there included"
            found.append(gauge(Quantity(f"energy {name}", "J", total=True), "shared", source, read))
    return found


def monitors(root: Path = Path("/")) -> Found:
    """Watts that hardware monitors tell: server boards, graphics cards. The INA3221 of a Jetson is not among them."""
    found: Found = []
    for monitor in sorted(root.glob("sys/class/hwmon/hwmon*")):
        name = text(monitor / "name")
        if name == "ina3221" or (root / "sys/class/power_supply" / name).exists():
            continue
        for channel in _channels(monitor):
            average = monitor / f"{channel}_average"
            path = average if average.exists() else monitor / f"{channel}_input"
            label = text(monitor / f"{channel}_label")
            source = f"/sys/class/hwmon/{monitor.name}/{path.name}"
            quantity = Quantity(" ".join(filter(None, ("power", name, label))), "W")
            found.append(gauge(quantity, "shared", source, partial(_micro, path)))
    return found


def battery(root: Path = Path("/")) -> Found:
    """Watts that flow out of a battery. While a cable charges it, they say nothing about the device."""
    found: Found = []
    for supply in sorted(root.glob("sys/class/power_supply/*")):
        if text(supply / "type") == "Battery" and text(supply / "scope") != "Device":  # of a mouse, say
            source = f"/sys/class/power_supply/{supply.name}, the whole device"
            found.append(gauge(Quantity("power battery", "W"), "shared", source, partial(discharge, supply)))
    return found[:1]


def discharge(supply: Path) -> float:
    """Watts out of the battery that ``supply`` describes.

    Raises:
        OSError, ValueError: it cannot be read, or it is being charged.
    """
    status = text(supply / "status")
    if status != "Discharging":
        raise ValueError(f"the battery says '{status}': with a cable in, USB included, its power is not the device's")
    if (supply / "power_now").exists():
        return abs(number(supply / "power_now")) / 1e6
    return abs(number(supply / "current_now")) * number(supply / "voltage_now") / 1e12


def whole(rails: Iterable[str]) -> tuple[tuple[str, ...], str] | None:
    """Those of ``rails`` that add up to as much as is known, and what that is; ``None`` where none can be added up."""
    known = sorted(set(rails))
    for rail, what in INPUTS.items():
        if rail in known:
            return (rail,), what
    for module in MODULES:
        if set(module) <= set(known):
            return module, "the rails of the module"
    parts = tuple(rail for rail in known if re.fullmatch(PARTS, rail))
    if parts:
        return parts, "nothing else of the machine"
    return (
        (("pmic",), "the rails of the regulator chip, without its losses and the USB ports")
        if "pmic" in known
        else None
    )


def _channels(monitor: Path) -> list[str]:
    paths = [*monitor.glob("power*_average"), *monitor.glob("power*_input")]
    return sorted({path.name.rpartition("_")[0] for path in paths if re.match(r"power\d+_", path.name)})


def _micro(path: Path) -> float:
    return number(path) / 1e6
