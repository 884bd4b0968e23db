"""``edgedeploy pack``: a bundle folder becomes one file to carry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgedeploy.cli.terminal import Json, print_json, writable


def pack(
    bundle: Annotated[Path, typer.Argument(help="A NAME.edge folder.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The archive; else NAME.edge.zip beside it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Pack a bundle into one .zip; every command takes the archive as it takes the folder."""
    from edgedeploy.archive import pack as write
    from edgedeploy.artifact import Artifact
    from edgedeploy.units import show

    artifact = Artifact.open(bundle)
    target = output or bundle.with_name(bundle.name + ".zip")
    with writable(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        write(artifact, target)
    if as_json:
        print_json({"path": target, "bytes": target.stat().st_size, "digest": artifact.digest})
    else:
        typer.echo(f"{target} ({show(target.stat().st_size, 'B')}, bundle {artifact.digest[:12]})")
