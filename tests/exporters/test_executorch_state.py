"""State in ExecuTorch programs of a lower precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("executorch")

import torch
from edgedeploy_executorch.half import HalfLowering, plain_of
from edgedeploy_executorch.quantizer import weights_quantizer
from edgedeploy_executorch.state import captured
from torch import Tensor, nn

from edgedeploy.capture import to_program
from edgedeploy.golden import Ready
from edgedeploy.model import Graph
from edgedeploy.precision.carried import recurrent, summing
from edgedeploy.precision.choice import Lowering
from edgedeploy.precision.pt2e import Pt2eLowering
from edgedeploy.tasks.raw import Raw
from edgedeploy.tensors import Signature, StateSpec, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("x", "float32", (1, 8)),),
    (TensorSpec("mean", "float32", (1, 8)), TensorSpec("count", "float32", (1, 1))),
    (
        StateSpec("memory", "memory_next", "float32", (1, 8)),
        StateSpec("last", "last_next", "float32", (1, 8)),
        StateSpec("sum", "sum_next", "float32", (1, 8)),
        StateSpec("number", "number_next", "float32", (1, 1)),
    ),
)


class Inner(nn.Module):
    """A memory that forgets, beside what came in before."""

    def __init__(self) -> None:
        super().__init__()
        self.keep, self.read = nn.Linear(8, 8, bias=False), nn.Linear(16, 8)

    def forward(self, x: Tensor, memory: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        memory = 0.5 * nn.functional.linear(memory, self.keep.weight) + torch.relu(self.read(torch.cat([last, x], 1)))
        return memory, x


class Listener(nn.Module):
    """The same, and a sum and a count of it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.out = Inner(), nn.Linear(8, 8)

    def forward(self, x: Tensor, memory: Tensor, last: Tensor, total: Tensor, count: Tensor) -> tuple[Tensor, ...]:
        memory, last = self.inner(x, memory, last)
        total, count = total + self.out(memory), count + 1
        return total / count, count, memory, last, total, count


@pytest.fixture(scope="module")
def graph() -> Graph:
    return Graph(Listener().eval().requires_grad_(False), SIGNATURE)


def half(graph: Graph) -> Lowering:
    inner = replace(graph, signature=replace(SIGNATURE, state=()))
    ready = Ready(Raw(), "main", inner.signature, ((np.ones((1, 8), np.float32),),))
    sums = summing(to_program(graph), SIGNATURE)
    return HalfLowering(plain_of(captured(graph), inner, {}), inner.signature, [ready], sums)


def weights(graph: Graph) -> Lowering:
    fixed = recurrent(to_program(graph), SIGNATURE)
    assert fixed == {"inner"}
    return Pt2eLowering(captured(graph), replace(SIGNATURE, state=()), lambda: weights_quantizer(fixed))


@pytest.mark.parametrize(("make", "within"), [(half, 2e-3), (weights, 2e-2)], ids=["fp16", "int8-weights"])
def test_state_is_carried_and_a_count_goes_on(make: Callable[[Graph], Lowering], within: float, graph: Graph) -> None:
    lowering = make(graph)
    assert {"inner.read", "out"} <= set(lowering.units)  # by the paths that they have in the network
    assert ("inner" in lowering.units) == (make is half)  # where the product with `keep` is
    session = lowering.open(frozenset(lowering.units))
    state = [torch.zeros(spec.shape) for spec in SIGNATURE.state]
    generator = np.random.default_rng(0)
    for _ in range(2100):
        x = generator.standard_normal((1, 8)).astype(np.float32)
        got = session.run({"x": x})
        mean, count, *state = graph.network(torch.from_numpy(x), *state)
    assert got["count"] == count == 2100
    assert float(np.abs(got["mean"].astype(np.float64) - mean.numpy()).max()) <= within
    assert float(mean.abs().max()) > 5 * within
