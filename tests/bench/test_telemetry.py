"""Counters, read from a made-up /proc, and the shares that come of them."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from edgedeploy.bench.telemetry import (
    ENERGY,
    USAGE,
    Counters,
    Reading,
    Telemetry,
    between,
    energy_per_pass,
    read_counters,
    resolution,
)
from edgedeploy.testing import FakeClock

STAT = "cpu  100 0 50 1000 7 3 2 40 30 0\ncpu0 50 0 25 500 3 1 1 20 15 0\ncpu1 50 0 25 500 4 2 1 20 15 0\nintr 1\n"
PRESSURE = "some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"


def test_counters_of_a_linux(tmp_path: Path) -> None:
    (tmp_path / "proc/pressure").mkdir(parents=True)
    (tmp_path / "proc/stat").write_text(STAT)
    (tmp_path / "proc/pressure/cpu").write_text(PRESSURE)
    found = read_counters(tmp_path)
    tick = os.sysconf("SC_CLK_TCK")
    assert found.busy == (100 + 0 + 50 + 3 + 2) / tick  # guest time is within user time
    assert (found.steal, found.processors, found.waiting) == (40 / tick, 2, 2.5)


def test_what_is_not_there_is_absent(tmp_path: Path) -> None:
    found = read_counters(tmp_path)
    assert (found.busy, found.steal, found.processors, found.waiting) == (None,) * 4


def test_shares_of_all_processors() -> None:
    first = Counters(wall=10.0, processor=1.0, switches=5, busy=100.0, steal=1.0, processors=2, waiting=3.0)
    last = Counters(wall=14.0, processor=4.0, switches=25, busy=107.0, steal=1.4, processors=2, waiting=4.0)
    found = between(first, last, 1e-8, (10, 30))
    assert (found.wall, found.processor, found.involuntary_switches) == (4.0, 3.0, 20)
    assert found.foreign == pytest.approx((7 - 3) / 8)
    assert found.steal == pytest.approx(0.05)
    assert found.pressure == pytest.approx(0.25)
    assert found.model_memory == 20


def test_absent_counters_give_absent_shares_and_not_zero() -> None:
    found = between(Counters(0.0, 0.0), Counters(1.0, 1.0), 1e-8, (None, None))
    assert found == Telemetry(wall=1.0, resolution=1e-8, processor=1.0, readings=found.readings)
    assert found.foreign is None
    assert found.model_memory is None
    assert [(r.name, r.value, r.trust) for r in found.readings] == [(name, None, "absent") for name, *_ in USAGE]
    assert all(reading.source for reading in found.readings)


def test_what_a_process_used_is_the_difference_and_shares_are_of_the_time() -> None:
    usage = {"major page faults": 3.0, "read from storage": 4096.0, "waiting for storage": 2.0}
    first = Counters(wall=10.0, processor=0.0, usage=usage)
    last = Counters(wall=14.0, processor=0.0, usage={name: 2 * value for name, value in usage.items()})
    found = {reading.name: reading for reading in between(first, last, 0.0, (None, None)).readings}
    assert (found["major page faults"].value, found["major page faults"].trust) == (3.0, "exact")
    assert found["read from storage"].unit == "B"
    assert found["waiting for storage"] == Reading(
        "waiting for storage", 0.5, "share", "shared", "/proc/pressure/io: some"
    )
    assert found["voluntary switches"].value is None


def test_usage_is_counted_by_this_system_and_grows_by_what_is_done(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    first = read_counters()
    with mmap.mmap(-1, 64 << 20) as pages:  # new to the process, whatever its allocator keeps
        for page in range(0, len(pages), mmap.PAGESIZE):
            pages[page] = 1
        found = {reading.name: reading for reading in between(first, read_counters(), 0.0, (None, None)).readings}
    faults = found["minor page faults"]
    assert faults.trust == "exact"
    assert faults.value
    assert read_counters(tmp_path).usage.keys().isdisjoint({"read from storage", "waiting for memory"})


def test_bytes_read_are_those_from_storage(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/io").write_text("rchar: 6976\nsyscr: 10\nread_bytes: 4096\nwrite_bytes: 7\n")
    assert read_counters(tmp_path).usage["read from storage"] == 4096


def test_energy_per_inference_is_the_gross_energy_over_the_passes() -> None:
    energy = Reading(ENERGY, 30.0, "J", "shared", "VDD_IN")
    telemetry = Telemetry(wall=2.0, resolution=0.0, readings=(energy,))
    assert energy_per_pass(telemetry, 60) == Reading("energy per inference", 0.5, "J", "shared", "VDD_IN")


@pytest.mark.parametrize(
    ("readings", "passes", "why"),
    [
        ((), 10, "no sensor was read"),
        ((Reading(ENERGY, None, "J", "absent", "for root only"),), 10, "for root only"),
        ((Reading(ENERGY, 30.0, "J", "shared", "VDD_IN"),), 0, "no pass was made"),
    ],
)
def test_energy_per_inference_is_absent_with_the_reason(readings: tuple[Reading, ...], passes: int, why: str) -> None:
    found = energy_per_pass(Telemetry(wall=2.0, resolution=0.0, readings=readings), passes)
    assert found == Reading("energy per inference", None, "J", "absent", why)


def test_coarse_ticks_do_not_give_impossible_shares() -> None:
    first = Counters(wall=0.0, processor=0.0, busy=0.0, steal=0.0, processors=1)
    last = Counters(wall=1.0, processor=1.0, busy=0.98, steal=1.5, processors=1)
    found = between(first, last, 1e-8, (None, None))
    assert (found.foreign, found.steal) == (0.0, 1.0)


def test_the_resolution_is_the_smallest_step() -> None:
    assert resolution(FakeClock(tick=100)) == pytest.approx(1e-7)
    assert resolution(FakeClock()) == 0.0
