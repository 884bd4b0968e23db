"""``edgedeploy bench A --against B``: their passes taken in turn; the ratio, its interval, and whether it decides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgedeploy.cli.place import Found
from edgedeploy.cli.terminal import print_json, print_notes, print_table, progress

if TYPE_CHECKING:
    from edgedeploy.bench.run import BenchOptions, Progress
    from edgedeploy.bench.versus import Versus


def run_versus(first: Path, second: Path, options: BenchOptions, place: Found, as_json: bool) -> None:
    """Measure both in turn and print how they compare."""
    from edgedeploy.bench.versus import versus

    with progress() as say, place.where() as where:

        def follow(step: Progress) -> None:
            say(f"pair {step.process} of {step.processes}: {step.phase.partition(':')[0]}")

        found = versus(first, second, options, follow, where)
    if as_json:
        from edgedeploy.report.versus import summary

        print_json({"summary": summary(found), "doubts": found.doubts(), "versus": found})
    else:
        _print(found)


def _print(found: Versus) -> None:
    from edgedeploy.report.versus import HEADER, headline, rows

    typer.echo(headline(found))
    print_table("in turn", HEADER, rows(found))
    print_notes(found.doubts())
