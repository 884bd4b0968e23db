"""What state goes round in is told from what is only handed on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper

from edgedeploy.precision.recurrence import recurrent_nodes
from edgedeploy.tensors import StateSpec


def state(name: str, width: int = 4) -> StateSpec:
    return StateSpec(name, f"{name}_next", "float32", (1, width))


STATE = (state("past"), state("memory"), state("count", 1))


def value(name: str, width: int) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, width))


def graph() -> Any:
    """A layer on the last two inputs, which feeds a linear memory, gated by a count of the calls."""
    weights = {"layer": (8, 4), "matrix": (4, 4), "head": (4, 2), "one": (1, 1)}
    nodes = [
        helper.make_node("Add", ["count", "one"], ["count_next"], "counting"),
        helper.make_node("Clip", ["count_next"], ["gate"], "gate"),
        helper.make_node("Concat", ["past", "x"], ["window"], "window", axis=1),
        helper.make_node("MatMul", ["window", "layer"], ["signal"], "layer"),
        helper.make_node("Identity", ["x"], ["past_next"], "handing_on"),
        helper.make_node("MatMul", ["memory", "matrix"], ["kept"], "recurrence"),
        helper.make_node("Mul", ["signal", "gate"], ["gated"], "gating"),
        helper.make_node("Add", ["kept", "gated"], ["memory_next"], "adding"),
        helper.make_node("Relu", ["memory_next"], ["read"], "reading"),
        helper.make_node("MatMul", ["read", "head"], ["y"], "head"),
        helper.make_node("Sigmoid", ["y"], ["score"], "score"),
    ]
    return helper.make_graph(
        nodes,
        "g",
        [value("x", 4), *(value(s.input, s.shape[1]) for s in STATE)],
        [value("score", 2), *(value(s.output, s.shape[1]) for s in STATE)],
        [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()],
    )


def test_what_goes_round_and_what_is_computed_of_it_alone() -> None:
    found = recurrent_nodes(graph(), STATE)
    assert found == {"counting", "gate", "recurrence", "adding", "reading"}


def test_what_is_handed_on_brings_nothing_in() -> None:
    assert recurrent_nodes(graph(), STATE[:1]) == frozenset()


def test_state_that_goes_round_by_way_of_other_state_does() -> None:
    nodes = [
        helper.make_node("Neg", ["a"], ["b_next"], "there"),
        helper.make_node("Abs", ["b"], ["a_next"], "and_back"),
        helper.make_node("Exp", ["a"], ["out"], "away"),
        helper.make_node("Exp", ["x"], ["elsewhere"], "elsewhere"),
    ]
    both = helper.make_graph(nodes, "g", [], [], [])
    assert recurrent_nodes(both, (state("a"), state("b"))) == {"there", "and_back", "away"}


def test_a_graph_without_state_has_none() -> None:
    assert recurrent_nodes(graph(), ()) == frozenset()
