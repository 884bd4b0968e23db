"""``edgedeploy report``: from files and from the history, in three forms, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import make_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from edgedeploy.bench.measurement import Measurement, Place
from edgedeploy.cli.report import report
from edgedeploy.errors import Incompatible, UsageError
from edgedeploy.history import History, Origin, write_lines
from edgedeploy.testing.fakes import fake_measurement, fake_process


def measurement(number: int, **changed: Any) -> Measurement:
    process = fake_process([20_000_000 + number * 1_000_000 + i % 5 for i in range(60)])
    made = fake_measurement(process, name=f"net{number % 2}", **changed)
    return replace(made, created=f"2025-01-0{number + 1}", place=Place("raspberry-pi-5" if number > 2 else "nano"))


def record(**fields: Any) -> Any:
    """A record with these fields, and no more."""
    return make_dataclass("Record", list(fields))(**fields)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEDEPLOY_HISTORY", str(tmp_path / "history.db"))
    write_lines([measurement(i) for i in range(4)], tmp_path / "all.jsonl")
    return tmp_path


def run(*arguments: object) -> Any:
    """The command by itself: output, or the error that it raised."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(report)
    done = CliRunner().invoke(app, list(map(str, arguments)))
    if done.exception is not None:
        raise done.exception
    return done


def models(path: Path) -> list[str]:
    return [row["model"] for row in csv.DictReader(path.read_text("utf-8").splitlines())]


def test_each_form_is_told_by_its_suffix(place: Path) -> None:
    assert run("all.jsonl").output == "report.html: 4 measurements\n"
    assert (place / "report.html").read_text("utf-8").startswith("<!doctype html>")
    run("all.jsonl", "-o", "new/folder/r.md")
    assert (place / "new/folder/r.md").read_text("utf-8").startswith("# Latency report")
    run("all.jsonl", "-o", "r.CSV")
    assert models(place / "r.CSV") == ["net0", "net1", "net0", "net1"]
    assert not list(place.rglob("*.tmp"))


def test_files_are_filtered_and_the_newest_are_kept(place: Path) -> None:
    for arguments, wanted in (
        (["--model", "net1"], ["net1", "net1"]),
        (["--device", "raspberry-pi-5"], ["net1"]),
        (["--last", "3"], ["net1", "net0", "net1"]),
    ):
        run("all.jsonl", "-o", "r.csv", *arguments)
        assert models(place / "r.csv") == wanted
    with pytest.raises(UsageError, match="they have 4"):
        run("all.jsonl", "--model", "another")


def test_without_files_it_is_about_the_history(place: Path) -> None:
    with pytest.raises(UsageError, match="no measurement"):
        run()
    history = History()
    for i in range(4):
        history.record(measurement(i), Origin(bundle=f"b{i}", precision="int8"))
    run("-o", "r.csv", "--device", "nano", "--last", "2")
    found = list(csv.DictReader((place / "r.csv").read_text("utf-8").splitlines()))
    assert [(row["created"], row["precision"]) for row in found] == [("2025-01-02", "int8"), ("2025-01-03", "int8")]
    with pytest.raises(UsageError, match="no measurement that fits"):
        run("--model", "another")


def test_the_history_knows_the_accuracy_of_a_bundle(place: Path) -> None:
    def side(value: float) -> Any:
        metric = record(ap50_95=value, images=40)
        return record(metric=metric, model="c" * 64, data="scenes", data_digest="d" * 64)

    compared = record(
        artifact="x/net1.edge",
        artifact_digest="b1",
        reference=side(0.5),
        candidate=side(0.48),
        difference=record(ap50_95=record(estimate=-0.02, low=-0.03, high=-0.01)),
        equivalence=record(outcome="fail"),
        doubts=(),
    )
    history = History()
    history.record_comparison(compared)
    for i in range(2):
        history.record(measurement(i), Origin(bundle=f"b{i}"))
    run("-o", "r.csv")
    found = list(csv.DictReader((place / "r.csv").read_text("utf-8").splitlines()))
    assert [(row["accuracy"], row["accuracy_difference_low"]) for row in found] == [("", ""), ("0.48", "-0.03")]
    run("-o", "r.md")
    assert "-0.0200 from FP32 (-0.0300 to -0.0100)" in (place / "r.md").read_text("utf-8")


def test_what_bench_and_predict_print_is_taken_too(place: Path) -> None:
    said = {"summary": {}, "doubts": [], "verdicts": [{"outcome": "fail", "reasons": ["Too slow."]}]}
    (place / "bench.json").write_text(json.dumps(said | {"measurement": measurement(0).to_json()}), "utf-8")
    setting = {"device": "s25", "arch": "aarch64", "unit": "npu", "runtime": "qnn", "precision": "int8"}
    guess = {"graph": "net0", "setting": setting, "seconds": 3e-3, "low": 2e-3, "high": 4e-3, "confidence": 0.8}
    guess |= {"here": False, "fitted_on": {"nano": 9}, "shares": {}, "outside": []}
    (place / "guess.json").write_text(json.dumps({"predictions": [guess], "refused": []}), "utf-8")
    run("bench.json", "guess.json", "-o", "r.md")
    text = (place / "r.md").read_text("utf-8")
    assert "fail: Too slow." in text
    assert "about 3.00 ms" in text


def test_json_has_the_rows(place: Path) -> None:
    found = json.loads(run("all.jsonl", "--json").stdout)
    assert [row["model"] for row in found["rows"]] == ["net0", "net1", "net0", "net1"]
    assert found["rows"][0]["p50"] == pytest.approx(0.020002)
    assert found["rows"][0]["p99"]["needed"] == 459
    assert found["size"] == (place / "report.html").stat().st_size


def test_torn_and_older_lines_are_left_out_and_said(place: Path) -> None:
    good = json.dumps(measurement(0).to_json())
    older = json.dumps(measurement(0).to_json() | {"schema": 1})
    half = json.dumps({"processes": "\ud800"})
    (place / "log.jsonl").write_text("\n".join([good, good[:200], older, half, ""]), "utf-8")
    done = run("log.jsonl", "-o", "r.csv")
    assert models(place / "r.csv") == ["net0"]
    assert "line 2 is torn" in done.stderr
    assert "line 3 has schema 1" in done.stderr
    assert "line 4 is torn" in done.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "holds nothing"), ("[1, 2]", "holds nothing"), ('{"a": 1}', "holds nothing"), ("{", "not JSON")],
)
def test_what_is_no_input_is_refused(content: str, words: str, place: Path) -> None:
    (place / "a.json").write_text(content or "{}", "utf-8")
    with pytest.raises(UsageError, match=words):
        run("a.json")
    assert not (place / "report.html").exists()


@pytest.mark.parametrize("verdicts", [3, "fail", {"outcome": "fail"}])
def test_verdicts_that_are_no_list_are_none(verdicts: object, place: Path) -> None:
    (place / "a.json").write_text(json.dumps({"measurement": measurement(0).to_json(), "verdicts": verdicts}), "utf-8")
    assert run("a.json", "-o", "r.csv").exit_code == 0


def test_a_link_that_others_have_put_there_is_not_followed(place: Path) -> None:
    (place / "mine").write_text("untouched")
    (place / f".r.csv.{os.getpid()}.tmp").symlink_to(place / "mine")
    with pytest.raises(UsageError, match="cannot be written: File exists"):
        run("all.jsonl", "-o", "r.csv")
    assert (place / "mine").read_text() == "untouched"


def test_files_and_forms_that_cannot_be_are_refused(place: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.jsonl cannot be read"):
        run("missing.jsonl")
    with pytest.raises(UsageError, match=r"\.html, \.md or \.csv"):
        run("all.jsonl", "-o", "report.pdf")
    (place / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        run("bytes.jsonl")
    (place / "file").write_text("", "utf-8")
    with pytest.raises(UsageError, match="cannot be written"):
        run("all.jsonl", "-o", "file/r.csv")
    (place / "old.json").write_text(json.dumps(measurement(0).to_json() | {"schema": 1}), "utf-8")
    with pytest.raises((UsageError, Incompatible)):
        run("old.json")


def test_accuracy_joins_the_measurement_of_the_same_bundle(place: Path, demo: Any, cli: Any) -> None:
    said = cli("compare", demo.checkpoint, demo.fp32, "--data", demo.data, "--split", "val", "--limit", 8, "--json")
    (place / "compare.json").write_text(said.out, "utf-8")
    quick = ("--duration", "0.2s", "--processes", 1, "--threads", 1)
    (place / "bench.json").write_text(cli("bench", demo.fp32, *quick, "--json").out, "utf-8")
    run("bench.json", "compare.json", "all.jsonl", "-o", "r.csv")
    rows = list(csv.DictReader((place / "r.csv").read_text("utf-8").splitlines()))
    assert [row["accuracy_metric"] for row in rows] == ["AP50-95", "", "", "", ""]
    assert float(rows[0]["accuracy"]) == json.loads(said.out)["comparison"]["candidate"]["metric"]["ap50_95"]
