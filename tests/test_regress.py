"""What became slower is found, in the middle or in the tail; noise is not; what cannot be compared is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from edgedeploy.bench.measurement import Measurement, Place
from edgedeploy.bench.scenario import Scenario
from edgedeploy.errors import Incompatible, UsageError
from edgedeploy.regress import Change, Regression, Rules, regress, regressions, subject
from edgedeploy.testing import fake_environment, fake_measurement, fake_process

Times = np.ndarray[tuple[int], np.dtype[np.float64]]
Chance = np.random.Generator
Bend = Callable[[Times, Chance], Times]


def simulate(chance: Chance, bend: Bend | None = None, processes: int = 3, count: int = 300) -> Measurement:
    """Passes of 10 ms that vary by 2 %, with neighbours alike (0.5), in processes that differ by 1 %."""
    made = []
    for _ in range(processes):
        noise = chance.normal(size=count)
        for i in range(1, count):
            noise[i] = 0.5 * noise[i - 1] + np.sqrt(0.75) * noise[i]
        times = 0.010 * np.exp(0.01 * chance.normal() + 0.02 * noise)
        made.append(fake_process([int(t) for t in (times if bend is None else bend(times, chance)) * 1e9]))
    return fake_measurement(*made)


def slower_by(share: float) -> Bend:
    return lambda times, _: times * (1 + share)


def heavier_tail(times: Times, chance: Chance) -> Times:
    """One pass in twenty takes three times as long, and all others less, so that the mean is as it was."""
    slow = chance.random(len(times)) < 0.05
    bent: Times = np.where(slow, 3 * times, times)
    bent *= times.mean() / bent.mean()
    return bent


def outcomes(bend: Bend | None, rules: Rules, runs: int, processes: int = 3) -> list[Regression]:
    chance = np.random.default_rng(7)
    return [
        regress([simulate(chance, processes=processes)], [simulate(chance, bend, processes)], rules)
        for _ in range(runs)
    ]


def share(found: list[Regression], outcome: str) -> float:
    return sum(one.outcome == outcome for one in found) / len(found)


# --- rates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("processes", "runs"), [(2, 20), (3, 200), (6, 200)])
def test_false_alarms_are_rare_even_without_a_margin(processes: int, runs: int) -> None:
    found = outcomes(None, Rules(margin=0.0), runs, processes)
    assert share(found, "fail") < 0.05


@pytest.mark.parametrize(("processes", "passes"), [(3, 0.4), (6, 0.95)])
def test_noise_within_the_margin_never_alarms_and_more_processes_tell(processes: int, passes: float) -> None:
    found = outcomes(slower_by(0.01), Rules(margin=0.05), 60, processes)
    assert share(found, "fail") == 0
    assert share(found, "pass") > passes


def test_what_is_slower_by_more_than_the_margin_is_found() -> None:
    assert share(outcomes(slower_by(0.15), Rules(margin=0.05), 40), "fail") > 0.9


def test_what_is_a_little_slower_never_passes_as_much_faster() -> None:
    found = outcomes(slower_by(0.08), Rules(margin=0.05), 40)
    assert share(found, "pass") < 0.1


def test_a_tail_is_found_that_a_mean_does_not_show() -> None:
    found = outcomes(heavier_tail, Rules(margin=0.05), 40)
    assert share(found, "fail") > 0.9
    for one in found:
        by = {change.q: change for change in one.changes}
        assert by[0.99].ratio is not None
        assert by[0.99].ratio > 1.5
        assert by[0.5].ratio is not None
        assert by[0.5].ratio < 1  # who looks at the median alone calls it faster


def test_what_is_faster_is_said() -> None:
    (one,) = outcomes(slower_by(-0.3), Rules(), 1)
    assert one.outcome == "pass"
    assert one.sentence.startswith("Not slower, and faster: p50 -")
    assert one.superiority is not None
    assert one.superiority < 0.1
    assert one.p is not None
    assert one.p < 0.01


# --- what is said -----------------------------------------------------------------------------------------------------


def exactly(milliseconds: float, count: int = 600, **changed: object) -> Measurement:
    """Three processes without any noise."""
    process = fake_process([int(milliseconds * 1e6)] * (count // 3))
    made = fake_measurement(process, process, process)
    return dataclasses.replace(made, conditions=dataclasses.replace(made.conditions, **changed))  # type: ignore[arg-type]


def findings(regression: Regression) -> dict[float, str]:
    return {change.q: change.finding for change in regression.changes}


def test_the_numbers_behind_a_verdict() -> None:
    found = regress([exactly(10)], [exactly(12)])
    assert found.outcome == "fail"
    assert findings(found) == {0.5: "slower", 0.9: "slower", 0.99: "slower"}
    assert found.changes[0].before == pytest.approx(0.010002)
    assert found.changes[0].after == pytest.approx(0.012002)
    assert found.changes[0].ratio == pytest.approx(12.002 / 10.002)
    assert (found.processes, found.samples) == ((3, 3), (600, 600))
    assert found.sentence.startswith("Slower by more than the margin of 5%: p50 +20.0% (+20.0% to +20.0%), p90")


@pytest.mark.parametrize(
    ("after", "margin", "outcome"), [(10.4, 0.05, "pass"), (10.4, 0.03, "fail"), (10, 0.0, "pass")]
)
def test_the_margin_decides(after: float, margin: float, outcome: str) -> None:
    assert regress([exactly(10)], [exactly(after)], Rules(margin)).outcome == outcome


def test_too_few_samples_are_no_verdict() -> None:
    found = regress([exactly(10)], [exactly(10, count=9)])
    assert found.outcome == "not enough data"
    assert findings(found) == {0.5: "same", 0.9: "too few samples", 0.99: "too few samples"}
    assert found.changes[1] == Change(0.9, "too few samples", needs=44)
    assert found.sentence.endswith("p90 needs 44 samples on either side.")


def test_a_p99_that_is_not_supported_is_no_hindrance() -> None:
    found = regress([exactly(10, count=150)], [exactly(10, count=150)])
    assert found.outcome == "pass"
    assert findings(found)[0.99] == "too few samples"


def test_an_interval_across_the_margin_is_no_verdict() -> None:
    before = fake_measurement(*(fake_process([int(t * 1e6)] * 100) for t in (9, 10, 11)))
    found = regress([before], [before])
    assert found.outcome == "not enough data"
    assert findings(found)[0.5] == "unclear"


def test_several_runs_of_a_side_count_together() -> None:
    later = dataclasses.replace(exactly(10), created="2025-02-02T00:00:00+00:00")
    assert regress([exactly(10), later], [exactly(10)]).processes == (6, 3)


def test_doubts_about_now_are_passed_on() -> None:
    shaky = fake_measurement(fake_process([10_000_000] * 600, steady=False))
    found = regress([exactly(10)], [shaky])
    assert any("no steady state" in note for note in found.notes)
    assert any("a single process" in note for note in found.notes)


def test_means_of_passes_have_no_tail() -> None:
    made = exactly(10, mean_of=50)
    assert any("mean of 50 passes" in note for note in regress([made], [made]).notes)


# --- conditions -------------------------------------------------------------------------------------------------------


def elsewhere(milliseconds: float) -> Measurement:
    changed = fake_environment(governor="powersave", kernel="6.2")
    return dataclasses.replace(exactly(milliseconds), environment=changed, environment_after=changed)


def test_conditions_that_differ_are_named_and_refused() -> None:
    with pytest.raises(Incompatible) as refused:
        regress([exactly(10)], [elsewhere(10)])
    assert "governor: performance -> powersave" in str(refused.value)
    assert "kernel: 6.1 -> 6.2" in str(refused.value)


def test_conditions_that_differ_are_named_where_forced() -> None:
    found = regress([exactly(10)], [elsewhere(20)], Rules(force=True))
    assert found.outcome == "fail"
    assert found.differences == ("governor: performance -> powersave", "kernel: 6.1 -> 6.2")


def test_only_runs_under_the_conditions_of_the_newest_count() -> None:
    found = regress([exactly(30), elsewhere(10)], [elsewhere(10)])
    assert (found.outcome, found.processes, found.differences) == ("pass", (3, 3), ())


def test_each_subject_has_an_answer_of_its_own() -> None:
    before = [exactly(10), exactly(10, name="other"), exactly(10, name="gone")]
    after = [exactly(20, name="other"), exactly(10), exactly(10, name="new")]
    found = regressions(before, after)
    assert [(one.subject.split()[0], one.outcome) for one in found] == [("other", "fail"), ("net", "pass")]


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(UsageError, match="before there was net on this-machine, fake, single-stream, and now"):
        regressions([exactly(10)], [exactly(10, name="other")])


def test_a_subject_is_all_that_makes_it_another_thing() -> None:
    board = dataclasses.replace(exactly(10), place=Place("pi-5", "ssh://pi", "bench-pi"))
    assert subject(board) == "net on bench-pi, fake, single-stream"
    paced = exactly(10, scenario=Scenario("paced", rate=30.0), batch=2)
    assert subject(paced) == "net on this-machine, fake, paced 30.0 Hz, batch 2"
    lowered = fake_measurement(fake_process([10_000_000] * 60, facts={"computes_in": "int8"}))
    assert subject(lowered) == "net on this-machine, fake in int8, single-stream"


@pytest.mark.parametrize("rules", [{"margin": -0.1}, {"margin": float("nan")}, {"confidence": 1.0}])
def test_rules_that_cannot_be(rules: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Rules(**rules)  # type: ignore[arg-type]
