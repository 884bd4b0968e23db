"""A classifier and a small transformer, made by a factory, through every backend."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxscript")

from edgedeploy import device, plugins
from edgedeploy.artifact import CalibrationRecord
from edgedeploy.capture import to_onnx
from edgedeploy.errors import Unavailable
from edgedeploy.exporter import Evidence, Request, export
from edgedeploy.model import Graph, Model, load
from edgedeploy.tensors import Array

DEVICES = {"coreml": "iphone-15", "qnn": "galaxy-s24", "tensorrt": "jetson-orin-nano"}
#: Backends that capture a network themselves; all others go on from the same ONNX file, which is written once here.
FROM_PYTORCH = ("coreml", "executorch")


def pictures(side: int, count: int = 8) -> list[Array]:
    """Smooth waves."""
    rows, columns = np.mgrid[0:side, 0:side] / side
    found: list[Array] = []
    for i in range(count):
        wave = 0.5 + 0.5 * np.sin(2 * np.pi * ((1 + i % 3) * rows + (1 + i % 2) * columns) + i)
        colours = np.array([0.4 + 0.1 * (i % 5), 0.9 - 0.1 * (i % 4), 0.6])
        found.append((wave[None, None] * colours[None, :, None, None]).astype(np.float32))
    return found


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Model]:
    """``networks(name, captured)``: made by the factory, as a module of PyTorch or captured as an ONNX file."""
    known: dict[tuple[str, bool], Model] = {}

    def find(name: str, captured: bool) -> Model:
        if (name, captured) not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.syspath_prepend(str(Path(__file__).parent))
                sys.modules.pop("networks", None)
                known[name, captured] = load(f"networks:{name}")
            if captured:
                target = tmp_path_factory.mktemp(name) / "main.onnx"
                graph = known[name, captured].graphs["main"]
                to_onnx(graph, target, 19)
                known[name, captured] = dataclasses.replace(
                    known[name, captured], graphs={"main": Graph(target, graph.signature)}
                )
        return known[name, captured]

    return find


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(("name", "side"), [("classifier", 48), ("transformer", 32)])
@pytest.mark.parametrize("backend", plugins.names(plugins.EXPORTERS))
def test_other_networks(
    backend: str, name: str, side: int, precision: str, tmp_path: Path, networks: Callable[[str, bool], Model]
) -> None:
    model = networks(name, backend not in FROM_PYTORCH)
    profile = device.load(DEVICES[backend]) if backend in DEVICES else None
    try:
        kind = plugins.find(plugins.EXPORTERS, backend)
        if precision not in kind.precisions:
            pytest.skip(f"{backend} has no {precision}")
        exporter = kind.for_device(profile, precision, {})
        record = CalibrationRecord("waves", 8, "0" * 64)
        artifact = export(model, Request(exporter, Evidence(pictures(side), "waves", record), device=profile), tmp_path)
    except Unavailable as error:
        pytest.skip(str(error))
    moved = [golden.distance for golden in artifact.manifest.golden]
    assert all(m is not None and m <= (0.001 if precision == "fp32" else 0.3) for m in moved), moved
