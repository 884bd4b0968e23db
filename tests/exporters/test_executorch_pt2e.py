"""int8 by PT2E with XNNPACK's quantiser: ranges taken once give what torchao's own flow gives, for any choice."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("executorch")
pytest.importorskip("torchao")

import torch
from torch import nn

from edgedeploy.errors import UsageError
from edgedeploy.precision.program import module_of
from edgedeploy.tasks.task import Prepared
from edgedeploy.tensors import Array, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "float32", (1, 3, 16, 16)),), (TensorSpec("y", "float32", (1, 20, 16, 16)),))


class Branches(nn.Module):
    """Two branches of very different size that are joined, and a layer after it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.small, self.large, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 12, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.cat([self.norm(self.small(x)), 100 * self.large(x)], 1)
        return torch.cat([both, self.last(both)], 1)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    network = Branches().eval().requires_grad_(False)
    return torch.export.export(network, (torch.zeros(1, 3, 16, 16),), strict=False)


def samples(count: int = 6) -> list[Prepared]:
    ramp = np.linspace(-1, 1, 256, dtype=np.float32).reshape(16, 16)
    return [Prepared((np.stack([ramp, ramp.T, ramp * i])[None].astype(np.float32),)) for i in range(count)]


def quantiser() -> Any:
    from edgedeploy_executorch.quantizer import quantizer

    return quantizer()


def lowering(program: torch.export.ExportedProgram, method: Any = "histogram") -> Any:
    from edgedeploy.precision.pt2e import Pt2eLowering

    made = Pt2eLowering(program, SIGNATURE, quantiser, method)
    made.calibrate(samples())
    return made


def theirs(program: torch.export.ExportedProgram, kept: frozenset[str], sample: Array) -> Array:
    """torchao's own flow: every choice runs the calibration samples again."""
    from edgedeploy_executorch.quantizer import _AfterFolding
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation

    class Without(_AfterFolding):
        def annotate(self, model: Any) -> Any:
            for node in model.graph.nodes:
                if node.op == "call_function" and (module_of(node) or node.name) in kept:
                    node.meta["quantization_annotation"] = QuantizationAnnotation(_annotated=True)
            return super().annotate(model)

    made = Without().set_global(quantiser().global_config)
    prepared = prepare_pt2e(copy.deepcopy(program.module(check_guards=False)), made)
    for one in samples():
        prepared(torch.from_numpy(one.tensors[0]))
    with torch.no_grad():
        result: Array = convert_pt2e(prepared)(torch.from_numpy(sample)).numpy()
    return result


@pytest.mark.parametrize("kept", [frozenset(), frozenset({"last"}), frozenset({"small", "mul"})])
def test_a_trial_is_what_calibrating_anew_would_give(
    program: torch.export.ExportedProgram, kept: frozenset[str]
) -> None:
    made = lowering(program)
    sample = samples()[4].tensors[0]
    got = made.open(frozenset(made.units) - kept).run({"x": sample})["y"]
    assert float(np.abs(np.subtract(got, theirs(program, kept, sample), dtype=np.float64)).max()) < 1e-4


@pytest.mark.parametrize("method", ["minmax", "histogram"])
def test_what_is_joined_in_float_no_longer_shares_a_scale(program: torch.export.ExportedProgram, method: str) -> None:
    made = lowering(program, method)
    assert made.units == ["small", "large", "mul", "cat", "last", "cat_1"]
    sample = samples()[4].tensors[0]
    exact = Branches().eval()(torch.from_numpy(sample)).detach().numpy()[:, :4]

    def error(kept: set[str]) -> float:
        values = made.open(frozenset(made.units) - kept).run({"x": sample})["y"][:, :4]
        return float(np.abs(values - exact).max())

    assert error({"cat", "cat_1"}) < 0.1 * error(set())
    assert error(set(made.units)) < 1e-5


def test_parts_without_weights_at_the_ends_are_not_worth_it(program: torch.export.ExportedProgram) -> None:
    made = lowering(program)
    assert made.settle(frozenset()) == {"cat_1"}
    assert made.settle(frozenset({"last"})) == {"last", "mul", "cat", "cat_1"}


def test_noise_is_refused(program: torch.export.ExportedProgram) -> None:
    from edgedeploy.precision.pt2e import Pt2eLowering

    noise = np.random.default_rng(0).random((1, 3, 16, 16), dtype=np.float32)
    with pytest.raises(UsageError, match="look like noise"):
        Pt2eLowering(program, SIGNATURE, quantiser).calibrate([Prepared((noise,))])
