"""The typed graph: precision that lives in the ONNX file, so that TensorRT computes it and ONNX Runtime can check it.

fp16 is half types and casts; int8 is Q/DQ nodes, and fp16 or fp32 in what is not quantised. int8 weights are DQ nodes
in front of layers that compute in fp32, and so is int8 in a graph with state.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.errors import Unavailable
from edgedeploy.exporter import Job

if TYPE_CHECKING:
    from edgedeploy_tensorrt import TensorRT


@dataclass(frozen=True)
class Typed:
    """What was decided about the types of one graph, and what the user should know."""

    decided: dict[str, Any]
    notes: tuple[str, ...] = ()


def lower(exporter: TensorRT, job: Job, name: str, path: Path, again: Mapping[str, Any] | None = None) -> Typed:
    """Replace the float graph ``name`` at ``path`` by its typed form.

    Args:
        exporter: says the precision, and what has to stay in float.
        job: the export; its calibration samples decide what else does.
        name: of the graph.
        path: of its ONNX file.
        again: what an earlier export decided, to be made again without a search.

    Raises:
        Unavailable: what writes it is not installed.
        ExportFailed: no choice of modules keeps the results.
    """
    if exporter.precision == "fp32":
        return Typed({})
    try:
        from edgedeploy.precision.choice import few_samples, working_directory
    except ImportError as error:
        raise Unavailable.extra("ONNX Runtime with its quantiser", "export") from error

    with working_directory() as work:
        if exporter.precision == "fp16":
            return _half(exporter, job, name, path, work, None if again is None else again["kept_in_float"])
        if exporter.precision == "int8-weights" or job.model.graphs[name].signature.state:
            return _weights(exporter, job, name, path, work, None if again is None else again["kept_in_float"])
        float_graph = work / "before.onnx"
        shutil.copyfile(path, float_graph)
        eight = _int8(exporter, job, name, path, work, None if again is None else again["kept_in_float"])
        notes = (*eight.notes, *few_samples(job))
        if exporter.rest == "fp32":
            return Typed(eight.decided, notes)
        more = _rest(exporter, job, name, path, float_graph, None if again is None else again["kept_in_fp32"])
        return Typed({**eight.decided, **more.decided}, (*notes, *more.notes))


def _int8(exporter: TensorRT, job: Job, name: str, path: Path, work: Path, kept: Sequence[str] | None) -> Typed:
    from edgedeploy.precision.choice import choose
    from edgedeploy.precision.placement import InputLowering
    from edgedeploy.precision.qdq import Scheme

    # Zero points, and biases as integers, are what TensorRT's parser does not take.
    scheme = Scheme("int8", symmetric=True, method=exporter.calibration, bias=False)
    lowering = InputLowering(path, job.model.graphs[name].signature, scheme, work)
    job.progress(f"taking ranges from {len(job.calibration)} samples")
    lowering.calibrate(job.calibration)
    if kept is not None:
        lowering.write(path, frozenset(lowering.units) - frozenset(kept))
        return Typed({})
    found = choose(lowering, job, name, exporter)
    lowering.write(path, found.lowered)
    return Typed(found.record(), tuple(found.notes(exporter.precision)))


def _half(exporter: TensorRT, job: Job, name: str, path: Path, work: Path, kept: Sequence[str] | None) -> Typed:
    from edgedeploy.precision.choice import ReadySamples, choose
    from edgedeploy.precision.half import HalfLowering

    lowering = HalfLowering(path, job.model.graphs[name].signature, work, ReadySamples(job, name))
    if kept is not None:
        lowering.write(path, frozenset(lowering.units) - frozenset(kept))
        return Typed({})
    found = choose(lowering, job, name, exporter)
    lowering.write(path, found.lowered)
    return Typed(found.record(), tuple(found.notes(exporter.precision)))


def _weights(exporter: TensorRT, job: Job, name: str, path: Path, work: Path, kept: Sequence[str] | None) -> Typed:
    from edgedeploy.precision.choice import choose, weights_note
    from edgedeploy.precision.weights import WeightLowering

    lowering = WeightLowering(path, job.model.graphs[name].signature, "dequantize", work)
    if kept is not None:
        lowering.write(path, frozenset(lowering.units) - frozenset(kept))
        return Typed({})
    found = choose(lowering, job, name, exporter)
    lowering.write(path, found.lowered)
    notes = found.notes(exporter.precision)
    return Typed(found.record(), (*notes, *([weights_note(name)] if exporter.precision == "int8" else [])))


def _rest(exporter: TensorRT, job: Job, name: str, path: Path, float_graph: Path, kept: Sequence[str] | None) -> Typed:
    """Turn what int8 left in float into fp16, except what fp16 alone would harm.

    That is searched in the float graph: int8 rounds so coarsely that any other change, however small, makes it round
    elsewhere, and nothing could be told from how far the results of both together move.
    """
    from edgedeploy.precision.choice import LIMITS, Trials, choose
    from edgedeploy.precision.half import HalfLowering
    from edgedeploy_tensorrt.rest import RestLowering

    signature = job.model.graphs[name].signature
    lowering = RestLowering(path, signature, float_graph.parent, job.calibration)
    if kept is not None:
        lowering.write(path, frozenset(lowering.units) - frozenset(kept))
        return Typed({})
    alone = dataclasses.replace(exporter, precision="fp16", limit=None, max_drop=None)
    floats = HalfLowering(float_graph, signature, float_graph.parent, job.calibration)
    single = lowering.settle(frozenset(choose(floats, job, name, alone).kept))
    lowered = frozenset(lowering.units) - single
    distance = Trials(lowering, job, name).distance(lowered)
    lowering.write(path, lowered)
    limit = LIMITS["int8"] if exporter.limit is None else exporter.limit
    notes = []
    if distance > limit and exporter.max_drop is None:
        notes.append(
            f"int8 with fp16 moves the results on calibration samples by {distance:.2f}, over the limit of {limit:g}: "
            "run 'edgedeploy compare' before you use it"
        )
    in_order = [unit for unit in lowering.units if unit in single]
    return Typed({"kept_in_fp32": in_order, "distance_with_fp16": round(distance, 4)}, tuple(notes))


def nodes_in_float(path: Path) -> tuple[str, ...]:
    """Names of the nodes whose outputs are all FP32 by the types in the graph."""
    import onnx

    proto = onnx.shape_inference.infer_shapes(onnx.load(path))
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*proto.graph.value_info, *proto.graph.output)}
    single = onnx.TensorProto.FLOAT
    return tuple(
        node.name
        for node in proto.graph.node
        if node.op_type not in ("Cast", "Constant") and all(kinds.get(out) == single for out in node.output)
    )


def opset(path: Path) -> int:
    """The opset of the standard operators that the graph is written in."""
    import onnx

    found = {o.domain: o.version for o in onnx.load(path, load_external_data=False).opset_import}
    return int(found.get("", found.get("ai.onnx", 0)))


def operators(path: Path) -> frozenset[str]:
    """Kinds of nodes in the graph."""
    import onnx

    return frozenset(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)
