"""Targets: a file that one user reads, names that lead to a device, and whether it is the one that was meant."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgedeploy import device, targets
from edgedeploy.bench.remote import there
from edgedeploy.errors import Incompatible, Unavailable, UsageError
from edgedeploy.targets import Target
from edgedeploy.testing.sshd import serve


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "edgedeploy"


def test_a_target_is_kept_for_its_user_alone(config: Path) -> None:
    added = targets.add("pi", "raspberry-pi-5", "ssh://pi@raspberry:22", "~/venv/bin/python")
    assert targets.saved() == {"pi": added}
    assert targets.resolve("pi") == Target("pi", "raspberry-pi-5", "ssh://pi@raspberry:22?python=~/venv/bin/python")
    (file,) = config.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    targets.add("pi", "raspberry-pi-4", "ssh://other")
    assert targets.resolve("pi") == Target("pi", "raspberry-pi-4", "ssh://other")
    targets.remove("pi")
    assert targets.saved() == {}


def test_a_way_is_a_target_without_a_name() -> None:
    assert targets.resolve("local") == Target(None, device.THIS_MACHINE, "local")
    assert targets.resolve("ssh://h?wait=2min") == Target(None, None, "ssh://h?wait=120s")
    assert targets.resolve("adb://0A1B").on == "adb://0A1B"


def test_an_unknown_name_is_told_the_nearest_and_how_to_make_one() -> None:
    targets.add("bench-nano", "jetson-orin-nano", "ssh://nano")
    with pytest.raises(
        UsageError, match=r"Did you mean 'bench-nano'\? Make one with: edgedeploy devices add bench-nan "
    ):
        targets.resolve("bench-nan")


def test_a_profile_of_ones_own_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device.dump(device.load("raspberry-pi-5"), tmp_path / "mine.yaml")
    monkeypatch.chdir(tmp_path)
    assert targets.add("mine", "mine.yaml", "ssh://h").profile == str(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"schema": 1}', '{"schema": 2, "targets": {}}', '{"schema": 1, "targets": {"a": {"on": 1}}}']
)
def test_a_damaged_file_is_named(config: Path, text: str) -> None:
    config.mkdir(parents=True)
    (config / "targets.json").write_text(text)
    with pytest.raises(UsageError, match=r"targets\.json"):
        targets.saved()


def test_a_file_that_cannot_be_read(config: Path) -> None:
    (config / "targets.json").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"targets\.json cannot be read: Is a directory"):
        targets.saved()


def test_a_file_that_cannot_be_written(config: Path) -> None:
    config.parent.mkdir(parents=True)
    config.write_text("no folder")
    with pytest.raises(UsageError, match="cannot be written"):
        targets.add("pi", "raspberry-pi-5", "ssh://h")


def test_another_architecture_than_the_profile_says(monkeypatch: pytest.MonkeyPatch) -> None:
    facts: Callable[..., dict[str, object]] = there.facts
    monkeypatch.setattr(there, "facts", lambda wanted: {**facts(wanted), "machine": "aarch64"})
    assert targets.look(Target("pi", "raspberry-pi-5", "local")).machine == "aarch64"
    monkeypatch.setattr(there, "facts", lambda wanted: {**facts(wanted), "machine": "x86_64"})
    with pytest.raises(Incompatible, match=r"^pi is x86_64, and its profile raspberry-pi-5 is aarch64\."):
        targets.look(Target("pi", "raspberry-pi-5", "local"))


def test_looking_over_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d").mkdir()
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(serve(tmp_path / "d", sys.executable))
        except Unavailable as error:
            pytest.skip(str(error))
        monkeypatch.setenv("PATH", f"{server.root}/bin", prepend=os.pathsep)
        found = targets.look(Target("box", None, server.address().full))
        assert found.numpy
        assert found.distributions == there.facts(json.loads(json.dumps(list(found.distributions))))["distributions"]
