"""The ``devices`` commands: tables for people, JSON for machines, profiles as files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgedeploy import device
from edgedeploy.cli.devices import app
from edgedeploy.errors import UsageError
from edgedeploy.probe import probe

run = CliRunner()


def test_the_table_has_every_device() -> None:
    result = run.invoke(app, [])
    assert result.exit_code == 0
    for name in device.names():
        assert name in result.stdout


def test_the_table_as_json_is_in_si_and_null_where_unknown() -> None:
    rows = {row["name"]: row for row in json.loads(run.invoke(app, ["--json"]).stdout)}
    assert rows["raspberry-pi-5"]["bandwidth"] == pytest.approx(17.1e9)
    assert rows["jetson-nano"]["memory"] == 4 * 2**30
    assert rows["raspberry-pi-4"]["bandwidth"] is None


def test_all_facts_of_one_are_shown_and_unknown_is_said() -> None:
    result = run.invoke(app, ["show", "jetson-thor"])
    assert result.exit_code == 0
    assert "2070 TFLOP/s" in result.stdout
    assert "unknown" in result.stdout
    assert "RT-DETR" in result.stdout


def test_one_as_json_has_its_digest() -> None:
    shown = json.loads(run.invoke(app, ["show", "raspberry-pi-5", "--json"]).stdout)
    assert shown["digest"] == device.load("raspberry-pi-5").digest
    assert shown["int8"] == {"activations": "int8", "dot_product": True}
    assert shown["device"]["cpu"]["dense"]["int8"]["kind"] == "derived"


def test_an_unknown_device_is_the_callers_error() -> None:
    assert isinstance(run.invoke(app, ["show", "raspberry-pi-55"]).exception, UsageError)


def fast(seconds: float) -> device.Device:
    return probe(size=32, seconds=seconds, copy=1 << 16)


def test_a_probe_writes_a_profile_that_can_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgedeploy.probe.probe", fast)
    path = tmp_path / "my-box.yaml"
    result = run.invoke(app, ["probe", "-o", str(path), "--seconds", "0", "--json"])
    assert result.exit_code == 0, result.output
    assert device.load(path).name == "my-box"
    assert json.loads(result.stdout)["digest"] == device.load(path).digest
    assert [p.name for p in tmp_path.iterdir()] == ["my-box.yaml"]


@pytest.mark.parametrize("name", ["box.txt", "My Box.yaml", "missing/box.yaml"])
def test_a_probe_refuses_a_file_before_it_measures(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(seconds: float) -> device.Device:
        raise AssertionError("measured")

    monkeypatch.setattr("edgedeploy.probe.probe", never)
    result = run.invoke(app, ["probe", "-o", str(tmp_path / name)])
    assert isinstance(result.exception, UsageError)
    assert list(tmp_path.iterdir()) == []
