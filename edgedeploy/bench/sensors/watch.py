"""Sensors read again and again while samples are taken, by a process beside the one that is measured.

`Watch` starts this module as ``python -m ... PID INTERVAL``, and waits until that has found its sensors. It reads
them at half an interval, and then at each, and answers at the end. It runs at a lower priority, on the processors that
the measured process does not use where there are such, and it ends when its standard input does: with its parent. Where
reading takes long, it reads less often.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from edgedeploy import inherit
from edgedeploy.bench.telemetry import Reading, Series
from edgedeploy.records import from_json, to_json

if TYPE_CHECKING:
    from edgedeploy.bench.sensors.sensor import Found

#: Seconds that it may take to find the sensors, and to answer at the end.
PATIENCE = 10.0
#: The interval grows so far that reading takes no larger share of it.
SHARE = 0.05
#: How much politer than the measured process it is, in steps of nice.
NICE = 10


@dataclass(frozen=True)
class Watched:
    """What was read of one run."""

    readings: tuple[Reading, ...] = ()
    series: tuple[Series, ...] = ()


class Watch:
    """Reads every ``interval`` seconds inside its block; 0 reads nothing.

    Nothing of it runs in this process, and nothing that goes wrong with it stops the run: it is said in the readings.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._process: subprocess.Popen[bytes] | None = None
        self._watched = Watched()

    def __enter__(self) -> Watch:
        if self._interval <= 0:
            return self
        if sys.platform != "linux":
            self._watched = _nothing(f"they are read on Linux, and this is {sys.platform}")
            return self
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(os.getpid()), str(self._interval)],
                env=inherit.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
            )
        except OSError as error:
            self._watched = _nothing(f"their process cannot be started: {error}")
            return self
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            self._process.kill()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        if self._process is None:
            return
        with self._process as process:
            try:
                said, words = process.communicate(b"stop\n" if kind is None else None, PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                said, words = process.communicate()
        if kind is None:
            self._watched = _answer(said, words.decode("utf-8", "replace"), process.returncode)
        self._process = None

    def readings(self) -> tuple[Reading, ...]:
        """What was read, once the block has ended."""
        return self._watched.readings

    def series(self) -> tuple[Series, ...]:
        """What was read over time, once the block has ended."""
        return self._watched.series


def _answer(said: bytes, words: str, status: int) -> Watched:
    with contextlib.suppress(ValueError):
        for line in reversed(said.splitlines()):
            if line.startswith(b"{"):
                return from_json(Watched, json.loads(line), "the watching process's answer")
    last = next((line for line in reversed(words.splitlines()) if line.strip()), "without a word")
    if status < 0:
        last = f"it took longer than {PATIENCE:g} s to find its sensors, or to answer"
    return _nothing(f"their process ended with status {status}: {last}")


def _nothing(why: str) -> Watched:
    return Watched((Reading("sensors", None, "", "absent", why),))


def attend(
    pid: int, interval: float, stopped: Callable[[float], bool | None], root: Path = Path("/")
) -> Watched | None:
    """Watch process ``pid`` until told to stop.

    Args:
        pid: the process.
        interval: seconds between two readings.
        stopped: waits so many seconds; true where it was told to stop, false where not, ``None`` where nobody is left
            to answer to. Its first call, with 0, comes when all sensors are found.
        root: where ``proc`` and ``sys`` are (for tests).
    """
    from edgedeploy.bench.sensors.log import Log

    log = Log(_find(pid, interval, root))
    log.begin(time.monotonic())
    began, used = time.monotonic(), _own_time()
    first = interval / 2
    told, due = stopped(0.0), began + first
    while told is False:
        told = stopped(max(0.0, due - time.monotonic()))
        now = time.monotonic()
        if told is False:
            log.tick(now)
            interval = max(interval, (time.monotonic() - now) / SHARE)
            due = max(due + interval, now)
    ended = time.monotonic()
    log.end(ended)
    if told is None:
        return None
    cost = Reading("watch, processor time", _own_time() - used, "s", "exact", "getrusage of the watching process")
    readings = (*log.readings(first, began, ended), cost)
    return Watched(readings, log.series(began))


def _find(pid: int, interval: float, root: Path) -> Found:
    """All sensors, those first that say most about a latency: reports draw the first few."""
    from edgedeploy.bench.sensors import jetson, nvidia, power, raspberry
    from edgedeploy.bench.sensors import sensor as sensors

    return [
        *sensors.clocks(pid, root),
        *sensors.temperatures(root),
        *sensors.throttling(root),
        *sensors.accelerator_clocks(root),
        *power.rapl(root),
        *power.monitors(root),
        *power.battery(root),
        *raspberry.find(root),
        *jetson.find(pid, interval, root),
        *nvidia.find(pid, root),
        *sensors.memory(pid, root),
    ]


def _own_time() -> float:
    """Seconds of processor time of this process, and of those of its children that have ended."""
    import resource

    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def _step_aside(pid: int) -> None:
    """Be less important than ``pid``, and run where it does not, as far as that can be."""
    with contextlib.suppress(OSError):
        os.nice(NICE)
    with contextlib.suppress(OSError, AttributeError):
        others = set(range(os.cpu_count() or 1)) - os.sched_getaffinity(pid)
        if others:
            os.sched_setaffinity(0, others)


def main() -> int:
    """``PID INTERVAL``: say when ready, watch until a line comes, answer in JSON."""
    pid, interval = int(sys.argv[1]), float(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the measured process decides when it is over
    _step_aside(pid)
    ready = False

    def stopped(wait: float) -> bool | None:
        nonlocal ready
        if not ready:
            ready = True
            sys.stdout.write("ready\n")
            sys.stdout.flush()
        if not select.select([0], [], [], wait)[0]:
            return False
        return True if os.read(0, 64) else None

    watched = attend(pid, interval, stopped)
    if watched is not None:
        sys.stdout.write(json.dumps(to_json(watched), allow_nan=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
