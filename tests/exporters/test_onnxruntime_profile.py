"""ONNX Runtime's profiler: what it writes is read, and its names lead back to the stored nodes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from edgedeploy_onnxruntime.profiler import node_times, stored_names
from edgedeploy_onnxruntime.runtime import OnnxRuntimeRuntime

from edgedeploy.artifact import Artifact
from edgedeploy.runtime import PROFILED_PASSES, Profile


def profiled(artifact: Artifact) -> Profile:
    (spec,) = artifact.signatures["main"].inputs
    image = np.zeros([size if isinstance(size, int) else 1 for size in spec.shape], np.float32)
    return OnnxRuntimeRuntime(threads=1).profile(artifact.files, artifact.signatures, {spec.name: image}, "main")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_stored_node_that_computes_is_found(precision: str, exported: Callable[..., Artifact]) -> None:
    from edgedeploy.cost import graph_cost
    from edgedeploy.roofline import Roofs, join

    artifact = exported(precision)
    profile = profiled(artifact)
    assert profile.passes >= PROFILED_PASSES
    assert sum(node.seconds for node in profile.nodes) > 0
    assert all(node.unit == "cpu" for node in profile.nodes)
    cost = graph_cost(artifact.files["main"])
    line = join(cost, profile, Roofs("here", "cpu"), profile.seconds)
    matched = sum(node.flops or 0 for node in line.nodes)
    assert matched == pytest.approx(cost.flops, rel=0.01)
    kinds = {node.kind for node in profile.nodes}
    assert ("QLinearConv" in kinds) == (precision == "int8")
    convolutions = [node for node in line.nodes if node.kind in ("Conv", "QLinearConv")]
    assert len([name for node in convolutions for name in node.stored if "conv" in name.lower()]) >= len(convolutions)
    assert all(node.bytes for node in convolutions)


def test_no_trace_is_left_behind(exported: Callable[..., Artifact], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    profiled(exported("fp32"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("node_conv2d", ("node_conv2d",)),
        ("conv2d_1_nchwc", ("conv2d_1",)),
        ("node_conv2d_1_token_24", ("node_conv2d_1",)),
        ("node_silu/QuickGeluFusion/", ("node_silu",)),
        ("node_MatMul_46/MatMulScaleFusion/", ("node_MatMul_46",)),
        ("conv2d_1_DequantizeLinear/duplicated", ("conv2d_1_DequantizeLinear",)),
        ("InsertedPrecisionFreeCast_conv2d_nchwc", ("conv2d",)),
        ("ReorderInput_token_17", ()),
        ("Transpose", ()),
        ("Transpose_token_3", ()),
        ("node_Transpose_3", ("node_Transpose_3",)),
    ],
)
def test_names_lead_back(name: str, stored: tuple[str, ...]) -> None:
    assert stored_names(name) == stored


def event(name: str, begin: int, took: int, **said: Any) -> dict[str, Any]:
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": begin, "dur": took, "args": said}


def test_a_trace_is_medians_of_passes(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = [{"cat": "Session", "name": "session_initialization", "ts": 0, "dur": 5, "args": {}}]
    for begin, took in ((100, 90), (200, 10), (300, 20), (400, 60)):
        events.append({"cat": "Session", "name": "model_run", "ts": begin, "dur": 99, "args": {}})
        sizes = {"activation_size": "8", "parameter_size": "4", "output_size": "16"}
        types = [{"float": []}, {"uint8": [2, 3]}]
        events.append(
            event("a", begin + 1, took, node_index="1", op_name="QLinearAdd", input_type_shape=types, **sizes)
        )
        events += [
            event("b", begin + 92 + i, 2, node_index="2", op_name="Loop", provider="NpuProvider") for i in (0, 2)
        ]
    (tmp_path / "trace.json").write_text(json.dumps(events[::-1]), "utf-8")
    (first, second), inside = node_times(tmp_path / "trace.json", 1)
    assert (first.name, first.kind, first.dtype, first.bytes, first.unit) == ("a", "QLinearAdd", "int8", 28, "cpu")
    assert first.seconds == pytest.approx(20e-6)
    assert second.seconds == pytest.approx(4e-6)  # twice in a pass
    assert (second.unit, second.dtype, second.bytes) == ("NpuProvider", "", None)
    assert inside == pytest.approx([14e-6, 24e-6, 64e-6])
