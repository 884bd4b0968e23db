"""The folder of a compression: what lies where in it.

::

    recipe.json                 what was really used (`edgedeploy.compress.result.Used`)
    run.json                    what came out so far (`edgedeploy.compress.result.CompressionRun`), after every stage
    journal.jsonl               what is done, by all that it depends on
    data/                       the data as the trainer is shown them
    1-baseline/ 2-sparse/ ...   what the trainer left of a stage: its state after the last epoch, a line per epoch
    STAGE.safetensors           the network after a stage; baseline is there even where it is the given checkpoint
    STAGE.assessment.json       its row of the table (`edgedeploy.report.compression.records.Rung`)
    judged/                     `edgedeploy.compress.judgements`, by `edgedeploy.compress.result.judge_key`
    best.safetensors best.pt    the network after the last stage
    search/                     trials of a search for the shares of channels
    table.json report.html ...  the report (`edgedeploy.report.compression.files`), bundles/ and what it is made of
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from edgedeploy.compress.recipe import STAGES
from edgedeploy.errors import UsageError
from edgedeploy.records import canonical, to_json

USED, RUN, JOURNAL, DATA, JUDGED = "recipe.json", "run.json", "journal.jsonl", "data", "judged"
SEARCH, BUNDLES = "search", "bundles"
BEST, BEST_ULTRALYTICS = "best.safetensors", "best.pt"
REPORT = ("table.json", "table.md", "table.csv", "pareto.png", "report.html")


def network_file(stage: str) -> str:
    """Name of the file with the network after a stage."""
    return f"{stage}.safetensors"


def training_folder(stage: str) -> str:
    """Name of the trainer's folder of a stage, counted in the order of all stages that there are."""
    return f"{1 + [str(name) for name in STAGES].index(stage)}-{stage}"


def check_free(folder: Path) -> None:
    """Refuse a folder with something else in it.

    Raises:
        UsageError: it is a file, or holds what no compression has put there.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: give a folder with -o.")
    inside = {path.name for path in folder.iterdir()} - {".lock", JOURNAL} if folder.is_dir() else set()
    if inside and USED not in inside:
        raise UsageError(f"{folder} holds something else ({min(inside)}): give an empty folder, or a new one, with -o.")


def clear(folder: Path) -> None:
    """Remove what a compression leaves, and nothing else."""
    for name in (DATA, JUDGED, SEARCH, BUNDLES, *map(training_folder, STAGES)):
        shutil.rmtree(folder / name, ignore_errors=True)
    files = [RUN, JOURNAL, BEST, BEST_ULTRALYTICS, *map(network_file, STAGES)]
    files += [f"{stage}.{ending}" for stage in STAGES for ending in ("assessment.json", "png")]
    for name in (*files, *REPORT, USED):  # the mark that it is ours goes last
        (folder / name).unlink(missing_ok=True)


def prepare(folder: Path, key: str) -> None:
    """A trainer's folder: what other settings left in it goes, what these have left stays to be gone on with."""
    mark = folder / "key"
    if not mark.is_file() or mark.read_text("ascii", errors="replace") != key:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        mark.write_text(key, "ascii")


def copy(source: Path, target: Path) -> None:
    """Copy a file, never half."""
    partial = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    shutil.copyfile(source, partial)
    partial.replace(target)


def write_record(path: Path, record: Any) -> None:
    """``record`` as JSON, under a temporary name first, so that there is never half of it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial.write_bytes(canonical(to_json(record)) + b"\n")
    partial.replace(path)


def digest(parts: Any) -> str:
    """sha256 of plain values and records."""
    return hashlib.sha256(canonical(to_json(parts))).hexdigest()
