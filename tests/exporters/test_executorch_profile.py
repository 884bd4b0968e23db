"""ExecuTorch's event tracer as a profile: kinds, types and units of operators inside XNNPACK and outside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("executorch")

import torch
from edgedeploy_executorch.profile import OperatorTime, node_times
from edgedeploy_executorch.runtime import ExecuTorchRuntime

from edgedeploy.roofline import Roofs, causes, join
from edgedeploy.runtime import PROFILED_PASSES
from edgedeploy.tensors import Signature, TensorSpec


@pytest.mark.parametrize(
    ("name", "delegated", "kind", "dtype", "unit"),
    [
        ("Convolution (NHWC, F32) IGEMM #1", True, "Convolution", "fp32", "XnnpackBackend"),
        ("Fully Connected (NC, QS8, QC8W) GEMM #2", True, "Fully Connected", "int8", "XnnpackBackend"),
        ("Transpose (ND, X32) #1", True, "Transpose", "fp32", "XnnpackBackend"),
        ("Sigmoid (NC) #12", True, "Sigmoid", "", "XnnpackBackend"),
        ("_softmax.out", False, "_softmax", "", "portable kernels"),
    ],
)
def test_names_tell_kind_and_type(name: str, delegated: bool, kind: str, dtype: str, unit: str) -> None:
    (found,) = node_times([OperatorTime(name, delegated, 1e-3)], ["XnnpackBackend"])
    assert (found.kind, found.dtype, found.unit, found.seconds) == (kind, dtype, unit, 1e-3)
    assert found.covers == ()
    assert name in found.name


def test_of_several_delegates_none_is_named() -> None:
    (found,) = node_times([OperatorTime("x", True, 1e-3)], ["XnnpackBackend", "QnnBackend"])
    assert found.unit == "delegate"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution for XNNPACK, and a sorting that no delegate takes."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 16, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(self.conv(x), 3)

    network = Net().eval().requires_grad_(False)
    exported = torch.export.export(network, (torch.zeros(1, 3, 32, 32),))
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    path = tmp_path_factory.mktemp("pte") / "m.pte"
    path.write_bytes(lowered.buffer)
    return path


def test_what_the_delegate_does_not_take_fell_back(program: Path) -> None:
    shape = (1, 3, 32, 32)
    signature = Signature((TensorSpec("x", "float32", shape),), (TensorSpec("y", "float32", (1, 16, 32, 32)),))
    inputs = {"x": np.ones(shape, np.float32)}
    profile = ExecuTorchRuntime(threads=1).profile({"main": program}, {"main": signature}, inputs, "main")
    assert profile.passes >= PROFILED_PASSES
    units = {node.kind: node.unit for node in profile.nodes}
    assert units["cumsum"] == "portable kernels"
    assert units["Convolution"] != "portable kernels"
    line = join(None, profile, Roofs("here", "cpu"), profile.seconds)
    fell = next(cause for cause in causes(line) if cause.kind == "fallback")
    assert "cumsum" in fell.sentence
