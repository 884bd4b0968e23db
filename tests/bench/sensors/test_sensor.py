"""Sensors of every Linux, read from recorded trees of /proc and /sys, and from the real ones."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgedeploy.bench.sensors import sensor as sensors
from edgedeploy.bench.sensors.sensor import Quantity, Sensor
from edgedeploy.bench.telemetry import Reading

PID = 4242
POLICY = "sys/devices/system/cpu/cpufreq/policy"
ZONE = "sys/class/thermal/thermal_zone"
KIB = 1024.0


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def policy(number: int, cores: str, now: str, highest: str = "1800000") -> dict[str, str]:
    folder = f"{POLICY}{number}"
    return {
        f"{folder}/related_cpus": cores,
        f"{folder}/scaling_cur_freq": now,
        f"{folder}/cpuinfo_max_freq": highest,
    }


def values(found: Sequence[Sensor | Reading]) -> dict[str, float]:
    """What the sensors among ``found`` say now, by the names of the quantities."""
    told = (sensor.read() for sensor in found if isinstance(sensor, Sensor))
    return {quantity.name: value for said in told for quantity, value in said.items()}


def reasons(found: Sequence[Sensor | Reading]) -> dict[str, str]:
    """Why the absent ones are absent."""
    for one in found:
        assert isinstance(one, Sensor) or (one.value is None and one.trust == "absent")
    return {one.name: one.source for one in found if isinstance(one, Reading)}


def test_memory_of_a_process_and_of_the_machine(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            f"proc/{PID}/statm": "5000 1200 300 10 0 400 0\n",
            f"proc/{PID}/smaps_rollup": "55-7f ---p 0 00:00 0 [rollup]\nRss: 4800 kB\nPss: 3210 kB\nPss_Anon: 5 kB\n",
            f"proc/{PID}/status": "Name:\tpython\nVmHWM:\t9 kB\nVmSwap:\t      12 kB\n",
            "proc/meminfo": "MemTotal:  8000 kB\nMemFree:  100 kB\nMemAvailable:  3000 kB\n",
        },
    )
    found = values(sensors.memory(PID, root))
    assert found["memory resident"] == 1200 * os.sysconf("SC_PAGE_SIZE")
    assert found["proportional memory"] == 3210 * KIB
    assert found["memory swapped out"] == 12 * KIB
    assert found["memory in use"] == 5000 * KIB


def test_what_holds_up_the_process_is_read_at_the_ends_only() -> None:
    ends = {one.name for one in sensors.memory(os.getpid()) if isinstance(one, Sensor) and one.ends}
    assert {"proportional memory", "memory swapped out"} <= ends
    assert "memory resident" not in ends


@pytest.mark.skipif(sys.platform != "linux", reason="reads the real /proc")
def test_the_real_proc_of_this_process() -> None:
    found = values([one for one in sensors.memory(os.getpid()) if one.name != "peak memory of the control group"])
    assert found["memory resident"] > 1 << 20
    assert 0 < found["proportional memory"] <= found["memory resident"] * 1.5
    assert found["memory in use"] > 0


@pytest.mark.parametrize(
    ("files", "value", "trust"),
    [
        (
            {
                f"proc/{PID}/cgroup": "8:pids:/\n4:memory:/a/b\n0::/\n",
                "sys/fs/cgroup/memory/a/b/memory.max_usage_in_bytes": "4096",
                "sys/fs/cgroup/memory/a/b/cgroup.procs": f"{PID}\n17\n",
            },
            4096,
            "shared",
        ),
        (
            {
                f"proc/{PID}/cgroup": "0::/user.slice/run\n",
                "sys/fs/cgroup/user.slice/run/memory.peak": "8192\n",
                "sys/fs/cgroup/user.slice/run/cgroup.procs": f"{PID}\n{os.getpid()}\n",
            },
            8192,
            "exact",
        ),
        (  # the group of the host is not seen from within a container: the nearest one that is
            {f"proc/{PID}/cgroup": "0::/../../x\n", "sys/fs/cgroup/memory.peak": "1\n"},
            1,
            "shared",
        ),
    ],
)
def test_the_peak_of_the_control_group(tmp_path: Path, files: dict[str, str], value: float, trust: str) -> None:
    (found,) = [one for one in sensors.memory(PID, tree(tmp_path, files)) if one.name.startswith("peak memory")]
    assert isinstance(found, Sensor)
    assert values([found]) == {"peak memory of the control group": value}
    assert found.trust == trust


def test_a_kernel_without_a_peak_of_groups_says_so(tmp_path: Path) -> None:
    root = tree(tmp_path, {f"proc/{PID}/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.current": "1"})
    assert "memory.peak" in reasons(sensors.memory(PID, root))["peak memory of the control group"]


def test_clocks_of_the_clusters_of_an_arm(tmp_path: Path) -> None:
    root = tree(tmp_path, {**policy(0, "0 1 2 3", "1200000"), **policy(4, "4 5", "2016000", "2400000")})
    assert values(sensors.clocks(PID, root)) == {"clock cpu0-3": 1.2e9, "clock cpu4-5": 2.016e9}


def test_cores_with_a_policy_each_are_a_cluster_where_their_limits_agree(tmp_path: Path) -> None:
    cores = {
        **policy(0, "0", "800000", "3600000"),
        **policy(1, "1", "3400000", "3600000"),
        **policy(2, "2", "2000000", "2600000"),
        **policy(10, "10", "3500000", "3600000"),
    }
    assert values(sensors.clocks(PID, tree(tmp_path, cores))) == {"clock cpu0-1,10": 3.5e9, "clock cpu2": 2e9}


def test_clocks_of_processors_that_the_process_may_not_use_do_not_count(tmp_path: Path) -> None:
    files = {**policy(0, "0 1 2 3", "1200000"), **policy(4, "4 5", "2016000")}
    root = tree(tmp_path, {**files, f"proc/{PID}/status": "Cpus_allowed:\t30\nCpus_allowed_list:\t4-5\n"})
    assert values(sensors.clocks(PID, root)) == {"clock cpu4-5": 2.016e9}


def test_a_machine_without_clocks_and_temperatures_says_so(tmp_path: Path) -> None:
    assert "virtual machine" in reasons(sensors.clocks(PID, tmp_path))["clock"]
    assert "thermal zone" in reasons(sensors.temperatures(tmp_path))["temperature"]
    assert set(reasons(sensors.throttling(tmp_path))) == {"throttling"}
    assert sensors.accelerator_clocks(tmp_path) == []


def test_temperatures_by_the_types_of_their_zones(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            f"{ZONE}0/type": "CPU-therm",
            f"{ZONE}0/temp": "45500",
            f"{ZONE}1/type": "gpu-thermal",
            f"{ZONE}1/temp": "-1000",
            f"{ZONE}2/type": "gpu-thermal",
            f"{ZONE}2/temp": "38000",
            f"{ZONE}3/type": "PMIC-Die",
            f"{ZONE}3/temp": "100000",
            f"{ZONE}4/type": "acpitz",
            f"{ZONE}4/temp": "1",
            f"{ZONE}4/mode": "disabled\n",
        },
    )
    assert values(sensors.temperatures(root)) == {
        "temperature cpu": 45.5,
        "temperature gpu": -1.0,
        "temperature gpu 2": 38.0,
    }


def test_a_processor_whose_only_sensor_is_a_hardware_monitor(tmp_path: Path) -> None:
    hwmon = "sys/class/hwmon/hwmon3"
    files = {
        f"{hwmon}/name": "k10temp",
        f"{hwmon}/temp1_label": "Tctl",
        f"{hwmon}/temp1_input": "61250",
        f"{hwmon}/temp3_label": "Tccd1",
        f"{hwmon}/temp3_input": "90000",
        "sys/class/hwmon/hwmon4/name": "nvme",
        "sys/class/hwmon/hwmon4/temp1_label": "Composite",
    }
    assert values(sensors.temperatures(tree(tmp_path, files))) == {"temperature tctl": 61.25}


def test_zones_of_processors_come_first_where_there_are_too_many(tmp_path: Path) -> None:
    zones = {f"{ZONE}{i}/type": f"modem{i}" for i in range(40)} | {f"{ZONE}40/type": "cpu-1-0-usr"}
    found = sensors.temperatures(tree(tmp_path, zones))
    assert len(found) == sensors.ZONES
    assert found[0].name == "temperature cpu-1-0-usr"


@pytest.mark.parametrize("value", [-274.0, -256.0, 200.0])
def test_what_a_switched_off_sensor_says_is_no_temperature(value: float) -> None:
    with pytest.raises(ValueError, match="off"):
        sensors.degrees(value)


def test_throttle_events_are_counted_once_per_package(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu/cpu"
    files = {}
    for core, package, events in ((0, 0, 3), (1, 0, 4), (2, 1, 0)):
        files[f"{cpu}{core}/thermal_throttle/core_throttle_count"] = str(events)
        files[f"{cpu}{core}/thermal_throttle/package_throttle_count"] = "10" if package == 0 else "5"
        files[f"{cpu}{core}/topology/physical_package_id"] = str(package)
    found = sensors.throttling(tree(tmp_path, files))
    assert values(found) == {"throttle events, core": 7, "throttle events, package": 15}
    assert all(quantity.total for one in found if isinstance(one, Sensor) for quantity in one.read())


def test_clocks_that_linux_holds_down_because_of_heat(tmp_path: Path) -> None:
    cooler = "sys/class/thermal/cooling_device"
    files = {
        f"{cooler}0/type": "cpufreq-cpu0",
        f"{cooler}0/cur_state": "2",
        f"{cooler}1/type": "Processor",
        f"{cooler}1/cur_state": "0",
        f"{cooler}2/type": "Processor",
        f"{cooler}2/cur_state": "0",
        f"{cooler}3/type": "pwm-fan",
        f"{cooler}3/cur_state": "4",
    }
    assert values(sensors.throttling(tree(tmp_path, files))) == {
        "held down cpufreq-cpu0": 1.0,
        "held down Processor": 0.0,
    }


@pytest.mark.parametrize("name", ["17000000.gpu", "57000000.gv11b", "ff9a0000.gpu", "3d00000.qcom,kgsl-3d0"])
def test_the_clock_of_a_gpu_on_the_chip(tmp_path: Path, name: str) -> None:
    files = {f"sys/class/devfreq/{name}/cur_freq": "918000000", "sys/class/devfreq/dmc/cur_freq": "1"}
    assert values(sensors.accelerator_clocks(tree(tmp_path, files))) == {"gpu clock": 918e6}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="clock"):
        sensors.finite({Quantity("clock", "Hz"): value})
