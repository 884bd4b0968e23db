"""How many operations an ONNX operator is, from its attributes and shapes.

A multiply-add is two operations; the bias of a convolution or matrix product is where its sum starts, and none. What is
computed element by element counts the arithmetic of its formula, with exp, log, sqrt and a division as one each: a
sigmoid is four. Other tools count those as one, or not at all: they are hundredths of a convolutional network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]
_BITS = {
    **dict.fromkeys(("fp64", "double", "int64", "uint64", "complex64"), 64),
    **dict.fromkeys(("fp32", "int32", "uint32"), 32),
    **dict.fromkeys(("fp16", "bf16", "int16", "uint16"), 16),
    **dict.fromkeys(("int4", "uint4", "float4e2m1"), 4),
}


@dataclass(frozen=True)
class Tensor:
    """A value of a graph: its shape (``None`` where not known), element type, and whether it depends on no input."""

    name: str
    shape: Shape | None
    dtype: str
    constant: bool = False

    @property
    def size(self) -> int:
        """Elements; 0 where the shape is not known."""
        return math.prod(self.shape) if self.shape is not None else 0

    @property
    def bytes(self) -> int:
        """0 where the shape is not known; types of four bits are packed."""
        return -(-self.size * _BITS.get(self.dtype, 8) // 8)


@dataclass(frozen=True)
class Operator:
    """One node, resolved. An input that is left out is ``None``."""

    kind: str
    attributes: Mapping[str, Any]
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]

    def input(self, i: int) -> Shape:
        """Shape of input ``i``.

        Raises:
            LookupError: there is none, or its shape is not known.
        """
        tensor = self.inputs[i]
        if tensor is None or tensor.shape is None:
            raise LookupError(self.kind)
        return tensor.shape

    @property
    def output(self) -> Shape:
        """Shape of the first output.

        Raises:
            LookupError: it is not known.
        """
        if self.outputs[0].shape is None:
            raise LookupError(self.kind)
        return self.outputs[0].shape


def operations(op: Operator) -> int | None:
    """Operations of a node; ``None`` where its operator is not in the tables, or a shape that it takes is not known."""
    kind = op.kind.rpartition(":")[2]
    try:
        if kind in MOVES or kind in VIEWS or kind in SHAPES:
            return 0
        if kind in EACH:
            return EACH[kind] * math.prod(op.output)
        if kind in REDUCES:
            return REDUCES[kind] * math.prod(op.input(0))
        return COUNTS[kind](op) if kind in COUNTS else None
    except LookupError:
        return None


# --- what multiplies -----------------------------------------------------------------------------------------------


def _convolution(data: int, weight: int) -> Callable[[Operator], int]:
    """Each output is a sum over the input channels of its group and the kernel: a filter of ``W[out, in/group, k]``."""

    def count(op: Operator) -> int:
        _ = op.input(data)
        return 2 * math.prod(op.output) * math.prod(op.input(weight)[1:])

    return count


def _transposed(op: Operator) -> int:
    """Each input goes to every output channel of its group and the kernel: ``W[in, out/group, k]``."""
    return 2 * math.prod(op.input(0)) * math.prod(op.input(1)[1:])


def _product(left: int) -> Callable[[Operator], int]:
    """A matrix product as long as the last axis of its left factor."""

    def count(op: Operator) -> int:
        return 2 * math.prod(op.output) * op.input(left)[-1]

    return count


def _gemm(op: Operator) -> int:
    depth = op.input(0)[0 if op.attributes.get("transA") else 1]
    return 2 * math.prod(op.output) * depth


def _fused_product(op: Operator) -> int:
    axis = -2 if op.attributes.get("transA") else -1
    return 2 * math.prod(op.output) * op.input(0)[axis]


def _einsum(op: Operator) -> int:
    """One multiply-add per combination of indices; a sum over one operand is one addition each."""
    terms = str(op.attributes["equation"]).replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for i, term in enumerate(terms):
        if "." in term:
            raise LookupError(term)
        sizes |= dict(zip(term, op.input(i), strict=False))
    return math.prod(sizes.values()) * (2 * (len(terms) - 1) or 1)


def _recurrent(gates: int) -> Callable[[Operator], int]:
    """Input and recurrent product of every gate, and five operations for each of its values."""

    def count(op: Operator) -> int:
        steps, batch, width = op.input(0)  # layout 1 swaps the first two
        directions, _, hidden = op.input(2)
        return directions * steps * batch * gates * hidden * (2 * (width + hidden) + 5)

    return count


def _attention(op: Operator) -> int:
    """Scores and weighted sum, and the softmax between; 4-D ``(batch, heads, length, width)`` or 3-D with heads."""
    query, key = op.input(0), op.input(1)
    value = op.input(2)
    batch, length, reach = query[0], query[-2], key[-2]
    if len(query) == 4:
        heads, width, out = query[1], query[-1], value[-1]
    else:
        heads = int(op.attributes.get("q_num_heads") or op.attributes.get("num_heads") or 1)
        width, out = query[-1] // heads, op.output[-1] // heads
    return batch * heads * length * reach * (2 * width + 2 * out + 5)


# --- windows, interpolation ----------------------------------------------------------------------------------------


def _pool(op: Operator) -> int:
    kernel: tuple[int, ...] = tuple(op.attributes["kernel_shape"])
    return math.prod(op.output) * math.prod(kernel)


def _resize(op: Operator) -> int:
    """A multiply-add per tap, along the axes that change; the nearest neighbour is only moved."""
    mode = op.attributes.get("mode", "nearest")
    taps: int = {"nearest": 0, "linear": 2, "cubic": 4}[mode.decode() if isinstance(mode, bytes) else str(mode)]
    axes = sum(a != b for a, b in zip(op.input(0), op.output, strict=True))
    return 2 * math.prod(op.output) * math.prod([taps] * axes) if taps else 0


def _grid_sample(op: Operator) -> int:
    return math.prod(op.output) * math.prod([2] * (len(op.output) - 1))


def _sum(op: Operator) -> int:
    return math.prod(op.output) * max(1, len(op.inputs) - 1)


# --- the tables ----------------------------------------------------------------------------------------------------

#: Operations for each element of the output.
EACH: Mapping[str, int] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Mod", "BitShift", "PRelu", "QLinearAdd", "QLinearMul"), 1),
    **dict.fromkeys(("Relu", "LeakyRelu", "QLinearLeakyRelu", "ThresholdedRelu", "Abs", "Neg", "Sign", "Not"), 1),
    **dict.fromkeys(("Ceil", "Floor", "Round", "Exp", "Log", "Sqrt", "Reciprocal", "Sin", "Cos", "Tan", "Atan"), 1),
    **dict.fromkeys(("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "And", "Or", "Xor", "Where"), 1),
    **dict.fromkeys(("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "IsNaN", "IsInf", "QLinearWhere"), 1),
    **dict.fromkeys(("Clip", "HardSigmoid", "DequantizeLinear", "BatchNormalization", "Acos", "Asin", "Erf"), 2),
    **dict.fromkeys(("Sigmoid", "QLinearSigmoid", "HardSwish", "Softplus", "Softsign", "Elu", "Selu", "Celu"), 4),
    **dict.fromkeys(("Sinh", "Cosh", "Tanh", "Swish", "QuickGelu"), 5),
    **dict.fromkeys(("Gelu", "FastGelu", "BiasGelu", "Mish"), 8),
    "QuantizeLinear": 3,
    "DynamicQuantizeLinear": 5,
    "RotaryEmbedding": 3,
}
#: Operations for each element of the first input.
REDUCES: Mapping[str, int] = {
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ArgMax", "ArgMin"), 1),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "QLinearGlobalAveragePool", "QLinearReduceMean"), 1),
    **dict.fromkeys(("CumSum", "ReduceL1", "ReduceLogSum"), 1),
    **dict.fromkeys(("ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "GlobalLpPool"), 2),
    **dict.fromkeys(("LpNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), 4),
    **dict.fromkeys(("Softmax", "LogSoftmax", "QLinearSoftmax", "Hardmax"), 5),
    **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "GroupNormalization", "GroupNorm"), 7),
    **dict.fromkeys(("MeanVarianceNormalization", "SkipLayerNormalization"), 8),
}
COUNTS: Mapping[str, Callable[[Operator], int]] = {
    "Conv": _convolution(0, 1),
    "FusedConv": _convolution(0, 1),
    "ConvInteger": _convolution(0, 1),
    "QLinearConv": _convolution(0, 3),
    "ConvTranspose": _transposed,
    "MatMul": _product(0),
    "MatMulInteger": _product(0),
    "MatMulIntegerToFloat": _product(0),
    "DynamicQuantizeMatMul": _product(0),
    "MatMulNBits": _product(0),
    "QLinearMatMul": _product(0),
    "FusedMatMul": _fused_product,
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "QGemm": _gemm,
    "Einsum": _einsum,
    "LSTM": _recurrent(4),
    "DynamicQuantizeLSTM": _recurrent(4),
    "GRU": _recurrent(3),
    "RNN": _recurrent(1),
    "Attention": _attention,
    "MultiHeadAttention": _attention,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "QLinearAveragePool": _pool,
    "LpPool": _pool,
    "Resize": _resize,
    "Upsample": _resize,
    "GridSample": _grid_sample,
    **dict.fromkeys(("Sum", "Mean", "Max", "Min"), _sum),
}
#: Copies, conversions and permutations: bytes only. Those of `PICKS` read no more than they write.
PICKS = frozenset(
    {"Slice", "Gather", "GatherElements", "GatherND", "Compress", "CenterCropPad", "Expand", "Tile", "Pad", "OneHot"}
)
MOVES = PICKS | {
    *("Transpose", "Concat", "QLinearConcat", "Split", "Cast", "CastLike", "DepthToSpace", "SpaceToDepth"),
    *("ScatterND", "ScatterElements", "ReverseSequence", "Trilu", "ReorderInput", "ReorderOutput", "EyeLike"),
}
#: Another shape, or another name, for the same bytes.
VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
#: Only about shapes: a handful of numbers.
SHAPES = frozenset({"Shape", "Size", "Constant", "ConstantOfShape", "Range"})
#: What has weights, by the places of its two factors.
FACTORS: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedMatMul", "FusedGemm"), (0, 1)),
    **dict.fromkeys(("ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"), (0, 1)),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm"), (0, 3)),
}
