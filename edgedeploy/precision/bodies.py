"""Bodies of loops in an ONNX graph: graphs inside nodes, which may read constants of the graph around them.

What changes types or drops constants looks at the nodes of a graph, and not into these. So bodies get constants of
their own, and the nodes that have them stay in float.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def close_bodies(graph: Any) -> frozenset[str]:
    """Copy the constants that bodies read from ``graph``, which is changed, into them; names of those nodes."""
    constants = {one.name: one for one in graph.initializer}
    found = set()
    for node in graph.node:
        for body in _bodies(node):
            found.add(node.name)
            _close(body, constants)
    return frozenset(found)


def _close(body: Any, constants: Mapping[str, Any]) -> None:
    own = {one.name for one in (*body.input, *body.initializer)} | {name for node in body.node for name in node.output}
    copied: dict[str, str] = {}
    for node in body.node:
        for i, name in enumerate(node.input):
            if name not in constants or name in own:
                continue
            if name not in copied:
                copied[name] = f"{name}_of_{body.name or 'body'}"
                copy = body.initializer.add()
                copy.CopyFrom(constants[name])
                copy.name = copied[name]
            node.input[i] = copied[name]
        for inner in _bodies(node):
            _close(inner, constants)


def _bodies(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
