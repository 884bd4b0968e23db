"""A Raspberry Pi: its flags, and the power of its regulator chip, from recorded answers of the firmware."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedeploy.bench.sensors.raspberry import FILE, Flags, find, read_pmic, read_throttled, since_start, throttled
from edgedeploy.bench.sensors.sensor import Sensor

PMIC = """\
     3V7_WL_SW_A current(0)=0.09271760A
        VDD_CORE_A current(7)=1.20000000A
       3V7_WL_SW_V volt(8)=3.70000000V
        VDD_CORE_V volt(15)=0.90000000V
           EXT5V_V volt(24)=5.14760000V
            BATT_V volt(25)=0.00683760V
"""


def pi(root: Path, flags: str | None = "0") -> Path:
    (root / "proc/device-tree").mkdir(parents=True)
    (root / "proc/device-tree/model").write_text("Raspberry Pi 4 Model B Rev 1.4\0")
    if flags is not None:
        (root / FILE).parent.mkdir(parents=True)
        (root / FILE).write_text(flags)
    return root


@pytest.mark.parametrize(
    ("said", "bits"), [("throttled=0x0\n", 0), ("throttled=0x50005\n", 0x50005), ("VCHI initialization failed", None)]
)
def test_what_vcgencmd_says(said: str, bits: int | None) -> None:
    assert read_throttled(said) == bits


def test_the_kernels_file_is_hexadecimal_without_a_mark(tmp_path: Path) -> None:
    assert throttled(pi(tmp_path, "80008\n")) == 0x80008


def test_flags_of_now_and_those_that_rose_between_two_readings(tmp_path: Path) -> None:
    root = pi(tmp_path, "10000")  # under-voltage long ago
    flags = Flags(root)

    def told() -> set[str]:
        return {quantity.name for quantity, value in flags().items() if value}

    assert told() == set()
    (root / FILE).write_text("d0008")  # throttled meanwhile, and over the soft limit now
    assert told() == {"throttled", "soft temperature limit"}
    (root / FILE).write_text("d0000")
    assert told() == set()
    assert since_start(0xD0000) == ("under-voltage", "throttled", "soft temperature limit")


def test_every_flag_is_told_also_where_none_is_set(tmp_path: Path) -> None:
    (sensor,) = find(pi(tmp_path))
    assert isinstance(sensor, Sensor)
    assert set(sensor.read().values()) == {0.0}
    assert len(sensor.read()) == 4


def test_watts_are_of_rails_with_a_current_and_a_voltage() -> None:
    assert read_pmic(PMIC) == pytest.approx(0.0927176 * 3.7 + 1.2 * 0.9)
    assert read_pmic("EXT5V_V volt(24)=5.1V\n") is None
    assert read_pmic("Command not registered\n") is None


def test_another_board_is_not_asked(tmp_path: Path) -> None:
    assert find(tmp_path) == []


def test_firmware_that_does_not_answer_fails_and_is_not_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="did not answer"):
        Flags(pi(tmp_path, None))()
