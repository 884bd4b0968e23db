"""What commands share in talking to a person or a machine: progress on standard error, results on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from edgedeploy.errors import UsageError
from edgedeploy.records import to_json

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]


def plain(text: str) -> str:
    """``text`` without what steers a terminal: records and devices may come from strangers."""
    return "".join(c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A function to report what is going on: a spinner on a terminal, plain lines elsewhere, on standard error."""
    if not sys.stderr.isatty():
        last = ""

        def say(text: str) -> None:
            nonlocal last
            if text != last:
                typer.echo(f"  {plain(text)}", err=True)
                last = text

        yield say
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status("starting") as status:
        yield lambda text: status.update(Text(plain(text)))  # a path may look like markup


@contextmanager
def writable(place: Path) -> Iterator[None]:
    """Say that ``place`` cannot be written, and why, where the system refuses it inside the block.

    Raises:
        UsageError: it does.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(f"{place} cannot be written: {error.strerror or error}.") from error


def print_json(record: object) -> None:
    """``record`` as indented JSON on standard output."""
    typer.echo(json.dumps(to_json(record), indent=2, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output; its first column is never cut."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold", pad_edge=False)
    table.show_header = any(columns)
    for i, column in enumerate(columns):
        table.add_column(column, no_wrap=i == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(plain, row))
    Console(width=None if sys.stdout.isatty() else 110, highlight=False, markup=False).print(table)


def print_notes(notes: Sequence[str]) -> None:
    """Sentences that qualify a result, each on a line of its own."""
    for note in notes:
        typer.echo(f"! {plain(note)}")


def options_from(pairs: Sequence[str]) -> dict[str, Any]:
    """``key=value`` options; values are read as JSON where they are JSON, else as text.

    Raises:
        UsageError: no ``=`` in one of them.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"'{pair}' is not an option: write key=value.")
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        options[key] = tuple(parsed) if isinstance(parsed, list) else parsed
    return options


def image_size(text: str | None) -> tuple[int, int] | None:
    """``640`` or ``480x640`` (height x width) as (height, width).

    Raises:
        UsageError: neither.
    """
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() and int(side) > 0 for side in sides):
        raise UsageError(f"'{text}' is no image size: write 640, or 480x640 for height x width.")
    return int(sides[0]), int(sides[-1])
