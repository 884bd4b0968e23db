"""Each doubt is raised by what it is about, names its number, and is absent otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from edgedeploy.bench.doubts import doubts
from edgedeploy.bench.measurement import Measurement
from edgedeploy.bench.telemetry import Telemetry
from edgedeploy.testing import fake_environment, fake_measurement, fake_process

MS = 1_000_000


def only(measurement: Measurement, *earlier: Measurement) -> str:
    found = doubts(measurement, earlier)
    assert len(found) == 1, found
    return found[0]


def telemetry(**changed: Any) -> Telemetry:
    return Telemetry(**{"wall": 2.0, "resolution": 5e-8, **changed})


def disturbed(**changed: Any) -> Measurement:
    return fake_measurement(
        fake_process([20 * MS] * 100), fake_process([20 * MS] * 100, telemetry=telemetry(**changed))
    )


def test_a_quiet_measurement_has_none() -> None:
    assert doubts(fake_measurement()) == ()


def test_absent_telemetry_is_no_doubt() -> None:
    assert doubts(disturbed()) == ()


def test_no_steady_state() -> None:
    made = fake_measurement(fake_process([20 * MS] * 100), fake_process([20 * MS] * 100, steady=False))
    assert only(made).startswith("Process 2 of 2 reached no steady state in 15 warm-up passes (450 ms)")


def test_too_few_samples() -> None:
    sentence = only(fake_measurement(fake_process([100 * MS] * 43)))
    assert sentence == "43 samples support no p90, which needs 44; measure for about 4.40 s."
    assert doubts(fake_measurement(fake_process([100 * MS] * 44))) == ()


def test_processes_that_disagree() -> None:
    made = fake_measurement(*(fake_process([ms * MS] * 100) for ms in (20, 20, 26)))
    assert only(made) == "The medians of the 3 processes are 20.0 ms, 20.0 ms, 26.0 ms: 30% apart."
    assert doubts(fake_measurement(*(fake_process([us * 1000] * 100) for us in (20_000, 20_900)))) == ()


def test_one_process_with_two_speeds_disagrees_with_the_others() -> None:
    bimodal = [26 * MS, 32 * MS] * 20 + [32 * MS] * 60
    made = fake_measurement(fake_process([26 * MS] * 100), fake_process(bimodal))
    assert any("32.0 ms: 23% apart" in sentence for sentence in doubts(made))


def test_drift() -> None:
    made = fake_measurement(fake_process([20 * MS] * 50 + [22 * MS] * 50))
    assert only(made) == (
        "The process drifted: its median was 20.0 ms in the first half of its samples and 22.0 ms in the second."
    )


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"foreign": 0.43}, "Others used 43% of the processors' time while process 2 of 2 was sampled."),
        ({"steal": 0.021}, "The hypervisor took 2.1% of the processors' time while process 2 of 2 was sampled."),
        ({"pressure": 0.35}, "Some task waited for a processor 35% of the time while process 2 of 2 was sampled."),
        ({"involuntary_switches": 500}, "Process 2 of 2 was taken off its processor 250 times per second."),
    ],
)
def test_disturbance(changed: dict[str, float], told: str) -> None:
    assert only(disturbed(**changed)) == told


def test_a_coarse_clock() -> None:
    process = fake_process([50_000] * 100, telemetry=telemetry(resolution=1e-6))
    assert (
        only(fake_measurement(process)) == "The clock moves in steps of 1.00 us, and the median of compute is 50.0 us."
    )


def test_a_changed_environment() -> None:
    after = fake_environment(governor="powersave", load_average=(5.0, 5.0, 5.0))
    sentence = only(fake_measurement(after=after))
    assert sentence == "The environment changed while it was measured (governor: performance -> powersave)."


def test_more_threads_than_cores() -> None:
    processes = [fake_process([20 * MS] * 100, facts={"threads": 8})]
    assert only(fake_measurement(*processes, threads=8)) == (
        "8 threads share the 4 logical cores that the process may use."
    )
    limited = fake_environment(cpu_limit=1.5)
    processes = [fake_process([20 * MS] * 100, facts={"threads": 2})]
    assert only(fake_measurement(*processes, threads=2, before=limited)) == (
        "2 threads share the time of 1.5 cores that the control group may use."
    )


def test_a_fallback() -> None:
    facts = {"provider": "CPUExecutionProvider", "threads": 1}
    made = fake_measurement(
        fake_process([20 * MS] * 100, facts=facts), options={"provider": "XnnpackExecutionProvider"}
    )
    assert only(made) == "provider was to be XnnpackExecutionProvider, and the session runs with CPUExecutionProvider."


def test_what_the_session_confirms_is_no_fallback() -> None:
    facts = {"provider": "CPUExecutionProvider,XnnpackExecutionProvider", "io_binding": 1, "threads": 1}
    asked = {"provider": "XnnpackExecutionProvider", "io_binding": True, "unknown": 3}
    assert doubts(fake_measurement(fake_process([20 * MS] * 100, facts=facts), options=asked)) == ()


def test_samples_much_larger_than_the_input() -> None:
    sentence = only(fake_measurement(sample_shape=(480, 640, 3)))
    assert sentence.startswith("The samples are up to 480x640, 75 times the values that the model takes")


def test_earlier_runs_that_differ() -> None:
    def run(ms: float, **changed: Any) -> Measurement:
        return fake_measurement(*[fake_process([int(ms * MS)] * 100)] * 3, **changed)

    earlier = [run(99), run(26.9), run(33.6), run(27.3), run(26.9)]
    assert only(run(27.0), *earlier) == (
        "The last 5 runs under the same conditions, this one included, gave medians from 26.9 ms to 33.6 ms."
    )
    others = [run(60, digest="e" * 64), run(60, batch=2), run(60, before=fake_environment(kernel="6.2"))]
    assert doubts(run(27.0), others) == ()
    assert doubts(run(27.0), [run(27.1), run(26.5)]) == ()
