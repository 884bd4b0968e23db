"""An ONNX file as a PyTorch module: the same numbers, exportable, with paths that say where a layer came from."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import torch  # noqa: E402

from edgedeploy.capture import module_path, to_onnx  # noqa: E402
from edgedeploy.errors import EdgeDeployError, ExportFailed, Unavailable, UsageError  # noqa: E402
from edgedeploy.model import Graph  # noqa: E402
from edgedeploy.models.onnx_network import OnnxNetwork  # noqa: E402
from edgedeploy.tensors import Signature, TensorSpec  # noqa: E402

Array = np.ndarray[Any, Any]
make = onnx.helper.make_node
FLOAT = np.float32


def save(
    path: Path,
    nodes: Sequence[Any],
    inputs: Mapping[str, Sequence[int | str]],
    fixed: Mapping[str, Array] | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = 18,
) -> Path:
    """A file with these nodes; inputs are float tensors of these shapes."""
    helper = onnx.helper
    outside = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n, shape in inputs.items()]
    tensors = [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in (fixed or {}).items()]
    graph = helper.make_graph(list(nodes), "net", outside, [onnx.ValueInfoProto(name=n) for n in outputs], tensors)
    domains = {node.domain for node in nodes if node.domain}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(proto), path)
    return path


def by_onnx_runtime(path: Path, *inputs: Array) -> list[Array]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(zip((i.name for i in session.get_inputs()), inputs, strict=True))))


def values(*shape: int) -> Array:
    return np.random.default_rng(0).normal(size=shape).astype(FLOAT)


def tensors(result: Any) -> tuple[torch.Tensor, ...]:
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)


def agrees(path: Path, *inputs: Array, tolerance: float = 1e-5, **options: Any) -> OnnxNetwork:
    """The network, and the program exported from it, give what ONNX Runtime gives."""
    network = OnnxNetwork(path)
    given_ = tuple(map(torch.from_numpy, inputs))
    program = torch.export.export(network, given_, **options)
    for run in (network, program.module()):
        for got, wanted in zip(tensors(run(*given_)), by_onnx_runtime(path, *inputs), strict=True):
            assert got.dtype == torch.from_numpy(wanted).dtype
            np.testing.assert_allclose(got.detach().numpy(), wanted, rtol=tolerance, atol=tolerance)
    return network


# Whole networks


def test_yolox_nano_computes_and_exports(shared: Path) -> None:
    path = shared / "weights" / "yolox_nano_coco_416.onnx"
    network = agrees(path, np.random.default_rng(0).uniform(0, 255, (1, 3, 416, 416)).astype(FLOAT), tolerance=1e-3)
    assert sum(p.numel() for p in network.parameters()) == 904_463
    assert network.get_parameter("Conv_41.weight").shape == (16, 12, 3, 3)


class Detector(torch.nn.Module):
    """What makes shape arithmetic in a detector: a pyramid, a grid of the size of the picture, a flat list of boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = torch.relu(self.fine(x))
        fine = fine + torch.nn.functional.interpolate(self.coarse(fine), scale_factor=2.0)
        n, _, h, w = fine.shape
        rows, columns = torch.meshgrid(torch.arange(h).float(), torch.arange(w) * 1.0, indexing="ij")
        grid = torch.stack((columns, rows)).expand(n, 2, h, w)
        return torch.cat((fine, grid), 1).flatten(2).transpose(1, 2)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector as ONNX, with a dynamic batch and image size."""
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("detector") / "net.onnx"
    dims = ("batch", 3, "height", "width")
    signature = Signature((TensorSpec("x", "float32", dims),), (TensorSpec("y", "float32", ("batch", "boxes", 6)),))
    to_onnx(Graph(Detector().eval(), signature, stride=4), path, 18)
    return path


def test_a_dynamic_file_stays_dynamic(detector: Path) -> None:
    """Batch, height and width, through shape arithmetic that torch wrote."""
    batch = torch.export.Dim("batch", min=1, max=16)
    height, width = (4 * torch.export.Dim(name, min=1, max=16) for name in ("h", "w"))
    dynamic = ({0: batch, 2: height, 3: width},)
    example = torch.from_numpy(values(2, 3, 12, 16))
    run = torch.export.export(OnnxNetwork(detector), (example,), dynamic_shapes=dynamic).module()
    for shape in ((1, 3, 20, 8), (3, 3, 8, 24)):
        inputs = values(*shape)
        wanted = by_onnx_runtime(detector, inputs)[0]
        np.testing.assert_allclose(run(torch.from_numpy(inputs)).detach().numpy(), wanted, rtol=1e-5, atol=1e-5)


def test_modules_lie_where_they_came_from(detector: Path) -> None:
    network = OnnxNetwork(detector)
    program = torch.export.export(network, (torch.zeros(1, 3, 16, 16),))
    stacks = [n.meta["nn_module_stack"] for n in program.graph.nodes if "conv" in str(n.target)]
    assert [list(stack.values())[-1][0] for stack in stacks] == ["fine", "coarse"]
    assert {module_path(n) for n in onnx.load(detector).graph.node if n.op_type == "Conv"} == {"fine", "coarse"}
    assert network.get_parameter("coarse.weight").shape == (4, 4, 3, 3)


class Classifier(torch.nn.Module):
    """The layers of a MobileNetV3: depthwise, squeeze and excite, hard swish, residual."""

    def __init__(self) -> None:
        super().__init__()
        nn = torch.nn
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Hardswish())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.ReLU6())
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1), nn.Hardsigmoid()
        )
        self.head = nn.Sequential(
            nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 5)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.depthwise(x)
        return torch.softmax(self.head(x * self.squeeze(x)), dim=-1)


class Transformer(torch.nn.Module):
    """Embedding, positions, one encoder layer with a mask, a tied output matrix."""

    def __init__(self) -> None:
        super().__init__()
        nn = torch.nn
        self.embedding = nn.Embedding(11, 8)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.norm, self.mixed = nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.positions: torch.Tensor
        self.register_buffer("positions", torch.randn(6, 8))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        n, length = tokens.shape
        x = self.embedding(tokens) + self.positions[:length]
        q, k, v = (f(self.norm(x)).view(n, length, 2, 4).transpose(1, 2) for f in (self.query, self.key, self.value))
        mask = torch.tril(torch.ones(length, length, dtype=torch.bool))
        scores = (q @ k.transpose(-1, -2) / 2.0).masked_fill(~mask, -1e4)
        x = x + (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, length, 8)
        return torch.matmul(x + self.mixed(x), self.embedding.weight.t())


@pytest.mark.parametrize("dims", [(1, 3, 32, 32), ("batch", 3, 32, 32)])
def test_a_classifier(dims: tuple[int | str, ...], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    signature = Signature((TensorSpec("x", "float32", dims),), (TensorSpec("y", "float32", (dims[0], 5)),))
    to_onnx(Graph(Classifier().eval(), signature), tmp_path / "net.onnx", 18)
    network = agrees(tmp_path / "net.onnx", values(1 if dims[0] == 1 else 3, 3, 32, 32))
    assert network.get_parameter("head.4.weight").shape == (5, 8)


@pytest.mark.parametrize("dims", [(1, 6), ("batch", 6)])
def test_a_transformer(dims: tuple[int | str, ...], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    signature = Signature((TensorSpec("tokens", "int64", dims),), (TensorSpec("y", "float32", (*dims, 11)),))
    to_onnx(Graph(Transformer().eval(), signature), tmp_path / "net.onnx", 18)
    agrees(tmp_path / "net.onnx", np.arange(6 if dims[0] == 1 else 18).reshape(-1, 6) % 11)


# Shape arithmetic


def flattened(path: Path, batch: int | str) -> Path:
    """What older exporters write for ``x.view(x.size(0), -1)``."""
    nodes = [
        make("Shape", ["x"], ["shape"]),
        make("Gather", ["shape", "zero"], ["batch"], axis=0),
        make("Unsqueeze", ["batch", "first"], ["row"]),
        make("Concat", ["row", "rest"], ["to"], axis=0),
        make("Reshape", ["x", "to"], ["y"]),
    ]
    fixed = {"zero": np.array(0), "first": np.array([0]), "rest": np.array([-1])}
    return save(path, nodes, {"x": (batch, 3, 4)}, fixed)


def test_shape_arithmetic_leaves_no_trace(tmp_path: Path) -> None:
    network = agrees(flattened(tmp_path / "net.onnx", 2), values(2, 3, 4))
    program = torch.export.export(network, (torch.zeros(2, 3, 4),))
    assert [n.target for n in program.graph.nodes if n.op == "call_function"] == [torch.ops.aten.reshape.default]


def test_shape_arithmetic_of_a_dynamic_batch(tmp_path: Path) -> None:
    network = OnnxNetwork(flattened(tmp_path / "net.onnx", "n"))
    dynamic = ({0: torch.export.Dim("n", min=1, max=64)},)
    run = torch.export.export(network, (torch.zeros(2, 3, 4),), dynamic_shapes=dynamic).module()
    for n in (1, 5, 64):
        assert run(torch.zeros(n, 3, 4)).shape == (n, 12)


def test_an_expand_that_asks_which_sizes_are_given(tmp_path: Path) -> None:
    """What older exporters write for ``x.expand(-1, 4, -1)``."""
    nodes = [
        make("Shape", ["wanted"], ["rank"]),
        make("ConstantOfShape", ["rank"], ["ones"], value=onnx.helper.make_tensor("v", 7, [1], [1])),
        make("Shape", ["x"], ["shape"]),
        make("Mul", ["shape", "keeps"], ["kept"]),
        make("Add", ["kept", "given"], ["asked"]),
        make("Equal", ["asked", "none"], ["open"]),
        make("Where", ["open", "ones", "asked"], ["to"]),
        make("Expand", ["x", "to"], ["y"]),
    ]
    fixed = {
        "wanted": np.array([-1, 4, -1]),
        "keeps": np.array([1, 0, 1]),
        "given": np.array([0, 4, 0]),
        "none": np.array([-1]),
    }
    path = save(tmp_path / "net.onnx", nodes, {"x": ("n", 1, 3)}, fixed)
    agrees(path, values(2, 1, 3))
    dynamic = ({0: torch.export.Dim("n", min=2, max=64)},)
    run = torch.export.export(OnnxNetwork(path), (torch.zeros(2, 1, 3),), dynamic_shapes=dynamic).module()
    assert run(torch.zeros(7, 1, 3)).shape == (7, 4, 3)


def test_sizes_computed_in_floats(tmp_path: Path) -> None:
    """What older exporters write for an interpolation by a factor."""
    nodes = [
        make("Shape", ["x"], ["shape"]),
        make("Slice", ["shape", "two", "four", "zero"], ["plane"]),
        make("Cast", ["plane"], ["real"], to=1),
        make("Mul", ["real", "factor"], ["grown"]),
        make("Floor", ["grown"], ["floored"]),
        make("Cast", ["floored"], ["whole"], to=7),
        make("Slice", ["shape", "zero", "two", "zero"], ["channels"]),
        make("Concat", ["channels", "whole"], ["sizes"], axis=0),
        make("Resize", ["x", "", "", "sizes"], ["y"], mode="linear"),
    ]
    fixed = {"two": np.array([2]), "four": np.array([4]), "zero": np.array([0]), "factor": np.array([1.5, 2.0], FLOAT)}
    agrees(save(tmp_path / "net.onnx", nodes, {"x": (1, 2, 5, 6)}, fixed), values(1, 2, 5, 6))


def test_divisions_of_sizes_are_towards_zero(tmp_path: Path) -> None:
    nodes = [
        make("Shape", ["x"], ["shape"]),
        make("Sub", ["shape", "more"], ["negative"]),
        make("Div", ["negative", "half"], ["start"]),
        make("Slice", ["x", "start", "end"], ["y"]),
    ]
    fixed = {"more": np.array([12]), "half": np.array([2]), "end": np.array([99])}
    agrees(save(tmp_path / "net.onnx", nodes, {"x": (7,)}, fixed), values(7))


# Structure


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    """Among them one that is an input, one that is a constant, and one that is a shape."""
    nodes = [
        make("Add", ["a", "b"], ["sum"]),
        make("Identity", ["b"], ["same"]),
        make("Neg", ["table"], ["constant"]),
        make("Shape", ["a"], ["shape"]),
    ]
    outputs = ["sum", "same", "constant", "shape"]
    path = save(tmp_path / "net.onnx", nodes, {"a": (2, 3), "b": (3,)}, {"table": values(4)}, outputs)
    network = agrees(path, values(2, 3), values(3))
    assert (network.input_names, network.output_names) == (("a", "b"), tuple(outputs))
    with pytest.raises(UsageError, match=r"takes 2 inputs \(a, b\), not 1"):
        network(torch.zeros(2, 3))


@pytest.mark.parametrize("names", [("a", "b"), ("self", "lambda"), ("input_1", "x.1")])
def test_each_input_has_its_own_dynamic_shape(names: tuple[str, str], tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", [make("Add", list(names), ["y"])], {names[0]: ("n", 3), names[1]: ("n", 1)})
    n = torch.export.Dim("n", min=1, max=9)
    program = torch.export.export(
        OnnxNetwork(path), (torch.zeros(2, 3), torch.ones(2, 1)), dynamic_shapes=({0: n}, {0: n})
    )
    assert program.module()(torch.zeros(5, 3), torch.ones(5, 1)).shape == (5, 3)
    if names == ("a", "b"):
        assert program.graph_signature.user_inputs == ("a", "b")


def test_one_weight_of_two_layers(tmp_path: Path) -> None:
    nodes = [make("Conv", ["x", "w"], ["m"], "first"), make("Conv", ["m", "w"], ["y"], "second")]
    agrees(save(tmp_path / "net.onnx", nodes, {"x": (1, 2, 5, 5)}, {"w": values(2, 2, 1, 1)}), values(1, 2, 5, 5))


@pytest.mark.parametrize(
    "names",
    [
        ("type", "half"),
        ("weight", "weight.bias"),
        ("/model.0/conv/Conv", "/model.0/act/Relu"),
        ("a", "a.b"),
        ("a.b", "a"),
        ("a..b", "."),
        ("", ""),
        ("forward", "_modules"),
        ("näme mit leer", "0"),
    ],
)
def test_any_node_name_makes_a_module(names: tuple[str, str], tmp_path: Path) -> None:
    nodes = [make("Conv", ["x", "w", "b"], ["m"], names[0]), make("Conv", ["m", "w", "b"], ["y"], names[1])]
    fixed = {"w": values(2, 2, 1, 1), "b": values(2)}
    network = agrees(save(tmp_path / "net.onnx", nodes, {"x": (1, 2, 5, 5)}, fixed), values(1, 2, 5, 5))
    assert sum(1 for n, _ in network.named_parameters(remove_duplicate=False) if n.endswith("weight")) == 2


def test_a_copy_is_independent(tmp_path: Path) -> None:
    nodes = [make("Conv", ["x", "w"], ["y"], "conv")]
    network = OnnxNetwork(save(tmp_path / "net.onnx", nodes, {"x": (1, 2, 5, 5)}, {"w": values(2, 2, 1, 1)}))
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.get_parameter("conv.weight").zero_()
    assert network(torch.ones(1, 2, 5, 5)).abs().sum() > 0
    assert other(torch.ones(1, 2, 5, 5)).abs().sum() == 0


def test_functions_of_the_file_are_inlined(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", [make("Twice", ["x"], ["y"], "twice", domain="own")], {"x": (2, 3)})
    proto = onnx.load(path)
    body = [make("Add", ["a", "a"], ["b"], "sum")]
    proto.functions.append(
        onnx.helper.make_function("own", "Twice", ["a"], ["b"], body, [onnx.helper.make_opsetid("", 18)])
    )
    onnx.save(proto, path)
    agrees(path, values(2, 3))


def test_what_depends_on_constants_only_is_computed_once(tmp_path: Path) -> None:
    """Quantised weights are floats when the network is made."""
    nodes = [make("DequantizeLinear", ["q", "scale"], ["w"], "dequantize"), make("Conv", ["x", "w"], ["y"], "conv")]
    fixed: dict[str, Array] = {
        "q": np.arange(-4, 4, dtype=np.int8).reshape(2, 4, 1, 1),
        "scale": np.asarray(0.1, FLOAT),
    }
    network = agrees(save(tmp_path / "net.onnx", nodes, {"x": (1, 4, 3, 3)}, fixed), values(1, 4, 3, 3))
    assert [n for n, _ in network.named_children()] == ["conv"]
    np.testing.assert_allclose(
        network.get_parameter("conv.weight").flatten().numpy(), np.arange(-4, 4) * 0.1, rtol=1e-6
    )


# What is refused


def test_all_that_is_unknown_is_named_at_once(tmp_path: Path) -> None:
    nodes = [
        make("Teleport", ["x"], ["a"], "first"),
        make("Teleport", ["a"], ["b"], "second"),
        make("NonMaxSuppression", ["b", "b"], ["c"], "nms"),
        make("Gelu", ["c"], ["d"], "fast", domain="com.microsoft"),
        make("Resize", ["d", "", "scales"], ["e"], "crop", coordinate_transformation_mode="tf_crop_and_resize"),
        make("Relu", ["e"], ["f"], "loud", volume=11),
        make("Reshape", ["f", "c"], ["y"], "late"),
    ]
    path = save(tmp_path / "net.onnx", nodes, {"x": (1, 2, 3, 4)}, {"scales": np.ones(4, FLOAT)})
    with pytest.raises(ExportFailed) as caught:
        OnnxNetwork(path)
    said = str(caught.value)
    for part in (
        "Teleport at 'first' and 1 more",
        "NonMaxSuppression at 'nms'",
        "com.microsoft.Gelu at 'fast'",
        "Resize at 'crop': coordinate_transformation_mode 'tf_crop_and_resize'",
        "Relu at 'loud': attribute volume",
    ):
        assert part in said
    assert "late" not in said  # its shape comes from what was refused already
    assert "\n" not in said


def test_the_module_path_of_what_is_refused_is_said(tmp_path: Path) -> None:
    node = make("Teleport", ["x"], ["y"], "node_teleport")
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'model.3', 'model.3.act', 'node_teleport']")
    with pytest.raises(ExportFailed, match=r"Teleport at 'model\.3\.act \(node_teleport\)'"):
        OnnxNetwork(save(tmp_path / "net.onnx", [node], {"x": (2,)}))


REFUSED: list[tuple[Any, dict[str, Array], str]] = [
    (make("Reshape", ["x", "s"], ["y"]), {}, "input 1 ('s') depends on the data"),
    (make("If", ["s"], ["y"], then_branch=onnx.GraphProto(), else_branch=onnx.GraphProto()), {}, "If at"),
    (make("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2]), {}, "second output"),
    (make("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 2]), {}, "dilations [2, 2]"),
    (make("BatchNormalization", ["x"] * 5, ["y"], training_mode=1), {}, "training_mode 1"),
    (make("LRN", ["x"], ["y"], size=4), {}, "size 4"),
    (make("Pad", ["x", "p"], ["y"], mode="mirror"), {"p": np.zeros(8, np.int64)}, "mode 'mirror'"),
    (make("Conv", ["x", "x"], ["y"], auto_pad="SOMEHOW"), {}, "auto_pad 'SOMEHOW'"),
    (make("Cast", ["x"], ["y"], to=8), {}, "element type 8"),
    (make("Resize", ["x", "", "p"], ["y"], mode="linear", antialias=1), {"p": np.ones(4, FLOAT)}, "antialias 1"),
    (make("ScatterND", ["x", "p", "x"], ["y"], reduction="add"), {"p": np.zeros((1, 1), np.int64)}, "reduction 'add'"),
    (make("ArgMax", ["x"], ["y"], select_last_index=1), {}, "select_last_index 1"),
    (make("CumSum", ["x", "p"], ["y"], exclusive=1), {"p": np.array(0)}, "exclusive 1"),
    (make("QuantizeLinear", ["x", "s"], ["y"]), {}, "a scale that is computed"),
    (make("Constant", [], ["y"], value_string="text"), {}, "attribute value_string"),
]


@pytest.mark.parametrize(("node", "fixed", "said"), REFUSED, ids=[r[2] for r in REFUSED])
def test_what_torch_cannot_express_is_refused(node: Any, fixed: dict[str, Array], said: str, tmp_path: Path) -> None:
    node.name = "node"
    path = save(tmp_path / "net.onnx", [node], {"x": (1, 2, 4, 4), "s": ()}, fixed)
    with pytest.raises(ExportFailed) as caught:
        OnnxNetwork(path)
    assert said in str(caught.value)


def test_sizes_that_show_only_when_run_are_refused_with_the_node(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", [make("Add", ["a", "b"], ["y"], "sum")], {"a": ("n",), "b": ("m",)})
    with pytest.raises(ExportFailed, match="Add 'sum' cannot be computed by PyTorch: The size of tensor"):
        OnnxNetwork(path)(torch.zeros(2), torch.zeros(3))


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", [make("Add", ["x", "w"], ["y"])], {"x": (64,)}, {"w": np.zeros(64, FLOAT)})
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(UsageError, match="keeps 'w' in another file"):
        OnnxNetwork(path)


def test_a_constant_does_not_read_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    monkeypatch.chdir(tmp_path)
    value = onnx.numpy_helper.from_array(np.zeros(2, FLOAT), "value")
    onnx.external_data_helper.set_external_data(value, location="secret.bin")
    value.ClearField("raw_data")
    value.data_location = onnx.TensorProto.EXTERNAL
    constant = onnx.NodeProto(op_type="Constant", name="constant", output=["c"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(value)
    graph = onnx.helper.make_graph(
        [constant, make("Add", ["x", "c"], ["y"])],
        "net",
        [onnx.helper.make_tensor_value_info("x", 1, [2])],
        [onnx.helper.make_tensor_value_info("y", 1, [2])],
    )
    path = tmp_path / "net.onnx"
    path.write_bytes(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]).SerializeToString()
    )
    with pytest.raises(ExportFailed, match="Constant at 'constant': its value is in another file"):
        OnnxNetwork(path)


@pytest.mark.parametrize("opset", [6, 99])
def test_an_unknown_opset_is_refused(opset: int, tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", [make("Relu", ["x"], ["y"])], {"x": (2,)})
    proto = onnx.load(path)
    proto.opset_import[0].version = opset
    onnx.save(proto, path)
    with pytest.raises(ExportFailed, match=f"is of opset {opset}"):
        OnnxNetwork(path)


def test_a_file_without_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has 0 inputs"):
        OnnxNetwork(save(tmp_path / "net.onnx", [make("Neg", ["w"], ["y"])], {}, {"w": values(3)}))


def test_a_graph_in_the_wrong_order_is_refused(tmp_path: Path) -> None:
    nodes = [make("Neg", ["m"], ["y"], "late"), make("Relu", ["x"], ["m"], "early")]
    with pytest.raises(UsageError, match="is not a valid ONNX graph"):
        OnnxNetwork(save(tmp_path / "net.onnx", nodes, {"x": (2,)}))


def test_without_onnx_the_line_that_installs_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "net.onnx", [make("Relu", ["x"], ["y"])], {"x": (2,)})
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(Unavailable, match=r"pip install 'edgedeploy\[export\]'$"):
        OnnxNetwork(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_is_a_traceback(data: st.DataObject, tmp_path: Path) -> None:
    nodes = [
        make("Conv", ["x", "w"], ["m"], "conv"),
        make("Clip", ["m", "low"], ["c"]),
        make("Reshape", ["c", "to"], ["y"]),
    ]
    fixed = {"w": values(2, 2, 1, 1), "low": np.asarray(0, FLOAT), "to": np.array([1, -1])}
    whole = bytearray(save(tmp_path / "net.onnx", nodes, {"x": (1, 2, 5, 5)}, fixed).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "garbled.onnx"
    path.write_bytes(whole[: data.draw(st.integers(1, len(whole)))] if data.draw(st.booleans()) else whole)
    try:
        OnnxNetwork(path)(torch.zeros(1, 2, 5, 5))
    except EdgeDeployError as error:
        assert "\n" not in str(error)
