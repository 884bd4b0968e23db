"""Options of the commands that run a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Bundle = Annotated[Path, typer.Argument(help="A NAME.edge folder or archive.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads inside one call.")]
Batch = Annotated[int, typer.Option(min=1, help="Batch size.")]
ImageSize = Annotated[str | None, typer.Option(help="Image size, for a bundle whose size is dynamic.")]
Samples = Annotated[Path | None, typer.Option(help="Sample or folder of samples; else the bundle's own.")]
Graph = Annotated[str | None, typer.Option(help="Graph by name; else 'stream' where there is one, or 'main'.")]
Backend = Annotated[str | None, typer.Option(help="Runtime by name; else the bundle's.")]
Options = Annotated[list[str] | None, typer.Option("--option", help="A runtime option, key=value.")]
