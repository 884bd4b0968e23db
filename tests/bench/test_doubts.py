"""Each doubt is raised by what it is about, names its number, and is absent otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgedeploy.bench.doubts import circumstances, doubts
from edgedeploy.bench.measurement import Measurement
from edgedeploy.bench.scenario import Scenario
from edgedeploy.bench.stopping import Stop
from edgedeploy.bench.telemetry import Reading, Series, Telemetry
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


def test_processes_that_differ_by_no_more_than_their_samples_leave_open() -> None:
    made = fake_measurement(*(fake_process([ms * MS for ms in (20, 30, 40, 20, 30, 40, 30)] * n) for n in (7, 7)))
    assert not any("apart" in sentence for sentence in doubts(made))


def test_a_percentile_that_was_asked_for_and_is_not_supported() -> None:
    made = fake_measurement()  # 600 samples
    assert doubts(made, asked=(0.5, 0.9, 0.99)) == ()
    (sentence,) = doubts(made, asked=(0.5, 0.999))
    assert sentence == "600 samples support no p99.9, which needs 4603; measure for about 92.1 s."


def test_means_of_several_passes_have_no_percentiles() -> None:
    sentence = only(fake_measurement(fake_process([20 * MS] * 5), mean_of=50))
    assert sentence.startswith("Each of the 5 samples is the mean of 50 passes: how long single ones took is unknown")


def series(name: str, unit: str, *values: float) -> Series:
    return Series(name, unit, "sampled", "here", tuple(float(i) for i in range(len(values))), values)


def test_a_clock_that_moves() -> None:
    moving = series("clock gpu", "Hz", 1.7e9, 1.7e9, 1.7e9, 1.2e9, 1.2e9, 1.2e9)
    assert only(disturbed(series=(series("clock cpu0", "Hz", *[2e9] * 6), moving))) == (
        "The clock gpu moved between 1.20 GHz and 1.70 GHz while process 2 of 2 was sampled; hold it at one frequency, "
        "or cool the device."
    )
    assert doubts(disturbed(series=(series("clock gpu", "Hz", 1.7e9, 1.65e9, 1.7e9, 1.65e9),))) == ()


def test_a_device_that_gets_hot() -> None:
    hotter = series("temperature soc", "degC", 50, 52, 55, 58, 60, 61, 61, 62)
    sentence = only(disturbed(series=(hotter,)))
    assert sentence.startswith("The temperature soc rose from 51 to 62 degC while process 2 of 2 was sampled")
    sustained = fake_measurement(
        fake_process([20 * MS] * 100, telemetry=telemetry(series=(hotter,))), scenario=Scenario("sustained")
    )
    assert doubts(sustained) == ()


def test_a_device_that_slows_itself_down() -> None:
    held = Reading("held down cpu", 0.25, "share", "sampled", "here")
    sentence = only(disturbed(readings=(held, Reading("throttling", None, "", "absent", "nobody tells"))))
    assert sentence.startswith("The device slowed itself down (held down cpu: 25% of the time) while process 2 of 2")


def test_a_goal_that_was_not_reached() -> None:
    reading = Stop(False, 2, "the medians of the last 3 of 9 processes are 12.0% apart").reading()
    assert only(disturbed(readings=(reading,))) == (
        "The goal was not reached: the medians of the last 3 of 9 processes are 12.0% apart."
    )
    assert doubts(disturbed(readings=(Stop(True, 2, "p50 within 1.0%").reading(),))) == ()


def test_circumstances_are_not_about_times() -> None:
    drifting = [int(20 * MS * (1 + i / 1000)) for i in range(200)]
    made = fake_measurement(fake_process(drifting, telemetry=telemetry(foreign=0.43)))
    assert len(doubts(made)) == 2
    assert circumstances(made) == ("Others used 43% of the processors' time while the process was sampled.",)


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


def test_many_processes_of_which_the_same_is_told() -> None:
    made = fake_measurement(*(fake_process([20 * MS] * 100, steady=i % 2 == 0) for i in range(10)))
    assert only(made).startswith("5 of 10 processes reached no steady state in 75 warm-up passes;")
    rising = [int(20 * MS * (1 + i / 1000)) for i in range(200)]
    found = doubts(fake_measurement(*(fake_process(rising) for _ in range(10))))
    assert len(found) == 4
    assert found[3] == "Of 7 more processes something like that can be told."


def test_what_a_phone_says_of_itself() -> None:
    readings = (
        Reading("charging before", 1.0, "", "sampled", "dumpsys battery"),
        Reading("thermal status after", 2.0, "", "sampled", "dumpsys thermalservice"),
    )
    process = fake_process([20 * MS] * 200)
    told = doubts(fake_measurement(replace(process, telemetry=replace(process.telemetry, readings=readings))))
    assert any("was charging" in sentence for sentence in told)
    assert any("thermal status was 2 at the end" in sentence for sentence in told)
