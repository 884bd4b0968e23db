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


# --- devices at hand -----------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's configuration."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def test_a_device_gets_a_name_and_loses_it(home: Path) -> None:
    nothing = run.invoke(app, ["targets"])
    assert "edgedeploy devices add NAME" in nothing.stdout
    asked = ["--profile", "jetson-orin-nano", "--on", "ssh://nano@10.0.0.7:2222", "--python", "~/venv/bin/python"]
    assert run.invoke(app, ["add", "bench-nano", *asked]).exit_code == 0
    expected = {
        "name": "bench-nano",
        "profile": "jetson-orin-nano",
        "on": "ssh://nano@10.0.0.7:2222?python=~/venv/bin/python",
    }
    assert json.loads(run.invoke(app, ["targets", "--json"]).stdout) == [expected]
    assert "jetson-orin-nano" in run.invoke(app, ["targets"]).stdout
    assert json.loads(run.invoke(app, ["add", "pi", *asked[:4], "--json"]).stdout)["name"] == "pi"
    assert run.invoke(app, ["remove", "bench-nano"]).stdout == "bench-nano: removed\n"
    assert [row["name"] for row in json.loads(run.invoke(app, ["targets", "--json"]).stdout)] == ["pi"]


@pytest.mark.parametrize(
    "words",
    [
        ["add", "x", "--profile", "jetson-orin-nan", "--on", "ssh://h"],
        ["add", "x", "--profile", "jetson-orin-nano", "--on", "ssh://-oProxyCommand=x"],
        ["add", "x", "--profile", "jetson-orin-nano", "--on", "ssh://a b"],
        ["add", "local", "--profile", "jetson-orin-nano", "--on", "ssh://h"],
        ["add", "A B", "--profile", "jetson-orin-nano", "--on", "ssh://h"],
        ["add", "x", "--profile", "jetson-orin-nano", "--on", "adb://s", "--python", "python3"],
        ["remove", "nobody"],
        ["check", "nobody"],
    ],
)
def test_what_cannot_be_a_target_is_refused(words: list[str], home: Path) -> None:
    assert isinstance(run.invoke(app, words).exception, UsageError)
    assert not list(home.rglob("targets.json"))


def test_checking_this_machine(home: Path) -> None:
    shown = run.invoke(app, ["check", "local"])
    assert shown.exit_code == 0
    assert "numpy: installed" in shown.stdout
    found = json.loads(run.invoke(app, ["check", "local", "--json"]).stdout)["found"]
    assert found["emulated"] is False
    assert found["free"] > 0
