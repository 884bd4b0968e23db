"""``edgedeploy demo``: the main job on a small detector and synthetic aerial scenes that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedeploy.cli.terminal import Json, print_json, print_notes, print_table, progress, writable

if TYPE_CHECKING:
    from edgedeploy.demo.run import Shown


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything.")] = Path("out/demo"),
    scenes: Annotated[int, typer.Option(min=30, help="Scenes to calibrate on, and as many to measure on.")] = 120,
    duration: Annotated[str, typer.Option(help="Time of each benchmark.")] = "6s",
    data_only: Annotated[bool, typer.Option("--data-only", help="Only write the checkpoint and the scenes.")] = False,
    as_json: Json = False,
) -> None:
    """Export a small detector in fp32 and int8, measure both, compare both with PyTorch, and draw what changed."""
    from edgedeploy.demo.run import prepare, run
    from edgedeploy.units import parse

    seconds = parse(duration, "s")  # refused before any work
    with progress() as say:
        with writable(output):
            checkpoint, data = prepare(output, scenes, say)
        shown = None if data_only else run(checkpoint, data, output, seconds, say)
    if as_json:
        print_json(shown or {"checkpoint": checkpoint, "data": data})
    elif shown is None:
        typer.echo(f"{checkpoint}\n{data}")
    else:
        _print(shown)


def _print(shown: Shown) -> None:
    from edgedeploy.demo.run import table

    columns, rows = table(shown)
    print_table("a small aerial detector, here", columns, rows)
    for side in shown.sides:
        print_notes([f"{side.precision}: {doubt}" for doubt in side.doubts])
        typer.echo(f"{side.precision}: {side.comparison.equivalence.sentence}")
    typer.echo(f"the same image, both ways: {shown.picture}")
    typer.echo(f"try next: edgedeploy verify {shown.sides[-1].artifact}")
