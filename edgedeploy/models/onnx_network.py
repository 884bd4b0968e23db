"""An ONNX file as a ``torch.nn.Module``, for the backends that start from an exported PyTorch program.

Every node that computes becomes a small module at the path of the PyTorch module it came from (where the file says
so, see `edgedeploy.capture.module_path`) or under its own name, and holds its weights. What depends on constants only
is computed once, when the file is read; shape arithmetic is done in Python while the network is traced. So
``torch.export.export`` sees straight-line code, and a batch that is dynamic in the file may stay dynamic.

Operators: `edgedeploy.models.onnx_operators`. What is not known there is refused, all of it at once.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from keyword import iskeyword
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import torch

from edgedeploy.capture import module_path
from edgedeploy.errors import EdgeDeployError, ExportFailed, Unavailable, UsageError
from edgedeploy.models.onnx_operators import HOST_INPUTS, ON_HOST, OPERATORS, ROLES, Function, Node, Refused
from edgedeploy.models.onnx_operators.node import DTYPES, as_host, as_tensor

#: The opsets whose changes to these operators are known here.
OPSETS = range(7, 25)
#: Weight operators own the path of their module; what else came from it (an activation) goes below.
_OWN = re.compile(r"_|$|(weight|bias|running_mean|running_var|scale|zero_point|constant\w*|takes|gives|node)$")
_OWNERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization")


class OnnxNetwork(torch.nn.Module):
    """The network in an ONNX file: tensors in the order of the graph's inputs in, its outputs out.

    One output comes as a tensor, several as a tuple. Weights are parameters without gradient, other constants are
    buffers, both in the types of the file.

    Raises:
        UsageError: not a readable ONNX file of one piece, or not a valid graph.
        ExportFailed: operators or attributes that torch cannot express; each is named with a node that has it.
        Unavailable: the package ``onnx`` is not installed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        proto = _read(path)
        nodes = _Translation(path, proto)
        initializers = {i.name for i in proto.graph.initializer}
        self.input_names = tuple(v.name for v in proto.graph.input if v.name not in initializers)
        self.output_names = tuple(v.name for v in proto.graph.output)
        if not self.input_names:
            raise UsageError(f"{path} has 0 inputs, so there is nothing to compute on a device.")
        self._last_use: list[list[str]] = _last_uses(nodes.operations, self.output_names)
        self._steps: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []
        places = _places(nodes.operations)
        for place, operation in sorted(zip(places, nodes.operations, strict=True), key=lambda both: len(both[0])):
            _container(self, place[:-1]).add_module(place[-1], operation)  # what is above another comes first
        for place, operation in zip(places, nodes.operations, strict=True):
            self._steps.append((".".join(place), operation.takes, operation.gives))
        self._fixed: dict[str, str] = {}  # outputs that depend on no input
        for i, name in enumerate(n for n in self.output_names if n in nodes.constants):
            self.register_buffer(f"_output_{i}", nodes.constants[name])
            self._fixed[name] = f"_output_{i}"
        self.forward = MethodType(_forward(self.input_names), self)
        self.eval().requires_grad_(False)

    def _run(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        values: dict[str, Any] = dict(zip(self.input_names, inputs, strict=True))
        for (where, takes, gives), done in zip(self._steps, self._last_use, strict=True):
            result = self.get_submodule(where)(*(values[name] for name in takes))
            values.update(zip(gives, result if isinstance(result, tuple) else (result,), strict=False))
            for name in done:
                values.pop(name, None)
        results = tuple(self._result(values, name) for name in self.output_names)
        return results[0] if len(results) == 1 else results

    def _result(self, values: Mapping[str, Any], name: str) -> torch.Tensor:
        value = getattr(self, self._fixed[name]) if name in self._fixed else as_tensor(values[name])
        # an export may hand out neither its inputs nor its weights
        return value.clone() if name in self._fixed or name in self.input_names else value  # type: ignore[no-any-return]


class Operation(torch.nn.Module):
    """One node with its constant inputs; called with the values of the others."""

    def __init__(self, node: Node, function: Function, on_host: Function | None, known: Sequence[int]) -> None:
        super().__init__()
        self.node = (node.op, node.name, node.path)
        self._function, self._on_host = function, on_host
        needs_host = HOST_INPUTS.get(node.op, ())
        self._known = set(known)
        self._given: list[str | np.ndarray[Any, Any] | None] = []  # name of a constant, a host constant, nothing
        for index in range(len(node.inputs)):
            constant = node.constants.get(index)
            if constant is None:
                self._given.append(None)
            elif on_host or index in needs_host:
                self._given.append(constant.numpy())
            else:
                self._given.append(self._keep(node, index, constant))
        self._runtime = [i for i, name in enumerate(node.inputs) if name and i not in self._known]
        self._needs_host = frozenset(needs_host)
        self.takes = tuple(node.inputs[i] for i in self._runtime)
        self.gives = tuple(node.outputs)

    def _keep(self, node: Node, index: int, constant: torch.Tensor) -> str:
        role = ROLES.get(node.op, {}).get(index, "constant" if len(node.constants) == 1 else f"constant_{index}")
        if role in ("weight", "bias") and constant.is_floating_point():
            self.register_parameter(role, torch.nn.Parameter(constant, requires_grad=False))
        else:
            self.register_buffer(role, constant)
        return role

    def forward(self, *values: Any) -> Any:
        """The node's output, or a tuple of them."""
        arguments = [getattr(self, g) if isinstance(g, str) else g for g in self._given]
        for index, value in zip(self._runtime, values, strict=True):
            arguments[index] = value
        try:
            if self._on_host is not None and all(isinstance(a, np.ndarray) or a is None for a in arguments):
                result = self._on_host(*arguments)
                if result is not NotImplemented:
                    return as_host(result)
            return self._function(*(self._value(i, a) for i, a in enumerate(arguments)))
        except EdgeDeployError:
            raise
        except Exception as error:  # as many kinds as torch has operators
            line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise ExportFailed(f"{_title(*self.node)} cannot be computed by PyTorch: {line}.") from error

    def _value(self, index: int, value: Any) -> Any:
        if index not in self._needs_host:
            return value if self.node[0] in ("Gather", "Shape", "Size") else as_tensor(value)
        if isinstance(value, torch.Tensor):
            raise Refused(f"its input {index} depends on the data")
        return value


def _forward(names: Sequence[str]) -> Callable[..., Any]:
    """`OnnxNetwork._run` with one parameter per input, under its name where that is one: an export looks at both."""

    def forward(self: OnnxNetwork, *inputs: torch.Tensor) -> Any:
        if len(inputs) != len(names):
            raise UsageError(f"The ONNX graph takes {len(names)} inputs ({', '.join(names)}), not {len(inputs)}.")
        return self._run(*inputs)

    plain = [n if n.isidentifier() and not iskeyword(n) and n != "self" else f"input_{i}" for i, n in enumerate(names)]
    plain = plain if len(set(plain)) == len(plain) else [f"input_{i}" for i in range(len(names))]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(n, kind) for n in ("self", *plain)])
    forward.__signature__ = signature  # type: ignore[attr-defined]
    return forward


@dataclass(frozen=True)
class _Refusal:
    op: str
    where: str
    reason: str


class _Translation:
    """The nodes of a graph as operations; what depends on constants only is computed on the way."""

    def __init__(self, path: Path, proto: Any) -> None:
        self.opset = _opset(path, proto)
        self.constants: dict[str, torch.Tensor] = {}
        self.operations: list[Operation] = []
        self._refused: list[_Refusal] = []
        self._maybe_host: set[str] = set()  # values that can be known while tracing
        for tensor in proto.graph.initializer:
            try:
                self._know(tensor.name, _tensor(tensor))
            except Exception as error:  # a damaged one fails in any way
                self._refuse("initializer", tensor.name, error, [tensor.name])
        made = {"", *(v.name for v in proto.graph.input), *(i.name for i in proto.graph.initializer)}
        for i, node in enumerate(proto.graph.node):
            name = node.name or f"{node.op_type}_{i}"
            for missing in (n for n in node.input if n not in made):
                raise UsageError(f"{path} is not a valid ONNX graph: '{name}' takes '{missing}' before it is there.")
            made.update(node.output)
            self._translate(node, name, module_path(node) or name)
        for missing in (v.name for v in proto.graph.output if v.name not in made):
            raise UsageError(f"{path} is not a valid ONNX graph: nothing gives its output '{missing}'.")
        if self._refused:
            raise ExportFailed(
                f"{path} cannot be made a PyTorch network, because this cannot be expressed: {_listed(self._refused)}. "
                "Export from the PyTorch checkpoint, or use a backend that reads ONNX itself (onnxruntime)."
            )

    def _know(self, name: str, value: torch.Tensor) -> None:
        self.constants[name] = value
        self._maybe_host.add(name)

    def _translate(self, proto: Any, name: str, path: str) -> None:
        outputs = [*proto.output]
        op = proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}.{proto.op_type}"
        try:
            node = Node(op, name, path, self.opset, [*proto.input], outputs, _attributes(proto))
            if op == "Constant":
                self._know(outputs[0], _constant(node))
                return
            if op not in OPERATORS:
                raise Refused("")
            self._add(node)
        except EdgeDeployError:
            raise
        except Exception as error:  # an attribute that is missing or of another type fails in any way
            self._refuse(op, path if path == name else f"{path} ({name})", error, outputs)

    def _refuse(self, op: str, where: str, error: Exception, outputs: Sequence[str]) -> None:
        line = (str(error).splitlines() or [""])[0][:160]
        reason = line if isinstance(error, Refused) else f"damaged ({type(error).__name__}: {line})"
        self._refused.append(_Refusal(op, where, reason))
        self._maybe_host.update(outputs)  # or all that follows would be refused too

    def _add(self, node: Node) -> None:
        given = [i for i, name in enumerate(node.inputs) if name]
        known = [i for i in given if node.inputs[i] in self.constants]
        node.constants = {i: self.constants[node.inputs[i]] for i in known}
        for index in HOST_INPUTS.get(node.op, ()):
            if node.has(index) and node.inputs[index] not in self._maybe_host:
                raise Refused(f"its input {index} ('{node.inputs[index]}') depends on the data")
        host_maker = ON_HOST.get(node.op)
        stays = host_maker is not None and all(node.inputs[i] in self._maybe_host for i in given)
        fold = known == given and bool(given)
        on_host = host_maker(replace(node, attributes=dict(node.attributes))) if host_maker and stays else None
        whole = dict(node.constants)
        function = OPERATORS[node.op](node)
        if on_host:
            node.constants = whole  # what a maker reads out of a constant, its namesake on the host reads again
        if node.attributes:
            raise Refused(f"attribute {', '.join(sorted(node.attributes))}")
        operation = Operation(node, function, None if fold else on_host, known)
        if fold:
            with torch.no_grad():
                result = as_tensor(operation())
            for name, value in zip(node.outputs, result if isinstance(result, tuple) else (result,), strict=False):
                self._know(name, value)
            return
        if stays or node.op in ("Shape", "Size"):
            self._maybe_host.update(node.outputs)
        self.operations.append(operation)


def _read(path: Path) -> Any:
    try:
        import onnx
        from onnx import inliner
    except ImportError as error:
        raise Unavailable.extra("onnx, which reads .onnx files,", "export") from error
    try:
        proto = onnx.load(path, load_external_data=False)
        if not proto.graph.node:
            raise ValueError("it has no nodes")
    except Exception as error:  # protobuf raises its own, undocumented kinds
        line = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UsageError(f"{path} is not a readable ONNX file ({line}). Copy or export it again.") from error
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise UsageError(
                f"{path} keeps '{tensor.name}' in another file. Make it one file with "
                f"onnx.save(onnx.load('{path.name}'), 'whole.onnx') and give that."
            )
    return inliner.inline_local_functions(proto) if proto.functions else proto


def _opset(path: Path, proto: Any) -> int:
    opset = next((int(entry.version) for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset not in OPSETS:
        raise ExportFailed(
            f"{path} is of opset {opset}; made PyTorch networks are {OPSETS.start} to {OPSETS.stop - 1}. "
            "Convert it with onnx.version_converter."
        )
    return opset


def _tensor(proto: Any) -> torch.Tensor:
    from onnx import numpy_helper

    if proto.data_type not in DTYPES:
        raise Refused(f"element type {proto.data_type}")
    if proto.data_location == proto.EXTERNAL:
        raise Refused("its value is in another file")
    array = numpy_helper.to_array(proto)
    wanted = DTYPES[proto.data_type]
    return torch.from_numpy(array.astype(np.float32) if wanted == torch.bfloat16 else np.array(array)).to(wanted)


def _attributes(proto: Any) -> dict[str, Any]:
    from onnx import AttributeProto, helper

    result: dict[str, Any] = {}
    for attribute in proto.attribute:
        if attribute.type == AttributeProto.TENSOR:
            result[attribute.name] = _tensor(attribute.t)
        elif attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            raise Refused("")  # control flow
        else:
            result[attribute.name] = helper.get_attribute_value(attribute)
    return result


def _constant(node: Node) -> torch.Tensor:
    (key, value), *more = node.attributes.items()
    types = {"value_float": torch.float32, "value_floats": torch.float32, "value_int": torch.int64}
    if more or (key != "value" and not key.startswith(("value_float", "value_int"))):
        raise Refused(f"attribute {key}")
    return value if key == "value" else torch.tensor(value, dtype=types.get(key, torch.int64))


def _title(op: str, name: str, path: str) -> str:
    return f"{op} '{path}'" if path == name else f"{op} '{name}' of '{path}'"


def _listed(refused: Sequence[_Refusal]) -> str:
    """Each operator and reason once, with the first node that has it and how many others do."""
    groups: dict[tuple[str, str], list[str]] = {}
    for refusal in refused:
        groups.setdefault((refusal.op, refusal.reason), []).append(refusal.where)
    texts = []
    for (op, reason), nodes in groups.items():
        others = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
        texts.append(f"{op} at '{nodes[0]}'{others}{': ' + reason if reason else ''}")
    return "; ".join(texts)


def _places(operations: Sequence[Operation]) -> list[tuple[str, ...]]:
    """Where each operation goes: the names of the modules above it and its own; all different.

    The first weight operator of a path gets it, as does an operation that is alone there; others go below it, under
    their node names.
    """
    paths = [operation.node[2] for operation in operations]
    owners: dict[str, int] = {}
    for wanted in (True, False):
        for i, operation in enumerate(operations):
            if (operation.node[0] in _OWNERS) == wanted and (wanted or paths.count(paths[i]) == 1):
                owners.setdefault(paths[i], i)
    taken: set[tuple[str, ...]] = set()
    result: list[tuple[str, ...]] = []
    for i, operation in enumerate(operations):
        names = _parts(paths[i]) if owners.get(paths[i]) == i else (*_parts(paths[i]), *_parts(operation.node[1]))
        while names in taken:
            names = (*names[:-1], f"{names[-1]}_")
        taken.add(names)
        result.append(names)
    return result


def _parts(path: str) -> tuple[str, ...]:
    """Names that modules may have; one that modules have already (``type``, ``weight``) gets an underscore."""
    probe = torch.nn.Module()
    return tuple(f"{p}_" if hasattr(probe, p) or _OWN.match(p) else p for p in path.split("."))


def _container(root: torch.nn.Module, place: Sequence[str]) -> torch.nn.Module:
    for name in place:
        if name not in root._modules:
            root.add_module(name, torch.nn.Module())
        root = root.get_submodule(name)
    return root


def _last_uses(operations: Sequence[Operation], outputs: Sequence[str]) -> list[list[str]]:
    """Per operation, the values that nobody needs after it: they would only take memory."""
    last = {name: i for i, operation in enumerate(operations) for name in operation.takes if name not in outputs}
    result: list[list[str]] = [[] for _ in operations]
    for name, at in last.items():
        result[at].append(name)
    return result
