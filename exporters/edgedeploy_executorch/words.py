"""What ExecuTorch says when something goes wrong, caught and translated.

Its exceptions hold a number; the reason goes to the standard error stream: of C (file descriptor 2), or, as the binding
has it, of Python.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

#: Codes of executorch/runtime/core/error.h that a user can meet, and what they come down to.
CODES = {
    0x10: "a shape that the program was not lowered for",
    0x12: "a wrong number of inputs, dtype or memory layout",
    0x14: "an operator that this runtime has no kernel for",
    0x20: "a delegate that this build of ExecuTorch has not",
    0x21: "out of memory",
    0x22: "the file cannot be read",
    0x23: "the file is damaged, or of another schema",
    0x30: "it was lowered by another version of the delegate",
    0x31: "the delegate is out of memory",
}
_CODE = re.compile(r"error:? 0x:?([0-9a-fA-F]+)")
_LINE = re.compile(r"^\[\w+\.\w+:\d+\] (.*)$")


class Refused(Exception):
    """ExecuTorch's runtime gave up: its code, and in words what that was about."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Words:
    """What was written to the standard error stream inside a `caught` block."""

    def __init__(self) -> None:
        self.text = ""

    def explain(self, error: BaseException) -> Refused:
        """What the code in the exception means and the last line that ExecuTorch logged, as far as there are any."""
        lines = [m[1].strip() for m in map(_LINE.match, self.text.splitlines()) if m and "cpuinfo" not in m[0]]
        found = _CODE.search(str(error))
        code = int(found[1], 16) if found else None
        meaning, reason = CODES.get(code or 0, ""), lines[-1] if lines else ""
        own = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        return Refused(code, f"{meaning} ({reason})" if meaning and reason else reason or meaning or own)


def attempt(action: Callable[[], T]) -> T:
    """What ``action`` gives.

    Raises:
        Refused: it raised a RuntimeError, as ExecuTorch's binding does.
    """
    failure: RuntimeError
    with caught() as words:
        try:
            return action()
        except RuntimeError as error:
            failure = error
    raise words.explain(failure) from failure


@contextmanager
def caught() -> Iterator[Words]:
    """Keep what is written to file descriptor 2, and to ``sys.stderr`` where that is another; process-global."""
    words, python = Words(), io.StringIO()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as sink, contextlib.redirect_stderr(python):
        before = os.dup(2)
        os.dup2(sink.fileno(), 2)
        try:
            yield words
        finally:
            os.dup2(before, 2)
            os.close(before)
            sink.seek(0)
            words.text = python.getvalue() + sink.read().decode("utf-8", "replace")
