"""The files of a compression's report: the record, and what is made of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.records import read_json
from edgedeploy.report.compression.chart import picture
from edgedeploy.report.compression.page import page
from edgedeploy.report.compression.records import CompressionTable
from edgedeploy.report.compression.text import comma_separated, markdown

TABLE, MARKDOWN, COMMAS, PICTURE, PAGE = "table.json", "table.md", "table.csv", "pareto.png", "report.html"


@dataclass(frozen=True)
class Published:
    """Files that were written; of those that were not, the reason."""

    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def keep(table: CompressionTable, folder: Path) -> Path:
    """Write ``table.json``, never half of it."""
    path = folder / TABLE
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(table.to_json(), allow_nan=False, indent=1) + "\n", "utf-8")
    temporary.replace(path)
    return path


def kept(folder: Path) -> CompressionTable:
    """The table in ``folder``.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    path = folder / TABLE
    return CompressionTable.from_json(read_json(path), str(path))


def publish(table: CompressionTable, folder: Path, pictures: Path | None = None) -> Published:
    """Write every form of the report to ``folder``: JSON, Markdown, CSV, the plot, and one page that has all.

    Args:
        table: the record.
        folder: where to; it is there.
        pictures: where the pictures are that the table names; ``folder`` where ``None``.

    Where matplotlib or Jinja is not here, plot and page are left out, and a note says so.
    """
    files, notes = [keep(table, folder)], []
    drawn = ""
    try:
        files.append(picture(table, folder / PICTURE))
        drawn = PICTURE
    except (Unavailable, UsageError) as error:
        notes.append(f"no {PICTURE}: {error}")
    for name, text in ((MARKDOWN, markdown(table, drawn)), (COMMAS, comma_separated(table))):
        (folder / name).write_text(text, "utf-8", newline="")
        files.append(folder / name)
    try:
        (folder / PAGE).write_text(page(table, pictures or folder), "utf-8")
        files.append(folder / PAGE)
    except Unavailable as error:
        notes.append(f"no {PAGE}: {error}")
    return Published(tuple(files), tuple(notes))
