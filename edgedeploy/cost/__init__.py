"""What a graph costs to compute, before anybody runs it: operations and bytes of each node, and in total."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgedeploy.cost import ir_graph, onnx_graph
from edgedeploy.cost.nodes import GraphCost, NodeCost, sum_of
from edgedeploy.errors import UsageError

__all__ = ["GraphCost", "NodeCost", "graph_cost", "sum_of"]


def graph_cost(path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None, batch: int = 1) -> GraphCost:
    """Operations and bytes of every node of an ONNX file, or of an OpenVINO IR.

    Args:
        path: ``.onnx``; weights that are stored beside it are not read. Or the ``.xml`` of an IR.
        shapes: of the inputs, for an ONNX file. Where an input is not in it, its dynamic first dimension is ``batch``.
        batch: samples in a pass.

    Raises:
        Unavailable: the package onnx is not installed.
        UsageError: not such a file; a shape does not fit its input; a dynamic dimension has no size.
    """
    if path.suffix == ".xml":
        return ir_graph.read(path, batch).cost()
    if path.suffix != ".onnx":
        raise UsageError(f"What {path.name} costs cannot be counted: only .onnx files and OpenVINO's .xml can be read.")
    return onnx_graph.read(path, shapes or {}, batch).cost()
