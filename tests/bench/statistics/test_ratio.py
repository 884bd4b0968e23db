"""Ratios of what is known: alike, slower, slower in the tail only, on a machine that changes its speed."""

from __future__ import annotations

import numpy as np
import pytest

from edgedeploy.bench.statistics.quantiles import TooFew
from edgedeploy.bench.statistics.ratio import Ratio, compare_groups, compare_pairs, rank_test
from edgedeploy.bench.statistics.uncertainty import Times


def group(draw: np.random.Generator, factor: float = 1.0, size: int = 200, apart: float = 0.0) -> list[Times]:
    return [0.02 * factor * np.exp(draw.normal(0, 0.05, size) + draw.normal(0, apart)) for _ in range(3)]


def compared(first: list[Times], second: list[Times], q: float = 0.5) -> Ratio:
    found = compare_groups(first, second, q)
    assert isinstance(found, Ratio)
    return found


def test_a_slower_one_is_found_with_its_ratio() -> None:
    draw = np.random.default_rng(0)
    found = compared(group(draw), group(draw, 1.1))
    assert found.value == pytest.approx(1.1, abs=0.01)
    assert found.low < 1.1 < found.high
    assert found.decided
    assert not found.within(0.05)
    assert found.p < 1e-4
    assert found.superiority > 0.8
    assert found.counts == (600, 600)


def test_the_other_way_round_is_the_inverse() -> None:
    draw = np.random.default_rng(0)
    a, b = group(draw), group(draw, 1.1)
    there, back = compared(a, b), compared(b, a)
    assert there.value == pytest.approx(1 / back.value)
    assert there.low == pytest.approx(1 / back.high)
    assert there.superiority == pytest.approx(1 - back.superiority)
    assert there.p == pytest.approx(back.p)


def test_alike_ones_are_not_told_apart() -> None:
    draw, held, tested = np.random.default_rng(1), 0, 0
    for _ in range(40):
        found = compared(group(draw, apart=0.005), group(draw, apart=0.005))
        held += not found.decided
        tested += found.p >= 0.05
        assert found.within(0.2)
    assert held >= 36
    assert tested >= 36


def test_a_longer_tail_is_seen_where_the_medians_agree() -> None:
    draw = np.random.default_rng(2)
    tail = [np.where(draw.random(1000) < 0.25, 1.4, 1.0) * values for values in group(draw, size=1000)]
    sides = group(draw, size=1000), tail
    found = compared(*sides)
    assert found.value < 1.05
    assert compared(*sides, 0.9).low > 1.05
    assert compared(*sides, 0.1).low < 1.05


def test_quantiles_that_are_not_supported() -> None:
    draw = np.random.default_rng(3)
    assert compare_groups([np.ones(3)], [np.ones(30)]) == TooFew(0.5, 3, 7)
    assert compare_groups(group(draw), group(draw), 0.999) == TooFew(0.999, 600, 4603)


def test_equal_constants() -> None:
    found = compared([np.full(50, 0.02)], [np.full(50, 0.02)])
    assert (found.value, found.low, found.high, found.p) == (1, 1, 1, 1)
    superiority, p = rank_test([np.full(50, 0.02)], [np.full(50, 0.03)])
    assert (superiority, p) == (1, 0)


def turns(draw: np.random.Generator, factor: float, pairs: int = 3) -> list[tuple[list[Times], list[Times]]]:
    """Blocks of five on a machine that changes between two speeds 20 % apart, for both sides at once."""
    made = []
    for _ in range(pairs):
        state = np.repeat(np.exp(0.2 * (draw.random(10) < 0.5)), 6)
        sides = [[value * scale * 0.02 * np.exp(draw.normal(0, 0.02, 5)) for value in state] for scale in (1, factor)]
        made.append((sides[0], sides[1]))
    return made


def paired(pairs: list[tuple[list[Times], list[Times]]], q: float = 0.5) -> Ratio:
    found = compare_pairs(pairs, q)
    assert isinstance(found, Ratio)
    return found


def test_turns_see_through_a_machine_that_changes_its_speed() -> None:
    draw = np.random.default_rng(5)
    found = paired(turns(draw, 1.03))
    assert found.paired
    assert found.value == pytest.approx(1.03, abs=0.01)
    assert found.low < 1.03 < found.high
    assert found.decided
    assert found.p < 0.01
    pairs = turns(np.random.default_rng(5), 1.03)
    apart = compared([np.concatenate(a) for a, _ in pairs], [np.concatenate(b) for _, b in pairs])
    assert not apart.decided


def test_alike_in_turns() -> None:
    draw, held = np.random.default_rng(6), 0
    for _ in range(40):
        held += not paired(turns(draw, 1.0)).decided
    assert held >= 38


@pytest.mark.parametrize("pairs", [2, 3])
def test_pairs_that_differ_from_start_to_start_count_one_by_one(pairs: int) -> None:
    """Ratios of pairs lie 2 % around the true one, which is 1: the range of two of them holds it every other time."""
    draw, held = np.random.default_rng(9), 0
    for _ in range(60):
        shifts = np.exp(draw.normal(0, 0.02, pairs))
        made = [
            (
                list(0.02 * np.exp(draw.normal(0, 0.004, (20, 5)))),
                list(0.02 * shift * np.exp(draw.normal(0, 0.004, (20, 5)))),
            )
            for shift in shifts
        ]
        held += not paired(made).decided
    assert held >= 54


def test_the_slower_one_is_slower_in_every_turn_and_pairs_differ() -> None:
    """Logarithms of the ratios are above zero then, and are not to be taken for ratios."""
    made = [([np.full(5, 0.02)] * 20, [np.full(5, 0.02 * ratio)] * 20) for ratio in (1.2, 1.5, 1.8)]
    found = paired(made)
    assert found.value == pytest.approx(1.5)
    centre, reach = np.log([1.2, 1.5, 1.8]).mean(), 4.302653 * np.log([1.2, 1.5, 1.8]).std(ddof=1) / 3**0.5
    assert (found.low, found.high) == pytest.approx((np.exp(centre - reach), np.exp(centre + reach)), rel=1e-4)


def test_tails_of_turns() -> None:
    found = paired(turns(np.random.default_rng(7), 1.2), 0.9)
    assert found.q == 0.9
    assert found.low < 1.2 < found.high
    assert found.decided


def test_one_pair_is_enough() -> None:
    found = paired(turns(np.random.default_rng(8), 1.2, pairs=1))
    assert found.low < 1.2 < found.high


def test_too_few_turns() -> None:
    blocks = [np.ones(5)]
    assert isinstance(compare_pairs([(blocks, blocks)]), TooFew)
    assert isinstance(compare_pairs([(blocks * 8, blocks * 8)], 0.99), TooFew)
