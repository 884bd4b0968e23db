"""``edgedeploy run``: a plan file is worked off, and goes on where it was stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from edgedeploy.cli.terminal import Json, print_json, print_table, progress, writable

if TYPE_CHECKING:
    from edgedeploy.plan import Plan, RowResult, Settings


def run(
    plan: Annotated[Path, typer.Argument(help="A plan file, NAME.toml.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for bundles and results; else out/NAME.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the rows, and what would be done.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what was measured before.")] = False,
    no_history: Annotated[bool, typer.Option("--no-history", help="Keep measurements in the folder only.")] = False,
    markdown: Annotated[Path | None, typer.Option(help="Write the table to this file as Markdown, too.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the table to this file as CSV, too.")] = None,
    as_json: Json = False,
) -> None:
    """Export, measure and compare every row of a plan; 1 is the status where a row failed."""
    from edgedeploy.plan import Settings, read_plan

    read = read_plan(plan)
    settings = Settings(output or Path("out") / read.name, fresh, not no_history)
    if dry_run:
        _list(read, settings, as_json)
        return
    results = _work(read, settings)
    _write(results, markdown, csv)
    if as_json:
        print_json({"plan": plan, "output": settings.output, "rows": results})
    else:
        _print(results, settings.output)
    if any(result.state == "failed" for result in results):
        raise typer.Exit(1)


def _work(plan: Plan, settings: Settings) -> tuple[RowResult, ...]:
    from edgedeploy.plan import Children, alone, run_plan

    ended = 0
    with alone(settings.output), progress() as say, terminable():

        def follow(result: RowResult) -> None:
            nonlocal ended
            ended += 1
            say(f"{ended} of {len(plan.rows)}: {result.row}: {result.state}")

        return run_plan(plan, settings, Children(), say, follow)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP end the plan as Ctrl-C does: with its children."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    heeded = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _list(plan: Plan, settings: Settings, as_json: bool) -> None:
    from edgedeploy.plan import pending

    rows = pending(plan, settings)
    if as_json:
        print_json([{"row": row, "steps": steps} for row, steps in rows])
        return
    listed = [(str(row), ", ".join(steps) or "nothing: all is there") for row, steps in rows]
    print_table(f"{plan.name}: {len(rows)} rows", ("row", "to do"), listed)


def _write(results: tuple[RowResult, ...], markdown: Path | None, csv: Path | None) -> None:
    from edgedeploy.report import plan as report

    for path, text in ((markdown, report.markdown), (csv, report.table)):
        if path is not None:
            with writable(path):
                path.write_text(text(results), "utf-8", newline="")


def _print(results: tuple[RowResult, ...], output: Path) -> None:
    from edgedeploy.plan import MEASUREMENTS
    from edgedeploy.report.plan import HEADER, result_rows, summary

    rows = result_rows(results)
    print_table(summary(results), HEADER[:-1], [row[:-1] for row in rows])
    for row in rows:
        if row[-1]:
            typer.echo(f"{row[1]}: {row[0]}: {row[-1]}")
    if (output / MEASUREMENTS).exists():
        typer.echo(f"measurements: {output / MEASUREMENTS}")
