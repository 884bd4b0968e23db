"""From a graph of a model to a Core ML program: capture once, convert as often as a search asks.

Every node of the captured program carries a number that Core ML Tools hands on to the operations it becomes, through
all its passes. So the PyTorch module behind an operation is known when it is decided whether it may run in fp16, and
afterwards.
"""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from edgedeploy.capture import to_program
from edgedeploy.errors import ExportFailed
from edgedeploy.model import Graph
from edgedeploy.precision.program import module_of
from edgedeploy.tensors import Signature, TensorSpec
from edgedeploy_coreml.vendor import coremltools, quiet

#: Where the captured network sits in `_Stateful`.
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
    """

    program: torch.export.ExportedProgram
    signature: Signature
    paths: Mapping[int, str]
    modules: Mapping[str, Place]


class _Stateful(torch.nn.Module):
    """A network whose state goes in and comes out as one whose buffers change, which is what Core ML has."""

    def __init__(self, network: torch.nn.Module, signature: Signature) -> None:
        super().__init__()
        self.network = network
        self._names = [plain_name(state.input) for state in signature.state]
        for name, state in zip(self._names, signature.state, strict=True):
            self.register_buffer(name, torch.zeros(state.shape, dtype=getattr(torch, state.dtype)))

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        buffers = [getattr(self, name) for name in self._names]
        results = tuple(self.network(*inputs, *buffers))
        for buffer, value in zip(buffers, results[-len(buffers) :], strict=True):
            buffer.copy_(value)
        return results[: -len(buffers)]


def capture(graph: Graph) -> Captured:
    """The graph as a program of core operators, its nodes numbered.

    State (see `edgedeploy.tensors.StateSpec`) is taken as further arguments, in order, and given as further results.
    """
    prefix, signature = "", graph.signature
    if signature.state:
        network = graph.network.module() if isinstance(graph.network, torch.export.ExportedProgram) else graph.network
        inner = dataclasses.replace(signature, state=())
        graph = dataclasses.replace(graph, network=_Stateful(network, signature).eval(), signature=inner)
        prefix = f"{_INNER}."
    with quiet():
        program = to_program(graph).run_decompositions({})
    return number(program, signature, prefix)


def number(program: torch.export.ExportedProgram, signature: Signature, prefix: str = "") -> Captured:
    """Number the nodes of a program, and take down their modules' paths, less ``prefix``."""
    paths: dict[int, str] = {}
    modules: dict[str, Place] = {}
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
    return Captured(program, signature, paths, modules)


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
        return all(half(captured.paths[handle]) for handle in handles(op) if handle in captured.paths)

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
    found = (captured.paths.get(handle) for op in float_operations(program) for handle in handles(op))
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


def plain_name(name: str) -> str:
    """A name as Core ML takes it: letters, digits, underscores."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return plain if re.match(r"[A-Za-z_]", plain) else f"_{plain}"


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
