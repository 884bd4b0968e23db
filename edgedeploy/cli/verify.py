"""``edgedeploy verify``: is the bundle whole, and does it compute here what it computed there?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgedeploy.cli.terminal import Json, print_json, print_table


def verify(
    bundle: Annotated[Path, typer.Argument(help="A NAME.edge folder or NAME.edge.zip archive.")], as_json: Json = False
) -> None:
    """Check every digest, what the bundle needs, and its golden vectors with the runtime of this machine."""
    from edgedeploy.verify import verify as check

    result = check(bundle)
    if as_json:
        print_json({"passed": result.passed, "verification": result})
    else:
        rows = [[rung.name, "ok" if rung.passed else "BROKEN", rung.seen] for rung in result.rungs]
        print_table(f"{bundle}: {'verified' if result.passed else 'NOT verified'}", ["rung", "", "seen"], rows)
    if not result.passed:
        raise typer.Exit(4)
