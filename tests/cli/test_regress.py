"""``edgedeploy regress``: what it compares with what, and the status that a CI job goes by."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from edgedeploy.bench.measurement import Measurement
from edgedeploy.bench.scenario import Scenario
from edgedeploy.cli.regress import regress
from edgedeploy.errors import Incompatible, UsageError
from edgedeploy.history import History, write_lines
from edgedeploy.testing import fake_environment, fake_measurement, fake_process

app = typer.Typer()
app.command()(regress)


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    """10 ms as 1 and under the name of release, 10 ms as 2, 12 ms as 3, too few samples as 4."""
    monkeypatch.setenv("EDGEDEPLOY_HISTORY", str(tmp_path / "history.db"))
    made = History()
    for day, (milliseconds, count) in enumerate([(10, 200), (10, 200), (12, 200), (10, 5)], 1):
        made.record(taken(milliseconds, day, count))
    made.set_baseline("release", 1)
    return made


def taken(milliseconds: int, day: int, count: int = 200, name: str = "net") -> Measurement:
    process = fake_process([milliseconds * 1_000_000] * count)
    made = fake_measurement(process, process, process, name=name)
    return dataclasses.replace(made, created=f"2025-03-0{day}T00:00:00+00:00")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_the_same_passes(history: History) -> None:
    result = run("--against", "release", 2)
    assert result.exit_code == 0, result.output
    assert "pass: Not slower: p50 +0.0% (+0.0% to +0.0%)" in result.stdout
    assert "600 samples of 3 processes before, 600 of 3 now" in " ".join(result.stdout.split())


def test_slower_has_a_status_of_its_own(history: History) -> None:
    result = run("--against", "release", 3)
    assert result.exit_code == 4
    assert "fail: Slower by more than the margin of 5%" in result.stdout
    assert run("--against", "release", 3, "--margin", "25%").exit_code == 0


def test_faster_is_said(history: History) -> None:
    assert "pass: Not slower, and faster: p50 -16.7%" in run("--against", 3, 1).stdout


def test_not_enough_data_may_be_let_pass(history: History) -> None:
    assert run("--against", 1, 4).exit_code == 4
    allowed = run("--against", 1, 4, "--allow-unknown")
    assert allowed.exit_code == 0
    assert "not enough data: " in allowed.stdout
    assert run("--against", "release", 3, "--allow-unknown").exit_code == 4


def test_without_another_the_newest_of_the_same_is_taken(history: History) -> None:
    history.record(taken(20, 5, name="other"))
    history.record(taken(14, 6))
    result = run("--against", "release", "--json")
    (found,) = json.loads(result.stdout)["regressions"]
    assert found["subject"].startswith("net on")
    assert found["changes"][0]["after"] == pytest.approx(0.014002)


def test_a_baseline_is_not_compared_with_itself(history: History, tmp_path: Path) -> None:
    only = tmp_path / "only.jsonl"
    write_lines([taken(10, 1, name="lonely")], only)
    history.record(taken(10, 1, name="lonely"))
    result = run("--against", only)
    assert isinstance(result.exception, UsageError)
    assert "no later measurement of lonely on this-machine" in str(result.exception)


def test_what_was_measured_before_the_baseline_is_not_now(history: History) -> None:
    result = run("--against", 4)
    assert isinstance(result.exception, UsageError)
    assert "no later measurement of net on this-machine" in str(result.exception)


@pytest.mark.parametrize("changed", [{"in_turn": True}, {"scenario": Scenario(engine="loadgen")}])
def test_a_run_of_another_kind_is_not_the_newest_of_the_same(history: History, changed: dict[str, Any]) -> None:
    other = taken(14, 6)
    history.record(dataclasses.replace(other, conditions=dataclasses.replace(other.conditions, **changed)))
    (found,) = json.loads(run("--against", 2, "--json").stdout)["regressions"]
    assert found["changes"][0]["after"] < 0.014


def test_what_the_seconds_are_is_said(history: History) -> None:
    said = "geometric means of those of each process"
    assert f"p50, p90, p99: {said}" in run("--against", 1, 2).stdout
    alone = dataclasses.replace(taken(10, 5), processes=taken(10, 5).processes[:1])
    result = run("--against", history.record(alone), 2)
    assert said not in result.stdout
    assert "200 samples of 1 process before, 600 of 3 now" in " ".join(result.stdout.split())


def test_files_of_several_models_are_compared_one_by_one(history: History, tmp_path: Path) -> None:
    before, after, summary = (tmp_path / name for name in ("before.jsonl", "after.jsonl", "summary.md"))
    write_lines([taken(10, 1, name="a"), taken(10, 1, name="b")], before)
    write_lines([taken(10, 2, name="a"), taken(15, 2, name="b")], after)
    result = run("--against", before, after, "--markdown", summary)
    assert result.exit_code == 4
    assert [line.split(":")[0] for line in result.stdout.splitlines() if line.startswith(("pass:", "fail:"))] == [
        "pass",
        "fail",
    ]
    text = summary.read_text()
    assert "## pass: a on this-machine" in text
    assert "## fail: b on this-machine" in text
    assert "| p50 | 10.0 ms | 15.0 ms | +50.0% (+50.0% to +50.0%) | slower |" in text


def test_other_conditions_are_refused_unless_forced(history: History) -> None:
    other = fake_environment(kernel="6.2")
    number = history.record(dataclasses.replace(taken(10, 7), environment=other, environment_after=other))
    result = run("--against", "release", number)
    assert isinstance(result.exception, Incompatible)
    assert result.exception.exit_status == 3
    assert "kernel: 6.1 -> 6.2" in str(result.exception)
    forced = run("--against", "release", number, "--force")
    assert forced.exit_code == 0
    assert "! The conditions differ (kernel: 6.1 -> 6.2)." in forced.stdout


def test_a_name_that_nothing_has(history: History) -> None:
    result = run("--against", "relese")
    assert isinstance(result.exception, UsageError)
    assert "Did you mean 'release'?" in str(result.exception)
    for text in ("\N{SUPERSCRIPT TWO}", "9" * 30):
        assert isinstance(run("--against", text).exception, UsageError)


@pytest.mark.parametrize("margin", ["-1%", "much", "nan", "5"])
def test_a_margin_that_is_none(history: History, margin: str) -> None:
    assert isinstance(run("--against", "release", 2, "--margin", margin).exception, UsageError)
