"""Environments of their own: what they are made of, made once, never half, found again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedeploy import isolate
from edgedeploy.errors import EdgeDeployError, Unavailable, UsageError
from edgedeploy.isolate import LOCK, RECORD, Recipe, prepare, recipe

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and pip as the tool, wherever this runs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("edgedeploy.isolate.shutil.which", lambda name: None)
    return tmp_path / "cache" / "edgedeploy" / "environments"


class Installer:
    """Stands in for venv and pip: writes what they would, and can be told to fail."""

    def __init__(self, fail: Callable[[Sequence[str]], BaseException | None] = lambda command: None) -> None:
        self.commands: list[Sequence[str]] = []
        self.fail = fail

    def __call__(self, command: Sequence[str]) -> str:
        self.commands.append(command)
        error = self.fail(command)
        if error is not None:
            raise error
        if "venv" in command:
            binaries = Path(command[-1]) / "bin"
            binaries.mkdir(parents=True)
            (binaries / "python").symlink_to(sys.executable)
            (binaries / "tool").write_text(f"#!{binaries / 'python'}\nprint(1)\n")
            (binaries / "binary").write_bytes(b"\0" + str(binaries).encode())
            (Path(command[-1]) / "pyvenv.cfg").write_text(f"command = python -m venv {command[-1]}\n")
        return "# a comment\nnumpy==2.0.0\nonnx==1.23.2\n" if "freeze" in command else ""


def never(command: Sequence[str]) -> str:
    raise AssertionError(f"nothing should be run: {command}")


# What it is made of


def test_the_recipe_is_this_edgedeploy_with_the_versions_that_are_here() -> None:
    found = recipe("onnxruntime")
    assert found.edgedeploy == "0.1.0"
    assert any("onnxruntime,export" in requirement for requirement in found.requirements)
    assert all("==" in line and "+" not in line for line in found.constraints)
    assert {line.partition("==")[0] for line in found.constraints} <= {"torch", "onnx", "onnxruntime"}


def test_a_backend_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no backend 'onnxruntim'\. Did you mean 'onnxruntime'"):
        recipe("onnxruntim")


@pytest.mark.parametrize("field", ["backend", "python", "edgedeploy", "project"])
def test_everything_goes_into_the_key(field: str) -> None:
    plain = Recipe("a", "3.11", "1", "d", ("x",), ("y",))
    changes: dict[str, Any] = {field: "other"}
    assert replace(plain, **changes).key != plain.key
    assert (
        replace(plain, requirements=("x", "y")).key != replace(plain, requirements=("x",), constraints=("y", "y")).key
    )
    assert len(plain.key) == 16


class Fake(Distribution):
    """A distribution with any origin."""

    def __init__(self, origin: str | None, requires: Sequence[str] = ()) -> None:
        self.origin = origin
        lines = ["Metadata-Version: 2.1", "Name: thing", "Version: 1.2"]
        self.text = "\n".join([*lines, *(f"Requires-Dist: {line}" for line in requires)])

    def read_text(self, filename: str) -> str | None:
        return {"direct_url.json": self.origin, "METADATA": self.text}.get(filename)

    def locate_file(self, path: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("origin", "wanted"),
    [
        (None, ("thing[a,b]==1.2",)),
        ({"url": "file:///src/th%20ing", "dir_info": {"editable": True}}, ("--editable", "/src/th ing[a,b]")),
        ({"url": "file:///src/thing", "dir_info": {}}, ("/src/thing[a,b]",)),
        ({"url": "file:///d/thing.whl", "archive_info": {}}, ("thing[a,b] @ file:///d/thing.whl",)),
        (
            {"url": "https://host/repo", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}},
            ("thing[a,b] @ git+https://host/repo@c0ffee",),
        ),
    ],
)
def test_it_is_installed_from_where_this_one_came(origin: Any, wanted: tuple[str, ...]) -> None:
    assert isolate._origin(Fake(origin and json.dumps(origin)), ["a", "b"]) == wanted


@given(
    text=st.one_of(st.text(max_size=20), st.sampled_from(["{}", "[]", '{"url": 5}', '{"url": "x", "vcs_info": {}}']))
)
def test_an_origin_that_cannot_be_read_is_one_sentence(text: str) -> None:
    try:
        (found,) = isolate._origin(Fake(text), [])
        assert found.startswith("thing")
    except Unavailable as error:
        assert "thing" in str(error)


def test_what_this_environment_can_do_the_other_can_too() -> None:
    requires = [
        'numpy; extra == "images"',
        'no-such-thing; extra == "accuracy"',
        'thing[images]; extra == "ultralytics"',
    ]
    assert isolate._abilities(Fake(None, requires)) == ["images"]


# Making it


def test_it_is_made_once_and_found_again(cache: Path) -> None:
    said: list[str] = []
    run = Installer()
    made = prepare("onnxruntime", said.append, run)
    assert made.path == cache / f"onnxruntime-{recipe('onnxruntime').key}"
    assert not made.reused
    assert made.record.packages == 2
    assert made.record.size > 0
    assert (made.path / LOCK).read_text() == "# a comment\nnumpy==2.0.0\nonnx==1.23.2\n"
    assert said[-1].startswith(f"made {made.path} with pip: 2 packages, ")
    (install,) = [command for command in run.commands if "install" in command]
    assert install[install.index("--constraint") + 2 :] == list(recipe("onnxruntime").requirements)
    again = prepare("onnxruntime", said.append, never)
    assert again.reused
    assert again.path == made.path
    assert "is there already: 2 packages" in said[-1]
    assert [p.name for p in cache.iterdir()] == [made.path.name]


def test_scripts_name_the_place_where_it_is() -> None:
    made = prepare("onnxruntime", run=Installer())
    assert (made.path / "bin" / "tool").read_text().startswith(f"#!{made.path}/bin/python\n")
    assert (made.path / "pyvenv.cfg").read_text() == f"command = python -m venv {made.path}\n"
    assert b".tmp" in (made.path / "bin" / "binary").read_bytes()  # a program is not edited
    assert subprocess.run([made.python, "-c", "print(6 * 7)"], capture_output=True, text=True).stdout == "42\n"


def test_uv_is_taken_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgedeploy.isolate.shutil.which", lambda name: "/usr/bin/uv" if name == "uv" else None)
    run = Installer()
    assert prepare("onnxruntime", run=run).record.tool == "uv"
    assert [command[0] for command in run.commands] == ["/usr/bin/uv"] * 3


@pytest.mark.parametrize("step", ["venv", "install", "freeze"])
@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            subprocess.CalledProcessError(1, ["pip"], "", "WARNING: x\nERROR: No matching distribution\n"),
            Unavailable,
            "No matching",
        ),
        (subprocess.CalledProcessError(2, ["pip"], "", ""), Unavailable, "pip ended with status 2"),
        (FileNotFoundError(2, "No such file"), Unavailable, "No such file"),
        (KeyboardInterrupt(), KeyboardInterrupt, ""),
    ],
)
def test_what_is_interrupted_leaves_nothing(
    step: str, error: BaseException, kind: type[BaseException], said: str, cache: Path
) -> None:
    with pytest.raises(kind, match=said or None) as caught:
        prepare("onnxruntime", run=Installer(lambda command: error if step in command else None))
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []
    assert not prepare("onnxruntime", run=Installer()).reused


def test_what_a_killed_run_has_left_is_removed_and_what_a_living_one_makes_is_not(cache: Path) -> None:
    name = f"onnxruntime-{recipe('onnxruntime').key}"
    dead, living = cache / f".{name}.999999999.abc.tmp", cache / f".{name}.1.abc.tmp"
    for path in (dead, living):
        (path / "bin").mkdir(parents=True)
    prepare("onnxruntime", run=Installer())
    assert (dead.exists(), living.exists()) == (False, True)


DAMAGE: list[Callable[[Path], object]] = [
    lambda path: (path / RECORD).unlink(),
    lambda path: (path / RECORD).write_text("{"),
    lambda path: (path / RECORD).write_text((path / RECORD).read_text().replace('"schema": 1', '"schema": 2')),
    lambda path: (path / RECORD).write_text((path / RECORD).read_text().replace('"packages"', '"parcels"')),
    lambda path: (path / RECORD).write_text((path / RECORD).read_text().replace("0.1.0", "0.0.9")),
    lambda path: (path / "bin" / "python").unlink(),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_not_whole_is_made_again(damage: Callable[[Path], object]) -> None:
    made = prepare("onnxruntime", run=Installer())
    damage(made.path)
    again = prepare("onnxruntime", run=Installer())
    assert not again.reused
    assert prepare("onnxruntime", run=never).reused


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_record_with_any_damage_is_never_a_traceback(data: st.DataObject) -> None:
    made = prepare("onnxruntime", run=Installer())
    record = bytearray((made.path / RECORD).read_bytes())
    record[data.draw(st.integers(0, len(record) - 1))] = data.draw(st.integers(0, 255))
    (made.path / RECORD).write_bytes(record)
    assert prepare("onnxruntime", run=Installer()).python.exists()


def test_of_two_that_make_it_at_once_one_wins(cache: Path) -> None:
    """While this one installs, another one finishes."""
    inner: list[isolate.Environment] = []

    def meanwhile(command: Sequence[str]) -> None:
        if "freeze" in command:
            inner.append(prepare("onnxruntime", run=Installer()))

    outer = prepare("onnxruntime", run=Installer(meanwhile))
    assert outer.reused
    assert outer.path == inner[0].path
    assert [p.name for p in cache.iterdir()] == [outer.path.name]


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(EdgeDeployError, match="cannot be written"):
        prepare("onnxruntime", run=never)


@pytest.mark.slow
def test_a_real_one_runs_this_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a wheel of this checkout, without what it needs: that would take minutes."""
    pytest.importorskip("build")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    monkeypatch.setattr(isolate, "_requirements", lambda backend, ours: ("--no-deps", "--no-index", str(wheel)))
    made = prepare("onnxruntime")
    assert made.record.packages >= 1
    assert "edgedeploy" in (made.path / LOCK).read_text()
    code = "import sys, edgedeploy.errors as e; print(sys.prefix, e.__file__)"
    done = subprocess.run([made.python, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    prefix, file = done.stdout.split()
    assert Path(prefix) == made.path
    assert made.path in Path(file).parents
    scripts = subprocess.run([made.path / "bin" / "pip", "--version"], capture_output=True, text=True, check=True)
    assert str(made.path) in scripts.stdout
    assert prepare("onnxruntime", run=never).reused
