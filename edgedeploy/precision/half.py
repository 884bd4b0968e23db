"""fp16 as types and casts in an ONNX graph, calibrated: what leaves the range of fp16 on real inputs stays in fp32.

Inputs and outputs stay float32. A strongly typed engine builder then computes what the graph says, and nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgedeploy import plugins
from edgedeploy.capture import COMPUTES_KEY, module_path
from edgedeploy.errors import Unavailable
from edgedeploy.golden import Ready
from edgedeploy.precision.bodies import close_bodies
from edgedeploy.precision.recurrence import recurrent_nodes
from edgedeploy.runtime import Session, inputs_of
from edgedeploy.tasks.task import Prepared
from edgedeploy.tensors import Signature, TensorSpec

#: Sums inside a layer reach further than its output: a tensor may use this part of fp16's range.
HEADROOM = 8
LARGEST = float(np.finfo(np.float16).max) / HEADROOM
#: Samples that are run for ranges.
RANGE_SAMPLES = 16


class HalfLowering:
    """One float ONNX file, typed as often as a search asks; see `choice.Lowering`.

    Args:
        source: the float graph.
        signature: of the graph.
        work: folder for what is in between.
        samples: real inputs; a node that makes or takes values beyond `LARGEST` on them cannot be lowered, and neither
            can a loop, or one that state goes round in (`recurrent_nodes`), whatever its module is in.
    """

    def __init__(self, source: Path, signature: Signature, work: Path, samples: Sequence[Prepared | Ready]) -> None:
        self._signature, self._work = signature, work
        proto = onnx.load(source)
        loops, copies = close_bodies(proto.graph), _apart(proto.graph)
        self._proto = onnx.shape_inference.infer_shapes(proto)
        self.fixed = loops | recurrent_nodes(self._proto.graph, signature.state)
        self._unit = {node.name: module_path(node) for node in self._proto.graph.node}
        self._unit |= {copy: self._unit[original] for copy, original in copies.items()}
        wide = _wide(self._proto, signature, work / "ranges.onnx", samples)
        self.wide = frozenset(
            self._unit[node.name] for node in self._proto.graph.node if wide & {*node.input, *node.output}
        )

    @property
    def units(self) -> list[str]:
        """Module paths, or names of nodes that do not know theirs, in topological order."""
        return list(dict.fromkeys(unit for name, unit in self._unit.items() if name not in self.fixed))

    def open(self, lowered: frozenset[str]) -> Session:
        """See `choice.Lowering.open`; run by ONNX Runtime."""
        trial = self._work / "trial.onnx"
        self.write(trial, lowered)
        runtime = plugins.find(plugins.RUNTIMES, "onnxruntime")()
        return cast(Session, runtime.open({"main": trial}, {"main": self._signature}))

    def settle(self, kept: frozenset[str]) -> frozenset[str]:
        """See `choice.Lowering.settle`: with what leaves the range of fp16."""
        return kept | self.wide

    def write(self, target: Path, lowered: frozenset[str]) -> None:
        """Write the graph in which these units are in fp16.

        Raises:
            Unavailable: onnxconverter-common is not installed.
        """
        try:
            from onnxconverter_common import float16
        except ImportError as error:
            raise Unavailable.extra("onnxconverter-common, which writes fp16 graphs,", "export") from error
        proto = onnx.ModelProto()
        proto.CopyFrom(self._proto)
        kept = [name for name, unit in self._unit.items() if unit not in lowered or name in self.fixed]
        _share_nothing(proto.graph, frozenset(kept))
        before = onnx.ModelProto()
        before.CopyFrom(proto)
        for node in proto.graph.node:
            if node.op_type == "Cast" and _casts_to(node) == TensorProto.FLOAT and node.name not in kept:
                next(a for a in node.attribute if a.name == "to").i = TensorProto.FLOAT16
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights that it clips: those that matter are in fp32
            halved = float16.convert_float_to_float16(
                proto, keep_io_types=True, node_block_list=kept, check_fp16_ready=False
            )
        _restore(halved, before)
        said = {p.key: p.value for p in halved.metadata_props}
        onnx.helper.set_model_props(halved, {**said, COMPUTES_KEY: "fp16 and fp32" if kept else "fp16"})
        onnx.save(halved, target)


def _apart(graph: Any) -> dict[str, str]:
    """Give every output that is also read inside the graph a node of its own, which the converter takes for granted.

    State is such an output. Returns the names of the new nodes, with those of the nodes that they copy.
    """
    read = {name for node in graph.node for name in node.input}
    copies: dict[str, str] = {}
    for value in [v for v in graph.output if v.name in read]:
        inner = f"{value.name}_inside"
        maker = next((node for node in graph.node if value.name in node.output), None)
        if maker is None:  # an input that is given back
            continue
        for node in graph.node:
            node.input[:] = [inner if name == value.name else name for name in node.input]
            node.output[:] = [inner if name == value.name else name for name in node.output]
        graph.node.append(helper.make_node("Identity", [inner], [value.name], f"{maker.name}_given"))
        copies[f"{maker.name}_given"] = maker.name
    return copies


def _share_nothing(graph: Any, kept: frozenset[str]) -> None:
    """Give nodes that stay in fp32 copies of the constants that others read too: the converter has one type for all."""
    constants = {one.name: one for one in graph.initializer}
    others = {name for node in graph.node if node.name not in kept for name in node.input}
    copied: dict[str, str] = {}
    for node in [n for n in graph.node if n.name in kept]:
        for i, name in enumerate(node.input):
            if name in constants and name in others:
                if name not in copied:
                    copied[name] = f"{name}_in_fp32"
                    copy = graph.initializer.add()
                    copy.CopyFrom(constants[name])
                    copy.name = copied[name]
                node.input[i] = copied[name]


def _restore(halved: Any, original: Any) -> None:
    """Give nodes that stay in fp32 their own weights, and each other's results, without a detour through fp16.

    The converter stores every weight in fp16, and casts what passes from one such node to the next to fp16 and back.
    """
    weights = {weight.name: weight for weight in original.graph.initializer}
    own = {node.name for node in original.graph.node}
    casts = [node for node in halved.graph.node if node.op_type == "Cast" and node.name not in own]
    made = {output: node for node in casts for output in node.output}
    instead: dict[str, str] = {}
    for node in [n for n in casts if _casts_to(n) == TensorProto.FLOAT]:
        source = made.get(node.input[0])
        if node.input[0] in weights:
            exact = halved.graph.initializer.add()
            exact.CopyFrom(weights[node.input[0]])
            exact.name = node.output[0]
            halved.graph.node.remove(node)
        elif source is not None and _casts_to(source) == TensorProto.FLOAT16:
            instead[node.output[0]] = source.input[0]
    outputs = {value.name for value in halved.graph.output}
    for node in halved.graph.node:
        node.input[:] = [instead.get(name, name) for name in node.input]
        if node.op_type == "Cast" and node.output[0] in outputs and _casts_to(node) == TensorProto.FLOAT16:
            node.op_type = "Identity"  # the output of a node in fp32 is float32 already
            del node.attribute[:]
    for value, was in zip(halved.graph.output, original.graph.output, strict=True):
        value.type.CopyFrom(was.type)
    _forget_unread(halved.graph, outputs)


def _casts_to(node: Any) -> int:
    return int(next(attribute.i for attribute in node.attribute if attribute.name == "to"))


def _forget_unread(graph: Any, outputs: set[str]) -> None:
    """Drop casts and weights whose result nothing reads."""
    while True:
        read = outputs | {name for node in graph.node for name in node.input}
        unread = [n for n in graph.node if n.op_type == "Cast" and n.output[0] not in read]
        if not unread:
            break
        for node in unread:
            graph.node.remove(node)
    for weight in [w for w in graph.initializer if w.name not in read]:
        graph.initializer.remove(weight)


def _wide(proto: Any, signature: Signature, path: Path, samples: Sequence[Prepared | Ready]) -> frozenset[str]:
    """Names of the tensors, weights included, whose largest magnitude over the samples is beyond `LARGEST`."""
    wide = {
        weight.name
        for weight in proto.graph.initializer
        if weight.data_type == TensorProto.FLOAT and np.abs(onnx.numpy_helper.to_array(weight)).max(initial=0) > LARGEST
    }
    peaks = _with_peaks(proto, path)
    if not peaks or not len(samples):
        return frozenset(wide)
    outputs = tuple(TensorSpec(name, "float32", ()) for name in peaks)
    asked = Signature(signature.inputs, (*signature.outputs, *outputs), signature.state)
    session = plugins.find(plugins.RUNTIMES, "onnxruntime")().open({"main": path}, {"main": asked})
    for i in np.linspace(0, len(samples) - 1, min(RANGE_SAMPLES, len(samples))).astype(int):
        sample = samples[i]
        session.reset()
        for tensors in sample.calls if isinstance(sample, Ready) else (sample.tensors,):
            found = session.run(inputs_of(signature, tensors))
            wide |= {tensor for name, tensor in peaks.items() if not float(found[name].max(initial=0)) <= LARGEST}
    session.close()
    return frozenset(wide)


def _with_peaks(proto: Any, path: Path) -> dict[str, str]:
    """Write the graph with the largest magnitude of every float tensor as an output: output name to tensor name."""
    known = {v.name: v.type.tensor_type.elem_type for v in (*proto.graph.value_info, *proto.graph.output)}
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    taken = {name for node in proto.graph.node for name in (*node.input, *node.output)}
    peaks: dict[str, str] = {}
    for i, name in enumerate(n for node in proto.graph.node for n in node.output if known.get(n) == TensorProto.FLOAT):
        peak = next(p for p in (f"peak_{i}", f"peak_{i}_of_edgedeploy") if p not in taken)
        copy.graph.node.append(helper.make_node("Abs", [name], [f"{peak}_abs"], f"{peak}_abs"))
        copy.graph.node.append(helper.make_node("ReduceMax", [f"{peak}_abs"], [peak], peak, keepdims=0))
        copy.graph.output.append(helper.make_tensor_value_info(peak, TensorProto.FLOAT, ()))
        peaks[peak] = name
    onnx.save(copy, path)
    return peaks
