"""What a log makes of what its sensors said; time is given, and nothing is waited for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from edgedeploy.bench.sensors.log import POINTS, Log
from edgedeploy.bench.sensors.sensor import Quantity, Sensor, absent, gauge
from edgedeploy.bench.telemetry import ENERGY, Reading, Series

CLOCK, WATTS = Quantity("clock cpu0", "Hz"), Quantity("power VDD_IN", "W")
JOULES, EVENTS = Quantity("energy package-0", "J", total=True), Quantity("throttle events, core", "", total=True)
HELD = Quantity("gpu memory", "B")


def says(quantity: Quantity, values: Iterable[float | Exception], **changed: Any) -> Sensor:
    """A sensor that says one value after the other."""
    left = iter(values)

    def read() -> float:
        value = next(left)
        if isinstance(value, Exception):
            raise value
        return value

    return gauge(quantity, "sampled", "a script", read, **changed)


def run(*found: Sensor | Reading, ticks: int = 3) -> tuple[dict[str, Reading], dict[str, Series]]:
    """Readings and series, by name, of a run of ``ticks`` seconds that began at 100, read in the middle of each."""
    log = Log(found)
    log.begin(99.9)
    for i in range(ticks):
        log.tick(100.5 + i)
    log.end(100.0 + ticks)
    readings = {reading.name: reading for reading in log.readings(0.5, 100.0, 100.0 + ticks)}
    return readings, {one.name: one for one in log.series(100.0)}


def test_a_quantity_of_the_moment_is_that_of_the_run_and_not_of_before() -> None:
    readings, series = run(says(CLOCK, [9e9, 1e9, 3e9, 2e9]))
    told = {which: readings[f"clock cpu0, {which}"].value for which in ("lowest", "median", "highest")}
    assert told == {"lowest": 1e9, "median": 2e9, "highest": 3e9}
    assert series["clock cpu0"] == Series("clock cpu0", "Hz", "sampled", "a script", (0.5, 1.5, 2.5), (1e9, 3e9, 2e9))


def test_a_total_counts_from_the_begin_to_the_end() -> None:
    readings, series = run(says(EVENTS, [40, 40, 41, 43, 44]))
    assert readings[EVENTS.name] == Reading(EVENTS.name, 4.0, "", "sampled", "a script")
    assert EVENTS.name not in series


def test_a_counter_that_did_not_move_is_a_true_zero() -> None:
    assert run(says(EVENTS, [7] * 5))[0][EVENTS.name].value == 0.0


def test_a_sensor_for_the_ends_is_read_twice_and_the_larger_counts() -> None:
    readings, series = run(says(HELD, [30, 20], ends=True))
    assert readings["gpu memory"].value == 30
    assert series == {}


def test_a_sensor_that_fails_in_the_middle_is_absent_and_the_others_go_on() -> None:
    broken = says(WATTS, [5.0, 5.0, OSError(19, "No such device")])
    readings, series = run(broken, says(CLOCK, [1e9] * 4))
    assert readings[WATTS.name].value is None
    assert readings[WATTS.name].trust == "absent"
    assert "after 1 readings: No such device" in readings[WATTS.name].source
    assert not any(name.startswith("power VDD_IN,") for name in readings)
    assert readings["clock cpu0, median"].value == 1e9
    assert len(series["clock cpu0"].times) == 3
    assert readings[ENERGY].value is None
    assert "No such device" in readings[ENERGY].source


def test_a_sensor_that_never_says_anything_is_absent_and_is_not_asked_again() -> None:
    readings, _ = run(says(CLOCK, [ValueError("off")]))  # a second reading would end the script with another error
    assert readings["clock cpu0"] == absent("clock cpu0", "", "a script: off")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_absent(value: float) -> None:
    readings, _ = run(says(CLOCK, [1.0, 1.0, value]))
    assert readings["clock cpu0"].value is None


def test_several_failures_in_one_round_hide_nobody() -> None:
    found = [says(Quantity(f"temperature {i}", "degC"), [ValueError("off")]) for i in range(5)]
    readings, _ = run(*found, says(CLOCK, [9e9, 1e9, 1e9, 1e9]))
    assert all(readings[one.name].value is None for one in found)
    assert readings["clock cpu0, highest"].value == 1e9  # it was read at the begin, too


def test_a_run_that_was_too_short_says_so() -> None:
    readings, series = run(says(CLOCK, [1e9]), ticks=0)
    assert readings["clock cpu0"].value is None
    assert "first reading, which was due after 0.5 s" in readings["clock cpu0"].source
    assert series == {}


def test_of_a_quantity_that_two_sensors_tell_the_first_is_kept() -> None:
    readings, _ = run(says(CLOCK, [1e9] * 4), says(CLOCK, [5e9] * 4))
    assert readings["clock cpu0, highest"].value == 1e9


def test_a_sensor_may_say_something_only_later() -> None:
    rounds: list[Mapping[Quantity, float]] = [{}, {}, {WATTS: 4.0}, {WATTS: 6.0}]
    readings, _ = run(Sensor("tegrastats", "sampled", "a script", iter(rounds).__next__))
    assert readings["power VDD_IN, mean"] == Reading("power VDD_IN, mean", 5.0, "W", "shared", "a script")


def test_energy_is_power_over_the_whole_time() -> None:
    readings, _ = run(says(WATTS, [99.0, 4.0, 6.0, 8.0]))
    # level to the first point and from the last one on, straight lines between: 0.5 x 4 + 5 + 7 + 0.5 x 8
    assert readings[ENERGY].value == pytest.approx(18.0)
    assert readings[ENERGY].trust == "shared"
    assert "idle power and all others included" in readings[ENERGY].source


def test_energy_that_is_counted_is_the_difference_and_gives_the_power_over_time() -> None:
    readings, series = run(says(JOULES, [10.0, 12.0, 16.0, 24.0, 26.0]))
    assert readings["energy package-0"].value == 16.0
    assert readings[ENERGY].value == 16.0
    power = series["power package-0"]
    assert (power.unit, power.times[1:3]) == ("W", (1.0, 2.0))
    assert power.values[1:3] == (4.0, 8.0)


def test_a_card_that_counts_and_tells_power_is_not_added_twice() -> None:
    counted = says(Quantity("energy gpu", "J", total=True), [0.0, 1.0, 2.0, 3.0, 4.0])
    readings, series = run(counted, says(Quantity("power gpu", "W"), [50.0] * 4))
    assert readings[ENERGY].value == 4.0
    assert "counted" in readings[ENERGY].source
    assert "(counter)" in series["power gpu"].source


def test_packages_and_cards_are_added_up() -> None:
    card = says(Quantity("power gpu", "W"), [50.0] * 4)
    readings, _ = run(says(JOULES, [0.0, 1.0, 2.0, 3.0, 9.0]), card)
    assert readings[ENERGY].value == pytest.approx(9.0 + 150.0)


def test_energy_of_parts_is_absent_with_the_parts_named() -> None:
    readings, _ = run(says(Quantity("power VDD_SOC", "W"), [1.0] * 4))
    assert readings[ENERGY].value is None
    assert "VDD_SOC" in readings[ENERGY].source


def test_energy_is_absent_for_the_reason_its_sensors_gave() -> None:
    readings, _ = run(absent("energy package-0", "J", "readable for root only"))
    assert readings[ENERGY] == absent(ENERGY, "J", "readable for root only")


def test_a_long_series_is_thinned_evenly_and_says_so_and_its_readings_are_of_all() -> None:
    ticks = 2 * POINTS + 1
    values = [1e9] * (ticks + 1)
    values[2] = 5e9  # the second reading: not among every third
    readings, series = run(says(CLOCK, values), ticks=ticks)
    clock = series["clock cpu0"]
    assert len(clock.times) == 201
    assert clock.times[:3] == (0.5, 3.5, 6.5)
    assert clock.source == "a script; 201 of 601 readings, evenly spread"
    assert max(clock.values) == 1e9
    assert readings["clock cpu0, highest"].value == 5e9


def test_all_sensors_are_let_go_of_once() -> None:
    closed: list[str] = []

    def sensor(name: str, fail: bool) -> Sensor:
        def read() -> Mapping[Quantity, float]:
            if fail:
                raise ValueError("off")
            return {}

        return Sensor(name, "sampled", "a script", read, close=lambda: closed.append(name))

    run(sensor("sound", False), sensor("broken", True))
    assert sorted(closed) == ["broken", "sound"]


def test_what_comes_out_can_be_sent_as_json() -> None:
    readings, series = run(says(CLOCK, [1, 10**9, 2 * 10**9, 3]), says(JOULES, [0, 1, 2, 3, 4]))
    for one in (*readings.values(), *series.values()):
        json.dumps(vars(one), allow_nan=False)
