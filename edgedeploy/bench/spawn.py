"""Start a worker process, hand it a job, follow its events; whatever becomes of it ends as an answer or an error."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from edgedeploy.bench.remote.transport import Broken, Local, Transport, end, kind_of
from edgedeploy.bench.target import Job
from edgedeploy.bench.worker import Answer
from edgedeploy.errors import EdgeDeployError, RunFailed, UsageError
from edgedeploy.fate import last_words, out_of_memory_kills, signal_name
from edgedeploy.records import canonical, from_json, to_json

#: Bytes of a worker's standard error that are kept.
TAIL = 16384

#: Told the phase that the worker is in and, while it samples, the share that is done.
Follow = Callable[[str, float | None], None]

T = TypeVar("T")


@dataclass
class _Child:
    """A worker and what was heard from it so far.

    Over there, somebody else sees it begin and end: ``start`` is the seconds that it took until it was ready, and
    ``end`` the event that tells how it ended.
    """

    process: subprocess.Popen[bytes]
    began: float
    start: float | None = None
    end: dict[str, Any] | None = None
    ready: float | None = None
    phase: str = "starting"
    events: bytearray = field(default_factory=bytearray)
    words: bytearray = field(default_factory=bytearray)

    def say(self, words: bytes) -> None:
        """Keep the end of what it wrote for people."""
        self.words += words
        del self.words[:-TAIL]


@dataclass(frozen=True)
class Call(Generic[T]):
    """A job for a worker of some kind: the module that is run as ``python -m``, and the type of its answer."""

    job: Job
    module: str
    answer: type[T]


def run_worker(
    job: Job, silence: float, follow: Follow = lambda phase, share: None, way: Transport | None = None
) -> Answer:
    """What one measuring worker answers to ``job``: see `converse`. ``start`` of its process is filled in.

    Where the way to the device breaks, the worker is run again, as often as `Transport.restore` makes it possible.
    """
    call = Call(job, "edgedeploy.bench.worker", Answer)
    while True:
        try:
            answer, start = converse(call, silence, follow, way)
        except Broken as reason:
            if way is None:
                raise
            follow("connecting again", None)
            way.restore(reason)
        else:
            return replace(answer, process=replace(answer.process, start=start))


def converse(
    call: Call[T], silence: float, follow: Follow = lambda phase, share: None, way: Transport | None = None
) -> tuple[T, float]:
    """What one worker process answers, and the seconds until it was ready; it is gone when this returns or raises.

    Args:
        call: the work; its paths are those over there.
        silence: seconds that the worker may be without an event before it is killed; it sends one per phase, and one
            per second of sampling.
        follow: told of each event.
        way: where the worker runs; this machine where ``None``.

    Raises:
        RunFailed: it crashed, was killed, or was silent for too long; with its last words.
        Broken: the way to it broke.
        EdgeDeployError: it refused the job, with the same class and message as over there.
    """
    way = way or Local()
    kills = out_of_memory_kills()
    process = way.start(call.module)
    child = _Child(process, time.perf_counter())
    try:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once: the listener will tell
            process.stdin.write(json.dumps(to_json(call.job)).encode() + b"\n")
            process.stdin.flush()
        try:
            answer = _listen(child, call, silence, follow)
        except EdgeDeployError as error:
            located = way.locate(str(error))
            if located == str(error):
                raise
            raise type(error)(located) from error
        if answer is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            return answer, child.start or (child.ready or child.began) - child.began
        words, status = child.words.decode("utf-8", "replace"), process.poll()
        broken = None if child.end is not None else way.explain(status, words)
        raise broken or RunFailed(_obituary(child, call.job, silence, kills, way.on))
    finally:
        end(process)


def _listen(child: _Child, call: Call[T], silence: float, follow: Follow) -> T | None:
    """Follow the events until the answer; ``None`` where the worker ended, or was silent, without one."""
    stdout, stderr = child.process.stdout, child.process.stderr
    assert stdout is not None
    assert stderr is not None
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        selector.register(stderr, selectors.EVENT_READ)
        deadline = time.monotonic() + silence
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready and time.monotonic() >= deadline:
                return None
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.fileobj is stderr:
                    child.say(chunk)
                else:
                    for event in _events(child, chunk):
                        deadline = time.monotonic() + silence
                        answer = _handle(child, event, call, follow)
                        if answer is not None:
                            return answer
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.process.wait(timeout=max(0.0, deadline - time.monotonic()))
    return None


def _events(child: _Child, chunk: bytes) -> list[dict[str, Any]]:
    """The events that ``chunk`` completes. A line that is none was printed by somebody else: it is among the words."""
    if b"\n" not in chunk:
        child.events += chunk
        return []
    *lines, rest = (bytes(child.events) + chunk).split(b"\n")
    child.events = bytearray(rest)
    found = []
    for line in lines:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None
        if isinstance(event, dict) and "event" in event:
            found.append(event)
        elif line.strip():
            child.say(line + b"\n")
    return found


def _handle(child: _Child, event: dict[str, Any], call: Call[T], follow: Follow) -> T | None:
    """Act on one event; the answer where it is that. What a device says may be of any type."""
    if event["event"] == "phase":
        child.phase = str(event.get("phase"))
        if child.ready is None:
            child.ready = time.perf_counter()
        follow(child.phase, None)
    elif event["event"] == "start":
        child.start = _between(event.get("seconds"), 1e6)
    elif event["event"] == "end" and isinstance(event.get("status"), int):
        child.end = event
    elif event["event"] == "progress":
        follow(child.phase, _between(event.get("share"), 1.0))
    elif event["event"] == "error":
        raise _error(event, call.job)
    elif event["event"] == "result":
        return _answer(event.get("answer"), call)
    return None


def _between(value: object, most: float) -> float | None:
    """``value``, where it is a number from 0 to ``most``."""
    return float(value) if isinstance(value, (int, float)) and 0 <= value <= most else None


def _answer(plain: object, call: Call[T]) -> T:
    """The answer, where it is one, and has nothing in it that no record can hold: infinities, half a character."""
    try:
        canonical(plain)
        return from_json(call.answer, plain, "its answer")
    except (ValueError, RecursionError, UsageError) as error:
        raise RunFailed(f"What the worker measuring {_subject(call.job)} said cannot be read: {error}") from error


def _error(event: dict[str, Any], job: Job) -> EdgeDeployError:
    kind, message = kind_of(event.get("kind")), str(event.get("message"))
    return kind(f"{_subject(job)}: {message}" if kind is RunFailed else message)


def _obituary(child: _Child, job: Job, silence: float, kills: int | None, on: str) -> str:
    where = f"while {child.phase}" if on == Local.on else f"on {on} while {child.phase}"
    status, memory = child.process.poll(), _more_kills(kills)
    if child.end is not None:
        status, memory = child.end.get("status"), bool(child.end.get("out_of_memory"))
    if status is None:
        what = f"The worker measuring {_subject(job)} said nothing for {silence:g} s {where} and was killed."
    elif status < 0:
        why = " (the kernel was out of memory)" if memory and -status == signal.SIGKILL else ""
        what = f"The worker measuring {_subject(job)} was killed by {signal_name(-status)} {where}{why}."
    else:
        what = f"The worker measuring {_subject(job)} ended with status {status} {where}."
    return f"{what} {last_words(child.words.decode('utf-8', 'replace'))}"


def _subject(job: Job) -> str:
    return f"{Path(job.path).name} on {job.backend or 'its runtime'}"


def _more_kills(before: int | None) -> bool:
    now = out_of_memory_kills()
    return before is not None and now is not None and now > before
