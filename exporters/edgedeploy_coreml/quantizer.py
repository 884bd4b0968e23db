"""What Core ML computes in int8, for torchao's PT2E flow: weights per output channel, activations per tensor.

Core ML Tools brings such a quantiser of its own, which needs a module that newer releases of torch have given up.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)

from edgedeploy.precision.program import is_float

Activations = Literal["affine", "symmetric"]

ANNOTATION = "quantization_annotation"
#: Operators with weights, and the axis of output channels in them.
WEIGHTED = {"conv1d": 0, "conv2d": 0, "conv3d": 0, "linear": 0, "conv_transpose1d": 1, "conv_transpose2d": 1}
#: What Core ML computes together with the convolution or product before it.
ACTIVATIONS = {
    *("relu", "relu_", "hardtanh", "hardtanh_", "relu6", "leaky_relu", "leaky_relu_", "silu", "silu_"),
    *("sigmoid", "tanh", "gelu", "elu", "hardswish", "hardswish_", "hardsigmoid"),
}
BINARY = {"add", "add_", "mul", "mul_", "sub", "matmul", "bmm"}
#: What gives the numbers that it takes, in another place: its result has the scale of what goes in.
MOVES = {
    *("max_pool1d", "max_pool2d", "view", "reshape", "flatten", "permute", "transpose", "squeeze", "unsqueeze"),
    *("slice", "select", "expand", "contiguous", "upsample_nearest2d", "pixel_shuffle", "pad"),
}


class CoreMLQuantizer(Quantizer):  # type: ignore[misc]
    """Annotates what Core ML has in int8.

    Args:
        activations: ``affine`` uses all 256 steps for what occurs, ``symmetric`` has zero in the middle.
    """

    def __init__(self, activations: Activations = "affine") -> None:
        super().__init__()
        symmetric = activations == "symmetric"
        self._values = QuantizationSpec(
            dtype=torch.int8,
            observer_or_fake_quant_ctr=MinMaxObserver,
            quant_min=-127 if symmetric else -128,
            quant_max=127,
            qscheme=torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine,
        )

    def annotate(self, model: GraphModule) -> GraphModule:
        """See torchao's ``Quantizer``: convolutions and products with what follows, sums, and what moves values."""
        for node in model.graph.nodes:
            if node.op != "call_function" or ANNOTATION in node.meta or not is_float(node):
                continue
            kind = _kind(node)
            if kind in WEIGHTED:
                self._weighted(node, WEIGHTED[kind])
            elif kind in BINARY:
                self._binary(node)
            elif kind == "cat":
                self._joined(node)
            elif kind in MOVES and isinstance(node.args[0], Node) and is_float(node.args[0]):
                self._moved(node)
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to check: whatever was annotated can be converted."""

    def _weighted(self, node: Node, channels: int) -> None:
        value, weight = node.args[0], node.args[1]
        if not isinstance(value, Node) or not isinstance(weight, Node):
            return
        weights = QuantizationSpec(
            dtype=torch.int8,
            observer_or_fake_quant_ctr=PerChannelMinMaxObserver,
            quant_min=-127,
            quant_max=127,
            qscheme=torch.per_channel_symmetric,
            ch_axis=channels,
        )
        self._with_activation(node, {value: self._values, weight: weights if weight.op == "get_attr" else self._values})

    def _binary(self, node: Node) -> None:
        values = [a for a in node.args[:2] if isinstance(a, Node) and is_float(a)]
        if len(values) == 2:
            self._with_activation(node, dict.fromkeys(values, self._values))

    def _with_activation(self, node: Node, inputs: dict[Node, Any]) -> None:
        """Annotate an operator and, as one with it, the activation that alone uses its result."""
        users = list(node.users)
        follows = users[0] if len(users) == 1 and _kind(users[0]) in ACTIVATIONS else None
        if follows is not None and ANNOTATION in follows.meta:  # left in float
            follows = None
        output = None if follows is not None else self._values
        node.meta[ANNOTATION] = QuantizationAnnotation(inputs, output_qspec=output, _annotated=True)
        if follows is not None:
            follows.meta[ANNOTATION] = QuantizationAnnotation({}, output_qspec=self._values, _annotated=True)

    def _joined(self, node: Node) -> None:
        parts = node.args[0]
        if not isinstance(parts, (list, tuple)) or not all(isinstance(p, Node) and is_float(p) for p in parts):
            return
        first, shared = parts[0], SharedQuantizationSpec((parts[0], node))
        inputs = {first: self._values} | {part: shared for part in parts if part is not first}
        node.meta[ANNOTATION] = QuantizationAnnotation(inputs, output_qspec=shared, _annotated=True)

    def _moved(self, node: Node) -> None:
        """Only behind something in int8: alone, it would be converted to and fro."""
        source = node.args[0]
        assert isinstance(source, Node)
        made = source.meta.get(ANNOTATION)
        if made is None or made.output_qspec is None:
            return
        shared = SharedQuantizationSpec((source, node))
        node.meta[ANNOTATION] = QuantizationAnnotation({source: self._values}, output_qspec=shared, _annotated=True)


def _kind(node: Node) -> str:
    return str(getattr(node.target, "_opname", ""))
