"""A command in a process of its own: whatever becomes of that is an exit status or one sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgedeploy.cli.child import CHILD, protected, run_in_child
from edgedeploy.errors import ExportFailed

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")


def export_by(tmp_path: Path, vendor: str, *more: str) -> list[str]:
    """``python command`` of a script whose own command is protected, as ``edgedeploy export`` is.

    The child is ``python -m edgedeploy``; a ``sitecustomize`` puts the command of the script in the place of it.
    """
    site = tmp_path / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(
        f"""
import ctypes, os, signal, sys, tempfile, time
from pathlib import Path


def command():
    from edgedeploy.cli.child import protected

    output = Path({str(tmp_path / "out")!r})
    protected(output)
    half = output / f".net.edge.{{os.getpid()}}.abc.tmp"
    half.mkdir(parents=True)
    tempfile.mkdtemp()
    try:
        print("in the child", flush=True)
        {vendor}
    finally:
        half.rmdir()
    print("done", sys.argv[1:], flush=True)


if os.environ.get("STAND_IN"):
    import edgedeploy.cli.app as app

    def main():
        from edgedeploy.errors import EdgeDeployError

        try:
            command()
        except EdgeDeployError as error:
            print(f"error: {{error}}", file=sys.stderr)
            sys.exit(error.exit_status)
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            sys.exit(130)

    app.main = main
""",
        "utf-8",
    )
    return [sys.executable, "-P", "-m", "edgedeploy", *more]


def start(tmp_path: Path, vendor: str, *more: str) -> subprocess.Popen[str]:
    command = export_by(tmp_path, vendor, *more)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = {**os.environ, "STAND_IN": "1", "PYTHONPATH": str(tmp_path / "site"), "TMPDIR": str(scratch)}
    environment.pop(CHILD, None)
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def leftovers(tmp_path: Path) -> list[str]:
    return [p.name for place in ("out", "scratch") for p in (tmp_path / place).glob("*")]


def test_what_goes_well_looks_as_if_there_were_no_child(tmp_path: Path) -> None:
    process = start(tmp_path, "pass", "export", "a b", "--json")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines() == ["in the child", "done ['export', 'a b', '--json']"]
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("status", [1, 2, 3, 4, 77])
def test_the_status_of_the_child_is_that_of_the_command(status: int, tmp_path: Path) -> None:
    process = start(tmp_path, f"sys.exit({status})")
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (status, "")


@pytest.mark.parametrize(
    ("vendor", "name"),
    [
        ("ctypes.string_at(0)", "SIGSEGV (it used memory that is not its own) in ctypes/__init__.py:"),
        ("os.abort()", "SIGABRT (it gave up by itself) in site/sitecustomize.py:"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL (somebody killed it). No half-written"),
    ],
)
def test_a_crash_is_one_sentence(vendor: str, name: str, tmp_path: Path) -> None:
    process = start(tmp_path, vendor)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == "in the child\n"
    assert err.startswith(f"error: The export was ended by {name}"), err
    assert len(err.splitlines()) == 1
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_reaches_the_child_once_and_it_leaves_in_order(number: int, status: int, tmp_path: Path) -> None:
    process = start(tmp_path, "time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == "in the child\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert out == ""
    assert err == ("stopped\n" if number == signal.SIGINT else "")
    assert leftovers(tmp_path) == []


def test_a_child_that_does_not_listen_is_killed_by_the_second_signal(tmp_path: Path) -> None:
    vendor = "signal.signal(signal.SIGINT, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    process = start(tmp_path, vendor)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["in the child\n", "deaf\n"]
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "SIGKILL" in err
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux'")
def test_a_child_does_not_outlive_its_parent(tmp_path: Path) -> None:
    process = start(tmp_path, "print(os.getpid(), flush=True); time.sleep(60)")
    assert process.stdout is not None
    process.stdout.readline()
    child = int(process.stdout.readline())
    process.kill()
    process.communicate(timeout=30)  # until the last of them has closed the pipe
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(child, 0)
            time.sleep(0.05)


def test_one_that_hangs_is_ended_with_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_by(tmp_path, "time.sleep(60)")
    monkeypatch.setenv("STAND_IN", "1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    with pytest.raises(ExportFailed, match=r"ended after 4 s, because it was not done in site/sitecustomize\.py:\d+"):
        run_in_child([], limit=4)


def test_a_bundle_that_stepped_aside_is_kept(tmp_path: Path) -> None:
    old = tmp_path / "out" / ".net.edge.{}.x.old.tmp"
    process = start(tmp_path, f"Path({str(old)!r}.format(os.getpid())).mkdir(); os.abort()")
    process.communicate(timeout=60)
    (kept,) = leftovers(tmp_path)
    assert kept.endswith(".old.tmp")


def test_in_the_child_it_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHILD, "1")
    protected()  # without a place for faults: a child of the child
