"""TensorRT on the machine that exports: its parser as a check, and engines for GPUs that are not there.

Only TensorRT for RTX builds without a GPU. Its parser is of the same source as TensorRT's, of another release: a graph
that it refuses is refused on the device; one that it takes may still meet an older parser there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedeploy.errors import ExportFailed, Unavailable, UsageError
from edgedeploy_tensorrt import api
from edgedeploy_tensorrt.api import Refused
from edgedeploy_tensorrt.plan import Ahead, Plan

LOG_SUFFIX = ".build.log"


@dataclass(frozen=True)
class Checked:
    """What the parser said of a graph: for the manifest, and for the user."""

    decided: dict[str, Any]
    notes: tuple[str, ...] = ()


def capabilities(text: str | int) -> tuple[int, ...]:
    """Compute capabilities times ten in ``"86,89,120"``; repeated ones count once.

    Raises:
        UsageError: something in it is no number.
    """
    words = [word for word in re.split(r"[,\s]+", str(text)) if word]
    for word in words:
        if not word.isdecimal() or not word.isascii():
            raise UsageError(f"'{word}' is no compute capability: write them times ten, as in aot=86,89,120.")
    return tuple(dict.fromkeys(int(word) for word in words))


def check(graph: Path, plan: Plan) -> Checked:
    """Let TensorRT's own parser read ``graph``, if it is installed here.

    Raises:
        ExportFailed: it refuses the graph.
    """
    try:
        library = api.load("rtx")
    except Unavailable:
        return Checked(
            {"parsed_by": None},
            (
                "not read by TensorRT's own parser before it is on the device, because tensorrt-rtx is not installed "
                "here: pip install 'edgedeploy[tensorrt-rtx]'",
            ),
        )
    try:
        parsed = api.parse(library, graph, plan)
    except Refused as error:
        raise ExportFailed(str(error)) from error
    return Checked({"parsed_by": library.title, "layers": parsed.network.num_layers})


def build(graph: Path, plan: Plan, sms: Sequence[int]) -> tuple[Ahead, ...]:
    """Build engines beside ``graph`` for GPUs of these compute capabilities, none of which has to be here.

    Each goes to ``NAME.smXX.engine``, and what TensorRT said of it to ``NAME.smXX.build.log``.

    Raises:
        Unavailable: TensorRT for RTX is not installed.
        ExportFailed: it refuses the graph, or does not build for a compute capability.
    """
    library = api.load("rtx")
    made = []
    for sm in sms:
        stem = f"{graph.stem}.sm{sm}"
        try:
            built = api.build(api.parse(library, graph, plan), plan, (sm,))
        except Refused as error:
            raise ExportFailed(str(error)) from error
        target = graph.with_name(f"{stem}.engine")
        target.write_bytes(built.engine)
        graph.with_name(stem + LOG_SUFFIX).write_text("".join(f"{line}\n" for line in built.log), "utf-8", "replace")
        made.append(Ahead(target.name, sm, library.version))
    return tuple(made)


def summary(ahead: Sequence[Ahead], directory: Path) -> list[dict[str, Any]]:
    """The engines, for the manifest's decisions."""
    return [
        {"sm": one.sm, "file": one.file, "bytes": (directory / one.file).stat().st_size, "by": one.library}
        for one in ahead
    ]
