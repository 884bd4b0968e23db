"""Telemetry as rows."""

from __future__ import annotations

import pytest

from edgedeploy.bench.telemetry import Reading, Series, Telemetry
from edgedeploy.report.telemetry import amount, reading_rows, series_rows

FAULTS = Reading("major page faults", 3.0, "", "exact", "getrusage")
RAPL = Reading("energy package-0", None, "J", "absent", "readable for root only")


def telemetry(*readings: Reading, **changed: float) -> Telemetry:
    return Telemetry(**{"wall": 2.0, "resolution": 1e-8, **changed}, readings=readings)  # type: ignore[arg-type]


def rows(*each: Telemetry) -> dict[str, tuple[str, ...]]:
    return {name: rest for name, *rest in ((row[0], *row[1:]) for row in reading_rows(each))}  # type: ignore[misc]


def test_each_reading_with_its_trust_and_where_it_was_read() -> None:
    found = reading_rows([telemetry(FAULTS, memory_peak=3 << 20, steal=0.004)])
    assert ("major page faults", "3", "exact", "getrusage") in found
    assert next(row for row in found if row[0] == "peak memory")[1:3] == ("3.00 MiB", "exact")
    assert next(row for row in found if row[0] == "processors, taken by the hypervisor")[1:3] == ("0.4%", "shared")


def test_what_is_absent_comes_last_with_the_reason_and_is_never_zero() -> None:
    found = reading_rows([telemetry(RAPL, FAULTS)])
    assert found[-1] == ("energy package-0", "absent", "absent", "readable for root only")
    assert [row[2] for row in found].index("absent") > [row[0] for row in found].index("major page faults")
    steal = next(row for row in found if row[0] == "processors, taken by the hypervisor")
    assert steal[1:3] == ("absent", "absent")


def test_several_processes_are_lowest_to_highest() -> None:
    more = Reading("major page faults", 1.0, "", "exact", "getrusage")
    assert rows(telemetry(FAULTS), telemetry(more))["major page faults"][0] == "1 to 3"
    assert rows(telemetry(FAULTS), telemetry(FAULTS))["major page faults"][0] == "3"


def test_what_one_of_the_processes_could_not_tell_is_said() -> None:
    counted = Reading("energy package-0", 4.0, "J", "shared", "intel-rapl")
    found = rows(telemetry(RAPL), telemetry(counted), telemetry(counted))["energy package-0"]
    assert found[0] == "4.00 J"
    assert found[2] == "intel-rapl; absent in 1 of 3 processes"


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.25, "share", "25.0%"),
        (12345.0, "", "12,345"),
        (45.5, "degC", "45.5 degC"),
        (1.5e9, "Hz", "1.50 GHz"),
        (0.0125, "J", "12.5 mJ"),
        (0.0, "B", "0 B"),
    ],
)
def test_amounts(value: float, unit: str, shown: str) -> None:
    assert amount(value, unit) == shown


def test_series_in_short() -> None:
    one = Series("clock cpu0", "Hz", "sampled", "somewhere", (0.5, 1.5), (1e9, 2e9))
    empty = Series("power VDD_IN", "W", "shared", "somewhere", (), ())
    each = [Telemetry(2.0, 1e-8, series=(one, empty)), Telemetry(2.0, 1e-8, series=(one,))]
    assert series_rows(each) == [("clock cpu0", "1.00 GHz", "1.50 GHz", "2.00 GHz", "4", "sampled")]
