"""Checkpoints of this project: what was saved comes back, and nothing else does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch

from edgedeploy.capture import EagerSession
from edgedeploy.demo.scenes import LABELS, render
from edgedeploy.errors import EdgeDeployError, UsageError
from edgedeploy.model import InputShape, load, safetensors_metadata
from edgedeploy.models.aerial import AerialNet
from edgedeploy.models.native import save
from edgedeploy.tasks import Detect, contract_of, from_contract
from edgedeploy.tasks.nms import overlaps

TASK = contract_of(Detect.yolov8(("car", "van"), (64, 64)))
OPTIONS: dict[str, Any] = {"classes": 2, "widths": [4, 4, 4, 4, 4], "depths": [1, 1, 1, 1], "neck": 4, "hidden": 4}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny() -> AerialNet:
    torch.manual_seed(0)
    return AerialNet(**OPTIONS).eval()


def written(path: Path, **changed: Any) -> Path:
    """A small checkpoint; ``changed`` replaces what its record says (``None`` leaves it out)."""
    record = {"architecture": "aerial", "options": OPTIONS, "task": TASK, **changed}
    save(path, tiny(), {key: value for key, value in record.items() if value is not None})
    return path


def test_the_packaged_checkpoint_finds_vehicles(aerial: Path) -> None:
    model = load(aerial)
    assert model.task is not None
    task = from_contract(model.task)
    assert isinstance(task, Detect)
    assert task.labels == LABELS
    scene = render(1_000_003)
    prepared = task.prepare(scene.image)
    outputs = EagerSession(model).run({"images": prepared.tensors[0]})
    found = task.finish([outputs["detections"]], prepared.context)
    right = (overlaps(scene.boxes, found.boxes) >= 0.5) & (scene.classes[:, None] == found.classes)
    assert right.any(axis=1).mean() >= 0.8
    assert model.graphs["main"].signature.outputs[0].shape == (1, 8, 2100)


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    model = load(written(tmp_path / "net.safetensors", note="kept"))
    assert safetensors_metadata(tmp_path / "net.safetensors")["note"] == "kept"
    image = torch.rand(1, 3, 64, 64)
    outputs = EagerSession(model).run({"images": image.numpy()})
    with torch.no_grad():
        np.testing.assert_array_equal(outputs["detections"], tiny()(image).numpy())
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_half_precision_weights_are_read_as_float32(tmp_path: Path) -> None:
    save(tmp_path / "half.safetensors", tiny().half(), {"architecture": "aerial", "options": OPTIONS, "task": TASK})
    network = load(tmp_path / "half.safetensors").graphs["main"].network
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_size_batch_and_what_stays_dynamic_are_the_users(tmp_path: Path) -> None:
    path = written(tmp_path / "net.safetensors")
    fixed = load(path, InputShape(batch=3, size=(32, 96)))
    assert fixed.graphs["main"].signature.inputs[0].shape == (3, 3, 32, 96)
    assert fixed.task is not None
    assert fixed.task["size"] == [32, 96]
    free = load(path, InputShape(dynamic=("batch", "size"))).graphs["main"]
    assert free.signature.inputs[0].shape == ("batch", 3, "height", "width")
    assert free.signature.outputs[0].shape == ("batch", 6, "anchors")
    assert free.stride == 32


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"architecture": "aerail"}, "Did you mean 'aerial'"),
        ({"architecture": None}, "unknown architecture 'None'"),
        ({"architecture": ["aerial"]}, "unknown architecture"),
        ({"options": {"layers": 3}}, "options of its architecture 'aerial' are wrong"),
        ({"options": [1]}, "options of its architecture 'aerial' are wrong"),
        ({"options": {**OPTIONS, "neck": -4}}, "options of its architecture 'aerial' are wrong"),
        ({"options": {**OPTIONS, "depths": "many"}}, "options of its architecture 'aerial' are wrong"),
        ({"options": {**OPTIONS, "classes": 3}}, "does not hold the weights of its architecture"),
        ({"task": None}, "the key 'kind' is missing"),
        ({"task": {"kind": "fly"}}, "unknown kind 'fly'"),
        ({"task": {"kind": "raw"}}, "task 'raw' cannot be exported yet"),
        ({"task": {**TASK, "size": [64, 100]}}, "64x100 is not a multiple of 32"),
        ({"task": {**TASK, "labels": []}}, "labels"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = written(tmp_path / "net.safetensors", **changed)
    with pytest.raises(UsageError, match=said) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(64, 65), (0, 64), (31, 31)])
def test_a_size_that_the_strides_do_not_divide_is_refused(size: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not a multiple of 32|two positive numbers"):
        load(written(tmp_path / "net.safetensors"), InputShape(size=size))


def test_weights_of_others_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "net.safetensors")
    with pytest.raises(UsageError, match="factory module:function"):
        load(tmp_path / "net.safetensors")


def test_a_header_of_an_exbibyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(UsageError, match="header of 1152921504606846976 bytes"):
        load(path)


def framed(path: Path, change: Any) -> None:
    """The same file with another header, properly framed."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def test_a_table_of_weights_that_lies_is_refused(tmp_path: Path) -> None:
    def first(header: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = next(v for k, v in header.items() if k != "__metadata__")
        return found

    changes = (
        lambda header: first(header).update(data_offsets=[0, 1 << 40]),
        lambda header: first(header).update(data_offsets=[8, 4]),
        lambda header: first(header).update(shape=[1 << 40, 1 << 40]),
        lambda header: first(header).update(dtype="Q7"),
        lambda header: header.pop(next(k for k in header if k != "__metadata__")),
        lambda header: header.update(extra=first(header)),
    )
    for number, change in enumerate(changes):
        path = written(tmp_path / f"{number}.safetensors")
        framed(path, change)
        with pytest.raises(UsageError, match="does not hold the weights"):
            load(path)


def test_a_torn_checkpoint_is_refused(tmp_path: Path) -> None:
    data = written(tmp_path / "net.safetensors").read_bytes()
    for share in (0.01, 0.3, 0.9, 0.999):
        (tmp_path / "torn.safetensors").write_bytes(data[: int(share * len(data))])
        with pytest.raises(UsageError):
            load(tmp_path / "torn.safetensors")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_garbled_checkpoint_is_no_traceback(data: st.DataObject, tmp_path: Path) -> None:
    """A flipped byte among the weights is not noticed here (the artifact's digests notice); one in the header is."""
    path = tmp_path / "net.safetensors"
    whole = bytearray(written(path).read_bytes())
    header = int.from_bytes(whole[:8], "little") + 8
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    try:
        load(path)
    except EdgeDeployError as error:
        assert str(error)
