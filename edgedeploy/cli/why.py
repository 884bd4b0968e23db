"""``edgedeploy why``: why is it not faster, and what would help?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedeploy.cli.place import found_at
from edgedeploy.cli.running import Backend, Batch, Bundle, ImageSize, Options, Samples, Threads
from edgedeploy.cli.terminal import Json, image_size, options_from, print_json, print_table, progress, writable
from edgedeploy.errors import UsageError

if TYPE_CHECKING:
    from edgedeploy.device import Device
    from edgedeploy.roofline import Why


def why(
    bundle: Bundle,
    device: Annotated[str | None, typer.Option(help="What runs it: the name or .yaml of a profile with peaks.")] = None,
    threads: Threads = None,
    batch: Batch = 1,
    imgsz: ImageSize = None,
    samples: Samples = None,
    backend: Backend = None,
    option: Options = None,
    on: Annotated[str | None, typer.Option(help="Profile there: a target's name or ssh://user@host[:port].")] = None,
    top: Annotated[int, typer.Option(min=1, help="Nodes to list.")] = 10,
    plot: Annotated[Path | None, typer.Option(help="Draw the roofline to this .png, .svg or .pdf.")] = None,
    as_json: Json = False,
) -> None:
    """Profile a bundle node by node, and rank what its time goes to: arithmetic, memory, conversions, dispatch."""
    from edgedeploy.roofline import WhyOptions
    from edgedeploy.roofline import why as explain

    place = found_at(on, device)
    if place.native:
        raise UsageError("Phones are not profiled: why needs a device where Python runs, as with --on ssh://.")
    known = _device(device)  # refused before it takes time
    if plot is not None:
        from edgedeploy.report.roofline_plot import check

        check(plot)
    options = WhyOptions(
        threads=threads,
        batch=batch,
        backend=backend,
        options=options_from(option or []),
        size=image_size(imgsz),
        samples=None if samples is None else str(samples),
    )
    with progress() as say, place.where() as where:
        found = explain(str(bundle), options, known, say, None if on is None else where.way)
    if plot is not None:
        from edgedeploy.report.roofline_plot import draw

        with writable(plot):
            draw(found, plot)
    if as_json:
        from edgedeploy.report.why import summary

        print_json({**summary(found), "plot": None if plot is None else str(plot)})
    else:
        _print(found, top, plot)


def _device(name: str | None) -> Device | None:
    """The device that was named; ``None`` where its peaks are to be measured.

    Raises:
        UsageError: there is no such device.
    """
    from edgedeploy.device import THIS_MACHINE, load

    return None if name in (None, THIS_MACHINE) else load(str(name))


def _print(why: Why, top: int, plot: Path | None) -> None:
    from edgedeploy.report.why import (
        KIND_HEADER,
        NODE_HEADER,
        cause_lines,
        headline,
        kind_rows,
        node_rows,
        roof_lines,
    )

    for line in (*headline(why), *roof_lines(why.roofline)):
        typer.echo(line)
    print_table("by kind", KIND_HEADER, kind_rows(why.roofline))
    print_table(f"the {top} longest nodes", NODE_HEADER, node_rows(why.roofline, top))
    for line in cause_lines(why.causes):
        typer.echo(line)
    if plot is not None:
        typer.echo(f"plot: {plot}")
