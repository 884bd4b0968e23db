"""fp16 as types and casts in an exported program: weights and arithmetic of the chosen units, everything else in fp32.

The program has to be decomposed before, in fp32. torch's decompositions of operators in half (SiLU, say) convert to
fp32 and back inside, which would break a delegated graph into pieces at each of them.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node

from edgedeploy.golden import Ready
from edgedeploy.model import Graph
from edgedeploy.precision.carried import exact
from edgedeploy.precision.program import ProgramSession, again, is_float, quiet, unit_of
from edgedeploy.precision.pt2e import folded
from edgedeploy.runtime import Session, inputs_of
from edgedeploy.tensors import Signature

#: Sums inside a layer reach further than its output: a tensor may use this part of fp16's range.
HEADROOM = 8
LARGEST = torch.finfo(torch.float16).max / HEADROOM
#: Samples that are run for ranges.
RANGE_SAMPLES = 16
_CAST = torch.ops.aten._to_copy.default


class HalfLowering:
    """One exported program, typed as often as a search asks; see `edgedeploy.precision.choice.Lowering`.

    Args:
        program: the float program, decomposed, without BatchNorm.
        signature: of the graph.
        samples: real inputs; a unit that makes or takes values beyond `LARGEST` on them cannot be lowered.
        summing: buffers that are added to from call to call: they, and what is computed of them, stay in fp32.
    """

    def __init__(
        self, program: ExportedProgram, signature: Signature, samples: Sequence[Ready], summing: Collection[str] = ()
    ) -> None:
        self._signature = signature
        self._base: GraphModule = program.module(check_guards=False)
        graph = self._base.graph
        roots = [n.name for n in graph.nodes if n.op == "get_attr" and str(n.target) in set(summing)]
        self._exact = exact(graph, roots)
        free = [n for n in graph.nodes if _can_be_half(n) and n.name not in self._exact]
        self.units = list(dict.fromkeys(unit_of(n) for n in free))
        wide = _wide(self._base, signature, samples)
        self.wide = frozenset(unit_of(n) for n in free if wide & {n.name, *_names(n.all_input_nodes)})

    def convert(self, lowered: frozenset[str]) -> GraphModule:
        """The program with exactly these units in fp16; inputs and outputs stay float32."""
        with quiet():
            module = copy.deepcopy(self._base)
        _Halving(module, lowered, self._exact).run()
        return module

    def open(self, lowered: frozenset[str]) -> Session:
        """See `choice.Lowering.open`; run by PyTorch."""
        return ProgramSession(self.convert(lowered), self._signature, "fp16", "fp16 and fp32" if lowered else "fp32")

    def settle(self, kept: frozenset[str]) -> frozenset[str]:
        """See `choice.Lowering.settle`: with what leaves the range of fp16."""
        return kept | self.wide


def plain_of(program: ExportedProgram, graph: Graph, largest: Mapping[str, int]) -> ExportedProgram:
    """The program with BatchNorm folded, and decomposed as XNNPACK wants it: what it takes whole stays whole."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    fixed = {name: 1 for name, most in largest.items() if most == 1}
    more = {name: most for name, most in largest.items() if most > 1}
    plain = again(folded(program), graph.signature, graph.stride, more, fixed)
    with quiet():
        table: dict[Any, Any] = dict(torch.export.default_decompositions())
        for operator in XnnpackPartitioner().ops_to_not_decompose(plain)[0]:
            table.pop(operator, None)
        decomposed: ExportedProgram = plain.run_decompositions(table)
    return decomposed


class _Halving:
    """Rewrites a graph: each node of a lowered unit takes and gives fp16, each other one float32."""

    def __init__(self, module: GraphModule, lowered: frozenset[str], exact: frozenset[str]) -> None:
        self._module, self._lowered, self._exact = module, lowered, exact
        self._half: set[Node] = set()
        self._casts: dict[tuple[Node, torch.dtype], Node] = {}

    def run(self) -> None:
        graph = self._module.graph
        for node in list(graph.nodes):
            if node.op == "output":
                self._feed(node, torch.float32)
            elif node.op == "call_function":
                self._retype(node)
        self._forget_unused()
        graph.lint()
        self._module.recompile()

    def _forget_unused(self) -> None:
        """Drop the fp32 weights that nothing reads any more: they would stay in the file."""
        read: set[str] = set()
        for node in list(self._module.graph.nodes):
            if node.op == "get_attr" and not node.users:
                self._module.graph.erase_node(node)
            elif node.op == "get_attr":
                read.add(str(node.target))
        for path in [name for name, _ in (*self._module.named_parameters(), *self._module.named_buffers())]:
            if path not in read:
                owner, _, name = path.rpartition(".")
                delattr(self._module.get_submodule(owner), name)

    def _retype(self, node: Node) -> None:
        if node.target is operator.getitem:
            source = node.args[0]
            if source in self._half and is_float(node):
                self._half.add(node)
            return
        half = _can_be_half(node) and unit_of(node) in self._lowered and node.name not in self._exact
        wanted = torch.float16 if half else torch.float32
        self._feed(node, wanted)
        if half:
            self._half.add(node)

    def _feed(self, node: Node, wanted: torch.dtype) -> None:
        """Let ``node`` take its floats in this type."""
        node.args = torch.fx.map_arg(node.args, lambda n: self._as(n, wanted, node))
        node.kwargs = torch.fx.map_arg(node.kwargs, lambda n: self._as(n, wanted, node))

    def _as(self, value: Node, wanted: torch.dtype, user: Node) -> Node:
        """``value`` in the wanted type, if it is a float tensor at all."""
        if not is_float(value) or (value in self._half) == (wanted == torch.float16):
            return value
        key = (value, wanted)
        if key not in self._casts:
            fixed = value.op == "get_attr" and not any(_mutates(user) for user in value.users)
            self._casts[key] = self._constant(value) if fixed else self._cast(value, wanted, user)
        return self._casts[key]

    def _cast(self, value: Node, wanted: torch.dtype, user: Node) -> Node:
        with self._module.graph.inserting_before(user):
            cast = self._module.graph.call_function(_CAST, (value,), {"dtype": wanted})
        cast.meta = {**user.meta, "val": value.meta["val"].to(wanted)}
        return cast

    def _constant(self, value: Node) -> Node:
        """A weight, kept as fp16: the file holds it so."""
        name = str(value.target).replace(".", "_") + "_fp16"
        tensor = _attribute(self._module, str(value.target))
        self._module.register_buffer(name, tensor.detach().to(torch.float16))
        with self._module.graph.inserting_after(value):
            constant = self._module.graph.get_attr(name)
        constant.meta = {**value.meta, "val": value.meta["val"].to(torch.float16)}
        return constant


def _can_be_half(node: Node) -> bool:
    """Whether a node computes float32 from float32, and does not itself say in which type."""
    if node.op != "call_function" or node.target is operator.getitem or "dtype" in node.kwargs:
        return False
    value = node.meta.get("val")
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    floats = all(isinstance(v, torch.Tensor) and v.dtype == torch.float32 for v in values)
    takes = any(is_float(n) or n.target is operator.getitem for n in node.all_input_nodes)
    return floats and takes and not _mutates(node)


def _mutates(node: Node) -> bool:
    """Whether a node writes into what it takes, as into state."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _names(nodes: Sequence[Node]) -> list[str]:
    return [node.name for node in nodes]


def _wide(module: GraphModule, signature: Signature, samples: Sequence[Ready]) -> frozenset[str]:
    """The names of nodes whose values leave the range of fp16 on these samples."""
    found: set[str] = set()

    class Watch(Interpreter):
        def run_node(self, n: Node) -> Any:
            value = super().run_node(n)
            if is_float(n) and n.op != "output" and value.numel() and not bool(value.abs().max() <= LARGEST):
                found.add(n.name)
            return value

    with torch.inference_mode():
        for ready in (samples[i] for i in range(min(RANGE_SAMPLES, len(samples)))):
            watch = Watch(copy.deepcopy(module))  # which may change its buffers
            for tensors in ready.calls:
                feed = inputs_of(signature, tensors)
                watch.run(*(torch.from_numpy(feed[spec.name]) for spec in signature.inputs))
    return frozenset(found)


def _attribute(module: torch.nn.Module, path: str) -> torch.Tensor:
    owner, _, name = path.rpartition(".")
    tensor: torch.Tensor = getattr(module.get_submodule(owner), name)
    return tensor
