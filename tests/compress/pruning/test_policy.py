"""Which channels stay, on groups that are made up: shares, thresholds, seconds, multiples, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from edgedeploy.compress.pruning.groups import Group
from edgedeploy.compress.pruning.policy import Gain, Kept, choose
from edgedeploy.compress.recipe import Pruning
from edgedeploy.errors import UsageError
from edgedeploy.tensors import Array

WIDTHS = {"stem": 16, "block[0]": 24, "block[1]": 24, "out": 40}
GROUPS = tuple(Group(name, width, (), (), "block[1]" if name == "block[0]" else None) for name, width in WIDTHS.items())


def scores(seed: int = 0, scale: Mapping[str, float] | None = None) -> dict[str, Array]:
    generator = np.random.default_rng(seed)
    return {name: generator.random(width) * (scale or {}).get(name, 1.0) for name, width in WIDTHS.items()}


def widths(kept: Kept) -> dict[str, int]:
    return {name: len(indices) for name, indices in kept.items()}


def chosen(gain: Any = None, seed: int = 0, **settings: Any) -> dict[str, int]:
    return widths(choose(GROUPS, scores(seed), Pruning(**settings), gain))


def test_uniform_takes_the_same_share_of_every_group_and_the_least_important_channels() -> None:
    importance = scores()
    kept = choose(GROUPS, importance, Pruning(0.25))
    assert widths(kept) == {"stem": 12, "block[0]": 18, "block[1]": 18, "out": 30}
    for name, indices in kept.items():
        assert list(indices) == sorted(indices)
        gone = np.delete(importance[name], indices)
        assert importance[name][list(indices)].min() > gone.max()


def test_numbers_of_channels_are_multiples_where_a_group_is_wide_enough() -> None:
    assert chosen(ratio=0.4, round_to=8) == {"stem": 8, "block[0]": 16, "block[1]": 16, "out": 24}
    assert chosen(ratio=0.05, round_to=16)["out"] == 32  # 38 is nearer to 48, which there are not
    assert chosen(ratio=0.9, round_to=8) == dict.fromkeys(WIDTHS, 8)
    assert chosen(ratio=0.5, round_to=32) == {"stem": 8, "block[0]": 12, "block[1]": 12, "out": 32}
    assert chosen(ratio=0.0, round_to=32) == WIDTHS
    assert chosen(ratio=0.8, least=6) == {"stem": 6, "block[0]": 6, "block[1]": 6, "out": 8}


def test_one_threshold_over_all_takes_more_where_there_is_less_to_lose() -> None:
    importance = scores(scale={"stem": 1000.0, "out": 0.001})
    kept = choose(GROUPS, importance, Pruning(0.5, policy="global", least=2))
    assert widths(kept)["stem"] == 16
    assert widths(kept)["out"] == 2  # all of it is below the threshold; what it may not give is taken elsewhere
    assert sum(widths(kept).values()) == sum(WIDTHS.values()) // 2
    for half in ("block[0]", "block[1]"):
        assert importance[half][list(kept[half])].min() > np.delete(importance[half], kept[half]).max()


def test_channels_that_are_all_alike_go_from_everywhere() -> None:
    alike = {name: np.ones(width) for name, width in WIDTHS.items()}
    kept = widths(choose(GROUPS, alike, Pruning(0.5, policy="global")))
    assert all(abs(kept[name] / width - 0.5) < 0.05 for name, width in WIDTHS.items())


def test_latency_takes_what_buys_time_until_the_share_is_saved() -> None:
    kept = chosen({"stem": 1e-3, "out": 0.0}, ratio=0.5, policy="latency")
    assert kept == {"stem": 8, "block[0]": 24, "block[1]": 24, "out": 40}

    asked: list[float] = []

    def saved(kept: Kept) -> float:  # a product, as of what a convolution reads and writes
        asked.append(1 - math.prod(len(indices) / WIDTHS[name] for name, indices in kept.items()))
        return asked[-1]

    alike = dict.fromkeys(WIDTHS, 1e-3)
    kept = chosen(Gain(alike, saved), ratio=0.5, policy="latency", round_to=4)
    assert 0.5 <= 1 - math.prod(kept[name] / width for name, width in WIDTHS.items()) < 0.62
    assert all(number % 4 == 0 for number in kept.values())
    assert len(asked) < 10
    with pytest.raises(UsageError, match=r"saves at most 0\.94 of the predicted time here, not 0\.95"):
        chosen({"stem": 1.0}, ratio=0.95, policy="latency")


@pytest.mark.parametrize("policy", ["uniform", "global", "latency"])
def test_single_groups_have_ratios_of_their_own(policy: str) -> None:
    worth = dict.fromkeys(WIDTHS, 1.0)
    kept = chosen(worth, ratio=0.5, policy=policy, ratios={"stem": 0.0, "block[1]": 0.75})
    assert (kept["stem"], kept["block[0]"], kept["block[1]"], kept["out"]) == (16, 6, 6, 20)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'bloc\[1\]' is no group.*Did you mean 'block\[1\]'"):
        chosen(ratios={"bloc[1]": 0.5})
    with pytest.raises(UsageError, match=r"0\.5 of block\[0\] and 0\.25 of block\[1\] cannot both"):
        chosen(ratios={"block[0]": 0.5, "block[1]": 0.25})
    with pytest.raises(UsageError, match=r"Pruning 0\.98 of stem leaves none of its 16 channels\. Prune at most 0\.96"):
        chosen(ratio=0.98)
    assert chosen(ratio=0.96)["stem"] == 1
    with pytest.raises(UsageError, match="what channels are worth on the device"):
        chosen(policy="latency")
    with pytest.raises(UsageError, match="round_to is 0"):
        chosen(round_to=0)


@settings(max_examples=60)
@given(
    ratio=st.floats(0, 0.9),
    policy=st.sampled_from(["uniform", "global", "latency"]),
    round_to=st.integers(1, 32),
    least=st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_whatever_is_asked_every_group_keeps_enough(
    ratio: float, policy: Any, round_to: int, least: int, seed: int
) -> None:
    worth = dict(zip(WIDTHS, np.random.default_rng(seed).random(len(WIDTHS)), strict=True))
    pruning = Pruning(ratio, policy=policy, round_to=round_to, least=least)
    try:
        kept = choose(GROUPS, scores(seed), pruning, worth)
    except UsageError as error:
        assert "at most" in str(error)
        assert policy == "latency"
        return
    for name, indices in kept.items():
        width = WIDTHS[name]
        assert min(least, width) <= len(indices) <= width
        assert len(indices) % round_to == 0 or len(indices) == width or width < round_to
    assert len(kept["block[0]"]) == len(kept["block[1]"])
