"""What a compression came to, as records without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgedeploy.compress.folder import RUN, USED
from edgedeploy.compress.recipe import Recipe
from edgedeploy.errors import UsageError
from edgedeploy.records import from_json, read_json
from edgedeploy.report.compression.records import Rung


@dataclass(frozen=True)
class Used:
    """What a folder was made from.

    ``parent``, ``train`` and ``val`` are sha256 of the checkpoint and of the data, ``protocol`` is its name, and
    ``size`` the (height, width) at which networks are counted and judged. ``data`` is the path of the data set, and
    ``val_data`` that of the one to validate on, where it is one of its own.
    """

    checkpoint: str
    parent: str
    data: str
    train: str
    val: str
    protocol: str
    size: tuple[int, int]
    recipe: Recipe
    val_data: str = ""
    schema: int = 1


@dataclass(frozen=True)
class CompressionRun:
    """A compression, as far as it has come.

    Args:
        used: what it was made from.
        rungs: the network before and after every stage that is done, each judged; files are names below the folder.
        states: of every stage whether it was *done* by this run, or *reused* from an earlier one.
        best: the file with the network after the last stage; empty before that is done.
        seconds: that a stage took when it was done.
        epochs: that a stage trained.
        doubts: what to know about the data.
    """

    used: Used
    rungs: tuple[Rung, ...]
    states: Mapping[str, Literal["done", "reused"]]
    best: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    epochs: Mapping[str, int] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    schema: int = 1


def judge_key(sha256: str, val: str, protocol: str, size: tuple[int, int]) -> tuple[object, ...]:
    """What a judgement depends on: file and data by sha256, the protocol by name, (height, width)."""
    return ("network", sha256, val, protocol, list(size))


def read_run(folder: Path) -> CompressionRun:
    """What came out in ``folder`` so far.

    Raises:
        UsageError: no stage has ended in it, or its record is damaged.
    """
    return from_json(CompressionRun, read_json(folder / RUN), str(folder / RUN))


def check_same(folder: Path, used: Used) -> None:
    """Refuse a folder that was made from something else.

    Raises:
        UsageError: another checkpoint, or other data.
    """
    path = folder / USED
    if not path.is_file():
        return
    before = from_json(Used, read_json(path), str(path))
    for what, new, old in (
        (f"another checkpoint, {before.checkpoint}", used.parent, before.parent),
        (f"other training data, {before.data}", used.train, before.train),
        (f"other validation data, {before.data}", used.val, before.val),
    ):
        if new != old:
            raise UsageError(
                f"{folder} was made from {what} (sha256 {old[:12]}, now {new[:12]}): give another folder with -o, or "
                "begin again with --fresh."
            )
