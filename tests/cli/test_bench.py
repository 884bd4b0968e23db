"""``edgedeploy bench``: what it says of a measurement that cannot be kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from edgedeploy.cli import bench as command
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
