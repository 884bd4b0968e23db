"""Which tensor of an ONNX graph is the output of which PyTorch module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedeploy.capture import MODULE_PATH_KEY, module_path

#: What a quantiser puts between modules.
BETWEEN = frozenset({"QuantizeLinear", "DequantizeLinear"})


def module_outputs(path: Path) -> dict[str, str]:
    """Module path, or the name of an input or of a node that belongs to no module, to the name of a tensor.

    A module's output is what its last node gives to others; where that is quantised on its way to all of them, what
    comes out of there: the rest of the network gets nothing else. Of modules with the same output the innermost has it.
    """
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    last = {value.name: value.name for value in graph.input}
    for node in graph.node:
        if node.op_type in BETWEEN or len(node.output) != 1:
            continue
        users = set(_users(node.output[0], readers, outputs))
        for scope in _scopes(node):
            if any(not (user + ".").startswith(scope + ".") for user in users):
                last.pop(scope, None)
                last[scope] = node.output[0]
    innermost = {tensor: scope for scope, tensor in sorted(last.items(), key=lambda item: len(item[0]))}
    return {s: _shown(tensor, readers, outputs) for s, tensor in last.items() if innermost[tensor] == s}


def _users(tensor: str, readers: Mapping[str, Sequence[Any]], outputs: set[str]) -> Iterator[str]:
    """Paths of the nodes that read a tensor, or what a quantiser makes of it; empty for the caller of the graph."""
    if tensor in outputs:
        yield ""
    for node in readers.get(tensor, ()):
        if node.op_type in BETWEEN:
            yield from _users(node.output[0], readers, outputs)
        else:
            yield module_path(node)


def _scopes(node: Any) -> Iterator[str]:
    """``a.b.c`` lies in ``a.b.c``, ``a.b`` and ``a``; a node that knows no module, in its own name."""
    path = module_path(node)
    yield path
    while "." in path and any(prop.key == MODULE_PATH_KEY for prop in node.metadata_props):
        path = path.rpartition(".")[0]
        yield path


def _shown(tensor: str, readers: Mapping[str, Sequence[Any]], outputs: set[str]) -> str:
    """``tensor``, or what it becomes after Q/DQ, if nobody reads it before."""
    quantisers = readers.get(tensor, ())
    if tensor in outputs or not quantisers or any(node.op_type != "QuantizeLinear" for node in quantisers):
        return tensor
    after = readers.get(quantisers[0].output[0], ())
    return str(after[0].output[0]) if after else tensor
