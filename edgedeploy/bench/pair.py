"""The worker that compares: it starts two others side by side and lets them take turns, so that one runs at a time.

Started as ``python -m edgedeploy.bench.pair`` on the device, with the protocol of `edgedeploy.bench.worker`: a job in,
events out. The two jobs travel as options of the one. Which of the two begins changes from round to round; the first
pass of a turn pays for what the other one left in the caches, and is kept among the warm-up passes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

from edgedeploy.bench.interleave import BLOCK
from edgedeploy.bench.remote.transport import kind_of
from edgedeploy.bench.target import Job
from edgedeploy.bench.worker import Answer, Tell, serve
from edgedeploy.errors import EdgeDeployError, RunFailed
from edgedeploy.fate import last_words, signal_name
from edgedeploy.records import from_json, to_json

MODULE = "edgedeploy.bench.pair"
#: Seconds that a turn lasts at least: for short passes, waking up the other process would else be most of it.
TURN = 0.005
#: Rounds that are made however long they take, and at most.
ROUNDS, MOST = 8, 20_000


@dataclass(frozen=True)
class Pair:
    """What both sides measured. Round after round, each made a block of so many counted passes (``blocks``).

    In even rounds the first side began, in odd ones the second. ``began`` of both is counted from one moment.
    """

    first: Answer
    second: Answer
    blocks: tuple[int, int]
    rounds: int


def joined(first: Job, second: Job, duration: float) -> Job:
    """The job of the pair: both take turns for ``duration`` seconds in all."""
    names = " and ".join(job.path.rstrip("/").rpartition("/")[2] for job in (first, second))
    backends = " and ".join(dict.fromkeys(job.backend or "its runtime" for job in (first, second)))
    options = {"first": json.dumps(to_json(first)), "second": json.dumps(to_json(second))}
    return Job(MODULE, names, backend=backends, options=options, duration=duration)


def measure(job: Job, tell: Tell) -> Pair:
    """Start both sides, give them turns until the time is over, and collect their answers.

    Raises:
        RunFailed: a side died; the other one is ended.
        EdgeDeployError: a side refused its job.
    """
    jobs = [from_json(Job, json.loads(str(job.options[name])), name) for name in ("first", "second")]
    sides: list[Side] = []
    try:
        for one, place in zip(jobs, ("first", "second"), strict=True):
            sides.append(Side(one, place, tell))
            sides[-1].open()  # one after the other: a side that loads would disturb the other's warm-up
        tell("phase", {"phase": "sampling"})
        blocks = tuple(max(BLOCK, math.ceil(TURN / side.typical)) for side in sides)
        rounds = _turns(sides, blocks, job.duration, tell)
        first, second = (side.answer() for side in sides)
    finally:
        for side in sides:
            side.end()
    first, second = _without(first, second), _without(second, first)
    return Pair(first, second, (blocks[0], blocks[1]), rounds)


def _turns(sides: Sequence[Side], blocks: Sequence[int], duration: float, tell: Tell) -> int:
    """Rounds of turns for ``duration`` seconds; how many there were."""
    origin = time.perf_counter_ns()
    rounds, told = 0, origin
    while rounds < MOST:
        for place in (0, 1) if rounds % 2 == 0 else (1, 0):
            sides[place].turn(blocks[place] + 1, blocks[place], origin)
        rounds += 1
        now = time.perf_counter_ns()
        share = (now - origin) / (duration * 1e9)
        if share >= 1 and rounds >= ROUNDS:
            break
        if now - told >= 1_000_000_000:
            told = now
            tell("progress", {"share": min(1.0, share)})
    return rounds


class Side:
    """One of the two processes."""

    def __init__(self, job: Job, place: str, tell: Tell) -> None:
        self._tell, self._name = tell, f"{job.path.rstrip('/').rpartition('/')[2]} (the {place} of the two)"
        self._words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed in `end`
        self._phase, self.typical = "starting", 0.0
        self._began = time.perf_counter()
        self._start = 0.0
        self._process = subprocess.Popen(  # in our group: whoever ends us ends it
            [sys.executable, "-P", "-m", "edgedeploy.bench.side"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
        )
        self._say(to_json(job))

    def open(self) -> None:
        """Wait until its session is open and warm."""
        self.typical = max(1e-9, float(self._until("open")["typical"]))

    def turn(self, passes: int, kept: int, origin: int) -> None:
        """Let it make its passes, and wait until they are made."""
        self._phase = "taking turns"
        self._say({"passes": passes, "kept": kept, "origin": origin})
        self._until("turn")

    def answer(self) -> Answer:
        """What it measured; it ends with that."""
        self._say({"passes": 0, "kept": 0, "origin": 0})
        found = from_json(Answer, self._until("result").get("answer"), f"the answer of {self._name}")
        return replace(found, process=replace(found.process, start=self._start))

    def end(self) -> None:
        """Make sure that it is gone."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._words):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _say(self, record: Any) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: whoever listens will tell
            self._process.stdin.write(json.dumps(record).encode() + b"\n")
            self._process.stdin.flush()

    def _until(self, wanted: str) -> dict[str, Any]:
        """The next event of that name; phases on the way are passed on."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if not isinstance(event, dict):
                continue
            match event.get("event"):
                case "phase":
                    self._phase = str(event.get("phase"))
                    self._start = self._start or time.perf_counter() - self._began
                    self._tell("phase", {"phase": f"{self._phase}: {self._name}"})
                case "progress":
                    self._tell("progress", {"share": None})
                case "error":
                    raise self._refusal(event)
            if event.get("event") == wanted:
                return event
        raise RunFailed(self._obituary())

    def _refusal(self, event: dict[str, Any]) -> EdgeDeployError:
        kind = kind_of(event.get("kind"))
        return kind(f"{self._name}: {event.get('message')}")

    def _obituary(self) -> str:
        status = self._process.wait()
        end = f"ended with status {status}" if status >= 0 else f"was killed by {signal_name(-status)}"
        self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, self._words.tell() - 16384))
        last = last_words(self._words.read().decode("utf-8", "replace"))
        return f"The worker measuring {self._name} {end} while {self._phase}, and the other one was ended. {last}"


def _without(answer: Answer, other: Answer) -> Answer:
    """The same, with the processor time of the other side not counted as somebody else's."""
    telemetry, beside = answer.process.telemetry, other.process.telemetry
    if telemetry.foreign is None or beside.processor is None:
        return answer
    share = beside.processor / (telemetry.wall * (os.cpu_count() or 1))
    corrected = replace(telemetry, foreign=max(0.0, telemetry.foreign - share))
    return replace(answer, process=replace(answer.process, telemetry=corrected))


if __name__ == "__main__":
    sys.exit(serve(measure))
