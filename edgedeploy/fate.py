"""How a process ended, in words that a user can act on."""

from __future__ import annotations

import signal
from pathlib import Path

#: Lines of what a process wrote that are told.
LAST_LINES = 8
#: What the signals that end a vendor's library mean.
_MEANINGS = {
    "SIGSEGV": "it used memory that is not its own",
    "SIGABRT": "it gave up by itself",
    "SIGBUS": "it used memory that is not there",
    "SIGFPE": "it divided by zero",
    "SIGILL": "it used an instruction that this processor does not have",
    "SIGKILL": "somebody killed it",
}


def signal_name(number: int) -> str:
    """``SIGSEGV`` for 11; a number that is no signal is said as one."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def last_words(text: str) -> str:
    """The last lines of what a process wrote for people, below a line that says so."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n  ".join(["Its last words:", *lines[-LAST_LINES:]]) if lines else "It left no word."


def out_of_memory_kills() -> int | None:
    """Processes that the kernel has killed for want of memory since it started; ``None`` where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text("utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def cause(status: int, kills: int | None = None) -> str:
    """Why a process with this (subprocess) status is gone: ``was ended by SIGSEGV (it used memory ...)``.

    Args:
        status: negative for a signal, as `subprocess.Popen.returncode`.
        kills: `out_of_memory_kills` from before it was started.
    """
    if status >= 0:
        return f"ended with status {status}"
    name = signal_name(-status)
    now = out_of_memory_kills()
    starved = name == "SIGKILL" and kills is not None and now is not None and now > kills
    meaning = "the kernel was out of memory" if starved else _MEANINGS.get(name)
    return f"was ended by {name}" + (f" ({meaning})" if meaning else "")
