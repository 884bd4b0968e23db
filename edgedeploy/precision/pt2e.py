"""Static int8 on an exported program, with torchao's PT2E flow: ranges from real samples, taken once.

The quantiser is the backend's (it knows which operators the backend has in int8, and with which scales), and a
parameter here. Every trial of a search annotates the program anew, without the units that stay in float, because what
shares a scale depends on them: a ``cat`` left in float no longer ties its inputs together. The ranges of all tensors
were recorded before, each on its own, so that no trial runs the calibration samples.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node
from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver, ObserverBase
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, Quantizer

from edgedeploy.errors import ExportFailed
from edgedeploy.precision.choice import refuse_noise
from edgedeploy.precision.program import ProgramSession, forget_history, idle, is_float, quiet, unit_of
from edgedeploy.runtime import Session, inputs_of
from edgedeploy.tasks.task import Prepared
from edgedeploy.tensors import Signature

#: At most so many samples are run for ranges.
RANGE_SAMPLES = 300
ANNOTATION = "quantization_annotation"
Method = Literal["minmax", "histogram"]


class Pt2eLowering:
    """One exported program, quantised as often as a search asks; see `choice.Lowering`.

    Args:
        program: the float program.
        signature: of the graph.
        quantizer: makes the backend's quantiser, set to quantise all that it can.
        method: how ranges are taken: the extremes, or the part of a histogram that costs the least error.
    """

    def __init__(
        self,
        program: ExportedProgram,
        signature: Signature,
        quantizer: Callable[[], Quantizer],
        method: Method = "histogram",
    ) -> None:
        self._signature, self._quantizer, self._method = signature, quantizer, method
        self._base = folded(program, quantizer)
        annotated = _annotated(self._base, quantizer())
        self.units = list(dict.fromkeys(unit_of(node) for node in annotated))
        if not self.units:
            raise ExportFailed("There is nothing in this graph that can be computed in int8. Export it in fp32.")
        self._watched = {n.name for node in annotated for n in (node, *node.all_input_nodes)}
        self._ranges: dict[str, tuple[float, float]] = {}

    def calibrate(self, samples: Sequence[Prepared]) -> None:
        """Take the ranges of all tensors from ``samples`` (at most `RANGE_SAMPLES`, evenly spread).

        Raises:
            UsageError: the samples are noise.
        """
        step = max(1, -(-len(samples) // RANGE_SAMPLES))
        chosen = range(0, len(samples), step)
        refuse_noise([samples[i] for i in list(chosen)[:16]])
        recorder = _Recorder(self._base, self._watched, self._method)
        with torch.inference_mode(), quiet():
            for i in chosen:
                feed = inputs_of(self._signature, samples[i].tensors)
                recorder.run(*(torch.from_numpy(np.ascontiguousarray(feed[s.name])) for s in self._signature.inputs))
            self._ranges = recorder.ranges()

    def convert(self, lowered: frozenset[str]) -> GraphModule:
        """The program with exactly these units in int8, as explicit quantize and dequantize operators."""
        with quiet(), torch.no_grad():
            prepared = prepare_pt2e(copy.deepcopy(self._base), _Only(self._quantizer(), lowered))
            self._fill(prepared)
            converted: GraphModule = convert_pt2e(prepared)
        return converted

    def open(self, lowered: frozenset[str]) -> Session:
        """See `choice.Lowering.open`; run by PyTorch."""
        return ProgramSession(self.convert(lowered), self._signature, "PT2E", "int8 and fp32" if lowered else "fp32")

    def settle(self, kept: frozenset[str]) -> frozenset[str]:
        """See `choice.Lowering.settle`: with what lies between no two weights in int8."""
        return kept | idle(self._base, self.units, kept)

    def _fill(self, prepared: GraphModule) -> None:
        """Give every observer its range: of activations as recorded, of weights by looking at them."""
        _run_constants(prepared)
        seen: dict[ObserverBase, list[tuple[float, float]]] = {}
        for node in prepared.graph.nodes:
            observer = prepared.get_submodule(str(node.target)) if node.op == "call_module" else None
            if isinstance(observer, ObserverBase) and (source := _source(node)).name in self._ranges:
                seen.setdefault(observer, []).append(self._ranges[source.name])
        for observer, ranges in seen.items():  # one observer for several tensors is one scale for them
            _fix(observer, min(low for low, _ in ranges), max(high for _, high in ranges))


def folded(program: ExportedProgram, quantizer: Callable[[], Quantizer] | None = None) -> GraphModule:
    """The program as a graph module, with every BatchNorm folded into the layer before it.

    With a ``quantizer``, also as that wants it before it annotates.
    """
    with quiet(), torch.no_grad():
        inner = quantizer() if quantizer is not None else None
        module: GraphModule = prepare_pt2e(copy.deepcopy(program.module(check_guards=False)), _Nothing(inner))
    forget_history(module)
    return module


class _Nothing(Quantizer):  # type: ignore[misc]
    """Annotates nothing: what is left of preparing is the folding."""

    def __init__(self, inner: Quantizer | None) -> None:
        super().__init__()
        self._inner = inner

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        return _transformed(self._inner, model) if self._inner is not None else model

    def annotate(self, model: GraphModule) -> GraphModule:
        return model

    def validate(self, model: GraphModule) -> None:
        pass


class _Only(Quantizer):  # type: ignore[misc]
    """The backend's quantiser, for some units only.

    The nodes of the others are marked as done before it looks, which every quantiser respects; filters and exclusions
    by name are each backend's own, and not all of its patterns ask them.
    """

    def __init__(self, inner: Quantizer, lowered: frozenset[str]) -> None:
        super().__init__()
        self._inner, self._lowered = inner, lowered

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        return _transformed(self._inner, model)

    def annotate(self, model: GraphModule) -> GraphModule:
        for node in model.graph.nodes:
            if node.op == "call_function" and unit_of(node) not in self._lowered:
                node.meta[ANNOTATION] = QuantizationAnnotation(_annotated=True)
        self._inner.annotate(model)
        return model

    def validate(self, model: GraphModule) -> None:
        self._inner.validate(model)

    def prepare_obs_or_fq_callback(self, model: GraphModule, edge_or_node_to_obs_or_fq: Any) -> None:
        self._inner.prepare_obs_or_fq_callback(model, edge_or_node_to_obs_or_fq)


def _transformed(quantizer: Quantizer, model: GraphModule) -> GraphModule:
    module: GraphModule = quantizer.transform_for_annotation(model)
    return module


class _Recorder(Interpreter):
    """Runs the float program and remembers the range of the tensors to be watched."""

    def __init__(self, module: GraphModule, watched: set[str], method: Method) -> None:
        super().__init__(module)
        observer = MinMaxObserver if method == "minmax" else HistogramObserver
        self._observers = {
            n.name: observer(dtype=torch.int8, qscheme=torch.per_tensor_affine)
            for n in module.graph.nodes
            if n.name in watched and n.op in ("placeholder", "call_function") and is_float(n)
        }

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.name in self._observers:
            self._observers[n.name](value)
        return value

    def ranges(self) -> dict[str, tuple[float, float]]:
        return {name: _range(observer) for name, observer in self._observers.items()}


def _range(observer: ObserverBase) -> tuple[float, float]:
    """The range that an observer settled on, as its scale and zero point say it."""
    if isinstance(observer, MinMaxObserver):
        return float(observer.min_val), float(observer.max_val)
    scale, zero = (float(value) for value in observer.calculate_qparams())
    return (-128 - zero) * scale, (127 - zero) * scale


def _fix(observer: ObserverBase, low: float, high: float) -> None:
    """Make ``observer`` answer as if it had seen values from ``low`` to ``high``."""
    fixed = MinMaxObserver(
        dtype=observer.dtype,
        qscheme=observer.qscheme,
        quant_min=observer.quant_min,
        quant_max=observer.quant_max,
        eps=float(observer.eps),
    )
    fixed.min_val, fixed.max_val = torch.tensor(low), torch.tensor(high)
    observer.calculate_qparams = fixed.calculate_qparams


def _annotated(base: GraphModule, quantizer: Quantizer) -> list[Node]:
    """The nodes for which the quantiser has a form in int8, in topological order."""
    with quiet():
        module = quantizer.transform_for_annotation(copy.deepcopy(base))
        quantizer.annotate(module)
    return [n for n in module.graph.nodes if n.op == "call_function" and _wants(n.meta.get(ANNOTATION))]


def _wants(annotation: QuantizationAnnotation | None) -> bool:
    return annotation is not None and (annotation.output_qspec is not None or any(annotation.input_qspec_map.values()))


def _source(observer: Node) -> Node:
    """The tensor that an observer looks at, through other observers."""
    node = observer.args[0]
    assert isinstance(node, Node)
    return _source(node) if node.op == "call_module" else node


def _run_constants(module: GraphModule) -> None:
    """Run what depends on no input, and changes no state: the observers of weights, that is, which look at them so."""
    interpreter = Interpreter(module)
    varying: set[Node] = set()
    for node in module.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        writes = schema is not None and schema.is_mutable
        if node.op in ("placeholder", "output") or writes or varying & {*node.all_input_nodes}:
            varying.add(node)
        else:
            interpreter.env[node] = interpreter.run_node(node)
