"""YOLOv8 and YOLO11 of any widths: described and built again, and a header that a stranger wrote does nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from edgedeploy.models import yolo  # noqa: E402

with yolo.quietly():
    pytest.importorskip("ultralytics")
    from ultralytics.nn.tasks import DetectionModel

from edgedeploy.errors import EdgeDeployError, Unavailable, UsageError  # noqa: E402
from edgedeploy.model import InputShape, load  # noqa: E402
from edgedeploy.models import native, pruned_yolo  # noqa: E402
from edgedeploy.tasks import Detect, contract_of  # noqa: E402

#: The smallest network that has every kind of row.
ROWS: dict[str, Any] = {
    "nc": 2,
    "scales": {"n": [1.0, 1.0, 1024]},
    "scale": "n",
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "C2f", [8, True]],
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "SPPF", [8, 5]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 2], 1, "Concat", [1]],
        [-1, 1, "C3k2", [8, False, 0.5]],
        [[7, 4], 1, "Detect", ["nc"]],
    ],
}
OPTIONS: dict[str, Any] = {
    "yaml": ROWS,
    "names": ["car", "van"],
    "widths": {
        "model.0.conv": {"out_channels": 5},
        "model.0.bn": {"num_features": 5},
        "model.1.conv": {"in_channels": 5},
    },
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def options() -> dict[str, Any]:
    return deepcopy(OPTIONS)


def materialised(network: Any) -> Any:
    """Random weights for a network that has none."""
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.rand(tensor.shape, generator=generator).to(tensor.dtype)
        for name, tensor in network.state_dict().items()
    }
    network.load_state_dict(state, assign=True)
    return network


def written(path: Path, **changed: Any) -> Path:
    """A small checkpoint; ``changed`` replaces what its record says."""
    task = contract_of(Detect(("car", "van"), (64, 64), strides=(4, 8)))
    record = {"architecture": "yolo", "options": options(), "task": task, **changed}
    native.save(path, materialised(pruned_yolo.build(**options())), record)
    return path


def test_what_is_described_is_built_again() -> None:
    network = materialised(pruned_yolo.build(**options()))
    assert pruned_yolo.describe(network, ("car", "van")) == OPTIONS
    assert json.loads(json.dumps(OPTIONS)) == OPTIONS
    assert type(network) is DetectionModel
    assert network.stride.tolist() == [4, 8]
    assert network.model[0].bn.eps == 1e-3
    assert {p.device.type for p in network.parameters()} == {"cpu"}
    assert [name for name, p in network.named_parameters() if not p.requires_grad] == ["model.8.dfl.conv.weight"]
    with torch.no_grad():
        assert network(torch.rand(1, 3, 64, 32))[0].shape == (1, 6, 16 * 8 + 8 * 4)


@pytest.mark.parametrize("name", ["yolov8n", "yolov8m", "yolov8n-p2", "yolo11n", "yolo11m"])
def test_published_networks_need_no_widths(name: str) -> None:
    try:
        network = _empty(name)
    except FileNotFoundError:
        pytest.skip(f"this release of ultralytics has no {name}")
    described = pruned_yolo.describe(network, tuple("abcd"))
    assert described["widths"] == {}
    built = pruned_yolo.build(**described)
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    assert {key: tensor.shape for key, tensor in built.state_dict().items()} == shapes
    assert built.save == network.save


def _empty(name: str) -> Any:
    """A published network for four classes, without the time that its random weights take."""
    from ultralytics.nn.tasks import parse_model, yaml_model_load

    network = DetectionModel.__new__(DetectionModel)
    torch.nn.Module.__init__(network)
    network.yaml = {**yaml_model_load(f"{name}.yaml"), "nc": 4}
    with torch.device("meta"):
        network.model, network.save = parse_model(deepcopy(network.yaml), ch=3, verbose=False)
    return network


def test_an_activation_is_the_networks_alone() -> None:
    from ultralytics.nn.modules import Conv

    before, record = Conv.default_act, options()
    record["yaml"]["activation"] = "nn.ReLU()"
    assert type(pruned_yolo.build(**record).model[0].act) is torch.nn.ReLU
    record["yaml"]["backbone"][3][0] = record["yaml"]["head"][-1][0] = 1
    with pytest.raises(UsageError):
        pruned_yolo.build(**record)
    assert Conv.default_act is before


def test_a_checkpoint_of_it_loads_fused(tmp_path: Path) -> None:
    path = written(tmp_path / "net.safetensors")
    model = load(path, InputShape(size=(32, 64), dynamic=("batch",)))
    graph = model.graphs["main"]
    assert graph.signature.inputs[0].shape == ("batch", 3, 32, 64)
    assert graph.signature.outputs[0].shape == ("batch", 6, 8 * 16 + 4 * 8)
    assert graph.stride == 8
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in graph.network.modules())
    image = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        ours, theirs = graph.network(image), native.read(path)[1](image)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    free = load(path, InputShape(dynamic=("size",))).graphs["main"]
    assert free.signature.outputs[0].shape == (1, 6, "anchors")


# What a header must not do


EVIL = "__import__('pathlib').Path({!r}).touch()"


def _row(number: int, row: list[Any]) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        record["yaml"]["backbone"][number] = row

    return change


def _yaml(**changed: Any) -> Callable[[dict[str, Any]], None]:
    return lambda record: record["yaml"].update(changed)


def _width(layer: str, **changed: Any) -> Callable[[dict[str, Any]], None]:
    return lambda record: record["widths"].setdefault(layer, {}).update(changed)


@pytest.mark.parametrize("place", ["activation", "module", "argument", "key", "scale", "name of a layer"])
def test_code_in_a_header_is_refused_and_not_run(place: str, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    code = EVIL.format(str(witness))
    changes = {
        "activation": _yaml(activation=code),
        "module": _row(0, [-1, 1, f"nn.{code}", [8, 3, 2]]),
        "argument": _row(0, [-1, 1, "Conv", [code, 3, 2]]),
        "key": _yaml(**{code: 1}),
        "scale": _yaml(scale=code),
        "name of a layer": _width(code, out_channels=3),
    }
    record = options()
    changes[place](record)
    with pytest.raises(UsageError) as caught:
        load(written(tmp_path / "net.safetensors", options=record))
    assert "net.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not witness.exists()


def test_the_code_is_live(tmp_path: Path) -> None:
    """Ultralytics itself does evaluate an activation: the test above would notice."""
    witness, rows = tmp_path / "witness", deepcopy(ROWS)
    with pytest.raises(Exception):  # noqa: B017, PT011
        DetectionModel({**rows, "activation": EVIL.format(str(witness))}, verbose=False)
    from ultralytics.nn.modules import Conv

    Conv.default_act = torch.nn.SiLU()  # which Ultralytics left replaced
    assert witness.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_width("model.0.conv", out_channels=10**9), "has to be between 1 and 8192"),
        (_width("model.0.conv", out_channels=True), "has to be between 1 and 8192"),
        (_width("model.0.conv", out_channels=6), "do not fit together"),
        (_width("model.0.conv", groups=4), "groups do not divide"),
        (_width("model.0.conv", stride=1), "'stride' of 'model.0.conv', which it does not have"),
        (_width("model.99", c=4), "which it does not have"),
        (_width("model.2", c=4), "'c' of 'model.2', which it does not have"),
        (lambda record: record.update(widths=[]), "no mapping"),
        (lambda record: record.update(widths={"model.2": 3}), "no mapping"),
        (lambda record: record.update(names=["car"]), "not the 2 names"),
        (lambda record: record.update(yaml="yolov8n.yaml"), "no mapping"),
        (lambda record: record.update(device="cuda"), "options of its architecture 'yolo' are wrong"),
        (_row(0, [-1, 1, "Conv", [10**9, 3, 2]]), "argument '1000000000'"),
        (_row(0, [-1, 10**9, "Conv", [8, 3, 2]]), "repeated 1000000000 times"),
        (_row(2, [-1, 250, "C2f", [8, True]]), "blocks; at most 256"),
        (_row(0, [-1, 1, "Conv", [8, 10**6, 2]]), "argument '1000000'"),
        (_row(0, [-1, 1, "Conv", [8, 3, 2, 1]]), "has 4 arguments"),
        (_row(0, [-2, 1, "Conv", [8, 3, 2]]), "earlier rows"),
        (_row(0, [5, 1, "Conv", [8, 3, 2]]), "earlier rows"),
        (_row(0, [-1, 1, "Detect", ["nc"]]), "has to be the last row"),
        (_row(0, [-1, 1, "nn.Linear", [8]]), r"names 'nn\.Linear'"),
        (_row(0, [-1]), r"is not \[from, repeats"),
        (_yaml(scales={"n": [10**6, 1.0, 1024]}), "scales"),
        (_yaml(scale="q"), "scale = 'q'"),
        (_yaml(scale="s"), "none of its scales"),
        (_yaml(end2end=True), "end2end"),
        (_yaml(nc=10**9), "nc = '1000000000'"),
        (_yaml(backbone=[[-1, 1, "Conv", [8, 3, 2]]] * 100), "at most 64"),
        (_yaml(head=[]), "no backbone and head"),
    ],
)
def test_a_header_that_no_such_detector_has_is_refused(
    change: Callable[[dict[str, Any]], None], said: str, tmp_path: Path
) -> None:
    record = options()
    change(record)
    with pytest.raises(UsageError, match=said) as caught:
        load(written(tmp_path / "net.safetensors", options=record))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"labels": ["car", "bus"]}, "other labels"),
        ({"strides": [8, 16]}, "other strides"),
        ({"head": "end2end"}, "another head"),
        ({"size": [1 << 20, 1 << 20]}, "more than 8192 a side"),
    ],
)
def test_a_task_that_the_network_contradicts_is_refused(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    task = contract_of(Detect(("car", "van"), (64, 64), strides=(4, 8)))
    with pytest.raises(UsageError, match=said):
        load(written(tmp_path / "net.safetensors", task={**task, **changed}))


def test_weights_of_other_widths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not hold the weights of its architecture"):
        load(written(tmp_path / "net.safetensors", options={**options(), "widths": {}}))


_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["nc", "Conv", "C2f", "C3k2", "C2PSA", "Detect", "Concat", "nn.Upsample", "nn.ReLU()", "model.2"]),
)  # fmt: skip
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner), max_leaves=4
)


def _damage(data: st.DataObject, value: Any) -> Any:
    """``value`` with something in it replaced, removed or doubled."""
    if isinstance(value, (dict, list)) and value and data.draw(st.integers(0, 5)):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = data.draw(st.sampled_from(keys))
        what = data.draw(st.integers(0, 9))
        if what == 0:
            del value[key]
        elif what == 1 and isinstance(value, list):
            value.insert(key, deepcopy(value[key]))
        else:
            value[key] = _damage(data, value[key])
        return value
    return data.draw(_VALUES)


@settings(max_examples=150)
@given(data=st.data())
def test_a_damaged_header_is_no_traceback(data: st.DataObject) -> None:
    record = options()
    for _ in range(data.draw(st.integers(1, 2))):
        record = _damage(data, record)
    if not isinstance(record, dict) or record.keys() != OPTIONS.keys():
        return  # refused as for every architecture
    try:
        network = pruned_yolo.build(**record)
    except EdgeDeployError as error:
        assert str(error)
        assert "\n" not in str(error)
    else:
        assert {p.device.type for p in network.parameters()} == {"meta"}


def test_without_ultralytics_the_line_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    path = written(tmp_path / "net.safetensors")
    for name in [m for m in sys.modules if m == "ultralytics" or m.startswith("ultralytics.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(Unavailable, match=r"pip install 'edgedeploy\[ultralytics\]'$"):
        load(path)
