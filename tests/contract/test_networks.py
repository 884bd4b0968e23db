"""A classifier and a small transformer, made by a factory, through every backend."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxscript")

from edgedeploy import device, plugins
from edgedeploy.artifact import CalibrationRecord
from edgedeploy.errors import Unavailable
from edgedeploy.exporter import Evidence, Request, export
from edgedeploy.model import load
from edgedeploy.tensors import Array

DEVICES = {"coreml": "iphone-15", "qnn": "galaxy-s24", "tensorrt": "jetson-orin-nano"}


def pictures(side: int, count: int = 8) -> list[Array]:
    """Smooth waves."""
    rows, columns = np.mgrid[0:side, 0:side] / side
    found: list[Array] = []
    for i in range(count):
        wave = 0.5 + 0.5 * np.sin(2 * np.pi * ((1 + i % 3) * rows + (1 + i % 2) * columns) + i)
        colours = np.array([0.4 + 0.1 * (i % 5), 0.9 - 0.1 * (i % 4), 0.6])
        found.append((wave[None, None] * colours[None, :, None, None]).astype(np.float32))
    return found


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(("name", "side"), [("classifier", 48), ("transformer", 32)])
@pytest.mark.parametrize("backend", plugins.names(plugins.EXPORTERS))
def test_other_networks(
    backend: str, name: str, side: int, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    sys.modules.pop("networks", None)
    model = load(f"networks:{name}")
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
