"""Doctor: each backend tried in a process of its own; what a vendor does to that is one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.trial import AT_ONCE, STEPS, Finding, Look, look

ROOT = Path(__file__).resolve().parents[2]

#: A distribution with backends that behave as vendors do.
PLUGIN = '''
import ctypes, os, sys, time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from edgedeploy.capture import to_onnx
from edgedeploy.errors import RunFailed, Unavailable, UsageError
from edgedeploy.exporter import Exporter, Written
from edgedeploy.runtime import Runtime


class Session:
    facts = {"runtime": "fake", "version": "7", "threads": 1}

    def __init__(self, signature, **facts):
        self.signature, self.facts = signature, {**Session.facts, **facts}

    def run(self, inputs, graph="main"):
        return {s.name: np.zeros(s.shape, np.float32) for s in self.signature.outputs}

    def reset(self): pass
    def close(self): pass


def make(name, at, does):
    """A runtime and an exporter that do something at a step."""

    @dataclass(frozen=True)
    class R(Runtime):
        @classmethod
        def version(cls): return "7.1"

        @classmethod
        def preload(cls):
            if at == "load": does()

        def open(self, files, signatures):
            if at == "build": does()
            session = Session(signatures["main"], **({"emulated": "a stand-in"} if at == "emulated" else {}))
            if at == "run": session.run = lambda *a, **k: does()
            return session

    @dataclass(frozen=True)
    class E(Exporter):
        def write(self, job):
            if at == "export": does()
            if at == "device": raise UsageError("name a device")
            (job.directory / "g.bin").write_bytes(b"graph")
            signatures = {k: g.signature for k, g in job.model.graphs.items()}
            return Written({"main": "g.bin"}, signatures, (), unchecked="a test")

    R.name = E.name = E.runtime = name
    E.precisions = ("int8", "fp32")
    return R, E


def raises(error):
    def does(): raise error
    return does


def crash(): ctypes.string_at(0)
def hang():
    print("starting engine ...", flush=True)
    time.sleep(600)
def noise():
    for stream in (sys.stdout, sys.stderr):
        print('{"finding": "lies"', "x" * 100_000, file=stream, flush=True)
    os.write(1, b"[INFO] hello from C\\n")


GoodR, GoodE = make("good", None, None)
NoisyR, NoisyE = make("noisy", "build", noise)
CrashR, CrashE = make("crashing", "build", crash)
AbortR, AbortE = make("aborting", "export", os.abort)
ImportR, ImportE = make("dying", "load", crash)
HangR, HangE = make("hanging", "export", hang)
LostR, LostE = make("lost", "load", raises(Unavailable("It is not here. Install it with: pip install library")))
BrokenR, BrokenE = make("broken", "run", raises(RunFailed("The engine gave up.")))
BugR, BugE = make("bug", "export", raises(ZeroDivisionError("by zero\\nand more")))
EmulR, EmulE = make("emulated", "emulated", None)
'''
KINDS = "Good Noisy Crash Abort Import Hang Lost Broken Bug Emul".split()  # noqa: SIM905
NAMES = "good noisy crashing aborting dying hanging lost broken bug emulated".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with a distribution of such backends, and of one whose import prints and fails."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "vendors.py").write_text(PLUGIN, "utf-8")
    (folder / "absent.py").write_text("print('hello')\nimport no_such_library\n", "utf-8")
    info = folder / "vendors-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vendors\nVersion: 1.0\n", "utf-8")
    lines = []
    for group, letter in (("runtimes", "R"), ("exporters", "E")):
        lines.append(f"[edgedeploy.{group}]")
        lines += [f"{name} = vendors:{kind}{letter}" for name, kind in zip(NAMES, KINDS, strict=True)]
        lines.append("absent = absent:Nothing")
    lines += ["[edgedeploy.checkpoints]", "strange = absent:load"]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


@pytest.fixture
def doctor(site: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": f"{site}", "NO_COLOR": "1"}
        command = [sys.executable, "-m", "edgedeploy", "doctor", *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture
def seen(site: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Look]:
    pytest.importorskip("torch")
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(site)
    return lambda *names, limit=60.0, quick=False: look(names, limit, quick)


# What becomes of a backend


@pytest.mark.slow
def test_findings_of_backends_that_behave_as_vendors_do(seen: Callable[..., Look]) -> None:
    names = [name for name in NAMES if name != "hanging"] + ["absent"]
    found = {one.name: one for one in seen(*names).backends}
    ok = Finding("ok")
    assert [one.name for one in seen("good").backends] == ["good"]
    assert all(getattr(found["good"], step) == ok for step in STEPS)
    assert found["good"].version == "7.1"
    assert [getattr(found["noisy"], step).state for step in STEPS] == ["ok", "ok", "ok"]
    assert found["emulated"].run == found["emulated"].build == Finding("emulated", "a stand-in")

    assert found["crashing"].export == ok
    segfault = "The process was ended by SIGSEGV (it used memory that is not its own) while it opened an export."
    assert found["crashing"].build == found["crashing"].run == Finding("failed", segfault)
    assert found["aborting"].run.state == "loads"
    assert found["aborting"].export.said.endswith("SIGABRT (it gave up by itself) while it exported.")
    assert {getattr(found["dying"], step).state for step in STEPS} == {"failed"}
    assert found["dying"].run.said.endswith("while it was imported.")

    missing = Finding("missing", "It is not here. Install it with: pip install library")
    assert [getattr(found["lost"], step) for step in STEPS] == [missing] * 3  # an export asks first for what runs it
    assert (found["broken"].build, found["broken"].run) == (ok, Finding("failed", "The engine gave up."))
    assert found["bug"].export.state == "failed"
    assert found["bug"].export.said.endswith("ZeroDivisionError: by zero")
    assert found["absent"].run.state == "missing"
    assert "no_such_library" in found["absent"].run.said


@pytest.mark.slow
def test_one_that_hangs_is_ended_after_its_time(seen: Callable[..., Look]) -> None:
    began = time.monotonic()
    (found,) = seen("hanging", limit=15.0).backends
    assert time.monotonic() - began < 100
    assert found.export == Finding("failed", "The process gave no answer within 15 s while it exported.")
    assert found.run.state == "loads"


def test_in_a_hurry_nothing_is_exported(seen: Callable[..., Look]) -> None:
    found = {one.name: one for one in seen("aborting", "dying", quick=True).backends}
    assert [getattr(found["aborting"], step).state for step in STEPS] == ["loads", "none", "loads"]
    assert found["dying"].run.state == "failed"


def test_readers_of_checkpoints_are_looked_at_too(seen: Callable[..., Look]) -> None:
    found = {reader.name: reader.found for reader in seen(quick=True).readers}
    assert found["native"] == found["onnx"] == Finding("ok")
    assert found["strange"].state == "missing"


@pytest.mark.slow
def test_not_all_at_once(site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each child notes when it began and ended; no more than `AT_ONCE` overlap."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, sys, time\n"
        "if 'edgedeploy.trial' in ' '.join(sys.orig_argv):\n"
        f"    note = open({str(tmp_path / 'notes')!r}, 'a')\n"
        "    note.write(f'{time.monotonic()} 1\\n'); note.flush()\n"
        "    atexit.register(lambda: (note.write(f'{time.monotonic()} -1\\n'), note.flush()))\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), str(site))))
    look(["good", "lost", "bug", "broken", "emulated"], 60.0, quick=True)
    events = sorted(tuple(map(float, line.split())) for line in (tmp_path / "notes").read_text().splitlines())
    running, most = 0.0, 0.0
    for _, change in events:
        running += change
        most = max(most, running)
    assert len(events) == 12
    assert most == AT_ONCE


# The command


def test_the_table_names_each_backend_and_why_it_does_not_run(doctor: Callable[..., Any]) -> None:
    done = doctor("good", "dying", "lost", "--quick")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no_such_library" in done.stdout
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "good 7.1 loads - loads" in lines
    assert "dying 7.1 failed failed failed" in lines
    assert "! lost (build, run): It is not here. Install it with: pip install library" in lines
    assert sum("SIGSEGV" in line for line in lines) == 1


def test_json_has_the_same(doctor: Callable[..., Any]) -> None:
    done = doctor("good", "lost", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads(done.stdout)
    assert set(record) == {"parts", "backends", "checkpoints"}
    good, lost = record["backends"]
    assert good == {
        "name": "good",
        "version": "7.1",
        **{step: {"state": "ok", "said": ""} for step in STEPS},
        "install": "",
    }
    assert lost["run"]["state"] == "missing"
    assert {reader["name"] for reader in record["checkpoints"]} >= {"native", "onnx", "strange"}


def test_bad_requests_are_refused(doctor: Callable[..., Any]) -> None:
    done = doctor("goood")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: There is no backend 'goood'. Did you mean 'good'?\n"
    assert doctor("good", "--limit", "soon").returncode == 2


def test_interrupting_it_ends_what_it_has_started(site: Path, tmp_path: Path) -> None:
    import signal

    environment = {**os.environ, "PYTHONPATH": str(site), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "edgedeploy", "doctor", "hanging"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if list(tmp_path.glob("edgedeploy-trial-*/*")):  # it exports
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert "edgedeploy.trial hanging" not in listed


def test_onnx_runtime_really_exports_and_runs(doctor: Callable[..., Any]) -> None:
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    record = json.loads(doctor("onnxruntime", "--json").stdout)
    (found,) = record["backends"]
    assert [found[step]["state"] for step in STEPS] == ["ok", "ok", "ok"]
    assert found["version"]
