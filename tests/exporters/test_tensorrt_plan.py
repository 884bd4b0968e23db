"""The build plan is read strictly, and sizes of dynamic dimensions become an optimisation profile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from edgedeploy_tensorrt import plan as plans
from edgedeploy_tensorrt.plan import Ahead, Plan, Shapes
from edgedeploy_tensorrt.shapes import parse, profile_of
from hypothesis import given as for_any
from hypothesis import strategies as st

from edgedeploy.errors import EdgeDeployError, Incompatible, UsageError
from edgedeploy.model import Graph
from edgedeploy.records import to_json
from edgedeploy.tensors import Signature, TensorSpec

FULL = Plan(
    schema=1,
    flavour="tensorrt",
    precision="int8",
    requires=("tensorrt>=10.3,<11", "sm=87"),
    shapes={"images": Shapes((1, 3, 64, 64), (2, 3, 64, 64), (4, 3, 64, 64))},
    strongly_typed=False,
    float_layers=("node_softmax",),
    workspace=1 << 30,
    dla_core=1,
    optimization_level=3,
    hardware="same_sm",
    ahead=(Ahead("main.sm86.engine", 86, "1.7.1.116"),),
)


def saved(folder: Path, data: object) -> Path:
    (folder / "main.build.json").write_text(data if isinstance(data, str) else json.dumps(data), "utf-8")
    return folder / "main.onnx"


def test_a_plan_comes_back_as_it_was(tmp_path: Path) -> None:
    for plan in (FULL, Plan(1, "rtx", "fp32")):
        plans.write(plan, tmp_path / "main.onnx")
        assert plans.read(tmp_path / "main.onnx") == plan


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"precision": "fp64"}, "not one of fp32, fp16"),
        ({"workspce": 5}, "Did you mean 'workspace'"),
        ({"workspace": 0}, "0 bytes"),
        ({"workspace": True}, "expected a whole number"),
        ({"workspace": "1GiB"}, "expected a whole number"),
        ({"dla_core": -1}, "count from 0"),
        ({"optimization_level": 6}, "not between 0 and 5"),
        ({"shapes": {"images": {"min": [1], "opt": [1, 2], "max": [1]}}}, "shapes of different rank"),
        ({"shapes": {"images": {"min": [4], "opt": [2], "max": [8]}}}, "min <= opt <= max"),
        ({"shapes": {"images": {"min": [0], "opt": [2], "max": [8]}}}, "sizes go from 1"),
        ({"shapes": {"images": {"min": [1], "opt": [2], "max": [10**30]}}}, "sizes go from 1"),
        ({"ahead": [{"file": "../../etc/passwd", "sm": 86, "library": "1"}]}, "not a file beside its plan"),
        ({"flavour": None}, "is not one of tensorrt, rtx"),
    ],
)
def test_what_is_no_plan_is_said(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    graph = saved(tmp_path, {**to_json(FULL), **change})
    with pytest.raises(UsageError, match=words) as caught:
        plans.read(graph)
    assert "main.build.json" in str(caught.value)
    assert "export or copy it again" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": 1}', '{"schema": NaN}', "\udcff", "[" * 5000])
def test_damaged_files_are_said(text: str, tmp_path: Path) -> None:
    (tmp_path / "main.build.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError):
        plans.read(tmp_path / "main.onnx")


def test_a_plan_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"main\.build\.json does not exist"):
        plans.read(tmp_path / "main.onnx")


def test_a_newer_plan_says_upgrade(tmp_path: Path) -> None:
    with pytest.raises(Incompatible, match=r"newer edgedeploy.*pip install -U"):
        plans.read(saved(tmp_path, {**to_json(FULL), "schema": 2}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@for_any(key=st.sampled_from(sorted(to_json(FULL))), value=JSON)
def test_whatever_stands_in_a_plan_is_read_or_refused(
    key: str, value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    graph = saved(tmp_path_factory.getbasetemp(), {**to_json(FULL), key: value})
    try:
        plan = plans.read(graph)
    except EdgeDeployError:
        return
    plans.write(plan, graph)
    assert plans.read(graph) == plan


# Sizes of dynamic dimensions


def graph(*shape: int | str, stride: int = 1) -> Graph:
    return Graph(None, Signature((TensorSpec("x", "float32", shape),), (TensorSpec("y", "float32", shape),)), stride)


def test_sizes_are_named_by_dimension() -> None:
    given = ("batch=1:4:8", "height=320:640:640", "width=320")
    made = profile_of(graph("batch", 3, "height", "width", stride=32), given)
    assert made.shapes == {"x": Shapes((1, 3, 320, 320), (4, 3, 640, 320), (8, 3, 640, 320))}
    assert made.notes == ()


def test_sizes_that_are_not_named_are_told() -> None:
    made = profile_of(graph("batch", 3, "height", "width", stride=32), ())
    assert made.shapes == {"x": Shapes((1, 3, 320, 320), (1, 3, 640, 640), (8, 3, 1280, 1280))}
    assert len(made.notes) == 3
    assert "shapes=batch=MIN:USUAL:MAX" in made.notes[0]


def test_a_graph_of_fixed_sizes_needs_no_profile() -> None:
    assert profile_of(graph(1, 3, 64, 64), ()).shapes == {}


@pytest.mark.parametrize(
    ("shape", "given", "words"),
    [
        ((1, 3), ("batch=1:2:3",), "no dynamic dimension 'batch'.*--dynamic"),
        (("batch", 3), ("batsh=1:2:3",), "Did you mean 'batch'"),
        (("batch", "frames"), (), "'frames' is dynamic.*shapes=frames=MIN:USUAL:MAX"),
        (("batch", 3), ("batch=8:4:1",), "in this order"),
        (("batch", 3), ("batch=0:4:8",), "1 or more"),
        (("batch", 3), ("batch=1:4",), "write NAME=MIN:USUAL:MAX"),
        (("batch", 3, "height", 64), ("height=100",), "multiples of 32"),
    ],
)
def test_sizes_that_cannot_be_are_said(shape: tuple[int | str, ...], given: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        profile_of(graph(*shape, stride=32), given)


@for_any(st.text(max_size=30))
def test_any_text_is_sizes_or_refused(text: str) -> None:
    try:
        name, sizes = parse(text)
    except UsageError:
        return
    assert name
    assert sizes == tuple(sorted(sizes))
