"""Earlier measurements of a bundle: ``NAME.bench.jsonl`` beside it, one measurement per line, only ever appended to."""

from __future__ import annotations

import contextlib
import json
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from edgedeploy.bench.measurement import Measurement
from edgedeploy.errors import EdgeDeployError, UsageError
from edgedeploy.records import canonical


@dataclass(frozen=True)
class Earlier:
    """What a log holds: the measurements in the order they were taken, and how many lines could not be used."""

    measurements: tuple[Measurement, ...]
    skipped: int


def log_path(bundle: Path) -> Path:
    """``DIR/NAME.bench.jsonl`` for ``DIR/NAME.edge`` and for its archive."""
    bundle = Path(bundle)
    return bundle.with_name(f"{bundle.name.removesuffix('.zip').removesuffix('.edge')}.bench.jsonl")


def append(path: Path, measurement: Measurement) -> None:
    """Add one line to the log at ``path`` in one write, so that runs side by side do not mix.

    After a torn last line (a crash, a full disk) a new line is begun.

    Raises:
        UsageError: the file cannot be written.
    """
    line = canonical(measurement.to_json()) + b"\n"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            with contextlib.suppress(ImportError, OSError):  # no locks on this system or file system: one write it is
                import fcntl

                fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            if size and _byte_at(descriptor, size - 1) != b"\n":
                line = b"\n" + line
            written = os.write(descriptor, line)
            while written < len(line):
                written += os.write(descriptor, line[written:])
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error


def read(path: Path, last: int = 20) -> Earlier:
    """The ``last`` newest measurements of the log; an absent log is empty.

    A torn line, or one of another schema, is skipped and counted: a log is history, and must not stop a new run.

    Raises:
        UsageError: the file is there and cannot be read.
    """
    try:
        with Path(path).open("rb") as stream:
            lines = deque((line for line in stream if line.strip()), maxlen=last)
    except FileNotFoundError:
        return Earlier((), 0)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    found = [_measurement(line, str(path)) for line in lines]
    known = tuple(measurement for measurement in found if measurement is not None)
    return Earlier(known, len(found) - len(known))


def _measurement(line: bytes, where: str) -> Measurement | None:
    try:
        return Measurement.from_json(json.loads(line), where)
    except (ValueError, RecursionError, EdgeDeployError):
        return None


def _byte_at(descriptor: int, offset: int) -> bytes:
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, 1)
