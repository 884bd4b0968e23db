"""Figures that others published, read from files in ``published/``: shown beside ours, never mixed with them."""

from __future__ import annotations

import tomllib
from importlib.resources import files

from edgedeploy.records import from_json
from edgedeploy.report.compression.records import Paper


def paper(name: str) -> Paper:
    """The published figures in ``published/NAME.toml``, which comes with the package.

    Raises:
        UsageError: the file does not say what a `Paper` has.
    """
    file = files("edgedeploy.report.compression") / "published" / f"{name}.toml"
    return from_json(Paper, tomllib.loads(file.read_text("utf-8")), f"published/{name}.toml")
