"""A real worker process: it answers, refuses, crashes, hangs, and is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.bench import spawn
from edgedeploy.bench.remote import transport
from edgedeploy.bench.remote.transport import Broken, Local
from edgedeploy.bench.spawn import run_worker
from edgedeploy.bench.target import Job
from edgedeploy.errors import EdgeDeployError, Incompatible, RunFailed, Unavailable, UsageError
from edgedeploy.records import to_json


def job(behaviour: str = "", **changed: Any) -> Job:
    values = {"loader": "edgedeploy.testing:load_fake", "path": "some/net.edge", "backend": "fake", "duration": 0.02}
    return Job(**{**values, "options": {"behaviour": behaviour}, **changed})


def test_an_answer_with_the_time_to_start() -> None:
    seen: list[tuple[str, float | None]] = []
    answer = run_worker(job(), 60, lambda phase, share: seen.append((phase, share)))
    assert answer.process.start > 0
    assert len(answer.process.samples) >= 7
    assert seen[0][0] == "ready"
    assert seen[-1][0] == "sampling"
    assert {"numpy", "edgedeploy"} <= set(answer.before.packages)


def test_what_a_vendor_prints_does_not_reach_the_protocol() -> None:
    answer = run_worker(job("print"), 60)
    assert len(answer.process.samples) >= 7


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        ("abort", r"was killed by SIGABRT while warming up\. Its last words:\n(.*\n)*?  vendor: assertion failed"),
        ("kill", r"was killed by SIGKILL while warming up\. It left no word\."),
        ("exit", r"ended with status 7 while warming up\."),
        ("raise", r"ended with status 1 while warming up\. Its last words:\n(.*\n)*  RuntimeError: vendor: out of h"),
    ],
)
def test_a_worker_that_dies_leaves_its_last_words(behaviour: str, told: str) -> None:
    with pytest.raises(RunFailed, match=r"The worker measuring net\.edge on fake " + told):
        run_worker(job(behaviour), 60)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The worker processes that were put to an end."""
    found: list[subprocess.Popen[bytes]] = []
    end = transport.end

    def remember(process: subprocess.Popen[bytes]) -> None:
        end(process)
        found.append(process)

    monkeypatch.setattr(spawn, "end", remember)
    return found


def test_a_worker_that_hangs_is_killed(ended: list[subprocess.Popen[bytes]]) -> None:
    told = r"said nothing for 4 s while warming up and was killed\. Its last words:\n  vendor: waiting for the device"
    with pytest.raises(RunFailed, match=told):
        run_worker(job("hang"), 4)
    assert ended[0].returncode == -signal.SIGKILL


def test_out_of_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([3, 4])
    monkeypatch.setattr(spawn, "out_of_memory_kills", lambda: next(counts))
    with pytest.raises(RunFailed, match=r"SIGKILL while warming up \(the kernel was out of memory\)"):
        run_worker(job("kill"), 60)


class Way(Local):
    """A device whose worker is the script that comes next; what ends without a word is the way that broke."""

    on = "ssh://nano"

    def __init__(self, *scripts: str) -> None:
        self.scripts, self.restored = list(scripts), 0

    def start(self, module: str) -> subprocess.Popen[bytes]:
        """The script instead of the module, with ``tell`` for events."""
        tell = "import json, sys, time\ndef tell(event, **fields): print(json.dumps({'event': event, **fields}))\n"
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, "-c", tell + self.scripts.pop(0)]
        return subprocess.Popen(command, start_new_session=True, **pipes)  # type: ignore[call-overload, no-any-return]

    def explain(self, status: int | None, words: str) -> EdgeDeployError | None:
        """As ssh does it."""
        return Broken("The connection broke.") if status == 255 else None

    def restore(self, reason: Broken) -> None:
        """At most twice."""
        self.restored += 1
        if self.restored > 2:
            raise reason

    def locate(self, message: str) -> str:
        """Where."""
        return f"there: {message}"


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("status=-9, out_of_memory=True", r"was killed by SIGKILL on ssh://nano while loading \(the kernel was out of"),
        ("status=-9, out_of_memory=False", r"was killed by SIGKILL on ssh://nano while loading\. It left no word\."),
        ("status=3, out_of_memory=False", r"ended with status 3 on ssh://nano while loading\. It left no word\."),
    ],
)
def test_how_a_worker_ended_there_is_told_by_the_one_who_saw_it(end: str, told: str) -> None:
    way = Way(f"tell('phase', phase='loading'); tell('end', {end}); sys.exit(255)")
    with pytest.raises(RunFailed, match=told):
        run_worker(job(), 60, way=way)
    assert way.restored == 0


def test_a_worker_lost_with_its_way_is_run_again_and_its_start_is_measured_there() -> None:
    answer = json.dumps(to_json(run_worker(job(), 60)))
    lost = "tell('phase', phase='sampling'); sys.exit(255)"
    told = f"tell('start', seconds=0.125); tell('phase', phase='ready'); tell('result', answer=json.loads({answer!r}))"
    way = Way(lost, told)
    phases: list[str] = []
    found = run_worker(job(), 60, lambda phase, share: phases.append(phase), way)
    assert found.process.start == 0.125
    assert phases == ["sampling", "connecting again", "ready"]
    with pytest.raises(Broken, match=r"^The connection broke\.$"):
        run_worker(job(), 60, way=Way(lost, lost, lost))


def test_what_is_refused_there_says_where() -> None:
    with pytest.raises(Unavailable, match=r"^there: No such runtime\.$"):
        run_worker(job(), 60, way=Way("tell('error', kind='Unavailable', message='No such runtime.')"))


@pytest.mark.parametrize(
    "script",
    [
        "print('[' * 100000)",
        "print(json.dumps({'event': ['result']}))",
        "tell('error', kind='did_you_mean', message='x')",
        "tell('start', seconds='soon'); tell('start', seconds=[1]); tell('start', seconds=10 ** 400)",
        "tell('phase'); tell('progress', share='half'); tell('progress', share=7)",
        "tell('progress', share=float('nan'))",
        "tell('end', status='killed')",
        "tell('result')",
        "tell('result', answer={'conditions': float('inf')})",
        "tell('result', answer={'conditions': chr(0xd800)})",
    ],
)
def test_a_device_that_says_nonsense_is_a_run_that_failed(script: str) -> None:
    shares: list[float | None] = []
    with pytest.raises(RunFailed) as failed:
        run_worker(job(), 60, lambda phase, share: shares.append(share), Way(f"{script}; sys.exit(1)"))
    str(failed.value).encode()
    assert set(shares) <= {None}


def test_an_answer_that_no_record_can_hold_is_refused() -> None:
    """Half of a surrogate pair, as in a name of a file that is not UTF-8, would only fail when it is written down."""
    answer = to_json(run_worker(job(), 60))
    answer["process"]["facts"]["computes_in"] = "\ud800"
    way = Way(f"tell('result', answer=json.loads({json.dumps(answer)!r}))")
    with pytest.raises(RunFailed, match=r"^there: What the worker measuring net\.edge on fake said cannot be read: "):
        run_worker(job(), 60, way=way)


def test_a_refusal_keeps_its_class() -> None:
    with pytest.raises(Incompatible, match=r"^This model wants another device\.$"):
        run_worker(job("refuse"), 60)
    with pytest.raises(UsageError, match="cannot be used"):
        run_worker(job(loader="nowhere:load"), 60)


INTERRUPTED = """
import os, signal, threading
from edgedeploy.bench import spawn
from edgedeploy.bench.target import Job

ended = []
class Popen(spawn.subprocess.Popen):
    def __init__(self, *words, **options):
        super().__init__(*words, **options)
        ended.append(self)
spawn.subprocess.Popen = Popen

def follow(phase, share):
    if phase == "warming up":
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

signal.signal(signal.SIGINT, signal.default_int_handler)
job = Job("edgedeploy.testing:load_fake", "some/net.edge", "fake", {"behaviour": "hang"}, duration=0.02)
try:
    spawn.run_worker(job, 60, follow)
except KeyboardInterrupt:
    print("interrupted", ended[0].poll() is not None)
"""


def test_an_interrupt_ends_the_worker() -> None:
    """Control-C arrives while the parent waits for a worker that hangs; in a process of its own, which gets it."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120)
    assert done.stdout == "interrupted True\n", done.stderr


def test_files_of_the_working_directory_are_no_modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise ImportError('shadowed')")
    monkeypatch.chdir(tmp_path)
    assert run_worker(job(), 60).conditions.name == "fake"


def test_noise_before_the_first_event_is_taken_as_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A start-up file of the interpreter prints, without a line end: the protocol begins on a line of its own."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.stdout.write('{} [1] hello from start-up')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert len(run_worker(job(), 60).process.samples) >= 7
    with pytest.raises(RunFailed, match=r"hello from start-up"):
        run_worker(job("kill"), 60)
