"""Statistics of made-up measurements, and their way to JSON and back."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.bench.measurement import Measurement, Passes
from edgedeploy.bench.statistics.quantiles import TooFew
from edgedeploy.bench.telemetry import Telemetry
from edgedeploy.errors import Incompatible, UsageError
from edgedeploy.records import canonical
from edgedeploy.testing import fake_environment, fake_measurement, fake_passes, fake_process

MS = 1_000_000
texts = st.text(max_size=8)
options = st.dictionaries(texts, texts | st.integers(-9, 9) | st.booleans() | st.floats(-1, 1), max_size=3)
shares = st.none() | st.floats(0, 1)
times = st.lists(st.integers(0, 10**12), min_size=1, max_size=5)


@given(times, times, options, shares, st.booleans(), st.none() | texts)
def test_json_both_ways(
    first: list[int], second: list[int], asked: dict[str, str | int | float | bool], share: float | None, steady: bool,
    governor: str | None,
) -> None:  # fmt: skip
    made = fake_measurement(
        fake_process(first, steady=steady, warmup=fake_passes([])),
        fake_process(second, telemetry=Telemetry(1.0, 1e-8, foreign=share, pressure=share)),
        before=fake_environment(governor=governor, affinity=None, load_average=None),
        options=asked,
    )
    again = Measurement.from_json(json.loads(canonical(made.to_json())), "here")
    assert again == made
    assert again.fingerprint() == made.fingerprint()


def test_a_foreign_schema_is_refused() -> None:
    data = fake_measurement().to_json() | {"schema": 99}
    with pytest.raises(Incompatible, match="here has schema 99"):
        Measurement.from_json(data, "here")


@pytest.mark.parametrize("data", [None, [], {}, {"schema": 2}, {"schema": "2"}])
def test_something_else_is_refused(data: object) -> None:
    with pytest.raises(UsageError):
        Measurement.from_json(data, "here")


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(UsageError, match="different lengths"):
        Passes((1,), (1, 2), (1,))


def test_a_process_without_samples_is_refused() -> None:
    with pytest.raises(UsageError, match="with a first pass and samples"):
        fake_measurement(fake_process([]))


def test_end_to_end_is_the_sum_of_the_parts() -> None:
    made = fake_measurement(fake_process([20 * MS] * 10))
    assert made.latency == pytest.approx(0.020002)
    assert made.median("compute") == pytest.approx(0.020)
    assert made.median("prepare") == pytest.approx(1e-6)


def test_the_median_is_the_headline_and_fps_is_the_mean() -> None:
    made = fake_measurement(fake_process([10 * MS] * 9 + [110 * MS]), batch=4)
    assert made.latency == pytest.approx(0.010002)
    assert made.mean() == pytest.approx(0.020002)
    assert made.fps == pytest.approx(4 / 0.020002)
    assert made.compute_throughput == pytest.approx(4 / 0.020)


@pytest.mark.parametrize(("q", "count"), [(0.9, 44), (0.99, 459), (0.999, 4603)])
def test_a_percentile_needs_its_samples(q: float, count: int) -> None:
    assert fake_measurement(fake_process([MS] * (count - 1))).percentile(q) == TooFew(q, count - 1, count)
    assert fake_measurement(fake_process([MS] * count)).percentile(q, "compute") == pytest.approx(0.001)


def test_samples_of_all_processes_count_and_warm_up_does_not() -> None:
    made = fake_measurement(fake_process([MS] * 22), fake_process([3 * MS] * 22))
    assert made.count == 44
    assert made.median("compute") == pytest.approx(0.002)
    assert made.process_medians("compute") == pytest.approx((0.001, 0.003))


def test_processes_that_differ_widen_the_interval_beyond_what_they_gave() -> None:
    """Three processes that differ count as three values: Student's interval with two degrees of freedom."""
    low, high = fake_measurement(
        fake_process([20 * MS] * 100), fake_process([20 * MS] * 100), fake_process([25 * MS] * 100)
    ).interval(part="compute")  # type: ignore[misc]
    reach = 4.302653 * math.log(25 / 20) / math.sqrt(3) / math.sqrt(3)
    centre = math.log(20 * 20 * 25) / 3
    assert (low, high) == pytest.approx((math.exp(centre - reach) / 1e3, math.exp(centre + reach) / 1e3), rel=1e-4)


def test_samples_that_are_alike_widen_the_interval() -> None:
    times = [20 * MS + (i // 50) * MS // 10 + i % 7 * 1000 for i in range(1000)]
    shuffled = [int(time) for time in np.random.default_rng(0).permutation(times)]
    alike, free = (fake_measurement(fake_process(one)).interval() for one in (times, shuffled))
    assert not isinstance(alike, TooFew)
    assert not isinstance(free, TooFew)
    assert alike[1] - alike[0] > 3 * (free[1] - free[0])


def test_means_of_several_passes_have_no_percentile_of_single_ones() -> None:
    made = fake_measurement(fake_process([20 * MS] * 500), mean_of=50)
    refused = made.percentile(0.9)
    assert isinstance(refused, TooFew)
    assert str(refused) == "p90 of single passes is unknown, since each sample is the mean of 50 passes"
    assert isinstance(made.interval(), TooFew)
    assert made.latency == pytest.approx(0.020002)


def test_the_interval_needs_samples() -> None:
    assert isinstance(fake_measurement(fake_process([MS] * 6)).interval(), TooFew)


def test_memory_of_the_model_is_what_loading_it_added() -> None:
    made = fake_measurement()
    assert made.model_memory == 30_000_000
    assert made.peak_memory == 80_000_000
    unknown = fake_measurement(fake_process([MS], telemetry=Telemetry(1.0, 1e-8, memory_peak=5)))
    assert unknown.model_memory is None
    assert unknown.peak_memory == 5


def test_a_cold_start_is_everything_up_to_the_first_result() -> None:
    assert fake_measurement().cold_start == pytest.approx(0.2 + 0.1 + 0.05 + 0.040002)


def test_the_same_conditions_have_the_same_fingerprint_whatever_the_model() -> None:
    one = fake_measurement()
    other = fake_measurement(name="other", digest="e" * 64, model_size=7, duration=1.0)
    busy = fake_measurement(before=fake_environment(load_average=(9.0, 9.0, 9.0)))
    assert one.fingerprint() == other.fingerprint() == busy.fingerprint()
    assert one.differences(other) == ()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"threads": 2}, "threads: 1 -> 2"),
        ({"batch": 8}, "batch: 1 -> 8"),
        ({"includes": ("compute",)}, "includes: prepare, compute, finish -> compute"),
        ({"inputs": {"image": (1, 3, 32, 32)}}, "inputs: image (1, 3, 64, 64) -> image (1, 3, 32, 32)"),
        ({"before": fake_environment(governor="powersave")}, "governor: performance -> powersave"),
        ({"before": fake_environment(packages={"numpy": "2.1"})}, "packages: numpy 2.0 -> numpy 2.1"),
        ({"before": fake_environment(packages={"numpy": "2.0", "new": "1"})}, "packages: none -> new 1"),
        ({"before": fake_environment(turbo=None)}, "turbo: False -> unknown"),
    ],
)
def test_other_conditions_have_another_fingerprint_and_are_named(changed: dict[str, object], told: str) -> None:
    one, other = fake_measurement(), fake_measurement(**changed)  # type: ignore[arg-type]
    assert one.fingerprint() != other.fingerprint()
    assert one.differences(other) == (told,)


def test_what_the_session_says_is_a_condition() -> None:
    one, other = (fake_measurement(fake_process([MS], facts={"threads": n})) for n in (1, 2))
    assert one.fingerprint() != other.fingerprint()


def test_a_record_does_not_change_under_replace() -> None:
    made = fake_measurement()
    assert replace(made, created="later").fingerprint() == made.fingerprint()


def test_processes_too_small_for_a_percentile_give_its_interval_together() -> None:
    """p99 needs 459 samples: 200 of each process are too few, and 600 are not."""
    made = fake_measurement(*(fake_process([20 * MS + i for i in range(200)]) for _ in range(3)))
    between, value = made.interval(0.99), made.percentile(0.99)
    assert not isinstance(between, TooFew)
    assert not isinstance(value, TooFew)
    assert between[0] <= value <= between[1]
