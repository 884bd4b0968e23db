"""NVIDIA's management library, by a stand-in that answers as the library does."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgedeploy.bench.sensors.nvidia import cards, find, read_cards
from edgedeploy.bench.sensors.sensor import Sensor
from edgedeploy.bench.telemetry import Reading

PID = 4242


class Refused(Exception):
    """NVMLError."""


def library(**changed: Any) -> Any:
    """Two cards of the minor numbers 0 and 1; each handle is its index."""
    made: dict[str, Any] = {
        "NVMLError": Refused,
        "NVML_CLOCK_SM": 1,
        "NVML_CLOCK_MEM": 2,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlClocksEventReasonSwPowerCap": 0x4,
        "nvmlClocksEventReasonHwSlowdown": 0x8,
        "nvmlClocksEventReasonSwThermalSlowdown": 0x20,
        "nvmlClocksEventReasonHwThermalSlowdown": 0x40,
        "nvmlClocksEventReasonHwPowerBrakeSlowdown": 0x80,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMinorNumber": lambda handle: handle,
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [
            SimpleNamespace(pid=1, usedGpuMemory=7),
            SimpleNamespace(pid=PID, usedGpuMemory=300 << 20),
        ],
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=500 << 20),
        "nvmlDeviceGetClockInfo": lambda handle, which: {1: 1410, 2: 1215}[which],
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=37),
        "nvmlDeviceGetTemperature": lambda handle, which: 61,
        "nvmlDeviceGetPowerUsage": lambda handle: 87500,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: 123456,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 0x4,
    }
    return SimpleNamespace(**made | changed)


def refuse(*_: object) -> Any:
    raise Refused("Not Supported")


def read(found: list[Sensor | Reading]) -> dict[str, float | str]:
    """What every sensor says, or why it does not."""
    told: dict[str, float | str] = {}
    for one in found:
        assert isinstance(one, Sensor)
        try:
            told |= {quantity.name: value for quantity, value in one.read().items()}
        except Exception as error:
            told[one.name] = str(error)
    return told


def test_a_card_tells_everything() -> None:
    assert read(read_cards(library(), PID, {1})) == {
        "gpu memory": 300 << 20,
        "gpu memory in use": 500 << 20,
        "gpu clock": 1.41e9,
        "gpu memory clock": 1.215e9,
        "gpu load": 0.37,
        "temperature gpu": 61,
        "power gpu": 87.5,
        "energy gpu": 123.456,
        "gpu slowed by heat": 0.0,
        "gpu slowed by its power limit": 1.0,
    }


def test_two_cards_have_their_numbers_and_an_idle_one_is_not_asked() -> None:
    names = {one.name for one in read_cards(library(), PID, {0, 1})}
    assert {"gpu0 clock", "gpu1 clock", "energy gpu1"} <= names
    asked = set()

    def power(handle: int) -> int:
        asked.add(handle)
        return 1

    read(read_cards(library(nvmlDeviceGetPowerUsage=power), PID, {1}))
    assert asked == {1}


def test_memory_of_the_process_is_exact_about_itself_and_the_rest_is_shared() -> None:
    trust = {one.name: one.trust for one in read_cards(library(), PID, {0}) if isinstance(one, Sensor)}
    assert trust["gpu memory"] == "sampled"
    assert (trust["gpu memory in use"], trust["power gpu"], trust["energy gpu"]) == ("shared",) * 3


@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("nvmlDeviceGetTotalEnergyConsumption", "energy gpu"),
        ("nvmlDeviceGetPowerUsage", "power gpu"),
        ("nvmlDeviceGetUtilizationRates", "gpu load"),
    ],
)
def test_what_a_card_does_not_support_is_absent_and_the_rest_is_there(function: str, name: str) -> None:
    told = read(read_cards(library(**{function: refuse}), PID, {0}))
    assert told.pop(name) == "Not Supported"
    assert all(isinstance(value, (int, float)) for value in told.values())


def test_a_process_that_the_library_knows_by_another_number() -> None:
    told = read(read_cards(library(), 99, {0}))
    assert "container" in str(told["gpu memory"])


def test_a_driver_that_does_not_tell_the_memory_of_processes() -> None:
    unknown: Callable[..., Any] = lambda handle: [SimpleNamespace(pid=PID, usedGpuMemory=None)]  # noqa: E731
    told = read(read_cards(library(nvmlDeviceGetComputeRunningProcesses=unknown), PID, {0}))
    assert told["gpu memory"] == "the driver does not tell it"


def test_slow_downs_by_the_names_of_older_drivers() -> None:
    older = library()
    for name in [name for name in vars(older) if "EventReason" in name]:
        setattr(older, name.replace("EventReason", "ThrottleReason"), getattr(older, name))
        delattr(older, name)
    older.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: 0x40
    told = read(read_cards(older, PID, {0}))
    assert (told["gpu slowed by heat"], told["gpu slowed by its power limit"]) == (1.0, 0.0)


def test_a_library_that_finds_no_driver_says_so() -> None:
    (found,) = read_cards(library(nvmlInit=refuse), PID, {0})
    assert isinstance(found, Reading)
    assert (found.value, found.trust) == (None, "absent")
    assert "Not Supported" in found.source


def test_the_real_library_has_every_name_that_is_used() -> None:
    real = pytest.importorskip("pynvml")
    assert set(vars(library())) <= set(dir(real))


def test_only_cards_that_the_process_has_opened(tmp_path: Path) -> None:
    folder = tmp_path / f"proc/{PID}/fd"
    folder.mkdir(parents=True)
    for number, target in enumerate(("/dev/nvidiactl", "/dev/nvidia3", "/dev/nvidia3", "/dev/nvidia-uvm", "/dev/null")):
        (folder / str(number)).symlink_to(target)
    assert cards(PID, tmp_path) == {3}


@pytest.mark.skipif(sys.platform != "linux", reason="reads the real /proc")
def test_this_process_has_opened_none() -> None:
    (found,) = find(os.getpid())
    assert isinstance(found, Reading)
    assert "opened no NVIDIA card" in found.source
