"""The adapter: builds of small graphs with TensorRT for RTX, which needs no GPU, and its names against other releases.

``tensorrt_names.json`` lists the attributes of the classes in the Python bindings of some releases, as ``dir`` shows
them.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from edgedeploy_tensorrt import ahead, api, execution, runtime
from edgedeploy_tensorrt.api import Library, Refused
from edgedeploy_tensorrt.plan import Plan, Shapes

from edgedeploy.errors import ExportFailed, Unavailable

onnx = pytest.importorskip("onnx")

RTX = Plan(1, "rtx", "fp32")


def node(kind: str, inputs: str, output: str, module: str = "", **attributes: Any) -> Any:
    made = onnx.helper.make_node(kind, inputs.split(), [output], f"n_{output}", **attributes)
    if module:
        scopes = ["", *module.split("/"), "call"]
        made.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=str(scopes))
    return made


def save(folder: Path, nodes: list[Any], shape: tuple[int | str, ...] = (1, 3, 8, 8), kind: int = 1) -> Path:
    weight = onnx.helper.make_tensor("w", kind, (3, 3, 3, 3), [((7 * i) % 11 - 5) / 30 for i in range(81)])
    scale = onnx.helper.make_tensor("s", 1, (), [0.02])
    zero = onnx.helper.make_tensor("z", onnx.TensorProto.INT8, (), [0])
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "g", [value("x", 1, shape)], [value("y", 1, None)], initializer=[weight, scale, zero]
    )
    opsets = [onnx.helper.make_opsetid("", 19)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "g.onnx")
    return folder / "g.onnx"


def conv(folder: Path, shape: tuple[int | str, ...] = (1, 3, 8, 8)) -> Path:
    return save(folder, [node("Conv", "x w", "c", pads=[1, 1, 1, 1]), node("Relu", "c", "y")], shape)


def half(folder: Path) -> Path:
    nodes = [
        node("Cast", "x", "h", to=10),
        node("Conv", "h w", "c", pads=[1, 1, 1, 1]),
        node("Cast", "c", "y", to=1),
    ]
    return save(folder, nodes, kind=10)


def int8(folder: Path) -> Path:
    nodes = [
        node("QuantizeLinear", "x s z", "xq"),
        node("DequantizeLinear", "xq s z", "xd"),
        node("QuantizeLinear", "w s z", "wq"),
        node("DequantizeLinear", "wq s z", "wd"),
        node("Conv", "xd wd", "y", pads=[1, 1, 1, 1]),
    ]
    return save(folder, nodes)


@pytest.fixture(scope="module")
def rtx() -> Library:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13, which builds without a GPU")
    return api.load("rtx")


# Real builds


@pytest.mark.parametrize("write", [conv, half, int8])
def test_engines_are_built_for_gpus_that_are_not_here(write: Any, rtx: Library, tmp_path: Path) -> None:
    graph = write(tmp_path)
    engines = {sm: api.build(api.parse(rtx, graph, RTX), RTX, (sm,)) for sm in (86, 120)}
    assert all(len(built.engine) > 1000 for built in engines.values())
    assert engines[86].engine != engines[120].engine
    assert any("Engine generation completed" in line for line in engines[86].log)
    assert not any(line.startswith("VERBOSE") for line in engines[86].log)


def test_types_in_the_graph_are_those_of_the_network(rtx: Library, tmp_path: Path) -> None:
    def types(graph: Path) -> set[str]:
        network = api.parse(rtx, graph, RTX).network
        return {network.get_layer(i).get_output_type(0).name for i in range(network.num_layers)}

    assert types(conv(tmp_path)) == {"FLOAT"}
    assert "HALF" in types(half(tmp_path))
    assert "INT8" in types(int8(tmp_path))


def test_dynamic_shapes_are_built_with_a_profile(rtx: Library, tmp_path: Path) -> None:
    graph = conv(tmp_path, ("batch", 3, 8, 8))
    plan = dataclasses.replace(RTX, shapes={"x": Shapes((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))})
    assert api.build(api.parse(rtx, graph, plan), plan, (86,)).engine


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({}, r"'x' has dynamic dimensions \[-1, 3, 8, 8\], and the plan has no optimisation profile"),
        ({"z": Shapes((1,), (1,), (1,))}, "no optimisation profile"),
        ({"x": Shapes((1, 4, 8, 8), (1, 4, 8, 8), (2, 4, 8, 8))}, "did not build|does not fit"),
        ({"x": Shapes((1, 3), (1, 3), (2, 3))}, "did not build|does not fit"),
    ],
)
def test_a_missing_or_wrong_profile_is_said(
    shapes: Mapping[str, Shapes], words: str, rtx: Library, tmp_path: Path
) -> None:
    plan = dataclasses.replace(RTX, shapes=shapes)
    with pytest.raises(Refused, match=words):
        api.build(api.parse(rtx, conv(tmp_path, ("batch", 3, 8, 8)), plan), plan, (86,))


def test_options_of_the_plan_are_taken(rtx: Library, tmp_path: Path) -> None:
    plan = dataclasses.replace(RTX, workspace=1 << 28, optimization_level=1, sparsity=True, tf32=True)
    assert api.build(api.parse(rtx, conv(tmp_path), plan), plan, (89,)).engine


def test_a_gpu_that_it_does_not_build_for_is_said(rtx: Library, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"does not build for compute capability 70; it knows 75, 80, 86, 89, 120"):
        api.build(api.parse(rtx, conv(tmp_path), RTX), RTX, (70,))
    with pytest.raises(Refused, match="builds only for the GPU that is in the machine"):
        api.capability(Library("tensorrt", object(), "10.3.0"), 87)


# What it refuses


def test_an_operator_that_is_not_supported_is_named_with_its_module(rtx: Library, tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "c", module="stem"), node("Det", "c", "y", module="head/head.volume")]
    with pytest.raises(Refused) as caught:
        api.parse(rtx, save(tmp_path, nodes), RTX)
    assert "does not support Det in 'head.volume'." in str(caught.value)
    assert "Begin node" in str(caught.value.__cause__)


def test_an_operator_of_a_foreign_domain_is_named(rtx: Library, tmp_path: Path) -> None:
    strange = onnx.helper.make_node("Wobble", ["x"], ["y"], "n_wobble", domain="my.ops")
    graph = save(tmp_path, [strange])
    proto = onnx.load(graph)
    proto.opset_import.append(onnx.helper.make_opsetid("my.ops", 1))
    onnx.save(proto, graph)
    with pytest.raises(Refused, match="does not support Wobble in 'n_wobble'"):
        api.parse(rtx, graph, RTX)


@pytest.mark.parametrize("data", [b"", b"no graph at all", b"\x08\x0a"])
def test_what_is_no_graph_is_said(data: bytes, rtx: Library, tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(data)
    with pytest.raises(Refused, match=r"cannot read g\.onnx"):
        api.parse(rtx, tmp_path / "g.onnx", RTX)


def test_a_damaged_engine_is_said(rtx: Library, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="does not take this engine"):
        api.deserialize(rtx, b"no engine")


def test_an_export_refuses_what_the_parser_refuses(rtx: Library, tmp_path: Path) -> None:
    graph = save(tmp_path, [node("Det", "x", "y", module="head")])
    with pytest.raises(ExportFailed, match="Det in 'head'"):
        ahead.check(graph, RTX)
    with pytest.raises(ExportFailed, match="compute capability 70"):
        ahead.build(conv(tmp_path), RTX, (70,))


def test_engines_ahead_lie_beside_the_graph_with_their_logs(rtx: Library, tmp_path: Path) -> None:
    made = ahead.build(conv(tmp_path), RTX, (86, 89))
    assert [(one.sm, one.file, one.library) for one in made] == [
        (86, "g.sm86.engine", rtx.version),
        (89, "g.sm89.engine", rtx.version),
    ]
    assert "Engine generation completed" in (tmp_path / "g.sm89.build.log").read_text()
    assert ahead.summary(made, tmp_path)[0]["bytes"] == (tmp_path / "g.sm86.engine").stat().st_size


def test_without_tensorrt_here_the_graph_is_not_checked_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def absent(flavour: str) -> Library:
        raise Unavailable("not here")

    monkeypatch.setattr(api, "load", absent)
    checked = ahead.check(tmp_path / "g.onnx", RTX)
    assert checked.decided == {"parsed_by": None}
    assert "edgedeploy[tensorrt-rtx]" in checked.notes[0]


def test_a_library_that_is_not_here_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(api.MODULES, "tensorrt", "no_such_tensorrt")
    with pytest.raises(Unavailable, match=r"cannot be imported here\. Install .*edgedeploy\[tensorrt\]"):
        api.load("tensorrt")


def test_there_is_one_logger(rtx: Library) -> None:
    assert api.logger(rtx.module) is api.logger(rtx.module)


# Flags of the releases, and names


def test_types_are_binding_or_flags_are_set() -> None:
    ten, eight, eleven = (Library("tensorrt", None, v) for v in ("10.3.0", "8.6.1", "11.4.0"))
    weak = Plan(1, "tensorrt", "int8", strongly_typed=False, float_layers=("n",), dla_core=0)
    for library in (ten, eight):
        flags = api.builder_flags(library, weak)
        assert (flags["FP16"], flags["INT8"], flags["OBEY_PRECISION_CONSTRAINTS"]) == (True, True, True)
        assert (flags["GPU_FALLBACK"], flags["TF32"]) == (True, False)
        assert "FP16" not in api.builder_flags(library, Plan(1, "tensorrt", "int8"))
    assert "FP16" not in api.builder_flags(eleven, weak)


NAMES: Mapping[str, Mapping[str, str]] = json.loads(Path(__file__).with_name("tensorrt_names.json").read_text("utf-8"))
#: Which class of TensorRT a variable of the adapter holds.
CLASSES = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "layer": "ILayer",
    "engine": "ICudaEngine",
    "runtime": "Runtime",
    "problem": "ParserError",
    "cache": "ITimingCache",
    "tensor": "ITensor",
    "_context": "IExecutionContext",
}
#: What the adapter asks only of releases that have it.
GUARDED = {
    "tensorrt 8.6.1": {
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "OnnxParserFlag.ADJUST_FOR_DLA",
        "ParserError.node_name",
        "ParserError.node_operator",
    },
    "tensorrt 10.3.0": {"OnnxParserFlag.ADJUST_FOR_DLA"},
    "tensorrt 11.4.0": {"NetworkDefinitionCreationFlag.EXPLICIT_BATCH", "ILayer.precision", "ILayer.set_output_type"},
    "tensorrt_rtx 1.7.1": {
        "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
        "ILayer.precision",
        "ILayer.set_output_type",
    },
}
COMPUTE = {"IBuilderConfig.num_compute_capabilities", "IBuilderConfig.set_compute_capability"}


def used() -> set[str]:
    """``Class.attribute`` for each one of TensorRT's that the adapter names."""
    found = set()
    for module in (api, execution, runtime):
        for item in ast.walk(ast.parse(inspect.getsource(module))):
            if not isinstance(item, ast.Attribute):
                continue
            value = item.value
            if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name) and value.value.id == "trt":
                found.add(f"{value.attr}.{item.attr}")
            name = value.id if isinstance(value, ast.Name) else value.attr if isinstance(value, ast.Attribute) else ""
            if name in CLASSES and (module is api or name == "_context" or name == "engine"):
                found.add(f"{CLASSES[name]}.{item.attr}")
    return {name for name in found if not name.startswith("ICudaEngine.") or name.partition(".")[2] not in FIELDS}


#: Fields of this project's own records that are also called ``engine``.
FIELDS = {"origin", "seconds", "data", "fallen_back", "file"}


@pytest.mark.parametrize("release", NAMES)
def test_every_name_that_is_used_is_there_in_every_release(release: str) -> None:
    known = {f"{kind}.{name}" for kind, names in NAMES[release].items() for name in names.split()}
    guarded = GUARDED[release] | (set() if release.startswith("tensorrt_rtx") else COMPUTE)
    assert len(used()) > 40
    assert used() - known == guarded


def test_the_recorded_names_are_those_of_the_installed_library(rtx: Library) -> None:
    if not rtx.version.startswith("1.7.1"):
        pytest.skip("names of another release are recorded")
    for kind, names in NAMES["tensorrt_rtx 1.7.1"].items():
        assert set(names.split()) <= set(dir(getattr(rtx.module, kind))), kind


@pytest.mark.parametrize("release", NAMES)
def test_flags_that_a_plan_sets_are_there(release: str) -> None:
    flavour, _, version = release.partition(" ")
    library = Library("rtx" if flavour == "tensorrt_rtx" else "tensorrt", None, version)
    typed = Plan(1, library.flavour, "fp16", sparsity=True, version_compatible=True, dla_core=0, timing_cache=False)
    plans = [typed, dataclasses.replace(typed, strongly_typed=False, float_layers=("n",))]
    flags = {flag for plan in plans for flag, wanted in api.builder_flags(library, plan).items() if wanted}
    known = set(NAMES[release]["BuilderFlag"].split())
    assert flags - known <= ({"DISABLE_TIMING_CACHE"} if version.startswith("8") else set())
