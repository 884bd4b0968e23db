"""Loops over time, written out."""

from __future__ import annotations

import torch

from edgedeploy.capture import to_program
from edgedeploy.model import Graph
from edgedeploy.models.lif import LIF
from edgedeploy.precision.loops import loop_free, loops
from edgedeploy.precision.program import module_of
from edgedeploy.tensors import Signature, TensorSpec


class Neurons(torch.nn.Module):
    """A layer of neurons on six steps, and weights behind it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.out = LIF(0.5), torch.nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes: torch.Tensor = self.out(self.first(x))
        return spikes


def test_a_loop_written_out_computes_the_same_under_the_same_paths() -> None:
    specs = (TensorSpec("x", "float32", (1, 4, 6)),), (TensorSpec("y", "float32", (1, 4, 2)),)
    graph = Graph(Neurons().eval(), Signature(*specs))
    assert loops(to_program(graph))
    _, written = loop_free(graph)
    assert not loops(written)
    again, _ = loop_free(Graph(written, graph.signature))
    assert again.network is written  # nothing to write out
    x = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(written.module()(x), graph.network(x))
    assert 0 < int((graph.network.first(x) > 0).sum()) < x.numel()
    compared = [module_of(node) for node in written.graph.nodes if getattr(node.target, "_opname", "") == "lt"]
    assert compared == ["first"] * 6
