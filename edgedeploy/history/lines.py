"""Measurements as JSON lines, one whole measurement each: what a baseline in a repository is made of."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from edgedeploy.bench.measurement import Measurement
from edgedeploy.errors import UsageError
from edgedeploy.records import canonical


def write_lines(measurements: Sequence[Measurement], path: Path) -> None:
    """Write a file of JSON lines in one step: whoever reads sees the old file or the whole new one.

    Raises:
        UsageError: ``path`` cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as stream:  # where others may write, no link of theirs is followed
            stream.writelines(canonical(measurement.to_json()) + b"\n" for measurement in measurements)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_lines(path: Path) -> tuple[Measurement, ...]:
    """The measurements in a file of JSON lines, in its order; empty lines do not count.

    Raises:
        UsageError: it cannot be read, holds none, or has a line that is none (which one).
        Incompatible: a line was written in another version of the schema.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text: no file of measurements.") from None
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                plain = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UsageError(f"{path}, line {number} is not JSON ({error}).") from error
            found.append(Measurement.from_json(plain, f"{path}, line {number}"))
    if not found:
        raise UsageError(f"{path} holds no measurement. 'edgedeploy history export ID -o {path.name}' writes some.")
    return tuple(found)
