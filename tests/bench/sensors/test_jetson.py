"""A Jetson: lines of tegrastats as its releases print them, the INA3221 in /sys, jetson-stats, memory of nvmap."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.bench.sensors import jetson
from edgedeploy.bench.sensors.jetson import Tegrastats, ina3221, read_clients, read_jtop, read_tegrastats
from edgedeploy.bench.sensors.sensor import Quantity, Sensor

# JetPack 4, Nano: no clocks, no units of power
NANO = (
    "RAM 1766/3964MB (lfb 197x4MB) SWAP 0/2048MB (cached 0MB) CPU [24%@1224,15%@1224,off,10%@1224] EMC_FREQ 0% "
    "GR3D_FREQ 99%@921 PLL@21C CPU@25C PMIC@100C GPU@23.5C AO@33.5C thermal@24.5C "
    "POM_5V_IN 2545/2547 POM_5V_GPU 0/0 POM_5V_CPU 549/529"
)
# JetPack 5, Xavier NX
XAVIER = (
    "07-09-2024 13:31:31 RAM 3168/6851MB (lfb 2x4MB) SWAP 161/3426MB (cached 0MB) CPU [23%@1397,17%@1192,off,off] "
    "EMC_FREQ 2%@204 GR3D_FREQ 45%@[114] VIC_FREQ 115 APE 150 AUX@45C CPU@46.5C thermal@45.6C AO@45C GPU@45.5C "
    "PMIC@50C VDD_IN 2763mW/2846mW VDD_CPU_GPU_CV 650mW/670mW VDD_SOC 650mW/711mW"
)
# JetPack 6, AGX Orin: two graphics clusters, sensors that are off, rails that are not connected
ORIN = (
    "04-11-2025 10:36:27 RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) CPU [0%@729,0%@729] "
    "EMC_FREQ 3%@2133 GR3D_FREQ 0%@[0,0] NVENC 79%@166 NVDEC off VIC_FREQ 729 APE 174 CV0@-256C cpu@44.562C "
    "Tboard@32C soc2@40.093C GPU@-256C tj@44.343C VDD_GPU_SOC 2340mW/2340mW VDD_CPU_CV 390mW/390mW "
    "VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
# JetPack 6, Orin Nano
ORIN_NANO = (
    "10-08-2026 04:35:02 RAM 6712/7620MB (lfb 12x4MB) SWAP 369/3810MB (cached 8MB) CPU [38%@1497,2%@729] EMC_FREQ "
    "61%@2133 GR3D_FREQ 99%@[612] NVDEC off NVJPG off VIC off OFA off APE 200 cpu@57.125C gpu@58.1C tj@58.1C "
    "VDD_IN 12340mW/8535mW VDD_CPU_GPU_CV 5120mW/1944mW VDD_SOC 2720mW/3659mW"
)


def by_name(said: Mapping[Quantity, float]) -> dict[str, float]:
    return {quantity.name: value for quantity, value in said.items()}


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_nano_of_jetpack_4() -> None:
    assert by_name(read_tegrastats(NANO)) == {
        "power POM_5V_IN": 2.545,
        "power POM_5V_GPU": 0.0,
        "power POM_5V_CPU": 0.549,
        "temperature pll": 21.0,
        "temperature cpu": 25.0,
        "temperature gpu": 23.5,
        "temperature ao": 33.5,
        "temperature thermal": 24.5,
        "gpu load": 0.99,
        "gpu clock": 921e6,
        "memory controller load": 0.0,
    }


def test_a_xavier_of_jetpack_5() -> None:
    found = by_name(read_tegrastats(XAVIER))
    assert (found["power VDD_IN"], found["power VDD_CPU_GPU_CV"], found["power VDD_SOC"]) == (2.763, 0.65, 0.65)
    assert (found["gpu load"], found["gpu clock"]) == (0.45, 114e6)
    assert (found["memory controller load"], found["memory controller clock"]) == (0.02, 204e6)
    assert "temperature pmic" not in found  # a fixed number


def test_an_orin_of_jetpack_6() -> None:
    found = by_name(read_tegrastats(ORIN))
    assert {name: value for name, value in found.items() if name.startswith("power")} == {
        "power VDD_GPU_SOC": 2.34,
        "power VDD_CPU_CV": 0.39,
        "power VIN_SYS_5V0": 4.025,
        "power VDDQ_VDD2_1V8AO": 0.301,
    }
    assert {"temperature cpu": 44.562, "temperature tj": 44.343}.items() <= found.items()
    assert not {"temperature cv0", "temperature gpu"} & found.keys()  # off
    assert found["gpu load"] == 0.0
    assert "gpu clock" not in found  # asleep: its clock is not 0 Hz but unknown


def test_an_orin_nano_of_jetpack_6() -> None:
    found = by_name(read_tegrastats(ORIN_NANO))
    assert (found["power VDD_IN"], found["gpu load"], found["gpu clock"]) == (12.34, 0.99, 612e6)


@given(st.text(max_size=200))
def test_no_line_stops_a_run(line: str) -> None:
    read_tegrastats(line)


@pytest.mark.parametrize("line", [NANO, XAVIER, ORIN, ORIN_NANO])
@given(cut=st.integers(0, 600))
def test_a_line_that_is_cut_says_less_and_nothing_else(line: str, cut: int) -> None:
    assert (
        by_name(read_tegrastats(line[: line.rfind(" ", 0, cut) + 1])).items() <= by_name(read_tegrastats(line)).items()
    )


def script(folder: Path, *lines: str) -> Path:
    path = folder / "tegrastats"
    path.write_text("\n".join(("#!/bin/sh", 'echo "$@" > "$0.arguments"', *lines)) + "\n")
    path.chmod(0o755)
    return path


def eventually(read: Any) -> Any:
    """The first answer that is one."""
    for _ in range(500):
        if said := read():
            return said
        time.sleep(0.01)
    raise AssertionError("nothing came")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no tegrastats")
def test_tegrastats_runs_beside_us_and_is_ended(tmp_path: Path) -> None:
    path = script(tmp_path, f"echo '{XAVIER}'", "exec sleep 60")
    stats = Tegrastats(0.5, str(path))
    try:
        assert by_name(eventually(stats.read))["power VDD_IN"] == 2.763
        assert by_name(stats.read())["power VDD_IN"] == 2.763  # until it prints the next line
        assert Path(f"{path}.arguments").read_text() == "--interval 500\n"
        assert stats._process is not None
    finally:
        stats.close()
    assert stats._process.poll() is not None


@pytest.mark.skipif(sys.platform == "win32", reason="there is no tegrastats")
def test_tegrastats_that_ends_says_why_there_is_nothing_more(tmp_path: Path) -> None:
    stats = Tegrastats(1.0, str(script(tmp_path, "exit 3")))
    try:
        with pytest.raises(ValueError, match="status 3"):
            eventually(stats.read)
    finally:
        stats.close()


def test_rails_of_jetpack_5_and_6_are_volts_times_amperes(tmp_path: Path) -> None:
    monitor = "sys/class/hwmon/hwmon1"
    files = {f"{monitor}/name": "ina3221"}
    for channel, (rail, millivolts, milliamperes) in enumerate(
        (("VDD_IN", 5000, 1200), ("NC", 5000, 0), ("VDD_SOC", 4992, 304)), start=1
    ):
        files |= {
            f"{monitor}/in{channel}_label": rail,
            f"{monitor}/in{channel}_input": str(millivolts),
            f"{monitor}/curr{channel}_input": str(milliamperes),
        }
    files[f"{monitor}/in7_label"] = "sum of shunt voltages"
    found = [one for one in ina3221(tree(tmp_path, files)) if isinstance(one, Sensor)]
    assert [by_name(one.read()) for one in found] == [
        {"power VDD_IN": 6.0},
        {"power VDD_SOC": pytest.approx(1.517568)},
    ]


def test_rails_of_jetpack_4_are_milliwatts(tmp_path: Path) -> None:
    device = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    files = {f"{device}/rail_name_0": "POM_5V_IN", f"{device}/in_power0_input": "2545"}
    (found,) = ina3221(tree(tmp_path, files))
    assert isinstance(found, Sensor)
    assert by_name(found.read()) == {"power POM_5V_IN": 2.545}


def test_jetson_stats_stands_in_where_nothing_else_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        running = False
        power: Mapping[str, Any] = {
            "rail": {"VDD_SOC": {"power": 1500, "avg": 1}},
            "tot": {"name": "VDD_IN", "power": 7200, "avg": 1},
        }
        temperature: Mapping[str, Any] = {
            "CPU": {"temp": 45.5, "online": True},
            "cv0": {"temp": -256, "online": False},
        }
        gpu: Mapping[str, Any] = {"gpu": {"status": {"load": 25.0}, "freq": {"cur": 306000}}}

        def __init__(self, interval: float) -> None:
            self.interval = interval

        def is_alive(self) -> bool:
            return self.running

        def start(self) -> None:
            self.running = True

        def close(self) -> None:
            self.running = False

    module = ModuleType("jtop")
    module.jtop = Client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jtop", module)
    monkeypatch.setenv("PATH", str(tmp_path))
    tree(tmp_path, {"etc/nv_tegra_release": "# R35 (release), REVISION: 4.1"})
    sensor = next(one for one in jetson.find(1, 1.0, tmp_path) if one.name == "jtop")
    assert isinstance(sensor, Sensor)
    assert by_name(sensor.read()) == {
        "power VDD_SOC": 1.5,
        "power VDD_IN": 7.2,
        "temperature cpu": 45.5,
        "gpu load": 0.25,
        "gpu clock": 306e6,
    }


def test_a_total_that_has_no_rail_is_left_out() -> None:
    client = SimpleNamespace(power={"rail": {}, "tot": {"power": 7200}}, temperature={}, gpu={})
    assert read_jtop(client) == {}


def test_memory_that_a_process_holds_of_the_gpu() -> None:
    said = (
        "CLIENT                        PROCESS      PID        SIZE\n"
        "user                      gnome-shell     2712      18432K\n"
        "user                           python     4242     100000K\n"
        "user                           python     4242        240K\n"
        "total                                              118672K\n"
    )
    assert read_clients(said, 4242) == 100240 * 1024
    with pytest.raises(ValueError, match="holds none"):
        read_clients(said, 1)


def test_what_only_root_may_read_says_so(tmp_path: Path) -> None:
    tree(tmp_path, {"proc/device-tree/compatible": "nvidia,p3768-0000\0nvidia,tegra234\0"})
    found = {one.name: one for one in jetson.find(os.getpid(), 1.0, tmp_path)}
    assert "root only" in found["gpu memory"].source


def test_another_machine_is_not_asked(tmp_path: Path) -> None:
    assert jetson.find(1, 1.0, tmp_path) == []
