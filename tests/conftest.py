"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from edgedeploy.artifact import Artifact

ROOT = Path(__file__).resolve().parents[1]

# The same examples each time, however slow the machine; --hypothesis-profile=default looks for new ones.
settings.register_profile("deterministic", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("deterministic")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images and checkpoints beside the checkout (or where EDGEDEPLOY_SHARED says); skips where there are none."""
    path = Path(os.environ.get("EDGEDEPLOY_SHARED", ROOT.parent / "shared"))
    if not (path / "weights" / "yolov8n.pt").is_file():
        pytest.skip("needs real checkpoints and images, in a folder named by EDGEDEPLOY_SHARED")
    return path


@pytest.fixture(scope="session")
def aerial() -> Path:
    """The packaged checkpoint."""
    return ROOT / "edgedeploy" / "demo" / "aerial.safetensors"


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data.yaml of a small data set of rendered scenes, read only."""
    pytest.importorskip("PIL")
    from edgedeploy.demo.scenes import write_dataset

    return write_dataset(tmp_path_factory.mktemp("data") / "scenes", train=16, val=8)


@pytest.fixture(scope="session")
def exported(aerial: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Artifact]:
    """``exported("int8")``: the bundle of the packaged checkpoint in a precision, made once; do not change it."""
    pytest.importorskip("onnxscript")
    import torch

    from edgedeploy import plugins
    from edgedeploy.exporter import Request
    from edgedeploy.model import InputShape
    from edgedeploy.pipeline import evidence_from, export_checkpoint, read_calibration_set

    made: dict[object, Artifact] = {}

    def export(precision: str, shape: InputShape | None = None, **options: object) -> Artifact:
        key = (precision, shape, tuple(sorted(options.items())))
        if key not in made:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, precision, options)
            evidence = evidence_from(read_calibration_set(scenes, None), 200)
            request = Request(exporter, evidence, shape or InputShape())
            made[key] = export_checkpoint(str(aerial), request, tmp_path_factory.mktemp(precision)).artifact
            torch.set_num_threads(threads)
        return made[key]

    return export
