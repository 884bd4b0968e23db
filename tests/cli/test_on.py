"""The commands at the end of a real ssh connection: named, measured, compared in turn, explained, and kept."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.errors import Unavailable
from edgedeploy.testing.sshd import Sshd, serve

QUICK = ("--duration", "0.5s", "--processes", 1, "--threads", 1, "--watch", "0s")


@pytest.fixture(scope="module")
def board(cli: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a target: this machine, behind an sshd of its own."""
    root = tmp_path_factory.mktemp("d")
    with pytest.MonkeyPatch.context() as patch:
        try:
            server = serve(root, sys.executable)
            sshd: Sshd = server.__enter__()
        except Unavailable as error:
            pytest.skip(str(error))
        patch.setenv("PATH", f"{sshd.root}/bin", prepend=":")  # an ssh that knows this server's key
        added = cli("devices", "add", "board", "--profile", "x86-server", "--on", sshd.address().full, "--json")
        assert added.status == 0, added.err
        yield "board"
        server.__exit__(None, None, None)


def test_a_bundle_is_measured_there_and_kept_under_its_name(cli: Any, fp32: Path, board: str) -> None:
    result = cli("bench", fp32, *QUICK, "--on", board, "--json")
    assert result.status == 0, result.err
    place = result.json["measurement"]["place"]
    assert (place["device"], place["target"]) == ("x86-server", "board")
    assert place["on"].startswith("ssh://")
    assert "@" not in place["on"]
    listed = cli("history", "--device", "board", "--json").json["measurements"]
    assert [row["id"] for row in listed] == [result.json["history"]["id"]]


def test_two_bundles_take_turns_there(cli: Any, demo: Any, board: str) -> None:
    result = cli("bench", demo.fp32, "--against", demo.int8, *QUICK, "--on", board, "--json")
    assert result.status == 0, result.err
    summary = result.json["summary"]
    assert summary["first"]["digest"] != summary["second"]["digest"]
    assert result.json["versus"]["first"]["place"]["target"] == "board"


def test_a_pass_is_explained_there(cli: Any, demo: Any, board: str, tmp_path: Path) -> None:
    result = cli("why", demo.fp32, "--threads", 1, "--on", board, "--json")
    assert result.status == 0, result.err
    assert result.json["causes"]


def test_a_runner_is_for_phones(cli: Any, demo: Any, board: str) -> None:
    cli("bench", demo.fp32, *QUICK, "--on", board, "--runner", "executor_runner").refused(2, "--runner is for phones")


def test_a_phone_needs_a_profile_and_is_not_profiled(cli: Any, demo: Any) -> None:
    cli("bench", demo.fp32, *QUICK, "--on", "adb://nobody").refused(2, "needs a profile", "--device")
    cli("why", demo.fp32, "--on", "adb://nobody").refused(2, "Phones are not profiled")


def test_a_target_that_nobody_added(cli: Any, demo: Any) -> None:
    cli("bench", demo.fp32, *QUICK, "--on", "nowhere").refused(2, "nowhere", "devices add")


def test_a_plan_measures_there(cli: Any, demo: Any, board: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(
        f'[models.aerial]\ncheckpoint = "{demo.checkpoint}"\n[devices.board]\nthreads = 1\non = "{board}"\n'
        '[scenarios.quick]\nscenario = "single-stream"\nduration = "0.5s"\nprocesses = 1\n'
        '[matrix]\nprecisions = ["fp32"]\nbackends = ["onnxruntime"]\n',
        "utf-8",
    )
    first = cli("run", plan, "-o", tmp_path / "out", "--json")
    assert first.status == 0, first.err
    (row,) = first.json["rows"]
    assert row["state"] == "done", row
    again = cli("run", plan, "-o", tmp_path / "out", "--json")
    assert [row["state"] for row in again.json["rows"]] == ["reused"]
