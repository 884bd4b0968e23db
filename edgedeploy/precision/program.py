"""What every backend that starts from ``torch.export`` does with a program: name its parts, run it, export it again.

A *unit* is the path of the PyTorch module whose operators are lowered together, such as ``model.4.cv1.conv``. Operators
called outside any module inside the network are units of their own, by the node's name.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from edgedeploy.errors import RunFailed, UsageError
from edgedeploy.precision.search import between_weights
from edgedeploy.runtime import Outputs
from edgedeploy.tensors import Array, Signature, random_input

#: Operators with weights, or as much work as one: what a lower precision is for.
WEIGHTED = ("conv", "linear", "matmul", "addmm", "bmm", "mm", "baddbmm", "scaled_dot_product_attention")


def module_of(node: Node) -> str:
    """The path of the innermost PyTorch module that a node came from; empty for the network itself.

    Layers that were fused, or are called in several places, know themselves under another path than the one they were
    called by: of that only the last part is taken.
    """
    whole = ""
    for path, *_ in node.meta.get("nn_module_stack", {}).values():
        if not path or path == whole:
            continue
        inside = not whole or path.startswith(whole + ".")
        whole = path if inside else f"{whole}.{path.rpartition('.')[2]}"
    return whole


def unit_of(node: Node) -> str:
    """The unit that a node belongs to."""
    return module_of(node) or node.name


def is_weighted(node: Node) -> bool:
    """Whether a node is a convolution or a product of matrices."""
    name = getattr(node.target, "_opname", "")
    return any(name.startswith(kind) if kind == "conv" else name == kind for kind in WEIGHTED)


def is_float(node: Node) -> bool:
    """Whether a node gives one float32 tensor."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32


def idle(module: GraphModule, units: Sequence[str], kept: Collection[str]) -> frozenset[str]:
    """The units without weights that lie on no path from one lowered weight to another if ``kept`` stays in float.

    They would only be converted to and fro.
    """
    stays = set(kept)
    open_ = [n for n in module.graph.nodes if n.op == "call_function" and unit_of(n) not in stays]
    consumers = {n.name: [user.name for user in n.users] for n in open_}
    weighted = [n.name for n in open_ if is_weighted(n) and unit_of(n) in units]
    inside = between_weights(consumers, weighted, consumers)
    useful = {unit_of(n) for n in open_ if n.name in inside}
    return frozenset(unit for unit in units if unit not in useful and unit not in stays)


def again(
    module: torch.nn.Module,
    signature: Signature,
    stride: int = 1,
    largest: Mapping[str, int] | None = None,
    fixed: Mapping[str, int] | None = None,
) -> ExportedProgram:
    """Export a graph module that came from an exported program, once more; the paths of modules survive.

    Args:
        module: what to export; its inputs are those of ``signature``.
        signature: names dynamic dimensions.
        stride: a dynamic height and width are multiples of it.
        largest: the largest size of each dimension that stays dynamic.
        fixed: the size of each dimension that does not.

    Raises:
        UsageError: a dynamic dimension is in neither, or its largest size is too small to vary.
        Exception: whatever torch raises.
    """
    dims: dict[str, Any] = {}
    sizes = dict(fixed or {})
    for name in dict.fromkeys(d for spec in signature.inputs for d in spec.shape if isinstance(d, str)):
        if name in sizes:
            continue
        step = stride if name in ("height", "width") else 1
        steps = (largest or {}).get(name, 0) // step
        if steps < 2:
            raise UsageError(
                f"The dimension '{name}' is dynamic: its largest size has to be given, {2 * step} or more."
            )
        dims[name] = step * torch.export.Dim(f"{name}_steps" if step > 1 else name, min=1, max=steps)
        sizes[name] = steps * step
    if len(dims) > 1 and {"height", "width"} <= {*dims} and sizes["height"] == sizes["width"]:
        sizes["width"] -= stride  # equal sides would be taken for one dimension
    example = tuple(torch.from_numpy(random_input(spec, sizes, seed=0)) for spec in signature.inputs)
    shapes = tuple({i: dims[d] for i, d in enumerate(s.shape) if d in dims} for s in signature.inputs)
    with quiet():
        program = torch.export.export(module, example, dynamic_shapes=shapes if dims else None, strict=False)
    forget_history(program.graph_module)
    return program


def forget_history(module: GraphModule) -> None:
    """Drop the record of which nodes of earlier exports each node came from: every pass of a compiler copies it."""
    for node in module.graph.nodes:
        node.meta.pop("from_node", None)


class ProgramSession:
    """Runs a graph module with PyTorch: a rung between the float model and an artifact.

    Args:
        module: takes and gives the tensors of ``signature``, in order.
        signature: of the graph.
        name: what is run, for the facts.
        computes_in: the precisions in it.
    """

    def __init__(self, module: torch.nn.Module, signature: Signature, name: str, computes_in: str) -> None:
        self._module, self._signature = module, signature
        self._facts: dict[str, str | int | float] = {
            "runtime": f"torch ({name})",
            "version": torch.__version__,
            "threads": torch.get_num_threads(),
            "computes_in": computes_in,
        }
        self._start = {name: buffer.clone() for name, buffer in _mutated(module)}

    @property
    def facts(self) -> Mapping[str, str | int | float]:
        """Version, threads, precisions."""
        return self._facts

    def run(self, inputs: Mapping[str, Array], graph: str = "main") -> Outputs:
        """See `Session.run`; there is one graph, whatever its name."""
        self._signature.check(inputs)
        arguments = [torch.from_numpy(inputs[spec.name]) for spec in self._signature.inputs]
        try:
            with torch.inference_mode():
                result = self._module(*arguments)
        except Exception as error:  # as many kinds as there are operators
            line = (str(error).strip().splitlines() or [""])[0][:300]
            raise RunFailed(f"PyTorch failed in graph '{graph}': {type(error).__name__}: {line}") from error
        tensors = (result,) if isinstance(result, torch.Tensor) else tuple(result)
        return {spec.name: t.numpy() for spec, t in zip(self._signature.outputs, tensors, strict=True)}

    def reset(self) -> None:
        """Put buffers that the network changes back to what they were."""
        buffers = dict(self._module.named_buffers())
        for name, start in self._start.items():
            with torch.no_grad():
                buffers[name].copy_(start)

    def close(self) -> None:
        """Free the network."""
        self._module = torch.nn.Identity()


def _mutated(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The buffers that a node of the graph writes, with their names."""
    if not isinstance(module, GraphModule):
        return
    buffers = dict(module.named_buffers())
    for node in module.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        written = schema is not None and schema.is_mutable and node.args and isinstance(node.args[0], Node)
        if written and node.args[0].op == "get_attr" and node.args[0].target in buffers:
            yield node.args[0].target, buffers[node.args[0].target]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch, torchao and the compilers above them say about themselves away from the user."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
