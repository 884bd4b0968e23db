"""The public commands as child processes: what one of them breaks, it breaks for itself."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgedeploy import fate, inherit

#: Seconds that a child has to end in an orderly way.
GRACE = 10.0
#: Characters of standard error that are kept.
KEPT = 20000
#: Be told when the parent is gone (Linux, prctl(2)), then do what ``edgedeploy`` does.
_LAUNCH = """
import ctypes, os, signal, sys
parent = int(sys.argv.pop(1))
signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGINT)
    if os.getppid() != parent:
        sys.exit(130)
from edgedeploy.cli.app import main
main()
"""

Say = Callable[[str], None]


class Stopped(Exception):
    """The plan is being stopped; the command did not run, or not to its end."""


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit status, negative for a signal; what it wrote."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any] | None:
        """The JSON document on its standard output, if there is one."""
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(self.out)
            return found if isinstance(found, dict) else None
        return None

    @property
    def sentence(self) -> str:
        """Why it ended so: its own error, else its last line, else how the process ended."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        if errors:
            return errors[-1]
        how = f"the command {fate.cause(self.status)}"
        return f"{how}: {lines[-1]}" if lines else f"{how}."


class Children:
    """Runs ``edgedeploy ARGV`` in children, from any number of threads, until it is told to stop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def __call__(self, argv: Sequence[str], say: Say) -> Done:
        """Run one command to its end; ``say`` is told its progress.

        Raises:
            Stopped: `stop` was called.
        """
        with self._lock:
            if self._stopped:
                raise Stopped
            process = self._start(argv)
            self._live.add(process)
        try:
            done = self._follow(process, say)
        finally:
            with self._lock:
                self._live.discard(process)
        if self._stopped:
            raise Stopped
        return done

    def stop(self) -> None:
        """End every child: asked first, then killed with all it has started; start no other one."""
        with self._lock:
            self._stopped = True
            live = list(self._live)
        for process in live:
            process.send_signal(signal.SIGINT)
        for process in live:
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    @staticmethod
    def _start(argv: Sequence[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", _LAUNCH, str(os.getpid()), *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=inherit.environment(NO_COLOR="1"),
            process_group=0,  # Ctrl-C reaches it once, from here
        )

    @staticmethod
    def _follow(process: subprocess.Popen[str], say: Say) -> Done:
        out: list[str] = []
        assert process.stdout is not None
        assert process.stderr is not None
        with process:
            reader = threading.Thread(target=lambda stream: out.append(stream.read()), args=(process.stdout,))
            reader.start()
            words = ""
            for line in process.stderr:
                words = (words + line)[-KEPT:]
                if line.startswith("  ") and line.strip():
                    say(line.strip())
            reader.join()
            status = process.wait()
        return Done(status, "".join(out), words)
