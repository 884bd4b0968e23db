"""A command in a process of its own, so that a vendor's crash, endless loop or hunger for memory is one sentence.

`protected` at the beginning of a command starts the same command once more, marked as the child, and ends this process
with its status. Standard streams are the child's as they are. It has a process group of its own, so that a signal
reaches it once, from here; the second one is not asked but kills.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from edgedeploy import fate, inherit
from edgedeploy.errors import ExportFailed

#: Set in the child; where it is set nobody starts one. The other one names the file for the stack of a crash.
CHILD, FAULTS = "EDGEDEPLOY_CHILD", "EDGEDEPLOY_FAULTS"
#: Handed on to the child.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Linux: be told when the parent is gone, see prctl(2).
_PR_SET_PDEATHSIG = 1


def in_child() -> bool:
    """Whether this process is one that `protected` has started."""
    return bool(os.environ.get(CHILD))


def protected(output: Path | None = None, python: Path | None = None) -> None:
    """Do the rest of the command in a child: returns there, and ends the process here.

    Args:
        output: folder that the command writes bundles to; what a crash leaves there is removed.
        python: interpreter of the child, such as that of `edgedeploy.isolate.prepare`; this one where ``None``.

    Raises:
        ExportFailed: the child was ended by a signal.
    """
    if in_child():
        _prepare_child()
        return
    status = run_in_child(sys.argv[1:], output, python)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the child has said all there is to say, and `main` would say some of it again


def run_in_child(
    argv: Sequence[str], output: Path | None = None, python: Path | None = None, limit: float | None = None
) -> int:
    """Run ``edgedeploy ARGV`` as a child and return its exit status; 128 + N where signal N was handed on to it.

    Args:
        argv: without the name of the program.
        output: see `protected`.
        python: see `protected`.
        limit: seconds after which it is ended, with the place where it hangs; endless where ``None``.

    Raises:
        ExportFailed: it was ended by a signal that did not come from here, or took too long.
    """
    kills = fate.out_of_memory_kills()
    with tempfile.TemporaryDirectory(prefix="edgedeploy-child-") as folder:  # also for what it leaves in its own
        faults = Path(folder) / "faults"
        environment = {**_environment(python), CHILD: "1", FAULTS: str(faults), "TMPDIR": folder}
        command = [str(python or sys.executable), *_path_options(), "-m", "edgedeploy", *argv]
        process = subprocess.Popen(command, env=environment, process_group=0)
        late = False
        with _handing_on(process) as sent:
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                late = True
                process.send_signal(signal.SIGABRT)  # it writes down where it is
                status = _wait_or_kill(process)
            except BaseException:
                _kill(process)
                raise
        where = _place(faults)
    if status >= 0 and not late and not sent:
        return status
    _clean(output, process.pid)
    if sent and status in (-sent[0], 128 + sent[0]):
        return 128 + sent[0]
    if status >= 0 and not late:
        return status
    what = f"was ended after {limit:g} s, because it was not done" if late else fate.cause(status, kills)
    raise ExportFailed(f"The export {what}{where}. No half-written bundle is left. {_advice(status, late)}")


def _advice(status: int, late: bool) -> str:
    if status == -signal.SIGKILL and not late:
        return "If it needs more memory than there is, a smaller --imgsz, --batch or calibration set needs less."
    return "That is a fault of the library in which it happened: try another version of it, or another --backend."


def _environment(python: Path | None) -> dict[str, str]:
    """Ours; the same interpreter also runs the same edgedeploy, wherever it was imported from."""
    return inherit.environment() if python is None else dict(os.environ)


def _path_options() -> list[str]:
    """``-P`` where this process does not import from its working directory either; ``-m`` alone would."""
    here = sys.path[:1] in ([""], [os.getcwd()])  # noqa: PTH109 - compared as text
    return [] if here and not sys.flags.safe_path else ["-P"]


@contextlib.contextmanager
def _handing_on(process: subprocess.Popen[Any]) -> Iterator[list[int]]:
    """Signals to this process go to the child; which ones did. The second one kills it; Ctrl-Z stops both."""
    sent: list[int] = []

    def hand_on(number: int, _: FrameType | None) -> None:
        if sent:
            _kill(process)
        sent.append(number)
        process.send_signal(number)

    def stop(_: int, __: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        with contextlib.suppress(ProcessLookupError):  # here we go on
            os.killpg(process.pid, signal.SIGCONT)

    heeded = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup, and jobs behind &
    before = {number: signal.signal(number, hand_on) for number in heeded}
    before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, stop)
    try:
        yield sent
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_or_kill(process: subprocess.Popen[Any]) -> int:
    try:
        return process.wait(5)
    except subprocess.TimeoutExpired:
        _kill(process)
        return process.wait()


def _kill(process: subprocess.Popen[Any]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _place(faults: Path) -> str:
    """`` in FILE:LINE (FUNCTION)``: the innermost Python frame of the thread that a signal met, if it was in one."""
    try:
        found = re.search(r'File "([^"]+)", line (\d+) in (\S+)', faults.read_text("utf-8", "replace"))
    except OSError:
        return ""
    if found is None:
        return ""
    return f" in {'/'.join(Path(found[1]).parts[-2:])}:{found[2]} ({found[3]})"


def _clean(output: Path | None, pid: int) -> None:
    """Remove the temporary bundles of the process ``pid``, but for one that was there before it and stepped aside."""
    from edgedeploy.artifact import SUFFIX

    for path in output.glob(f".*{SUFFIX}.{pid}.*.tmp") if output is not None and output.is_dir() else ():
        if not path.name.endswith(".old.tmp"):
            shutil.rmtree(path, ignore_errors=True)


# In the child


def _prepare_child() -> None:
    """Write down where a fatal signal met this process; end in an orderly way when asked to, or when left alone."""
    faults = os.environ.pop(FAULTS, None)
    if faults is None:
        return  # this is a child of the child, whose crash its own parent tells
    faulthandler.enable(Path(faults).open("w", encoding="utf-8"), all_threads=False)  # noqa: SIM115 - to the end
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
