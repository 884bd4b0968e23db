"""Static int8 as explicit Q/DQ nodes in an ONNX graph: per-channel weights, ranges from real samples.

The quantiser is ONNX Runtime's. What differs between targets is in a `Scheme`: x86 multiplies unsigned by signed, Arm
and TensorRT signed by signed, a Hexagon may take activations of 16 bits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgedeploy import plugins
from edgedeploy.capture import COMPUTES_KEY, module_path
from edgedeploy.errors import UsageError
from edgedeploy.precision.choice import refuse_noise
from edgedeploy.precision.recurrence import WEIGHTED
from edgedeploy.precision.search import between_weights
from edgedeploy.runtime import Session, inputs_of
from edgedeploy.tasks.task import Prepared
from edgedeploy.tensors import Array, Signature

#: At most so many samples are run for ranges.
RANGE_SAMPLES = 300
Activations = Literal["uint8", "int8", "uint16", "int16"]
Method = Literal["minmax", "entropy", "percentile"]
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
_TYPES = {
    "uint8": QuantType.QUInt8,
    "int8": QuantType.QInt8,
    "uint16": QuantType.QUInt16,
    "int16": QuantType.QInt16,
}
_BITS = {"uint8": "int8", "int8": "int8", "uint16": "int8 weights, int16", "int16": "int8 weights, int16"}


@dataclass(frozen=True)
class Scheme:
    """How values become integers.

    Args:
        activations: their type; weights are int8, one scale per channel.
        symmetric: activations without zero points, as TensorRT takes them.
        reduce_range: 7-bit weights, for CPUs whose 8-bit products saturate.
        method: how ranges are taken from the samples.
        bias: biases as int32; TensorRT's parser wants them in float.
    """

    activations: Activations = "uint8"
    symmetric: bool = False
    reduce_range: bool = False
    method: Method = "minmax"
    bias: bool = True


class QdqLowering:
    """One float ONNX file, quantised as often as a search asks from one set of ranges; see `choice.Lowering`.

    Args:
        source: the float graph.
        signature: of the graph.
        scheme: how values become integers.
        work: folder for what is in between.

    Raises:
        UsageError: the scheme names a method or type that there is not.
    """

    def __init__(self, source: Path, signature: Signature, scheme: Scheme, work: Path) -> None:
        for value, known in ((scheme.method, _METHODS), (scheme.activations, _TYPES)):
            if value not in known:
                raise UsageError(f"There is no '{value}' for a quantisation. Known: {', '.join(known)}.")
        self._signature, self._scheme, self._work = signature, scheme, work
        self._float = work / "float.onnx"
        _prepare(source, self._float)
        graph = onnx.load(self._float, load_external_data=False).graph
        self._nodes = {node.name: node for node in graph.node}
        kinds = {*QDQRegistry, *QLinearOpsRegistry}
        constants = {i.name for i in graph.initializer}
        self._candidates = [
            node.name
            for node in graph.node
            if node.op_type in kinds and any(i and i not in constants for i in node.input)
        ]
        paths = {n.name: module_path(n) for n in onnx.load(source, load_external_data=False).graph.node}
        self._unit = {name: paths.get(name, name) for name in self._candidates}
        self._consumers = _consumers(graph)
        self._trial = work / "trial.onnx"

    @property
    def units(self) -> list[str]:
        """Module paths, or names of nodes that do not know theirs, in topological order."""
        return list(dict.fromkeys(self._unit[name] for name in self._candidates))

    def calibrate(self, samples: Sequence[Prepared]) -> None:
        """Take ranges from ``samples`` (at most `RANGE_SAMPLES`, evenly spread) and keep them.

        Raises:
            UsageError: the samples are noise, or not what the graph takes.
        """
        step = max(1, -(-len(samples) // RANGE_SAMPLES))
        chosen = range(0, len(samples), step)
        refuse_noise([samples[i] for i in list(chosen)[:16]])
        self._quantize(self._trial, frozenset(self._candidates), _Reader(self._signature, samples, chosen))

    def open(self, lowered: frozenset[str]) -> Session:
        """See `choice.Lowering.open`; run by ONNX Runtime."""
        self.write(self._trial, lowered)
        runtime = plugins.find(plugins.RUNTIMES, "onnxruntime")()
        return cast(Session, runtime.open({"main": self._trial}, {"main": self._signature}))

    def settle(self, kept: frozenset[str]) -> frozenset[str]:
        """See `choice.Lowering.settle`: a unit none of whose nodes lies between weights would only be converted."""
        rest = [name for name in self._candidates if self._unit[name] not in kept]
        useful = {self._unit[name] for name in self._between(rest)}
        return kept | {unit for unit in self._unit.values() if unit not in useful}

    def write(self, target: Path, lowered: frozenset[str]) -> None:
        """Write the graph in which these units are quantised.

        Raises:
            UsageError: it was not calibrated.
        """
        nodes = frozenset(name for name in self._candidates if self._unit[name] in lowered)
        self._quantize(target, nodes, None)

    def _between(self, nodes: Sequence[str]) -> frozenset[str]:
        weighted = [name for name in nodes if self._nodes[name].op_type in WEIGHTED]
        return between_weights(self._consumers, weighted, nodes)

    def _quantize(self, target: Path, nodes: frozenset[str], reader: CalibrationDataReader | None) -> None:
        if not nodes:
            target.write_bytes(self._float.read_bytes())
            return
        scheme, ranges = self._scheme, self._work / "ranges.json"
        if reader is None and not ranges.is_file():
            raise UsageError("There are no ranges yet: calibrate first.")
        extra = {"ActivationSymmetric": scheme.symmetric, "WeightSymmetric": True, "QuantizeBias": scheme.bias}
        if scheme.activations in ("uint16", "int16"):
            extra["UseQDQContribOps"] = False
        with _quiet():
            quantize_static(
                self._float,
                target,
                reader,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=scheme.reduce_range,
                activation_type=_TYPES[scheme.activations],
                weight_type=QuantType.QInt8,
                nodes_to_quantize=sorted(nodes),
                calibrate_method=_METHODS[scheme.method],
                extra_options=extra,
                calibration_cache_path=ranges,
            )
        proto = onnx.load(target)
        onnx.helper.set_model_props(proto, {**_props(proto), COMPUTES_KEY: f"{_BITS[scheme.activations]} and fp32"})
        onnx.save(proto, target)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Prepared samples one by one, as ONNX Runtime's calibrator asks for them."""

    def __init__(self, signature: Signature, samples: Sequence[Prepared], chosen: Sequence[int]) -> None:
        self._feeds: Iterator[Mapping[str, Array]] = (inputs_of(signature, samples[i].tensors) for i in chosen)

    def get_next(self) -> Mapping[str, Array] | None:
        return next(self._feeds, None)


def _prepare(source: Path, target: Path) -> None:
    """Shapes for every tensor; BatchNorm folded into the convolution before it where an exporter left it in."""
    nodes = onnx.load(source, load_external_data=False).graph.node
    convolved = {output for node in nodes if node.op_type in ("Conv", "ConvTranspose") for output in node.output}
    folded = not any(node.op_type == "BatchNormalization" and node.input[0] in convolved for node in nodes)
    with _quiet():
        quant_pre_process(source, target, skip_optimization=folded, skip_symbolic_shape=True)


def _props(proto: Any) -> dict[str, str]:
    return {p.key: p.value for p in proto.metadata_props}


def _consumers(graph: Any) -> dict[str, list[str]]:
    """Node name to the names of the nodes that use its outputs."""
    made = {output: node.name for node in graph.node for output in node.output}
    users: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            if name in made:
                users.setdefault(made[name], []).append(node.name)
    return users


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser's advice to run what has been run."""
    root = logging.getLogger()
    level, root.level = root.level, logging.ERROR
    try:
        yield
    finally:
        root.setLevel(level)
