"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images and checkpoints beside the checkout (or where EDGEDEPLOY_SHARED says); skips where there are none."""
    path = Path(os.environ.get("EDGEDEPLOY_SHARED", ROOT.parent / "shared"))
    if not (path / "weights" / "yolov8n.pt").is_file():
        pytest.skip("needs real checkpoints and images, in a folder named by EDGEDEPLOY_SHARED")
    return path
