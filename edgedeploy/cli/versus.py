"""``edgedeploy bench A --against B``: their passes taken in turn; the ratio, its interval, and whether it decides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgedeploy.cli.place import Found
from edgedeploy.cli.terminal import print_json, print_notes, print_table, progress

if TYPE_CHECKING:
    from edgedeploy.bench.run import BenchOptions, Progress
    from edgedeploy.bench.versus import Versus
    from edgedeploy.history import Remembered


@dataclass(frozen=True)
class Asked:
    """The two bundles, whether their measurements are kept, how the answer is printed, and the second one's graph."""

    first: Path
    second: Path
    history: bool
    as_json: bool
    second_graph: str | None = None


def run_versus(asked: Asked, options: BenchOptions, place: Found) -> None:
    """Measure both in turn and print how they compare."""
    from edgedeploy.bench.versus import Contestant, versus

    with progress() as say, place.where() as where:

        def follow(step: Progress) -> None:
            say(f"pair {step.process} of {step.processes}: {step.phase.partition(':')[0]}")

        second = Contestant(asked.second, graph=asked.second_graph)
        found = versus(asked.first, second, options, follow, where)
    kept = _kept(found, asked) if asked.history else []
    if asked.as_json:
        from edgedeploy.report.versus import summary

        print_json({"summary": summary(found), "doubts": found.doubts(), "versus": found, "history": kept})
    else:
        _print(found)
    for one in kept:
        if one.trouble is not None:
            typer.echo(one.trouble, err=asked.as_json)
        elif not asked.as_json:
            typer.echo(f"kept as {one.id} in {one.path}")


def _kept(found: Versus, asked: Asked) -> list[Remembered]:
    from edgedeploy.history import origin_of, remember

    sides = ((found.first, asked.first), (found.second, asked.second))
    return [remember(measurement, origin_of(bundle)) for measurement, bundle in sides]


def _print(found: Versus) -> None:
    from edgedeploy.report.versus import HEADER, headline, rows

    typer.echo(headline(found))
    print_table("in turn", HEADER, rows(found))
    print_notes(found.doubts())
