"""``edgedeploy run``: listed, worked off for real, interrupted, and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from edgedeploy.cli.run import run
from edgedeploy.errors import UsageError
from edgedeploy.history import read_lines
from edgedeploy.plan import MEASUREMENTS, Done, read_plan
from edgedeploy.plan.children import Say

app = typer.Typer()
app.command()(run)

PLAN = """
[models.net]
checkpoint = "net.safetensors"

[devices.this-machine]
threads = 1

[scenarios.quick]
scenario = "single-stream"
duration = "1s"
processes = 1

[matrix]
precisions = ["fp32"]
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a plan, and a history of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEDEPLOY_HISTORY", str(tmp_path / "history.db"))
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "net.safetensors").write_bytes(b"weights")
    return tmp_path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_a_dry_run_lists_the_rows_and_makes_nothing(place: Path) -> None:
    result = invoke("plan.toml", "--dry-run")
    assert result.exit_code == 0
    assert "net/this-machine/fp32/default/quick" in result.stdout
    assert "export, bench" in result.stdout
    assert json.loads(invoke("plan.toml", "--dry-run", "--json").stdout)[0]["steps"] == ["export", "bench"]
    assert not (place / "out").exists()


def test_a_plan_that_cannot_be_is_refused(place: Path) -> None:
    (place / "plan.toml").write_text(PLAN.replace("precisions", "precision"))
    result = invoke("plan.toml")
    assert isinstance(result.exception, UsageError)
    assert "unknown key 'precision'. Did you mean 'precisions'?" in str(result.exception)
    assert not (place / "out").exists()


def test_a_row_that_failed_is_a_status(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __call__(self, argv: Any, say: Say) -> Done:
            return Done(1, "", "error: The converter refused.\n")

        def stop(self) -> None: ...

    monkeypatch.setattr("edgedeploy.plan.Children", Failing)
    result = invoke("plan.toml", "--csv", "t.csv", "--markdown", "t.md")
    assert result.exit_code == 1
    assert "1 row: 1 failed" in result.stdout
    assert "failed: net/this-machine/fp32/default/quick: The converter refused." in result.stdout
    assert "The converter refused." in (place / "t.csv").read_text()
    assert "The converter refused." in (place / "t.md").read_text()
    document = json.loads(invoke("plan.toml", "--json").stdout)
    assert document["rows"][0]["state"] == "failed"


def test_skipped_is_no_failure(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        def __call__(self, argv: Any, say: Say) -> Done:
            return Done(3, "", "error: It is not installed here.\n")

        def stop(self) -> None: ...

    monkeypatch.setattr("edgedeploy.plan.Children", Absent)
    result = invoke("plan.toml")
    assert result.exit_code == 0
    assert "1 row: 1 skipped" in result.stdout


def test_every_option_that_a_row_takes_is_one_of_the_commands() -> None:
    from edgedeploy.cli.app import app as whole
    from edgedeploy.plan.commands import bench_command, bundle_folder, compare_command, export_command

    plan = read_plan(Path(__file__).resolve().parents[2] / "benchmarks" / "plans" / "example.toml")
    known = typer.main.get_command(whole).commands  # type: ignore[attr-defined]
    for row in plan.rows:
        bundle = bundle_folder(plan, row, Path("out"))
        bench, compare = bench_command(plan, row, bundle, False), compare_command(plan, row, bundle, False)
        for argv in (export_command(plan, row, bundle), bench, compare):
            assert argv is not None
            options = {name for one in known[argv[0]].params for name in (*one.opts, *one.secondary_opts)}
            assert {word for word in argv if word.startswith("--")} <= options


def family(marker: str) -> list[int]:
    """The processes that have inherited this from one another."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            alive = "\nState:\tZ" not in (folder / "status").read_text()
            if alive and marker.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_plan_is_interrupted_and_goes_on(place: Path, aerial: Path) -> None:
    for package in ("torch", "onnxscript", "onnxruntime", "PIL"):
        pytest.importorskip(package)
    (place / "plan.toml").write_text(PLAN.replace("net.safetensors", str(aerial)))
    marker = f"PLAN_TEST={place.name}-{os.getpid()}"
    name, _, value = marker.partition("=")
    environment = {**os.environ, name: value, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "import typer; from edgedeploy.cli.run import run; typer.run(run)", "plan.toml"]

    def finish() -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True, check=True)

    first = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, process_group=0)
    assert first.stderr is not None
    assert any("bench" in line for line in first.stderr)  # the export is done
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert first.returncode == 130
    assert family(marker) == []

    done = finish()
    (row,) = json.loads(done.stdout)["rows"]
    assert row["state"] == "done"
    assert "export: loading" not in done.stderr
    assert family(marker) == []
    (measurement,) = read_lines(place / "out" / "plan" / MEASUREMENTS)
    assert measurement.conditions.name == "aerial"
    assert measurement.conditions.threads == 1
    assert row["latency"]["median"] == measurement.latency

    again = finish()
    assert json.loads(again.stdout)["rows"] == [row | {"state": "reused"}]
