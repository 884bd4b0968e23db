"""What state goes round in: the nodes of a graph that compute the state of a later call from that of an earlier one.

An error there comes back with every call, and so these stay in float whatever the rest is in: in fp16 a count of frames
stops at 2048, and a memory whose matrix is rounded is another memory after as many calls as it remembers. So does what
is computed of such state alone, up to the next layer with weights: samples of a few seconds do not show how far a count
goes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from edgedeploy.tensors import StateSpec

#: Operators with weights.
WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")


def recurrent_nodes(graph: Any, state: Sequence[StateSpec]) -> frozenset[str]:
    """Names of the nodes of an ONNX graph on a way from a state to itself, directly or by way of other state.

    With them, those without weights that read nothing but these and constants. State that is only handed on, as the
    past inputs of a convolution are, brings in what hands it on and nothing else: a layer that reads it writes into the
    state of later layers, and these into none before them.
    """
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    reached = {spec.input: _after(spec.input, readers) for spec in state}
    made = {output: node.name for node in graph.node for output in node.output}
    following = {
        spec.input: {other.input for other in state if _leads(spec.input, other.output, reached[spec.input], made)}
        for spec in state
    }
    cycles = {name for name in following if name in _closure(name, following)}
    before = {spec.input: _before(spec.output, graph.node) for spec in state}
    found: set[str] = set()
    for name in cycles:
        for other in _closure(name, following) & cycles:
            if name in _closure(other, following):
                found |= reached[name] & before[other]
    constants = {one.name for one in graph.initializer} | {""}
    known = {output for node in graph.node if node.name in found for output in node.output} | cycles
    for node in graph.node:
        read = set(node.input) - constants
        if node.op_type not in WEIGHTED and read and read <= known:
            known |= set(node.output)
            found.add(node.name)
    return frozenset(found)


def _leads(start: str, end: str, reached: Collection[str], made: Mapping[str, str]) -> bool:
    return start == end or made.get(end, "") in reached


def _after(tensor: str, readers: Mapping[str, Sequence[Any]]) -> set[str]:
    """Names of the nodes that a tensor has a part in."""
    found: set[str] = set()
    stack = [tensor]
    while stack:
        for node in readers.get(stack.pop(), ()):
            if node.name not in found:
                found.add(node.name)
                stack += node.output
    return found


def _before(tensor: str, nodes: Sequence[Any]) -> set[str]:
    """Names of the nodes that have a part in a tensor; ``nodes`` are in topological order."""
    wanted, found = {tensor}, set()
    for node in reversed(nodes):
        if wanted & set(node.output):
            found.add(node.name)
            wanted |= set(node.input)
    return found


def _closure(start: str, edges: Mapping[str, Collection[str]]) -> set[str]:
    """What can be reached from ``start`` in one step or more."""
    found: set[str] = set()
    stack = [start]
    while stack:
        for other in edges[stack.pop()]:
            if other not in found:
                found.add(other)
                stack.append(other)
    return found
