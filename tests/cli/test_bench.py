"""``edgedeploy bench``: what it says of a measurement that cannot be kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from edgedeploy.bench.measurement import Measurement
from edgedeploy.bench.run import BenchOptions
from edgedeploy.cli import bench as command
from edgedeploy.errors import UsageError
from edgedeploy.testing import fake_measurement

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(command.bench)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_history_in_trouble_is_said_in_either_form(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EDGEDEPLOY_HISTORY", str(tmp_path / "file" / "history.db"))
    monkeypatch.setattr(command, "_measured", lambda *given: fake_measurement())
    done = CliRunner().invoke(app, [str(tmp_path / "net.edge"), *options], catch_exceptions=False)
    assert done.exit_code == 0
    assert "This run is not in the history: " in done.output
    if options:
        found = json.loads(done.stdout)  # the samples are not lost with it
        assert found["measurement"] == fake_measurement().to_json()
        assert found["history"]["id"] is None


def test_the_graph_of_the_other_bundle_needs_another_bundle(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--against-graph is of the bundle that --against names"):
        CliRunner().invoke(app, [str(tmp_path / "net.edge"), "--against-graph", "main"], catch_exceptions=False)


def test_the_graph_reaches_the_harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measured(bundle: Path, options: BenchOptions, *given: object) -> Measurement:
        asked.append(options)
        return fake_measurement()

    monkeypatch.setattr(command, "_measured", measured)
    for graph in ([], ["--graph", "main"]):
        CliRunner().invoke(app, [str(tmp_path / "net.edge"), "--no-history", *graph], catch_exceptions=False)
    assert [options.graph for options in asked] == [None, "main"]
