"""State that is carried from call to call, as ExecuTorch wants it: buffers that the network changes itself.

A graph with `edgedeploy.tensors.StateSpec` is a network that takes its state after its inputs and gives it back after
its outputs. Here it becomes one with a buffer for each.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from edgedeploy.capture import to_program
from edgedeploy.model import Graph

#: Where the network sits in `Carrying`.
_INNER = "network"


class Carrying(torch.nn.Module):
    """``network``, with its state inside."""

    def __init__(self, network: Any, graph: Graph) -> None:
        super().__init__()
        self.network, self._outputs = network, len(graph.signature.outputs)
        self._names = [spec.input for spec in graph.signature.state]
        for spec in graph.signature.state:
            self.register_buffer(spec.input, torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)))

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs; the state goes into the buffers."""
        values = self.network(*inputs, *(getattr(self, name) for name in self._names))
        for name, value in zip(self._names, values[self._outputs :], strict=True):
            getattr(self, name).copy_(value)
        return tuple(values[: self._outputs])


def carrying(graph: Graph) -> Graph:
    """The graph with its state in buffers; itself where it has none."""
    if not graph.signature.state:
        return graph
    network = graph.network
    if isinstance(network, torch.export.ExportedProgram):
        network = network.module(check_guards=False)
    elif isinstance(network, Path):
        assert graph.rebuilt is not None, "whoever reads an ONNX file says how it becomes a network"
        network = graph.rebuilt()
    return replace(graph, network=Carrying(network, graph), signature=replace(graph.signature, state=()))


def captured(graph: Graph) -> ExportedProgram:
    """The graph as a program with its state in buffers; its modules have the paths that they have in the network.

    Raises:
        Exception: see `to_program`.
    """
    program = to_program(carrying(graph))
    if graph.signature.state:
        for node in program.graph.nodes:
            stack = node.meta.get("nn_module_stack", {})
            node.meta["nn_module_stack"] = {
                key: ("" if path == _INNER else path.removeprefix(f"{_INNER}."), *rest)
                for key, (path, *rest) in stack.items()
            }
    return program
