"""The ``history`` commands: tables for people, JSON and CSV for machines, and where the file is."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edgedeploy.bench.measurement import Place
from edgedeploy.cli.history import app
from edgedeploy.errors import UsageError
from edgedeploy.history import History, Origin, read_lines
from edgedeploy.report.history import listing
from edgedeploy.testing import fake_measurement, fake_process


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    """Three measurements: two of one model, one of another on a board."""
    path = tmp_path / "history.db"
    monkeypatch.setenv("EDGEDEPLOY_HISTORY", str(path))
    made = History(path)
    made.record(fake_measurement(), Origin(precision="int8"), doubts=2)
    made.record(dataclasses.replace(fake_measurement(), created="2025-01-02T03:04:05+00:00"))
    board = dataclasses.replace(fake_measurement(fake_process([9_000_000] * 30), name="=other"))
    made.record(dataclasses.replace(board, place=Place("pi-5", "ssh://pi", "bench-pi")))
    return made


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def refused(result: Result) -> str:
    assert isinstance(result.exception, UsageError), result.output
    return str(result.exception)


def test_the_list_shows_what_matters_and_where_it_is(history: History) -> None:
    out = run().stdout
    for word in ("net", "int8", "single-stream", "20.0 ms", "bench-pi"):
        assert word in out
    assert out.splitlines()[-1] == f"history: {history.path}"
    numbers = ("20.0 ms ±0.0%", "20.0 ms")
    assert listing(history.find()) == [
        ("1", "2025-01-01 00:00", "net", "this-machine", "fake int8", "single-stream", *numbers, "2"),
        ("3", "2025-01-01 00:00", "=other", "bench-pi", "fake", "single-stream", "9.00 ms ±0.0%", "-", "none"),
        ("2", "2025-01-02 03:04", "net", "this-machine", "fake", "single-stream", *numbers, "none"),
    ]


def test_the_list_obeys_its_filters(history: History) -> None:
    listed = json.loads(run("--model", "net", "--last", 1, "--json").stdout)
    assert [row["id"] for row in listed["measurements"]] == [2]
    assert listed["path"] == str(history.path)
    assert listed["measurements"][0]["median"] == pytest.approx(0.020002)
    for filters in (["--device", "bench-pi"], ["--device", "ssh://pi"]):
        assert [row["id"] for row in json.loads(run(*filters, "--json").stdout)["measurements"]] == [3]
    assert "nothing was measured" in run("--scenario", "offline").stdout


def test_csv_has_every_column_and_no_formula(history: History) -> None:
    rows = list(csv.DictReader(io.StringIO(run("--csv").stdout)))
    assert [row["id"] for row in rows] == ["1", "3", "2"]
    assert rows[1]["model"] == "'=other"
    assert float(rows[0]["median"]) == pytest.approx(0.020002)
    assert rows[1]["p90"] == ""


def test_one_is_shown_with_its_doubts(history: History) -> None:
    out = run("show", 3).stdout
    assert out.startswith("=other on fake: 9.00 ms")
    assert "support no p90" in out
    assert json.loads(run("show", 3, "--json").stdout)["conditions"]["name"] == "=other"
    assert "has no measurement 9" in refused(run("show", 9))


def test_export_writes_what_is_asked_for(history: History, tmp_path: Path) -> None:
    some = tmp_path / "some.jsonl"
    assert "1 measurement from" in run("export", 3, "-o", some).stdout
    assert [m.conditions.name for m in read_lines(some)] == ["=other"]
    assert "2 measurements from" in run("export", "--model", "net", "-o", some).stdout
    assert [m.conditions.name for m in read_lines(some)] == ["net", "net"]
    assert "nothing was written" in refused(run("export", "--model", "none", "-o", some))
    assert len(read_lines(some)) == 2


def test_a_baseline_is_named_and_listed(history: History) -> None:
    assert run("baseline", "release", 2).exit_code == 0
    assert "baseline release: 2" in run().stdout
    assert json.loads(run("--json").stdout)["baselines"] == {"release": 2}
    assert "cannot be called '7'" in refused(run("baseline", "7", 2))


def test_pruning_says_what_is_left(history: History) -> None:
    run("baseline", "release", 1)
    assert "deleted 2; 1 measurements are left" in run("prune", "--older-than", "4w").stdout
    assert [row.id for row in history.find()] == [1]


@pytest.mark.parametrize("age", ["4", "4 months", "-1h", "99999999d", "nan d"])
def test_an_age_that_is_none_deletes_nothing(history: History, age: str) -> None:
    refused(run("prune", "--older-than", age))
    assert len(history.find()) == 3


def test_no_history_is_an_empty_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEDEPLOY_HISTORY", str(tmp_path / "none.db"))
    result = run()
    assert result.exit_code == 0
    assert f"history: {tmp_path / 'none.db'}" in result.stdout
    assert not (tmp_path / "none.db").exists()
