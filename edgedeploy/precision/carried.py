"""What a lower precision must leave alone in a network with state: sums and counts, which remember every rounding.

State that is forgotten step by step (a decaying memory, a window of the last inputs) forgets rounding errors as well.
What is only ever added to does not: in fp16 a count stands still at 2048, and a mean by it then means something else.
So such state, and what is computed of it before it meets weights again, stays in fp32, and is found in the graph.
So are the weights of linear recurrences, which do not bear 8 bits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch.export import ExportedProgram
from torch.fx import Graph, Node

from edgedeploy.precision.program import is_float, is_weighted, unit_of
from edgedeploy.tensors import Signature

#: Operators that add to a value, or hand it on as it is; ``where`` hands on one of two.
_ADDS = frozenset(("add", "add_", "sub", "sub_"))
_HANDS_ON = frozenset(
    (
        *("where", "alias", "alias_copy", "clone", "contiguous", "_to_copy", "to", "copy", "copy_", "detach"),
        *("view", "view_copy", "reshape", "_unsafe_view", "squeeze", "squeeze_copy", "unsqueeze", "unsqueeze_copy"),
        *("expand", "expand_copy", "minimum", "maximum", "clamp", "clamp_min", "clamp_max"),
    )
)


def summing(program: ExportedProgram, signature: Signature) -> tuple[str, ...]:
    """The state of a graph, by `StateSpec.input`, that is added to from call to call and never shrinks by a factor.

    Args:
        program: takes the state after its inputs, and gives it after its outputs.
        signature: of the graph.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    taken = program.graph_signature.user_inputs[len(signature.inputs) :]
    given = program.graph_signature.user_outputs[len(signature.outputs) :]
    pairs = zip(signature.state, taken, given, strict=True)
    return tuple(spec.input for spec, start, end in pairs if _adds(nodes.get(str(start)), nodes.get(str(end)), seen={}))


def exact(graph: Graph, roots: Collection[str]) -> frozenset[str]:
    """The nodes named in ``roots`` and all that is computed of them in float, by name.

    It ends at the next weights, and where a value is clamped to a range: that is an activation like others.
    """
    found = {node.name for node in graph.nodes if node.name in set(roots)}
    stack = [node for node in graph.nodes if node.name in found]
    while stack:
        for user in stack.pop().users:
            if user.name not in found and is_float(user) and not is_weighted(user):
                found.add(user.name)
                if not _bounds(user):
                    stack.append(user)
    return frozenset(found)


def _bounds(node: Node) -> bool:
    """Whether a node clamps to a range that is the same at every call."""
    name = str(getattr(node.target, "_opname", ""))
    given = {**dict(zip(("min", "max"), node.args[1:], strict=False)), **node.kwargs}
    return name in ("clamp", "hardtanh") and all(isinstance(given.get(end), float | int) for end in ("min", "max"))


def _adds(start: Node | None, end: Node | None, seen: dict[Node, bool | None]) -> bool:
    """Whether a path leads from ``start`` to ``end`` on which values are only added to, at least once."""
    return start is not None and end is not None and _path(start, end, seen) is True


def _path(start: Node, node: Node, seen: dict[Node, bool | None]) -> bool | None:
    """``True`` for a path with an addition on it, ``False`` for one without, ``None`` for none."""
    if node is start:
        return False
    if node not in seen:
        seen[node] = None
        kind = str(getattr(node.target, "_opname", ""))
        found = [_path(start, source, seen) for source in _sources(node, kind)]
        if any(one is not None for one in found):
            seen[node] = kind in _ADDS or any(found)
    return seen[node]


def _sources(node: Node, kind: str) -> Iterator[Node]:
    """The arguments whose value an operator hands on, larger or as it is."""
    if kind in _ADDS or kind in _HANDS_ON:
        first = 1 if kind == "where" else 0
        last = 1 if kind in ("sub", "sub_") else len(node.args)
        yield from (value for value in node.args[first:last] if isinstance(value, Node))


def recurrent(program: ExportedProgram, signature: Signature) -> frozenset[str]:
    """The units with weights through which state becomes itself, with nothing between but sums and factors.

    The weights of such a recurrence act with their powers: what rounding them to 8 bits does to one step is nothing
    beside what it does to a memory of a hundred. One with a squashing function in it is not among them.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    taken = program.graph_signature.user_inputs[len(signature.inputs) :]
    given = program.graph_signature.user_outputs[len(signature.outputs) :]
    found: set[str] = set()
    for start, end in zip(taken, given, strict=True):
        if str(start) in nodes and str(end) in nodes:
            between = _forward(nodes[str(start)]) & _backward(nodes[str(end)])
            found |= {unit_of(node) for node in between if is_weighted(node)}
    return frozenset(found)


def _linear(node: Node) -> bool:
    kind = str(getattr(node.target, "_opname", ""))
    return is_weighted(node) or kind in _ADDS or kind in _HANDS_ON or kind in ("mul", "mul_", "div", "neg")


def _forward(start: Node) -> set[Node]:
    """What is computed of a node by sums, factors and weights."""
    found, stack = {start}, [start]
    while stack:
        new = [user for user in stack.pop().users if _linear(user) and user not in found]
        found.update(new)
        stack += new
    return found


def _backward(end: Node) -> set[Node]:
    """What a node is computed of by sums, factors and weights."""
    found, stack = {end}, [end]
    while stack:
        node = stack.pop()
        new = [source for source in node.all_input_nodes if source not in found] if _linear(node) else []
        found.update(new)
        stack += new
    return found
