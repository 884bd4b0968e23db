"""From a graph of a model to a Core ML program: capture once, convert as often as a search asks.

Every node of the captured program carries a number that Core ML Tools hands on to the operations it becomes, through
all its passes. So the PyTorch module behind an operation is known when it is decided whether it may run in fp16, and
afterwards.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from edgedeploy.capture import to_program
from edgedeploy.errors import ExportFailed
from edgedeploy.model import Graph
from edgedeploy.precision.carried import exact, summing
from edgedeploy.precision.loops import loop_free
from edgedeploy.precision.program import module_of
from edgedeploy.tensors import Signature, TensorSpec
from edgedeploy_coreml.state import REST, Stateful, plain_name
from edgedeploy_coreml.vendor import coremltools, quiet

#: Where the captured network sits in `Stateful`.
_INNER = "network"


@dataclass(frozen=True)
class Pixels:
    """An image input: a pixel of 0 to 255 in channel c becomes ``scale * pixel + bias[c]``; channels are RGB or BGR."""

    scale: float
    bias: tuple[float, float, float]
    color: str


@dataclass(frozen=True)
class Target:
    """What to convert for: the first iOS version, and the image input where the first input is one."""

    minimum: str
    pixels: Pixels | None = None


@dataclass(frozen=True)
class Place:
    """Where a module's output is made: the number of the node that computes it, and the name of the node that is it."""

    handle: int
    node: str


@dataclass(frozen=True)
class Captured:
    """A program ready to be converted.

    ``paths`` gives, by the number on a node, its module's path or its own name; ``modules`` where a module's output is.
    ``exact`` has the numbers of nodes that stay in fp32, whatever their module does, and ``whole`` the names of state
    that is kept as exactly as in fp32.
    """

    program: torch.export.ExportedProgram
    signature: Signature
    paths: Mapping[int, str]
    modules: Mapping[str, Place]
    exact: frozenset[int] = frozenset()
    whole: frozenset[str] = frozenset()


def capture(graph: Graph, whole: bool = False) -> Captured:
    """The graph as a program of core operators, its nodes numbered.

    State (see `edgedeploy.tensors.StateSpec`) is taken as further arguments, in order, and given as further results.

    Args:
        graph: to be captured.
        whole: keep all state as exactly as fp32 does; else only what is added to from call to call.
    """
    with quiet():
        graph, plain = loop_free(graph)
    if not graph.signature.state:
        with quiet():
            return number(plain.run_decompositions({}), graph.signature)
    signature, network = graph.signature, graph.network
    if not isinstance(network, torch.nn.Module):
        network = plain.module(check_guards=False)
    kept = [spec.input for spec in signature.state if spec.dtype == "float32"]
    kept = kept if whole else [name for name in kept if name in summing(plain, signature)]
    names = {spec.input: plain_name(spec.input) for spec in signature.state}
    stateful = Stateful(network, signature, names, kept).eval()
    inner = dataclasses.replace(signature, state=())
    with quiet():
        program = to_program(dataclasses.replace(graph, network=stateful, signature=inner)).run_decompositions({})
    found = number(program, signature, f"{_INNER}.", [names[name] for name in kept])
    return dataclasses.replace(found, whole=frozenset(kept))


def number(
    program: torch.export.ExportedProgram, signature: Signature, prefix: str = "", split: Sequence[str] = ()
) -> Captured:
    """Number the nodes of a program, and take down their modules' paths, less ``prefix``.

    Nodes outside of ``prefix``, and what is computed of the buffers named in ``split``, stay exact.
    """
    paths: dict[int, str] = {}
    modules: dict[str, Place] = {}
    outside = set(_holding(program, split))
    for handle, node in enumerate(program.graph.nodes, 1):
        node.meta["debug_handle"] = handle
        path = (module_of(node) + ".").removeprefix(prefix).rstrip(".")
        paths[handle] = path or node.name
        if node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor):
            first = node.target is operator.getitem and node.args[1] == 0  # a BatchNorm gives its statistics, too
            source = node.args[0].meta["debug_handle"] if first else handle
            modules.update(
                dict.fromkeys([m for m in _above(path) if _leaves(node, m, prefix)], Place(source, node.name))
            )
            if prefix and not f"{module_of(node)}.".startswith(prefix):
                outside.add(node.name)
    fixed = exact(program.graph, outside) if split else frozenset()
    numbers = (node.meta["debug_handle"] for node in program.graph.nodes if node.name in fixed)
    return Captured(program, signature, paths, modules, frozenset(numbers))


def _holding(program: torch.export.ExportedProgram, split: Sequence[str]) -> list[str]:
    """The nodes that are buffers in two parts."""
    parts = {name + end for name in split for end in ("", REST)}
    return [name for name, buffer in program.graph_signature.inputs_to_buffers.items() if buffer in parts]


def _above(path: str) -> Iterator[str]:
    """The module and those it is in: ``a.b.c``, ``a.b``, ``a``."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def _leaves(node: torch.fx.Node, module: str, prefix: str) -> bool:
    """Whether a node's value is used outside of a module."""
    for user in node.users:
        path = (module_of(user) + ".").removeprefix(prefix)
        if not path.startswith(module + "."):
            return True
    return False


def convert(captured: Captured, target: Target, half: Callable[[str], bool] | None = None) -> Any:
    """The ``coremltools`` model (an ML program) of a captured graph.

    Args:
        captured: the graph.
        target: first iOS version, image input.
        half: whether the operations of a module (by path) compute in fp16; all compute in fp32 where ``None``.

    Raises:
        ExportFailed: an operator that Core ML Tools cannot convert; it and its module are named.
    """
    ct = coremltools()
    precision = ct.precision.FLOAT32 if half is None else ct.transform.FP16ComputePrecision(_selector(captured, half))
    with quiet():
        try:
            return ct.convert(
                captured.program,
                inputs=[
                    _input(ct, spec, target if i == 0 else None) for i, spec in enumerate(captured.signature.inputs)
                ],
                outputs=[_output(ct, spec) for spec in captured.signature.outputs],
                minimum_deployment_target=getattr(ct.target, target.minimum),
                compute_precision=precision,
                skip_model_load=True,
            )
        except Exception as error:  # the converter raises whatever its hundreds of functions raise
            raise _named(error, captured) from error


def _selector(captured: Captured, half: Callable[[str], bool]) -> Callable[[Any], bool]:
    """Only what has a module can be kept in fp32: what the converter adds itself may be in fp16."""

    def selected(op: Any) -> bool:
        found = [handle for handle in handles(op) if handle in captured.paths]
        return captured.exact.isdisjoint(found) and all(half(captured.paths[handle]) for handle in found)

    return selected


def handles(op: Any) -> list[int]:
    """The numbers of the nodes that a MIL operation came from."""
    from coremltools.converters.mil.mil.scope import ScopeSource

    return [h for h in op.scopes.get(ScopeSource.EXIR_DEBUG_HANDLE) or () if h is not None]


def float_operations(program: Any) -> Iterator[Any]:
    """The operations of a converted program that compute something of floats."""
    from coremltools.converters.mil.mil import types

    for op in program.functions["main"].operations:
        fixed = op.op_type in ("const", "cast") or op.op_type.startswith("constexpr_")
        if not fixed and any(types.is_float(out.dtype) for out in op.outputs):
            yield op


def units(captured: Captured, program: Any) -> list[str]:
    """Modules (or nodes outside of any) that become float operations, in topological order."""
    numbers = (handle for op in float_operations(program) for handle in handles(op) if handle not in captured.exact)
    found = (captured.paths.get(handle) for handle in numbers)
    return list(dict.fromkeys(unit for unit in found if unit is not None))


def taps(captured: Captured, program: Any) -> dict[str, str]:
    """Module paths with the variable of the program that holds the module's output, where there is one.

    A module whose output was fused into the next operation has none.
    """
    made: dict[int, Any] = {}
    for op in float_operations(program):
        if len(op.outputs) == 1:
            made.update(dict.fromkeys(handles(op), op.outputs[0]))
    nodes = {node.name: node for node in captured.program.graph.nodes}
    found = {}
    for path, place in captured.modules.items():
        value, var = nodes[place.node].meta["val"], made.get(place.handle)
        if var is not None and value.is_floating_point() and _same_shape(var.shape, value.shape):
            found[path] = str(var.name)
    return found


def _same_shape(one: Any, other: Any) -> bool:
    """Whether two shapes agree where both have numbers."""
    pairs = list(zip(one, other, strict=False))
    known = [(a, b) for a, b in pairs if isinstance(a, (int, np.integer)) and isinstance(b, int)]
    return len(one) == len(other) and all(a == b for a, b in known)


def _input(ct: Any, spec: TensorSpec, target: Target | None) -> Any:
    if target is not None and target.pixels is not None:
        layout = ct.colorlayout.RGB if target.pixels.color == "RGB" else ct.colorlayout.BGR
        shape = tuple(int(n) for n in spec.shape)
        return ct.ImageType(
            name=plain_name(spec.name),
            shape=shape,
            scale=target.pixels.scale,
            bias=list(target.pixels.bias),
            color_layout=layout,
        )
    return ct.TensorType(name=plain_name(spec.name), dtype=_wide(spec.dtype))


def _output(ct: Any, spec: TensorSpec) -> Any:
    return ct.TensorType(name=plain_name(spec.name), dtype=_wide(spec.dtype))


def _wide(dtype: str) -> Any:
    """The type with which a tensor crosses into Core ML: float32, float16 or int32."""
    return {"float16": np.float16, "float32": np.float32, "float64": np.float32}.get(dtype, np.int32)


def _named(error: Exception, captured: Captured) -> ExportFailed:
    """The converter's error with the operator and module that it was working on, read off its stack."""
    node = _at_work(error)
    words = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
    if node is None:
        return ExportFailed(f"Core ML Tools cannot convert the network: {words}")
    found = next((n for n in captured.program.graph.nodes if n.name == node), None)
    operator = node if found is None else str(found.target)
    path = "" if found is None else captured.paths[found.meta["debug_handle"]]
    where = "in the network itself" if path == node else f"in module '{path}'"
    return ExportFailed(f"Core ML has no conversion for the operator {operator} {where}: {words}")


def _at_work(error: Exception) -> str | None:
    """The name of the last node that the converter had in hand."""
    found, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name in ("convert_nodes", "from_exir_node"):
            node = trace.tb_frame.f_locals.get("node")
            found = str(getattr(node, "name", "")) or found
        trace = trace.tb_next
    return found
