"""Pass, fail and not enough data, and the sentences that say why."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.bench.measurement import Measurement, Place
from edgedeploy.bench.scenario import Scenario
from edgedeploy.bench.telemetry import Telemetry
from edgedeploy.device import load
from edgedeploy.errors import UsageError
from edgedeploy.report.measurement import headline
from edgedeploy.testing import fake_environment, fake_measurement, fake_process
from edgedeploy.verdict import Budget, judge, judge_fit

MS = 1_000_000


def spread(count: int = 100) -> Measurement:
    """Computes for 20.0, 20.1 .. 24.9 ms and over again."""
    return fake_measurement(fake_process([20 * MS + (i * 37 % 50) * MS // 10 for i in range(count)]))


def only(measurement: Measurement, budget: Budget) -> tuple[str, str]:
    verdict = judge(measurement, budget)
    assert len(verdict.reasons) == 1
    return verdict.outcome, verdict.reasons[0]


def test_clearly_kept() -> None:
    outcome, reason = only(spread(), Budget(latency=0.025))
    assert outcome == "pass"
    assert reason.startswith("End-to-end latency p50 is 22.5 ms (95 % interval 2")
    assert reason.endswith(", p90 24.5 ms, within the budget of 25.0 ms.")


def test_clearly_broken() -> None:
    outcome, reason = only(spread(), Budget(latency=0.020))
    assert outcome == "fail"
    assert reason.endswith("above the budget of 20.0 ms.")


def test_too_close_to_tell() -> None:
    outcome, reason = only(spread(), Budget(latency=0.0224))
    assert outcome == "not enough data"
    assert "too close to the budget of 22.4 ms to tell" in reason


def test_processes_that_disagree_about_the_budget_do_not_decide() -> None:
    made = fake_measurement(*(fake_process([ms * MS] * 500) for ms in (20, 20, 30)))
    assert only(made, Budget(latency=0.025))[0] == "not enough data"


def test_too_few_samples() -> None:
    outcome, reason = only(fake_measurement(fake_process([20 * MS] * 6)), Budget(latency=1.0))
    assert outcome == "not enough data"
    assert reason.endswith("p50 needs 7 samples, and there are 6.")


def test_means_of_several_passes_do_not_decide_about_single_ones() -> None:
    made = fake_measurement(fake_process([20 * MS] * 500), mean_of=50)
    outcome, reason = only(made, Budget(latency=1.0))
    assert outcome == "not enough data"
    assert reason.endswith("p50 of single passes is unknown, since each sample is the mean of 50 passes.")


def test_the_tail_is_left_out_where_it_is_not_supported() -> None:
    assert "p90" not in only(spread(43), Budget(latency=1.0))[1]


def test_a_budget_about_another_percentile() -> None:
    assert only(spread(458), Budget(latency=0.026, percentile=0.99))[0] == "not enough data"
    outcome, reason = only(spread(500), Budget(latency=0.026, percentile=0.99))
    assert (outcome, "latency p99 is 24.9 ms" in reason) == ("pass", True)
    assert only(spread(500), Budget(latency=0.0230, percentile=0.99))[0] == "fail"


def test_frames_per_second() -> None:
    outcome, reason = only(spread(), Budget(fps=40))
    assert outcome == "pass"
    assert reason.startswith("One stream back to back runs at 44.54 frames per second (")
    assert only(spread(), Budget(fps=50))[0] == "fail"
    assert only(spread(), Budget(fps=spread().fps))[0] == "not enough data"
    assert only(fake_measurement(fake_process([MS] * 5)), Budget(fps=1))[0] == "not enough data"


def test_memory() -> None:
    assert only(fake_measurement(), Budget(memory=80e6))[0] == "pass"
    outcome, reason = only(fake_measurement(), Budget(memory=64 << 20))
    assert (outcome, reason) == ("fail", "Peak memory of the process is 76.3 MiB, above the budget of 64.0 MiB.")
    unread = fake_measurement(fake_process([MS] * 50, telemetry=Telemetry(1.0, 1e-8)))
    assert only(unread, Budget(memory=1e9))[0] == "not enough data"


def test_one_broken_limit_fails_and_every_limit_has_its_reason() -> None:
    verdict = judge(spread(), Budget(latency=0.0224, fps=1.0, memory=1.0))
    assert (verdict.outcome, len(verdict.reasons)) == ("fail", 3)
    assert judge(spread(), Budget(latency=0.0224, fps=1.0)).outcome == "not enough data"


@given(st.floats(0.001, 0.1))
def test_a_verdict_never_contradicts_the_median(limit: float) -> None:
    made = spread()
    outcome = judge(made, Budget(latency=limit)).outcome
    assert outcome != ("fail" if made.latency <= limit else "pass")


@pytest.mark.parametrize(
    "wrong",
    [{}, {"latency": 0.0}, {"latency": -1.0}, {"fps": float("nan")}, {"memory": float("inf")}]
    + [{"latency": 1.0, "percentile": q} for q in (0.0, 1.0, 50.0)],
)
def test_budgets_that_cannot_be_right(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Budget(**wrong)


def test_a_frame_rate_is_no_budget_where_the_clock_gives_it() -> None:
    paced = fake_measurement(scenario=Scenario("paced", rate=30.0))
    with pytest.raises(UsageError, match="Under 'paced' the rate is given"):
        judge(paced, Budget(fps=30))


def test_a_few_offline_passes_are_no_throughput_to_be_judged() -> None:
    few = fake_measurement(fake_process([20 * MS] * 20), scenario=Scenario("offline"))
    outcome, reason = only(few, Budget(fps=1))
    assert outcome == "not enough data"
    assert "it needs 30 passes, spread over the processes, and there are 20" in reason


def test_offline_is_judged_by_what_goes_through() -> None:
    """200 samples of 20 ms that overlapped: 100 per second, and not the 50 of one stream."""
    process = fake_process([20 * MS] * 200)
    samples = replace(process.samples, began=tuple(range(0, 200 * 10 * MS, 10 * MS)))
    process = replace(process, samples=samples, telemetry=replace(process.telemetry, wall=2.0))
    offline = fake_measurement(process, scenario=Scenario("offline"))
    kept = judge(offline, Budget(fps=90))
    assert kept.outcome == "pass"
    assert "Offline throughput is 100" in kept.reasons[0]
    assert judge(offline, Budget(fps=110)).outcome == "fail"


def test_what_was_measured_on_the_device_is_not_measured_elsewhere() -> None:
    device = load("raspberry-pi-5")
    here, there = fake_measurement(), replace(fake_measurement(), place=Place("raspberry-pi-5", "ssh://pi"))
    assert any("has to be measured there" in reason for reason in judge_fit(here, (), device).reasons)
    assert not any("has to be measured there" in reason for reason in judge_fit(there, (), device).reasons)


def test_an_emulated_processor_passes_no_budget() -> None:
    emulated = fake_measurement(before=fake_environment(hosted="emulated processor"))
    assert judge(emulated, Budget(latency=10.0)).outcome == "not enough data"
    assert "whose latencies are none" in headline(emulated)
