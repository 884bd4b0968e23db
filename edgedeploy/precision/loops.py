"""Loops over time in an exported program, and writing them out for converters that have none.

Neurons reset themselves from step to step, so that a network of them on a whole clip is a loop. Written out it is as
many operations as the clip has steps, which costs time at the export and nothing of the result.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.traceback import preserve_node_meta

from edgedeploy.capture import to_program
from edgedeploy.model import Graph


def loops(program: ExportedProgram) -> bool:
    """Whether a program has loops that can be written out."""
    return any(_is_scan(node.target) for node in program.graph.nodes)


class Unrolled(torch.nn.Module):
    """A program without loops, to be captured again; its modules keep their paths."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self.inner: GraphModule = program.module(check_guards=False)

    def forward(self, *inputs: torch.Tensor) -> Any:
        """What the program gives."""
        with preserve_node_meta():
            return _WrittenOut(self.inner).run(*inputs)


def loop_free(graph: Graph) -> tuple[Graph, ExportedProgram]:
    """The graph, its loops written out if it has any, and its program.

    Raises:
        Exception: see `edgedeploy.capture.to_program`.
    """
    program = to_program(graph)
    if not loops(program):
        return graph, program
    written = Graph(Unrolled(program), graph.signature, graph.stride)
    return written, to_program(written)


class _WrittenOut(Interpreter):
    def run_node(self, n: Node) -> Any:
        self._stack = n.meta.get("nn_module_stack", {})
        return super().run_node(n)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is torch.ops.aten.where.ScalarOther:  # which converters have for tensors only
            return torch.where(args[0], args[1], torch.full_like(args[1], args[2]))
        if not _is_scan(target):
            return super().call_function(target, args, kwargs)
        combine, carried, rows, fixed = args
        for node in combine.graph.nodes:
            node.meta["nn_module_stack"] = self._stack
        body, count, made = _WrittenOut(combine), len(carried), []
        for step in range(rows[0].shape[0]):
            found = body.run(*carried, *(row[step] for row in rows), *fixed)
            carried = found[:count]
            made.append(found[count:])
        return (*carried, *(torch.stack(parts) for parts in zip(*made, strict=True)))


def _is_scan(target: Any) -> bool:
    return isinstance(target, HigherOrderOperator) and str(target) == "scan"
