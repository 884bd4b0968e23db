"""ONNX files of others and our own: their task from metadata, their shapes as they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")

from edgedeploy import plugins  # noqa: E402
from edgedeploy.artifact import Artifact  # noqa: E402
from edgedeploy.capture import TASK_KEY, reference_session  # noqa: E402
from edgedeploy.errors import EdgeDeployError, Unavailable, UsageError  # noqa: E402
from edgedeploy.exporter import Evidence, Request, export  # noqa: E402
from edgedeploy.model import InputShape, load  # noqa: E402
from edgedeploy.pipeline import evidence_from, export_checkpoint  # noqa: E402
from edgedeploy.tasks.dataset import read_coco  # noqa: E402

Shape = tuple[int | str, ...]


def small(
    path: Path,
    inputs: Shape = (1, 3, 32, 32),
    outputs: Shape = (1, 6, 21),
    metadata: dict[str, str] | None = None,
    kind: int = onnx.TensorProto.FLOAT,
) -> Path:
    """A graph that gives zeros, of any shape."""
    helper = onnx.helper
    fixed = [d if isinstance(d, int) else 1 for d in outputs]
    zeros = helper.make_tensor("zeros", kind, fixed, np.zeros(fixed).ravel())
    nodes = [
        helper.make_node("Constant", [], ["constant"], value=zeros),
        helper.make_node("Identity", ["constant"], ["detections"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", kind, inputs)],
        [helper.make_tensor_value_info("detections", kind, outputs)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


ULTRALYTICS = {"task": "detect", "names": "{0: 'cat', 1: 'dog'}", "imgsz": "[32, 32]", "stride": "32"}


# Files of others


def test_a_file_of_others_loads_without_a_task(shared: Path) -> None:
    model = load(shared / "weights" / "yolox_nano_coco_416.onnx")
    assert model.task is None
    signature = model.graphs["main"].signature
    assert [s.shape for s in signature.inputs] == [(1, 3, 416, 416)]
    assert [s.shape for s in signature.outputs] == [(1, 3549, 85)]
    assert model.source.format == "onnx"


def test_a_head_and_labels_make_it_a_detector(shared: Path, tmp_path: Path) -> None:
    """From an .onnx that says nothing of itself to an artifact that finds people and cups in photographs."""
    data = read_coco(next((shared / "data" / "coco_val128" / "annotations").glob("*.json")))
    exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, "fp32", {})
    request = Request(exporter, evidence_from(data, 6), head="yolox")
    path = shared / "weights" / "yolox_nano_coco_416.onnx"
    artifact = export_checkpoint(str(path), request, tmp_path).artifact
    contract = artifact.manifest.task
    assert contract is not None
    assert (contract["head"], contract["color"], contract["align"]) == ("yolox", "BGR", "topleft")
    assert contract["size"] == [416, 416]
    assert tuple(contract["labels"]) == data.labels

    from edgedeploy.tasks import from_contract

    task = from_contract(contract)
    golden = artifact.manifest.golden[0]
    prepared = task.prepare(artifact.sample(golden))  # type: ignore[arg-type]
    found = task.finish([artifact.array(f) for f in golden.outputs.values()], prepared.context)
    assert len(found) >= 2
    back = load(artifact.files["main"])  # and the graph inside says so by itself now
    assert back.task == contract


def test_an_unknown_head_is_refused(tmp_path: Path, scenes: Path) -> None:
    from edgedeploy.pipeline import read_calibration_set

    path = small(tmp_path / "net.onnx")
    exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, "fp32", {})
    request = Request(exporter, evidence_from(read_calibration_set(scenes, None), 2), head="yolov9")
    with pytest.raises(UsageError, match=r"no detection head 'yolov9'\. Did you mean 'yolov8'"):
        export_checkpoint(str(path), request, tmp_path / "out")


def test_a_head_needs_labels_and_a_picture(tmp_path: Path) -> None:
    exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, "fp32", {})
    for inputs, said in (((1, 3, 32, 32), "does not name its classes"), ((1, 8), "not one image of a fixed size")):
        path = small(tmp_path / "net.onnx", inputs)
        request = Request(exporter, Evidence([np.zeros((8, 8, 3), np.uint8)], "one"), head="yolov8")
        with pytest.raises(UsageError, match=said):
            export_checkpoint(str(path), request, tmp_path / "out")


def test_what_ultralytics_writes_is_understood(tmp_path: Path) -> None:
    model = load(small(tmp_path / "net.onnx", metadata=ULTRALYTICS))
    assert model.task is not None
    assert (model.task["labels"], model.task["size"], model.task["head"]) == (["cat", "dog"], [32, 32], "yolov8")
    rows = load(small(tmp_path / "rows.onnx", outputs=(1, 300, 6), metadata=ULTRALYTICS))
    assert rows.task is not None
    assert rows.task["head"] == "end2end"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("names", "{0: 'cat', 1: "),
        ("names", "5"),
        ("names", "{}"),
        ("names", "{0: 'a', 'b': 'c'}"),
        ("names", "__import__('os').system('true')"),
        ("imgsz", "32"),
        ("imgsz", "['a', 'b']"),
        ("imgsz", "[-1, 0]"),
        ("imgsz", "["),
    ],
)
def test_metadata_that_cannot_be_is_refused(key: str, value: str, tmp_path: Path) -> None:
    path = small(tmp_path / "net.onnx", metadata={**ULTRALYTICS, key: value})
    with pytest.raises(UsageError):
        load(path)


def test_metadata_of_another_task_is_left_alone(tmp_path: Path) -> None:
    assert load(small(tmp_path / "net.onnx", metadata={**ULTRALYTICS, "task": "segment"})).task is None
    assert load(small(tmp_path / "net.onnx", metadata={"task": "detect"})).task is None


# Our own


def test_our_own_file_comes_back_with_its_task(exported: Callable[[str], Artifact]) -> None:
    artifact = exported("fp32")
    model = load(artifact.files["main"])
    assert model.task == artifact.manifest.task
    assert model.graphs["main"].stride == 32
    golden = artifact.manifest.golden[0]
    from edgedeploy.tasks import from_contract

    assert model.task is not None
    prepared = from_contract(model.task).prepare(artifact.sample(golden))  # type: ignore[arg-type]
    outputs = reference_session(model).run({"images": prepared.tensors[0]})
    got, wanted = outputs["detections"], artifact.array(golden.outputs["detections"])
    np.testing.assert_allclose(np.asarray(got, np.float64), np.asarray(wanted, np.float64), 1e-3, 1e-3)


def test_our_own_file_tells_nothing_of_where_it_was_made(exported: Callable[[str], Artifact]) -> None:
    for precision in ("fp32", "int8"):
        data = exported(precision).files["main"].read_bytes()
        for trace in (b"/work", b"/root", b"/tmp", b"site-packages", b".py"):
            assert trace not in data, (precision, trace)


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "detect"}', '{"kind": "fly"}', "null", "5"])
def test_a_task_that_cannot_be_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        load(small(tmp_path / "net.onnx", metadata={TASK_KEY: text}))


def test_an_exported_file_can_be_exported_again_as_int8(
    exported: Callable[[str], Artifact], scenes: Path, tmp_path: Path
) -> None:
    from edgedeploy.pipeline import read_calibration_set

    path = exported("fp32").files["main"]
    exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, "int8", {})
    request = Request(exporter, evidence_from(read_calibration_set(scenes, None), 8))
    artifact = export_checkpoint(str(path), request, tmp_path).artifact
    assert artifact.model_size < 0.5 * path.stat().st_size
    assert all((golden.distance or 0) < 0.15 for golden in artifact.manifest.golden)


# Shapes


@pytest.mark.parametrize(
    ("inputs", "shape"),
    [
        ((1, 3, 32, 32), InputShape(size=(64, 64))),
        ((1, 3, 32, 32), InputShape(batch=2)),
        ((4, 3, 32, 32), InputShape()),
        ((1, 3, 32, 32), InputShape(dynamic=("batch",))),
        ((1, 3, 32, 32), InputShape(dynamic=("size",))),
    ],
)
def test_shapes_that_only_the_checkpoint_could_give_are_refused(
    inputs: Shape, shape: InputShape, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"net\.onnx"):
        load(small(tmp_path / "net.onnx", inputs, metadata=ULTRALYTICS), shape)


def test_shapes_that_the_graph_has_are_taken(tmp_path: Path) -> None:
    path = small(tmp_path / "net.onnx", metadata=ULTRALYTICS)
    assert load(path, InputShape(size=(32, 32))).graphs["main"].signature.inputs[0].shape == (1, 3, 32, 32)
    free = small(tmp_path / "free.onnx", ("batch", 3, "height", "width"), metadata=ULTRALYTICS)
    model = load(free, InputShape(batch=2, size=(64, 96), dynamic=("batch",)))
    assert model.task is not None
    assert model.task["size"] == [64, 96]
    assert model.graphs["main"].signature.inputs[0].shape == ("batch", 3, "height", "width")


def test_nameless_dimensions_get_names(tmp_path: Path) -> None:
    path = small(tmp_path / "net.onnx", ("n", 3, 32, 32))
    proto = onnx.load(path)
    proto.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    onnx.save(proto, path)
    assert load(path).graphs["main"].signature.inputs[0].shape == ("images_0", 3, 32, 32)


# What is no ONNX


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: path.write_bytes(b"garbage that is not protobuf"), "not a readable ONNX file"),
        (lambda path: path.write_bytes(bytes(1000)), "not a readable ONNX file"),
        (lambda path: path.write_bytes(b"\x08\x0a"), "it has no nodes"),
        (lambda path: path.write_text("version: 1\nname: net\n"), "not a readable ONNX file"),
        (lambda path: small(path, kind=onnx.TensorProto.BFLOAT16), "is of type bfloat16, which cannot be fed"),
    ],
)
def test_what_is_no_onnx_file_is_refused(write: Callable[[Path], Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    write(path)
    with pytest.raises(UsageError, match=said) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_is_a_traceback(data: st.DataObject, tmp_path: Path) -> None:
    whole = bytearray(small(tmp_path / "net.onnx", metadata=ULTRALYTICS).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "garbled.onnx"
    path.write_bytes(whole[: data.draw(st.integers(1, len(whole)))])
    try:
        load(path)
    except UsageError as error:
        assert str(path) in str(error)


def exporting(path: Path, folder: Path) -> Artifact:
    exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, "fp32", {})
    samples = [np.zeros((1, 3, 32, 32), np.float32)]
    return export(load(path), Request(exporter, Evidence(samples, "zeros")), folder)


def test_a_graph_that_the_runtime_refuses_is_no_traceback(tmp_path: Path) -> None:
    """Readable as ONNX, but with an operator that nobody has, or with weights that are kept in another file."""
    unknown = small(tmp_path / "unknown.onnx")
    proto = onnx.load(unknown)
    proto.graph.node[1].op_type = "Teleport"
    onnx.save(proto, unknown)
    apart = small(tmp_path / "apart.onnx")
    proto = onnx.load(apart)
    weight = onnx.numpy_helper.from_array(np.zeros((1, 6, 21), np.float32), "weight")
    onnx.external_data_helper.set_external_data(weight, location="weights.bin")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    proto.graph.initializer.append(weight)
    proto.graph.node[1].input[0] = "weight"
    proto.graph.node.pop(0)
    onnx.save(proto, apart)
    for path in (unknown, apart):
        with pytest.raises(EdgeDeployError) as caught:
            exporting(path, tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert list((tmp_path / "out").glob("*")) == []


def test_a_graph_without_inputs_is_refused(tmp_path: Path) -> None:
    path = small(tmp_path / "net.onnx")
    proto = onnx.load(path)
    del proto.graph.input[:]
    onnx.save(proto, path)
    with pytest.raises(UsageError, match="0 inputs"):
        exporting(path, tmp_path / "out")


def test_a_single_number_as_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a single number"):
        exporting(small(tmp_path / "net.onnx", outputs=()), tmp_path / "out")


def test_without_onnx_the_line_that_installs_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small(tmp_path / "net.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(Unavailable, match=r"pip install 'edgedeploy\[export\]'$"):
        load(path)


def test_the_record_in_the_metadata_is_json(exported: Callable[[str], Artifact]) -> None:
    proto = onnx.load(exported("int8").files["main"])
    metadata = {p.key: p.value for p in proto.metadata_props}
    assert json.loads(metadata[TASK_KEY])["kind"] == "detect"
