"""Power and energy, read from recorded trees of /sys, and what adds up to the whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedeploy.bench.sensors import power
from edgedeploy.bench.sensors.power import Energy, discharge, whole
from edgedeploy.bench.sensors.sensor import Sensor
from edgedeploy.bench.telemetry import Reading

CAP = "sys/class/powercap/intel-rapl:"
HWMON = "sys/class/hwmon/hwmon"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def values(found: list[Sensor | Reading]) -> dict[str, float]:
    told = (one.read() for one in found if isinstance(one, Sensor))
    return {quantity.name: value for said in told for quantity, value in said.items()}


def test_a_counter_that_begins_again_goes_on(tmp_path: Path) -> None:
    counter = tmp_path / "energy_uj"
    energy = Energy(counter, limit=999_999)
    told = []
    for microjoules in ("900000", "950000", "50000", "150000", "149999"):
        counter.write_text(microjoules)
        told.append(energy())
    assert told == pytest.approx([0.0, 0.05, 0.15, 0.25, 1.249999])  # the last: a whole round but one


def test_a_counter_without_a_limit_must_not_go_backwards(tmp_path: Path) -> None:
    counter = tmp_path / "energy_uj"
    counter.write_text("5")
    energy = Energy(counter, limit=None)
    energy()
    counter.write_text("4")
    with pytest.raises(ValueError, match="backwards"):
        energy()


def test_packages_and_their_memory_are_read_and_their_parts_are_not(tmp_path: Path) -> None:
    files = {
        f"{CAP}0/name": "package-0",
        f"{CAP}0/energy_uj": "1000000",
        f"{CAP}0/max_energy_range_uj": "262143328850",
        f"{CAP}0:0/name": "core",
        f"{CAP}0:0/energy_uj": "1",
        f"{CAP}0:1/name": "dram",
        f"{CAP}0:1/energy_uj": "1",
        f"{CAP}1/name": "psys",
        f"{CAP}1/energy_uj": "1",
    }
    root = tree(tmp_path, files)
    found = power.rapl(root)
    assert values(found) == {"energy package-0": 0.0, "energy dram-0": 0.0, "energy psys": 0.0}
    tree(root, {f"{CAP}0/energy_uj": "3500000"})
    assert values(found)["energy package-0"] == 2.5


def test_a_counter_that_only_root_may_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path, {f"{CAP}0/name": "package-0", f"{CAP}0/energy_uj": "1"})

    def refuse(path: Path) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(power, "number", refuse)
    (found,) = power.rapl(root)
    assert isinstance(found, Reading)
    assert found.value is None
    assert "root only" in found.source


def test_hardware_monitors_tell_watts(tmp_path: Path) -> None:
    files = {
        f"{HWMON}0/name": "amdgpu",
        f"{HWMON}0/power1_average": "35000000",
        f"{HWMON}0/power1_input": "1",
        f"{HWMON}0/power1_label": "PPT",
        f"{HWMON}0/power1_cap": "90000000",
        f"{HWMON}1/name": "power_meter",
        f"{HWMON}1/power1_input": "212500000",
        f"{HWMON}2/name": "ina3221",
        f"{HWMON}2/power1_input": "1",
        f"{HWMON}3/name": "BAT0",
        f"{HWMON}3/power1_input": "1",
        "sys/class/power_supply/BAT0/type": "Battery",
    }
    assert values(power.monitors(tree(tmp_path, files))) == {"power amdgpu PPT": 35.0, "power power_meter": 212.5}


def test_a_battery_that_feeds_the_device(tmp_path: Path) -> None:
    supply = "sys/class/power_supply/battery"
    files = {
        f"{supply}/type": "Battery",
        f"{supply}/status": "Discharging\n",
        f"{supply}/current_now": "-850000",
        f"{supply}/voltage_now": "4000000",
        "sys/class/power_supply/usb/type": "USB",
    }
    root = tree(tmp_path, files)
    assert values(power.battery(root)) == {"power battery": pytest.approx(3.4)}
    tree(root, {f"{supply}/power_now": "2500000"})
    assert values(power.battery(root)) == {"power battery": 2.5}


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown"])
def test_the_power_of_a_battery_on_a_cable_is_not_the_devices(tmp_path: Path, status: str) -> None:
    tree(tmp_path, {"status": status, "power_now": "1"})
    with pytest.raises(ValueError, match=f"'{status}'.*cable"):
        discharge(tmp_path)


def test_the_battery_of_a_mouse_does_not_count(tmp_path: Path) -> None:
    supply = "sys/class/power_supply/hidpp_battery_0"
    assert power.battery(tree(tmp_path, {f"{supply}/type": "Battery", f"{supply}/scope": "Device"})) == []


@pytest.mark.parametrize(
    ("rails", "counted"),
    [
        (["VDD_SOC", "VDD_CPU_GPU_CV", "VDD_IN"], ("VDD_IN",)),
        (["POM_5V_GPU", "POM_5V_IN", "POM_5V_CPU"], ("POM_5V_IN",)),
        (["VIN_SYS_5V0", "VDD_CPU_CV", "VDD_GPU_SOC", "VDDQ_VDD2_1V8AO"], ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")),
        (["GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"], ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")),
        (["package-0", "package-1", "dram-0", "psys", "gpu"], ("dram-0", "gpu", "package-0", "package-1")),
        (["package-0", "power_meter"], ("power_meter",)),
        (["pmic"], ("pmic",)),
    ],
)
def test_no_rail_is_added_to_the_one_that_feeds_it(rails: list[str], counted: tuple[str, ...]) -> None:
    made = whole(rails)
    assert made is not None
    assert made[0] == counted


@pytest.mark.parametrize("rails", [[], ["psys"], ["VDD_SOC", "VDD_GPU_SOC"], ["amdgpu PPT"]])
def test_rails_that_are_parts_only_are_not_the_whole(rails: list[str]) -> None:
    assert whole(rails) is None
