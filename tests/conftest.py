"""Fixtures that every test may use."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from edgedeploy.artifact import Artifact
    from edgedeploy.model import Graph

ROOT = Path(__file__).resolve().parents[1]

# The same examples each time, however slow the machine; --hypothesis-profile=default looks for new ones.
settings.register_profile("deterministic", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("deterministic")


@pytest.fixture(scope="session", autouse=True)
def operators_read_once() -> Iterator[None]:
    """PyTorch parses the source of its 500 operators for every export to ONNX: longer than a small network takes."""
    from edgedeploy import capture

    real = capture._captured

    def captured(graph: Graph, opset: int) -> object:
        _keep_operators()
        return real(graph, opset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture, "_captured", captured)
        yield


@functools.cache
def _keep_operators() -> None:
    """Whoever asks for the operators of an opset gets a copy of what was read for the first who asked."""
    with suppress(ImportError, AttributeError):  # no public part of PyTorch: without it, this takes longer
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        read = functools.cache(ONNXRegistry.from_torchlib)

        def from_torchlib(opset_version: int) -> ONNXRegistry:
            kept = copy(read(opset_version))
            kept.functions = {target: [*overloads] for target, overloads in kept.functions.items()}
            return kept

        ONNXRegistry.from_torchlib = staticmethod(from_torchlib)  # type: ignore[method-assign, assignment]


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
