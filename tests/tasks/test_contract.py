"""A task and its JSON contract are the same thing twice."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.errors import UsageError
from edgedeploy.tasks import Detect, Raw, contract_of, from_contract

CONTRACT: dict[str, Any] = {
    "kind": "detect",
    "labels": ["cat", "dog"],
    "size": [480, 640],
    "resize": "stretch",
    "align": "topleft",
    "pad": 0,
    "color": "BGR",
    "mean": [1, 2.5, 3],
    "std": [1, 1, 2],
    "head": "yolox",
    "strides": [8, 16],
    "nms": "graph",
    "confidence": 0.5,
    "iou": 0.6,
    "max_detections": 7,
    "multi_label": True,
}


def test_a_contract_survives_json_in_both_directions() -> None:
    assert {f.name for f in fields(Detect)} | {"kind"} == set(CONTRACT)
    task = from_contract(CONTRACT)
    assert isinstance(task, Detect)
    assert (task.labels, task.size, task.mean, task.strides) == (("cat", "dog"), (480, 640), (1.0, 2.5, 3.0), (8, 16))
    assert json.loads(json.dumps(contract_of(task))) == CONTRACT
    assert contract_of(Raw()) == {"kind": "raw"}
    assert from_contract({"kind": "raw"}) == Raw()


def test_defaults_are_yolov8() -> None:
    assert from_contract({"kind": "detect", "labels": ["a"], "size": [640, 640]}) == Detect.yolov8(["a"])
    assert Detect.yolox(["a"]).color == "BGR"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "detekt"}, "Did you mean 'detect'"),
        ({"kind": None}, "unknown kind"),
        ({"kind": ["detect"]}, "unknown kind"),
        ({"labels": []}, "labels"),
        ({"labels": [1]}, "text"),
        ({"size": [640]}, "2 values"),
        ({"size": [0, 640]}, "positive"),
        ({"std": [0, 1, 1]}, "std"),
        ({"head": "yolo"}, "head"),
        ({"confidence": 1.5}, "confidence"),
        ({"iou": 0}, "iou"),
        ({"pad": 300}, "grey level"),
        ({"strides": []}, "strides"),
        ({"max_detections": 0}, "max_detections"),
        ({"colour": "RGB"}, "Did you mean 'color'"),
    ],
)
def test_a_wrong_contract_says_what_is_wrong(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        from_contract(CONTRACT | change)


def test_a_contract_needs_a_kind() -> None:
    with pytest.raises(UsageError, match="'kind' is missing"):
        from_contract({"labels": ["a"]})
    with pytest.raises(UsageError, match="unknown key"):
        from_contract({"kind": "raw", "size": [1, 1]})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(CONTRACT)), json_values)
def test_any_value_of_any_key_is_taken_or_refused(key: str, value: Any) -> None:
    try:
        task = from_contract(CONTRACT | {key: value})
    except UsageError:
        return
    assert from_contract(contract_of(task)) == task


def test_evaluation_and_size_change_nothing_else() -> None:
    task = from_contract(CONTRACT)
    assert isinstance(task, Detect)
    evaluation = contract_of(task.for_evaluation(100))
    changed = {"confidence": 0.001, "iou": 0.7, "max_detections": 100, "multi_label": True}
    assert evaluation == CONTRACT | changed
    assert contract_of(task.with_size(32, 64)) == CONTRACT | {"size": [32, 64]}


def test_tasks_load_nothing_but_numpy() -> None:
    code = (
        "import sys, edgedeploy.tasks as t; t.from_contract({'kind': 'detect', 'labels': ['a'], 'size': [8, 8]});"
        "print([m for m in ('cv2', 'PIL', 'yaml', 'torch', 'scipy', 'faster_coco_eval') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
