"""The search for nodes that cannot be quantised, on made-up graphs whose answer is known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.precision.search import between_weights, keep_in_float

NODES = [f"n{i:03d}" for i in range(130)]


def _damage(harm: dict[str, float], background: float = 0.0002) -> tuple[list[int], object]:
    sizes: list[int] = []

    def distance(nodes: frozenset[str]) -> float:
        sizes.append(len(nodes))
        return min(1.0, sum(harm.get(n, background) for n in nodes))

    return sizes, distance


@given(st.sets(st.sampled_from(NODES), max_size=6))
def test_exactly_the_harmful_nodes_stay_in_float(bad: set[str]) -> None:
    _, distance = _damage(dict.fromkeys(bad, 0.5))
    found = keep_in_float(NODES, distance, limit=0.1)  # type: ignore[arg-type]
    assert found.kept == bad
    assert found.chosen <= 0.1


def test_a_few_bad_nodes_cost_few_trials() -> None:
    sizes, distance = _damage({"n127": 0.9, "n128": 0.4, "n129": 0.9})
    found = keep_in_float(NODES, distance, limit=0.1)  # type: ignore[arg-type]
    assert found.kept == {"n127", "n128", "n129"}
    assert len(sizes) == found.trials <= 25


def test_many_small_harms_are_found_when_the_tolerance_falls() -> None:
    harm = {f"n{i:03d}": 0.03 for i in range(20)}
    _, distance = _damage(harm, background=0.0)
    found = keep_in_float(NODES, distance, limit=0.1)  # type: ignore[arg-type]
    assert 0.59 < found.everything < 0.61
    assert found.chosen <= 0.1
    assert found.kept <= set(harm)


def test_nothing_is_kept_where_nothing_harms() -> None:
    _, distance = _damage({})
    assert keep_in_float(NODES, distance, limit=0.1).kept == frozenset()  # type: ignore[arg-type]


def test_when_nothing_helps_the_best_is_returned_and_says_so() -> None:
    found = keep_in_float(NODES, lambda nodes: 0.9 if nodes else 0.0, limit=0.1)
    assert found.kept == set(NODES)
    assert found.chosen == 0.0
    found = keep_in_float(NODES, lambda nodes: 0.9, limit=0.1, also=lambda kept: kept - {"n000"})
    assert found.chosen == 0.9


def test_only_nodes_between_weights_are_worth_it() -> None:
    consumers = {"in": ["conv1"], "conv1": ["act"], "act": ["conv2"], "conv2": ["cat"], "cat": ["out"], "side": ["out"]}
    worth = between_weights(consumers, {"conv1", "conv2"}, {"in", "conv1", "act", "conv2", "cat", "out", "side"})
    assert worth == {"conv1", "act", "conv2"}
    assert between_weights(consumers, {"conv1", "conv2"}, {"conv1", "conv2"}) == {"conv1", "conv2"}
