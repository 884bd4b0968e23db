"""fp16 in a graph that already has Q/DQ nodes: what int8 left in float, and the scales of int8 itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import onnx

from edgedeploy import plugins
from edgedeploy.capture import COMPUTES_KEY
from edgedeploy.precision.half import HalfLowering
from edgedeploy.runtime import Session
from edgedeploy.tasks.task import Prepared
from edgedeploy.tensors import Signature


class RestLowering(HalfLowering):
    """See `HalfLowering`; ``source`` is a graph in which int8 has been placed."""

    def __init__(self, source: Path, signature: Signature, work: Path, samples: Sequence[Prepared]) -> None:
        super().__init__(source, signature, work, samples)
        self._rest, self._path = signature, work / "rest.onnx"
        scales: dict[str, set[str]] = {}
        for node in onnx.load(source, load_external_data=False).graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                scales.setdefault(node.input[1], set()).add(node.name)
        self._partners = list(scales.values())

    def settle(self, kept: frozenset[str]) -> frozenset[str]:
        """With what leaves the range of fp16, and with the Q and DQ nodes that share a scale, which has one type."""
        wide = super().settle(kept)
        return wide.union(*(names for names in self._partners if names & wide))

    def open(self, lowered: frozenset[str]) -> Session:
        """A session without ONNX Runtime's optimisations: one of them rounds biases to integers times a scale in fp16,
        which is too small for fp16 to hold well (`WeightBiasQuantization` in 1.31).
        """
        self.write(self._path, lowered)
        runtime = plugins.find(plugins.RUNTIMES, "onnxruntime")(optimization="none")
        return cast(Session, runtime.open({"main": self._path}, {"main": self._rest}))

    def write(self, target: Path, lowered: frozenset[str]) -> None:
        """See `HalfLowering.write`; the graph says what it computes in."""
        super().write(target, lowered)
        proto = onnx.load(target)
        said = {prop.key: prop.value for prop in proto.metadata_props}
        kinds = "int8 and fp16" if lowered >= frozenset(self.units) else "int8 and fp16 and fp32"
        onnx.helper.set_model_props(proto, {**said, COMPUTES_KEY: kinds})
        onnx.save(proto, target)
