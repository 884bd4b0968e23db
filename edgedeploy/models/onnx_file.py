"""An .onnx file as a model in its own right, with or without the metadata that this project writes."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgedeploy.capture import TASK_KEY
from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.model import Graph, InputShape, Model, Source
from edgedeploy.tasks import contract_of, from_contract
from edgedeploy.tasks.detect import Detect
from edgedeploy.tensors import DTYPES, Signature, TensorSpec


def load(source: Source, shape: InputShape) -> Model:
    """The graph in an ONNX file; its shapes are its own, so ``shape`` may only repeat or fill them in.

    The task contract is read from our metadata, else from that which Ultralytics writes, else left unknown.

    Raises:
        UsageError: not an ONNX file, or asked for another size or batch than the graph has.
        Unavailable: the package ``onnx`` is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise Unavailable.extra("onnx, which reads .onnx files,", "export") from error
    path = Path(source.reference)
    try:
        proto = onnx.load(path, load_external_data=False)
        if not proto.graph.node:
            raise ValueError("it has no nodes")
        signature = Signature(
            inputs=tuple(
                _spec(v) for v in proto.graph.input if v.name not in {i.name for i in proto.graph.initializer}
            ),
            outputs=tuple(_spec(v) for v in proto.graph.output),
        )
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except Exception as error:  # protobuf raises its own, undocumented kinds
        raise UsageError(
            f"{path} is not a readable ONNX file ({str(error)[:120]}). Copy or export it again."
        ) from error
    _agree(path, signature, shape)
    metadata = {p.key: p.value for p in proto.metadata_props}
    task = _task(path, metadata, signature, shape)
    stride = max(task.strides) if isinstance(task, Detect) else 1
    graph = Graph(path, signature, stride, lambda: _rebuilt(path))
    return Model(source.name, {"main": graph}, source, contract_of(task) if task else None)


def _rebuilt(path: Path) -> Any:
    """The file as a PyTorch network; torch is imported only when a backend asks for it."""
    from edgedeploy.models.onnx_network import OnnxNetwork

    return OnnxNetwork(path)


def _spec(value: Any) -> TensorSpec:
    import onnx

    tensor = value.type.tensor_type
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)) if tensor.elem_type else "unknown"
    if dtype not in DTYPES:
        raise UsageError(f"'{value.name}' is of type {dtype}, which cannot be fed; known are {', '.join(DTYPES)}.")
    dims = tuple(
        d.dim_value if d.dim_value > 0 else d.dim_param or f"{value.name}_{i}" for i, d in enumerate(tensor.shape.dim)
    )
    return TensorSpec(value.name, dtype, dims)


def _agree(path: Path, signature: Signature, shape: InputShape) -> None:
    """Refuse what only re-exporting the checkpoint could give."""
    dims = signature.inputs[0].shape if signature.inputs else ()
    if shape.dynamic and not any(isinstance(d, str) for d in dims):
        raise UsageError(f"{path} has fixed shapes {list(dims)}; export it again with dynamic ones where it came from.")
    wanted: tuple[int, ...] = (shape.batch, *(shape.size or ()))
    found = (dims[0], *(dims[-2:] if shape.size else ())) if dims else ()
    for want, got in zip(wanted, found, strict=False):
        if isinstance(got, int) and got != want:
            raise UsageError(f"{path} takes {list(dims)}, not batch {shape.batch} and size {shape.size}.")


def _task(path: Path, metadata: Mapping[str, str], signature: Signature, shape: InputShape) -> Detect | Any | None:
    if TASK_KEY in metadata:
        try:
            task = from_contract(json.loads(metadata[TASK_KEY]))
        except ValueError as error:
            raise UsageError(f"{path}: its metadata '{TASK_KEY}' is not JSON ({error}).") from error
    elif metadata.get("task") == "detect" and "names" in metadata:
        task = _ultralytics(path, metadata, signature)
    else:
        return None
    return replace(task, size=shape.size) if isinstance(task, Detect) and shape.size else task


def _ultralytics(path: Path, metadata: Mapping[str, str], signature: Signature) -> Detect:
    """The contract behind the metadata of Ultralytics' exporter: Python literals in strings."""
    try:
        names = ast.literal_eval(metadata["names"])
        size = ast.literal_eval(metadata["imgsz"])
        labels = tuple(str(names[i]) for i in sorted(names))
        rows = signature.outputs[0].shape[1]
        return Detect(labels, (int(size[0]), int(size[1])), head="yolov8" if rows == 4 + len(labels) else "end2end")
    except (KeyError, ValueError, SyntaxError, TypeError, IndexError) as error:
        raise UsageError(f"{path}: its metadata (names, imgsz) cannot be read: {error}.") from error
