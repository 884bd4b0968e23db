"""From a graph of a `Model` to ONNX, and to a session that runs it as it is.

Needs torch (unless the graph already is an ONNX file), imported when called.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgedeploy import plugins
from edgedeploy.errors import RunFailed, Unavailable
from edgedeploy.model import Graph, Model
from edgedeploy.runtime import Outputs, Session, check_state
from edgedeploy.tensors import Array, Signature, TensorSpec, random_input

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

#: Node metadata that is kept: the path of the PyTorch module a node came from. The rest names files of the user.
MODULE_PATH_KEY = "pkg.torch.onnx.name_scopes"
#: Key under which an ONNX file carries the task contract, as JSON.
TASK_KEY = "edgedeploy.task"
#: Key under which it says in what precision it computes; without it, in that of its tensors.
COMPUTES_KEY = "edgedeploy.computes_in"
#: Largest dynamic batch, and image side in strides, that a captured graph is checked for.
MAX_BATCH, MAX_STRIDES = 1024, 512


def to_onnx(graph: Graph, target: Path, opset: int, task: Mapping[str, Any] | None = None) -> None:
    """Write the graph as one ONNX file that carries its ``task`` contract; an ONNX graph is passed through.

    Every node gets a name, which converters take for granted, and keeps the path of the PyTorch module it came from
    (`module_path`), and nothing else of the source.

    Raises:
        Unavailable: torch, onnx or onnxscript is not installed.
        Exception: whatever torch raises for a graph that it cannot express.
    """
    try:
        import onnx
    except ImportError as error:
        raise Unavailable.extra("onnx", "export") from error
    proto = onnx.load(graph.network) if isinstance(graph.network, Path) else _captured(graph, opset)
    for node in [n for g in (proto.graph, *proto.functions) for n in g.node]:
        kept = [p for p in node.metadata_props if p.key == MODULE_PATH_KEY]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
        node.doc_string = ""
    taken = {node.name for node in proto.graph.node}
    for i, node in enumerate(proto.graph.node):
        if not node.name:
            node.name = next(n for n in (f"{node.op_type}_{i}", f"{node.op_type}_{i}_unnamed") if n not in taken)
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    others = [p for p in proto.metadata_props if p.key != TASK_KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(others)
    if task is not None:
        proto.metadata_props.add(key=TASK_KEY, value=json.dumps(task, sort_keys=True))
    onnx.save(proto, target)


def _captured(graph: Graph, opset: int) -> Any:
    torch = _torch()
    try:
        import onnxscript  # noqa: F401  - torch would fail in the middle, and not say what to do
    except ImportError as error:
        raise Unavailable.extra("onnxscript, with which torch writes ONNX,", "export") from error
    signature = graph.signature
    with _quiet():
        program = torch.onnx.export(
            graph.network,
            None if isinstance(graph.network, torch.export.ExportedProgram) else _example(graph),
            dynamo=True,
            opset_version=opset,
            input_names=[spec.name for spec in taken(signature)],
            output_names=[spec.name for spec in given(signature)],
            dynamic_shapes=_dynamic_shapes(graph),
            external_data=False,
            verbose=False,
        )
    proto = program.model_proto
    for values, specs in ((proto.graph.input, taken(signature)), (proto.graph.output, given(signature))):
        for value, spec in zip(values, specs, strict=True):
            for dim, wanted in zip(value.type.tensor_type.shape.dim, spec.shape, strict=True):
                if isinstance(wanted, str):  # torch invents names; ours say what the dimension is
                    dim.dim_param = wanted
    return proto


def to_program(graph: Graph) -> ExportedProgram:
    """The graph as PyTorch exports it, in FP32; the start of every backend that does not come from ONNX.

    A graph that is an ONNX file is made a network again first.

    Raises:
        Unavailable: torch is not installed.
        UsageError: the ONNX graph has an operator that is not rebuilt in PyTorch here.
        Exception: whatever torch raises for a network that it cannot export.
    """
    torch = _torch()
    network = graph.network
    if isinstance(network, torch.export.ExportedProgram):
        return cast("ExportedProgram", network)
    if isinstance(network, Path):
        assert graph.rebuilt is not None, "whoever reads an ONNX file says how it becomes a network"
        network = graph.rebuilt()
    network.requires_grad_(False)
    with _quiet():
        program = torch.export.export(network, _example(graph), dynamic_shapes=_dynamic_shapes(graph), strict=False)
    return cast("ExportedProgram", program)


def module_path(node: Any) -> str:
    """The path of the PyTorch module that an ONNX node came from, such as ``model.4.m.1.cv2``, or its own name."""
    for prop in node.metadata_props:
        if prop.key == MODULE_PATH_KEY:
            scopes = [s.strip(" '\"") for s in prop.value.strip("[]").split(",")][:-1]
            paths = [s for s in scopes if s]
            return _joined(paths) or str(node.name)
    return str(node.name)


def _joined(paths: list[str]) -> str:
    """Scopes are absolute (``model.4``) or, after layers were fused, relative (``conv``): put them together."""
    whole = ""
    for path in paths:
        whole = path if not whole or path.startswith(whole + ".") or path == whole else f"{whole}.{path}"
    return whole


class EagerSession:
    """Runs the PyTorch networks of a `Model` as they are, in FP32: the reference of every comparison.

    State goes in after the inputs and comes out after the outputs, and is kept here from call to call.
    """

    def __init__(self, model: Model) -> None:
        torch = _torch()
        self._state: dict[str, list[Any]] = {}
        self._signatures = {name: graph.signature for name, graph in model.graphs.items()}
        self._networks = {
            name: graph.network.module() if isinstance(graph.network, torch.export.ExportedProgram) else graph.network
            for name, graph in model.graphs.items()
        }
        self.reset()

    @property
    def facts(self) -> Mapping[str, str | int | float]:
        """Version and threads."""
        torch = _torch()
        return {"runtime": "torch eager", "version": torch.__version__, "threads": torch.get_num_threads()}

    def run(self, inputs: Mapping[str, Array], graph: str = "main") -> Outputs:
        """See `Session.run`."""
        torch = _torch()
        signature = self._signatures[graph]
        signature.check(inputs)
        arguments = [torch.from_numpy(inputs[spec.name]) for spec in signature.inputs] + self._state[graph]
        try:
            with torch.inference_mode():
                result = self._networks[graph](*arguments)
        except Exception as error:  # as many kinds as there are layers
            line = (str(error).strip().splitlines() or [""])[0][:300]
            raise RunFailed(f"PyTorch failed in graph '{graph}': {type(error).__name__}: {line}") from error
        tensors = (result,) if isinstance(result, torch.Tensor) else tuple(result)
        found = dict(zip([spec.name for spec in given(signature)], tensors, strict=True))
        self._state[graph] = [found[state.output] for state in signature.state]
        return {spec.name: found[spec.name].numpy() for spec in signature.outputs}

    def reset(self) -> None:
        """Put all state back to zeros."""
        torch = _torch()
        self._state = {
            name: [torch.zeros(state.shape, dtype=getattr(torch, state.dtype)) for state in signature.state]
            for name, signature in self._signatures.items()
        }

    def state(self) -> dict[str, Array]:
        """See `edgedeploy.runtime.Carrying.state`."""
        return {
            spec.input: tensor.numpy().copy()
            for name, signature in self._signatures.items()
            for spec, tensor in zip(signature.state, self._state[name], strict=True)
        }

    def restore(self, state: Mapping[str, Array]) -> None:
        """See `edgedeploy.runtime.Carrying.restore`."""
        torch = _torch()
        check_state(self._signatures.values(), state)
        self._state = {
            name: [torch.from_numpy(state[spec.input].copy()) for spec in signature.state]
            for name, signature in self._signatures.items()
        }

    def close(self) -> None:
        """Nothing to free."""


def reference_session(model: Model) -> Session:
    """What a model's artifacts are compared with: eager PyTorch, or ONNX Runtime where the model is an ONNX file."""
    if all(isinstance(graph.network, Path) for graph in model.graphs.values()):
        runtime = plugins.find(plugins.RUNTIMES, "onnxruntime")()
        files = {name: graph.network for name, graph in model.graphs.items()}
        signatures: dict[str, Signature] = {name: graph.signature for name, graph in model.graphs.items()}
        return cast(Session, runtime.open(files, signatures))
    return EagerSession(model)


def taken(signature: Signature) -> tuple[TensorSpec, ...]:
    """What a network takes, in order: the inputs, then the state."""
    return (*signature.inputs, *(TensorSpec(s.input, s.dtype, s.shape) for s in signature.state))


def given(signature: Signature) -> tuple[TensorSpec, ...]:
    """What a network gives, in order: the outputs, then the state."""
    return (*signature.outputs, *(TensorSpec(s.output, s.dtype, s.shape) for s in signature.state))


def _example(graph: Graph) -> tuple[torch.Tensor, ...]:
    """Inputs to trace with. A dynamic dimension gets a size over 1, because torch takes 0 and 1 for constants."""
    torch = _torch()
    specs = taken(graph.signature)
    names = {d for spec in specs for d in spec.shape if isinstance(d, str)}
    sizes = {name: 4 * graph.stride if name in ("height", "width") else 2 for name in names}
    if {"height", "width"} <= names:
        sizes["width"] += graph.stride  # equal sides would be taken for one dimension
    return tuple(torch.from_numpy(random_input(spec, sizes, seed=0)) for spec in specs)


def _dynamic_shapes(graph: Graph) -> tuple[dict[int, Any], ...] | None:
    torch = _torch()
    specs = taken(graph.signature)
    if isinstance(graph.network, torch.export.ExportedProgram) or not any(
        isinstance(d, str) for spec in specs for d in spec.shape
    ):
        return None
    dims: dict[str, Any] = {}
    for name in {d for spec in specs for d in spec.shape if isinstance(d, str)}:
        if name in ("height", "width") and graph.stride > 1:
            dims[name] = graph.stride * torch.export.Dim(f"{name}_strides", min=1, max=MAX_STRIDES)
        else:
            dims[name] = torch.export.Dim(name, min=1, max=MAX_BATCH)
    return tuple({i: dims[d] for i, d in enumerate(spec.shape) if isinstance(d, str)} for spec in specs)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise Unavailable.extra("torch, which runs and captures the network,", "export") from error
    return torch


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's notes about its own deprecations away from the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
