"""What a Python process started from here inherits."""

from __future__ import annotations

import os
from pathlib import Path


def environment(**more: str) -> dict[str, str]:
    """The environment of this process and ``more``, with the folder that this edgedeploy was imported from in front.

    The child then imports the same one, also from a checkout that is not installed.
    """
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, **more}
