from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.accuracy import Difference
from edgedeploy.errors import UsageError
from edgedeploy.recognition.hearing import Hearing
from edgedeploy.recognition.paired import counted, equivalent, mcnemar, paired
from edgedeploy.recognition.resampling import Draw, doubts, exact_share, resampled, share, shares
from edgedeploy.recognition.words import Confusion, word_accuracy

DRAW = Draw(500)
Make = Callable[..., Hearing]


def test_the_interval_is_over_speakers_where_they_differ_and_over_clips_where_each_is_another() -> None:
    right = np.repeat([True, True, False, True], 25)
    same, own = (share(right, [f"{i // step}" for i in range(100)], DRAW) for step in (25, 1))
    assert same.value == own.value == 0.75
    assert (same.method, own.method) == ("bootstrap over speakers", "Wilson over clips")
    assert (own.low, own.high) == pytest.approx((0.6569, 0.8246), abs=1e-4)  # Wilson 1927
    assert same.high - same.low > 2 * (own.high - own.low)
    sure = share(np.ones(40, bool), [f"{i % 8}" for i in range(40)], DRAW)
    assert sure.value == sure.high == 1
    assert sure.low == pytest.approx(0.676, abs=1e-3)  # 8 of 8 speakers, not 40 of 40 clips
    with pytest.raises(UsageError, match="no clip"):
        share(np.ones(0, bool), [], DRAW)
    table = np.stack([right, np.ones(100, bool), ~right, np.zeros(100, bool)], axis=1)
    speakers = [f"{i // 25}" for i in range(100)]
    assert shares(table, speakers, DRAW) == tuple(share(column, speakers, DRAW) for column in table.T)


def test_a_replicate_draws_whole_speakers() -> None:
    speakers = ["a", "a", "a", "b"]
    drawn = resampled(np.array([1, 1, 1, 0]), speakers, DRAW)
    assert set(np.round(drawn, 9)) == {1.0, 0.75, 0.0}  # twice a, one of each, twice b


def test_few_one_and_unknown_speakers_are_said() -> None:
    assert doubts([f"{i}" for i in range(10)]) == ()
    assert "Only 9 speakers" in doubts([f"{i}" for i in range(9)])[0]
    assert "one speaker" in doubts(["a", "a"])[0]
    assert "1 of 2 clips" in doubts(["a", ""])[0]


def test_words_speakers_and_confusions_are_counted(heard: Make) -> None:
    found = word_accuracy(heard([[1], [0], [0], [1]], ["x", "x", "y", "y"]), DRAW)
    assert (found.clips, found.right) == (4, 2)
    assert [(p.name, p.clips, p.right, p.share) for p in found.words] == [("a", 4, 2, 0.5)]
    assert [(p.name, p.right) for p in found.speakers] == [("x", 1), ("y", 1)]
    assert found.confused == (Confusion("a", "b", 2),)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(0, 0, 1), (1, 0, 1), (5, 0, 2 / 2**5), (1, 8, 2 * (1 + 9) / 2**9), (8, 1, 2 * (1 + 9) / 2**9), (10, 10, 1)],
)
def test_mcnemar_is_the_exact_test_of_a_coin(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == p


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_a_difference_turned_round_has_the_other_sign(heard: Make, rows: list[tuple[bool, bool, int]]) -> None:
    speakers = [f"{s}" for _, _, s in rows]
    one, other = (heard([[int(row[i])] for row in rows], speakers) for i in (0, 1))
    there, back = paired(one, other, Draw(100)), paired(other, one, Draw(100))
    assert there.speakers.estimate == pytest.approx(-back.speakers.estimate)
    assert there.speakers.low == pytest.approx(-back.speakers.high)
    assert (there.gained, there.lost) == (back.lost, back.gained)
    assert (there.signs, there.mcnemar) == pytest.approx((back.signs, back.mcnemar))
    assert there.speakers.low <= there.speakers.estimate + 1e-9


def test_better_for_each_of_six_speakers_is_as_sure_as_six_can_make_it(heard: Make) -> None:
    speakers = [f"{i // 10}" for i in range(60)]
    one = heard([[0]] * 60, speakers)
    other = heard([[int(i % 10 < 2)] for i in range(60)], speakers)
    found = paired(one, other, DRAW)
    assert found.signs == 2 / 2**6
    assert (found.gained, found.lost, found.voices) == (12, 0, 6)
    assert (found.speakers.low, found.speakers.high) == counted(12, 0, 60, 0.9)  # the bootstrap has nothing to vary
    assert found.speakers.low < 0.2 - 0.09
    assert found.speakers.high > 0.2 + 0.09
    assert found.clips.low < 0.2 < found.clips.high
    with pytest.raises(UsageError, match="same clips"):
        paired(one, heard([[0]] * 59, speakers[:59]))


def test_equivalence_says_how_many_speakers_would_do(heard: Make) -> None:
    speakers = [f"{i // 10}" for i in range(200)]
    one = heard([[1]] * 200, speakers)
    assert equivalent(paired(one, one, DRAW), 0.02).outcome == "pass"  # 0 of 200: 1.5 %
    nothing = equivalent(paired(one, one, DRAW), 0.01)
    assert (nothing.outcome, nothing.images_needed) == ("not enough data", 299)
    assert "none of 200 clips changed" in nothing.sentence
    assert "about 30 speakers in all" in nothing.sentence
    lost = heard([[int(i % 40 > 0)] for i in range(200)], speakers)  # one clip of every fourth speaker
    undecided = equivalent(paired(one, lost, DRAW), 0.02)
    assert undecided.outcome == "not enough data"
    assert "200 clips" in undecided.sentence
    assert "speakers in all" in undecided.sentence
    assert equivalent(paired(one, heard([[0]] * 200, speakers), DRAW), 0.02).outcome == "fail"
    assert isinstance(paired(one, lost, DRAW).clips, Difference)


@pytest.mark.parametrize(
    ("part", "whole", "low", "high"),
    [
        (0, 30, 0, 1 - 0.05 ** (1 / 30)),
        (30, 30, 0.05 ** (1 / 30), 1),
        (1, 30, 1 - 0.95 ** (1 / 30), 0.148596),  # the last by scipy.stats.beta.ppf(0.95, 2, 29)
        (10000, 11005, 0.904035, 0.913160),  # beta.ppf(0.05, 10000, 1006), beta.ppf(0.95, 10001, 1005)
    ],
)
def test_the_interval_of_a_count_is_that_of_clopper_and_pearson(part: int, whole: int, low: float, high: float) -> None:
    assert exact_share(part, whole, 0.9) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize(("clips", "bound"), [(30, 0.0950), (3000, 0.0010)])
def test_no_change_is_no_certainty(heard: Make, clips: int, bound: float) -> None:
    one = heard([[1]] * clips, [f"{i % 15}" for i in range(clips)])
    found = paired(one, one, Draw(100))
    for interval in (found.speakers, found.clips):
        assert (interval.low, interval.high) == pytest.approx((-bound, bound), abs=5e-5)
    judged = equivalent(found, 0.01)
    assert judged.outcome == ("pass" if clips == 3000 else "not enough data")
    assert judged.doubts == ()
    needed = [heard([[1]] * n, [f"{i}" for i in range(n)]) for n in (298, 299)]
    assert [equivalent(paired(h, h, Draw(100)), 0.01).outcome for h in needed] == ["not enough data", "pass"]


def test_an_interval_over_counts_misses_the_truth_as_seldom_as_it_says() -> None:
    clips = 20
    pairs = [(g, lost) for g in range(clips + 1) for lost in range(clips + 1 - g)]
    ends = np.array([counted(*pair, clips, 0.9) for pair in pairs])
    ways = np.array(
        [
            math.factorial(clips) // (math.factorial(g) * math.factorial(n) * math.factorial(clips - g - n))
            for g, n in pairs
        ],
        np.float64,
    )
    ups, downs = np.array(pairs).T
    for up, down in [
        (0, 0),
        (0.01, 0),
        (0.05, 0.02),
        (0.2, 0.1),
        (0.5, 0.5),
        (0.9, 0.1),
        (0.99, 0.01),
        (1, 0),
        (0, 0.4),
    ]:
        chance = ways * up**ups * down**downs * max(0.0, 1 - up - down) ** (clips - ups - downs)
        assert chance.sum() == pytest.approx(1)
        assert chance[ends[:, 0] > up - down + 1e-9].sum() <= 0.05 + 1e-9
        assert chance[ends[:, 1] < up - down - 1e-9].sum() <= 0.05 + 1e-9


def test_an_equivalence_over_few_speakers_is_doubted(heard: Make) -> None:
    for speakers, said in ((9, "Only 9 speakers"), (1, "of one speaker"), (10, None), (90, None)):
        one = heard([[1]] * 90, [f"{i % speakers}" for i in range(90)])
        found = equivalent(paired(one, one, DRAW), 0.05)
        assert found.outcome == "pass"
        assert [said in doubt for doubt in found.doubts if said] == ([True] if said else [])
        assert bool(found.doubts) == bool(said)
