"""What graphs cost: against counts by hand, published ones, and each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edgedeploy.cost import GraphCost, NodeCost, graph_cost  # noqa: E402
from edgedeploy.errors import UsageError  # noqa: E402

FLOAT = TensorProto.FLOAT


def write(
    path: Path,
    nodes: Sequence[Any],
    inputs: Mapping[str, Sequence[int | str]],
    constants: Mapping[str, Any] | None = None,
    outputs: Sequence[str] = ("y",),
) -> Path:
    """A model of float inputs; ``y`` is what it gives."""
    arrays = {
        n: np.asarray(a) if not isinstance(a, tuple) else np.ones(a, np.float32) for n, a in (constants or {}).items()
    }
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, FLOAT, list(shape)) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("odd", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=9), path)
    return path


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str] = ("y",), **attributes: Any) -> Any:
    return helper.make_node(kind, list(inputs), list(outputs), name=f"n_{outputs[0]}", **attributes)


def cost(tmp_path: Path, *arguments: Any, **options: Any) -> GraphCost:
    return graph_cost(write(tmp_path / "m.onnx", *arguments, **options))


def only(graph: GraphCost) -> NodeCost:
    assert len(graph.nodes) == 1
    return graph.nodes[0]


# Operators


def test_a_convolution(tmp_path: Path) -> None:
    one = only(cost(tmp_path, [node("Conv", ["x", "w", "b"], strides=[2, 2], pads=[1] * 4)], {"x": (1, 3, 8, 8)},
                    {"w": (16, 3, 3, 3), "b": (16,)}))  # fmt: skip
    assert one.shape == (1, 16, 4, 4)
    assert one.flops == 2 * (16 * 4 * 4) * (3 * 3 * 3)
    assert (one.read, one.written, one.weights) == (4 * 3 * 64, 4 * 16 * 16, 4 * (16 * 27 + 16))
    assert (one.dtype, one.kind, one.name) == ("fp32", "Conv", "n_y")
    assert one.intensity == one.flops / one.bytes


@pytest.mark.parametrize(
    ("made", "inputs", "constants", "flops"),
    [
        (node("Conv", ["x", "w"], group=8, pads=[1] * 4), {"x": (1, 8, 5, 5)}, {"w": (8, 1, 3, 3)}, 2 * 8 * 25 * 9),
        (node("ConvTranspose", ["x", "w"], strides=[2, 2]), {"x": (1, 4, 3, 3)}, {"w": (4, 6, 2, 2)}, 2 * 36 * 24),
        (node("Gemm", ["x", "w"], transB=1), {"x": (5, 7)}, {"w": (3, 7)}, 2 * 5 * 7 * 3),
        (node("Gemm", ["x", "w"], transA=1), {"x": (7, 5)}, {"w": (7, 3)}, 2 * 5 * 7 * 3),
        (node("MatMul", ["x", "w"]), {"x": (2, 5, 7), "w": (2, 7, 3)}, {}, 2 * 2 * 5 * 7 * 3),
        (node("Einsum", ["x", "w"], equation="bij,bjk->bik"), {"x": (2, 5, 7), "w": (2, 7, 3)}, {}, 2 * 2 * 5 * 7 * 3),
        (node("Relu", ["x"]), {"x": (4, 5)}, {}, 20),
        (node("Sigmoid", ["x"]), {"x": (4, 5)}, {}, 80),
        (node("Add", ["x", "w"]), {"x": (4, 1), "w": (1, 5)}, {}, 20),
        (node("Softmax", ["x"]), {"x": (4, 5)}, {}, 100),
        (node("LayerNormalization", ["x", "w"]), {"x": (4, 5)}, {"w": (5,)}, 140),
        (node("MaxPool", ["x"], kernel_shape=[3, 3]), {"x": (1, 2, 5, 5)}, {}, 2 * 9 * 9),
        (node("GlobalAveragePool", ["x"]), {"x": (1, 2, 5, 5)}, {}, 50),
        (node("ReduceMean", ["x"], keepdims=0), {"x": (4, 5)}, {}, 20),
        (node("Transpose", ["x"]), {"x": (4, 5)}, {}, 0),
    ],
)  # fmt: skip
def test_operations(
    tmp_path: Path, made: Any, inputs: Mapping[str, Any], constants: Mapping[str, Any], flops: int
) -> None:
    found = cost(tmp_path, [made], inputs, constants)
    assert found.not_counted == ()
    assert only(found).flops == flops


@pytest.mark.parametrize(("mode", "taps"), [("nearest", 0), ("linear", 4), ("cubic", 16)])
def test_interpolation_is_taps(tmp_path: Path, mode: str, taps: int) -> None:
    scales = np.array([1, 1, 2, 2], np.float32)
    one = only(cost(tmp_path, [node("Resize", ["x", "", "s"], mode=mode)], {"x": (1, 2, 3, 3)}, {"s": scales}))
    assert one.flops == 2 * taps * 2 * 36
    assert one.read == 4 * 18


def test_an_lstm_is_its_products(tmp_path: Path) -> None:
    made = node("LSTM", ["x", "w", "r"], ["all", "y"], hidden_size=6)
    one = only(cost(tmp_path, [made], {"x": (7, 2, 5)}, {"w": (1, 24, 5), "r": (1, 24, 6)}))
    products = 7 * 2 * 24 * 2 * (5 + 6)
    assert one.flops == products + 7 * 2 * 24 * 5


def test_moves_and_views(tmp_path: Path) -> None:
    nodes = [
        node("Reshape", ["x", "shape"], ["flat"]),
        node("Slice", ["flat", "zero", "four"], ["part"]),
        node("Concat", ["part", "part"], ["y"], axis=0),
    ]
    constants = {"shape": np.array([-1]), "zero": np.array([0]), "four": np.array([4])}
    reshape, part, concat = cost(tmp_path, nodes, {"x": (4, 5)}, constants).nodes
    assert reshape.bytes == 0
    assert (part.read, part.written) == (16, 16)
    assert (concat.read, concat.written, concat.flops) == (32, 32, 0)


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Magic", ["x"], ["y"], domain="odd"), node("NonMaxSuppression", ["x", "x"], ["z"])]
    found = cost(tmp_path, nodes, {"x": (1, 2, 4)})
    assert found.not_counted == ("odd:Magic", "NonMaxSuppression")
    assert found.nodes[0].name == "y"


def test_a_known_operator_of_unknown_shape_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Magic", ["x"], ["m"], domain="odd"), node("Relu", ["m"])]
    assert cost(tmp_path, nodes, {"x": (4,)}).not_counted == ("odd:Magic", "Relu")


# Shapes


def test_the_batch_is_bound(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", [node("Relu", ["x"])], {"x": ("batch", 5)})
    assert [graph_cost(path, batch=batch).flops for batch in (1, 3)] == [5, 15]
    assert graph_cost(path, {"x": (4, 5)}).flops == 20


@pytest.mark.parametrize(
    ("shapes", "words"),
    [(None, "'width'"), ({"x": (2,)}, "2 dimensions"), ({"z": (2, 5)}, "no input 'z'"), ({"x": (3, 4)}, "'width'")],
)
def test_shapes_that_do_not_fit(tmp_path: Path, shapes: Mapping[str, tuple[int, ...]] | None, words: str) -> None:
    inputs: dict[str, Sequence[int | str]] = {"x": ("batch", "width")}
    if words == "'width'" and shapes:
        inputs, words = {"x": (2, "width")}, "is 2 along axis 0, not 3"
    path = write(tmp_path / "m.onnx", [node("Relu", ["x"])], inputs)
    with pytest.raises(UsageError, match=words):
        graph_cost(path, shapes)


def test_what_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no graph at all")
    (tmp_path / "m.xml").write_text("no graph at all", "utf-8")
    for name, words in (("m.onnx", "readable ONNX"), ("m.xml", "readable OpenVINO"), ("m.pte", "cannot be counted")):
        with pytest.raises(UsageError, match=words):
            graph_cost(tmp_path / name)


def test_weights_beside_the_file_are_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", [node("MatMul", ["x", "w"])], {"x": (1, 100)}, {"w": (100, 50)})
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="m.data")
    (tmp_path / "m.data").unlink()
    assert graph_cost(path).flops == 2 * 100 * 50
    assert graph_cost(path).weights == 4 * 100 * 50


# Types


def quantized(name: str, source: str, scale: str = "s") -> list[Any]:
    return [
        node("QuantizeLinear", [source, scale, "z"], [f"{name}_q"]),
        node("DequantizeLinear", [f"{name}_q", scale, "z"], [name]),
    ]


CONSTANTS = {
    "s": np.float32(0.1),
    "z": np.uint8(0),
    "w_q": np.ones((8, 4, 1, 1), np.int8),
    "z_w": np.int8(0),
}


def test_a_convolution_between_qdq_is_int8(tmp_path: Path) -> None:
    nodes = [
        *quantized("a", "x"),
        node("DequantizeLinear", ["w_q", "s", "z_w"], ["w"]),
        node("Conv", ["a", "w"], ["c"]),
        *quantized("y", "c"),
    ]
    found = cost(tmp_path, nodes, {"x": (1, 4, 5, 5)}, CONSTANTS)
    assert [one.kind for one in found.nodes] == ["QuantizeLinear", "Conv", "DequantizeLinear"]
    first, conv, last = found.nodes
    assert (conv.dtype, conv.read, conv.written, conv.weights) == ("int8", 100, 200, 32)
    assert conv.flops == 2 * 200 * 4
    assert (first.read, first.written) == (400 + 0, 100)
    assert (last.read, last.written) == (200, 800)


def test_int8_weights_alone_make_no_int8_arithmetic(tmp_path: Path) -> None:
    nodes = [node("DequantizeLinear", ["w_q", "s", "z_w"], ["w"]), node("Conv", ["x", "w"])]
    conv = only(cost(tmp_path, nodes, {"x": (1, 4, 5, 5)}, CONSTANTS))
    assert (conv.dtype, conv.weights) == ("fp32", 4 * 32)


def test_a_value_that_somebody_reads_in_float_is_dequantised_for_it(tmp_path: Path) -> None:
    nodes = [*quantized("a", "x"), node("Relu", ["a"], ["r"]), *quantized("y", "r"), node("Exp", ["a"], ["e"])]
    found = cost(tmp_path, nodes, {"x": (1, 4, 5, 5)}, CONSTANTS, outputs=("y", "e"))
    kinds = [(one.kind, one.dtype) for one in found.nodes]
    assert ("Relu", "int8") in kinds
    assert ("Exp", "fp32") in kinds
    assert [kind for kind, _ in kinds].count("DequantizeLinear") == 2


def test_half_is_what_it_computes_in(tmp_path: Path) -> None:
    half = np.ones((8, 4, 1, 1), np.float16)
    nodes = [
        node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        node("Conv", ["h", "w"], ["c"]),
        node("Cast", ["c"], to=1),
    ]
    cast, conv, _ = cost(tmp_path, nodes, {"x": (1, 4, 5, 5)}, {"w": half}).nodes
    assert (cast.flops, cast.read, cast.written) == (0, 400, 200)
    assert (conv.dtype, conv.read, conv.written, conv.weights) == ("fp16", 200, 400, 64)


def test_constants_are_folded(tmp_path: Path) -> None:
    nodes = [node("Transpose", ["w"], ["t"]), node("MatMul", ["x", "t"])]
    assert only(cost(tmp_path, nodes, {"x": (2, 3)}, {"w": (4, 3)})).kind == "MatMul"


# Whole graphs


def test_fused_nodes_do_not_move_what_is_between_them(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Sigmoid", ["c"], ["s"]),
        node("Mul", ["c", "s"], ["y"]),
    ]
    found = cost(tmp_path, nodes, {"x": (1, 4, 5, 5)}, {"w": (8, 4, 1, 1)})
    whole = found.fused(["n_c", "n_s", "n_y"])
    part = found.fused(["n_s", "n_y"])
    assert whole is not None
    assert part is not None
    assert (whole.kind, whole.flops) == ("Conv", found.flops)
    assert (whole.read, whole.written, whole.weights) == (400, 800, 128)
    assert (part.read, part.written) == (800, 800)
    first = found.fused(["n_c"])
    assert first is not None
    assert first.written == 800
    assert found.fused(["nobody"]) is None


def _resnet18() -> tuple[list[Any], dict[str, Any]]:
    """He et al. 2015, table 1, 18 layers, at 224x224; its batch normalisation is folded."""
    nodes: list[Any] = []
    constants: dict[str, Any] = {}

    def conv(source: str, shape: tuple[int, int, int], stride: int) -> str:
        out, name = f"c{len(nodes)}", f"w{len(nodes)}"
        constants[name] = (shape[1], shape[0], shape[2], shape[2])
        pads = [shape[2] // 2] * 4
        nodes.append(node("Conv", [source, name], [out], strides=[stride] * 2, pads=pads))
        return out

    def add(kind: str, *sources: str, **attributes: Any) -> str:
        out = f"o{len(nodes)}"
        nodes.append(node(kind, sources, [out], **attributes))
        return out

    at = add("Relu", conv("x", (3, 64, 7), 2))
    at = add("MaxPool", at, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    width = 64
    for out, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        inner = conv(add("Relu", conv(at, (width, out, 3), stride)), (out, out, 3), 1)
        skipped = at if (width, stride) == (out, 1) else conv(at, (width, out, 1), stride)
        at, width = add("Relu", add("Add", inner, skipped)), out
    pooled = add("Flatten", add("GlobalAveragePool", at))
    constants["fc"] = (1000, 512)
    nodes.append(node("Gemm", [pooled, "fc"], ["y"], transB=1))
    return nodes, constants


def test_resnet18_is_what_is_published(tmp_path: Path) -> None:
    nodes, constants = _resnet18()
    found = cost(tmp_path, nodes, {"x": (1, 3, 224, 224)}, constants)
    multiplied = sum(one.flops for one in found.nodes if one.kind in ("Conv", "Gemm"))
    assert round(multiplied / 2e9, 3) == 1.814  # multiply-adds as torchvision lists them
    assert multiplied < found.flops < 1.01 * multiplied
    assert round(found.weights / 4e6, 1) == 11.7  # parameters, without those of batch normalisation


def test_yolox_nano_is_what_is_published(shared: Path) -> None:
    found = graph_cost(shared / "weights" / "yolox_nano_coco_416.onnx")
    assert found.not_counted == ()
    assert math.isclose(found.flops / 1e9, 1.08, rel_tol=0.02)  # YOLOX, README: 1.08 G


@pytest.mark.slow
def test_yolov8n_is_what_is_published(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    pytest.importorskip("onnxscript")
    from edgedeploy.capture import to_onnx
    from edgedeploy.model import InputShape, load

    model = load(str(shared / "weights" / "yolov8n.pt"), InputShape(size=(640, 640)))
    to_onnx(model.graphs["main"], tmp_path / "m.onnx", 18)
    found = graph_cost(tmp_path / "m.onnx")
    assert found.not_counted == ()
    convolutions = sum(one.flops for one in found.nodes if one.kind == "Conv")
    assert round(convolutions / 1e9, 1) == 8.7  # Ultralytics' documentation of YOLOv8


def test_openvinos_form_costs_what_the_onnx_file_costs(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        node("Conv", ["c", "d"], ["e"], group=8, pads=[1] * 4),
        node("AveragePool", ["e"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Softmax", ["p"], ["f"], axis=1),
        node("ConvTranspose", ["f", "t"], ["y"]),
    ]
    constants = {"w": (8, 3, 3, 3), "d": (8, 1, 3, 3), "t": (8, 5, 2, 2)}
    path = write(tmp_path / "m.onnx", nodes, {"x": (2, 3, 8, 8)}, constants)
    openvino.save_model(openvino.convert_model(str(path)), tmp_path / "m.xml", compress_to_fp16=False)
    here, there = graph_cost(path), graph_cost(tmp_path / "m.xml")
    assert there.not_counted == ()
    assert there.flops == here.flops
    assert there.weights == here.weights
    assert [one.dtype for one in there.nodes] == ["fp32"] * len(there.nodes)


def test_openvinos_int8_is_read_from_its_fake_quantisers(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    nodes = [
        *quantized("a", "x"),
        node("DequantizeLinear", ["w_q", "s", "z_w"], ["w"]),
        node("Conv", ["a", "w"], ["c"]),
        node("Relu", ["c"]),
    ]
    path = write(tmp_path / "m.onnx", nodes, {"x": (1, 4, 5, 5)}, CONSTANTS)
    openvino.save_model(openvino.convert_model(str(path)), tmp_path / "m.xml", compress_to_fp16=False)
    conv = next(one for one in graph_cost(tmp_path / "m.xml").nodes if one.kind == "Conv")
    assert (conv.dtype, conv.read, conv.flops) == ("int8", 100, 2 * 200 * 4)
