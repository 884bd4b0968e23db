"""What a plan has done already: ``plan-state.jsonl``, one result per line, only ever appended to."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgedeploy.errors import UsageError
from edgedeploy.records import canonical


class Journal:
    """Results by key, those of earlier runs too; a line that a kill has torn is passed over.

    Raises:
        UsageError: ``path`` cannot be read, or, later, not be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, dict[str, Any]] = {}
        try:
            text = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
        for line in text.splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                entry = json.loads(line)
                if isinstance(entry, dict) and isinstance(entry.get("result"), dict):
                    self._known[str(entry.get("key"))] = entry["result"]

    def get(self, key: str | None) -> Mapping[str, Any] | None:
        """The last result under this key."""
        return None if key is None else self._known.get(key)

    def add(self, key: str, step: str, row: str, result: Mapping[str, Any]) -> None:
        """Keep a result."""
        append(self.path, {"key": key, "step": step, "row": row, "result": dict(result)})
        self._known[key] = dict(result)


def append(path: Path, value: object) -> None:
    """Add a line of JSON to a file, in one write; after a torn last line a new one is begun.

    Raises:
        UsageError: it cannot be written.
    """
    line = canonical(value) + b"\n"
    try:
        with path.open("a+b", buffering=0) as stream:
            if stream.tell() and os.pread(stream.fileno(), 1, stream.tell() - 1) != b"\n":
                line = b"\n" + line
            while line:
                line = line[stream.write(line) :]
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error


@contextlib.contextmanager
def alone(folder: Path, command: str = "run") -> Iterator[None]:
    """Be the only one that works in ``folder``, which is made where it is not there; ``command`` is named in messages.

    Raises:
        UsageError: it cannot be written, or another process is at work in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / ".lock").open("ab")
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}.") from error
    with stream:
        try:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = f"Another 'edgedeploy {command}'"
            raise UsageError(f"{other} is at work in {folder}: let it end, or take -o.") from None
        except (ImportError, OSError):  # no locks on this system or file system
            pass
        yield
