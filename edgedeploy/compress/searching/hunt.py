"""One search: what is tried first, what next, what is timed, and what is chosen."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping
from typing import Protocol

from edgedeploy.compress.pruning.timing import Clocked
from edgedeploy.compress.recipe import Pruning
from edgedeploy.compress.searching.goal import Found, Goal, SearchOptions
from edgedeploy.compress.searching.study import Outcome, Plan, Ratios, Space, Study, Trial, explore, front
from edgedeploy.errors import BudgetExceeded, Unavailable, UsageError
from edgedeploy.records import canonical, to_json
from edgedeploy.report.search import REMARK, SearchTable, Tried, markdown, picture
from edgedeploy.units import show

#: What is written into the folder of a search, besides its trials.
TABLE, RECORD, PICTURE = "trials.md", "trials.json", "trials.png"
#: The first trials where accuracy is the limit: the same share of every block.
_STARTS = (0.0, 0.1, 0.3)
#: Networks that are timed together at the end.
_TOGETHER = 6
#: Halvings of the interval in which the number is looked for that all ratios are moved by.
_HALVINGS = 7
#: AP50 that all the importance of a network is worth.
_REST = 0.001
#: By so much the unpruned network may take longer, or less long, at the end of a search than at its beginning.
_STEADY = 1.15
#: With less than this share of its AP50 left, a network says little of what it will be after fine-tuning.
_BLIND = 0.5


class Bench(Protocol):
    """What a search needs of where trials are made; `laboratory.Laboratory` is the real one."""

    @property
    def device(self) -> str:
        """Name of the profile."""

    @property
    def here(self) -> bool:
        """Whether networks can be timed on it."""

    @property
    def images(self) -> int:
        """That accuracy is measured on."""

    @property
    def ap50(self) -> float:
        """Of the unpruned network."""

    @property
    def notes(self) -> tuple[str, ...]:
        """For who reads the result."""

    def pruning(self, ratios: Ratios) -> Pruning:
        """What a recipe says to prune so."""

    def seconds(self, ratios: Ratios) -> float:
        """Of a pass, predicted."""

    def kept(self, ratios: Ratios) -> float:
        """Share of the importance of all channels that is left."""

    def plain(self, ratios: Ratios, space: Space) -> Ratios:
        """The smallest ratios that give the same network: numbers of channels are whole, and perhaps rounded."""

    def evaluate(self, ratios: Ratios) -> Outcome:
        """A trial."""

    def anchors(self, space: Space) -> list[tuple[float, float]]:
        """Predicted and real seconds of networks, the unpruned one first."""

    def clock(self, ratios: Mapping[int, Ratios], seconds: float) -> tuple[Clocked, dict[int, Clocked]]:
        """Time the unpruned network and several others in turn."""


class Hunt:
    """One search, step by step; `search` is the front door."""

    def __init__(self, laboratory: Bench, study: Study, space: Space, goal: Goal, options: SearchOptions) -> None:
        self._laboratory, self._study, self._space, self._goal, self._options = laboratory, study, space, goal, options
        self._clocked: dict[int, Clocked] = {}
        self._anchors: list[tuple[float, float]] = []
        self._ratio: dict[int, float] = {}
        self._drift = 1.0

    def run(self) -> Found:
        """Anchors, trials, timing, choice; what was found is written in every case."""
        laboratory, options = self._laboratory, self._options
        self._anchors = [tuple(one) for one in self._study.fact("anchors", lambda: laboratory.anchors(self._space))]
        starts = [laboratory.plain(ratios, self._space) for ratios in self._starts()]
        plan = Plan(options.trials, starts, options.seed, self._plain, self._follow)
        trials = explore(self._study, plan, self._evaluate, self._score)
        self._clock(trials)
        chosen = self._choice(trials)
        if chosen is None:
            table = self._write(trials, None, self._closest(trials))
            raise BudgetExceeded(table.sentence)
        table = self._write(trials, chosen, self._said(chosen))
        ratios = laboratory.pruning(chosen.ratios)
        return Found(ratios, table.trials, table.front, chosen.number, table.sentence, table)

    # --- what is tried ---------------------------------------------------------------------------------------------

    def _starts(self) -> list[Ratios]:
        """The unpruned network first. Where latency is the limit, then the same share of every block that just does."""
        limit, none = self._goal.limit, self._space.uniform(0.0)
        if limit is None:
            return [self._space.uniform(ratio) for ratio in _STARTS if ratio <= self._space.most]
        if self._seconds(none) <= limit:
            return [none]
        most = self._space.uniform(self._space.most)
        fastest = self._seconds(most)
        if fastest > limit:
            raise UsageError(
                f"{self._goal.target_fps:g} FPS cannot be reached on {self._laboratory.device}: with "
                f"{self._space.most:.0%} of all channels removed that are not kept, {_fps(fastest)} FPS are "
                f"predicted, and {_fps(self._seconds(none))} with none removed. Take a smaller input or network."
            )
        just = self._adjusted(most)
        share = next(iter(just.values()))
        return [none, just, *(self._space.uniform(share + move) for move in (0.1, -0.1))]

    def _adjusted(self, ratios: Ratios) -> Ratios:
        """Moved to where the goal is just reached: nothing is learned from what is far from it, on either side.

        Seconds are known beforehand. What accuracy will be is not; it is taken to be at the limit halfway between the
        most importance that was removed within it and the least that was too much.
        """
        limit = self._goal.limit
        if limit is not None:
            return self._moved(ratios, lambda one: self._seconds(one) <= limit, less=False)
        within = [1 - one.outcome.kept for one in self._study.trials if self._reached(one)]
        beyond = [1 - one.outcome.kept for one in self._study.trials if not self._reached(one)]
        if not beyond:
            return ratios
        most, least = max(within, default=0.0), min(beyond)
        allowed = (most + least) / 2 if most < least else most
        moved = self._moved(ratios, lambda one: 1 - self._laboratory.kept(one) <= allowed, less=True)
        return moved if self._laboratory.kept(moved) < 1 else self._least(ratios)

    def _plain(self, ratios: Ratios) -> Ratios:
        return self._laboratory.plain(self._adjusted(ratios), self._space)

    def _moved(self, ratios: Ratios, holds: Callable[[Ratios], bool], less: bool) -> Ratios:
        """All ratios moved by one number, none below 0: by the largest that holds (``less``), or else the smallest."""
        low, high = -self._space.most, self._space.most
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if holds(self._space.snapped(ratios, middle)) is less else (low, middle)
        return self._space.snapped(ratios, low if less else high)

    def _least(self, ratios: Ratios) -> Ratios:
        """Of the block with the largest ratio the least that can be removed: the result is a network of its own."""
        dearest = max(ratios, key=lambda block: ratios[block])
        none, steps = self._space.uniform(0.0), 1
        while steps * self._space.step < self._space.most:
            one = self._space.snapped({**none, dearest: steps * self._space.step})
            if self._laboratory.kept(one) < 1:
                return one
            steps += 1
        return ratios

    def _evaluate(self, ratios: Ratios) -> Outcome:
        return self._laboratory.evaluate(ratios)

    def _follow(self, trials: tuple[Trial, ...]) -> None:
        best = max(trials, key=lambda one: self._score(one.outcome))
        said = f"best so far is trial {best.number}: AP50 {best.outcome.ap50:.4f}, {show(self._of(best), 's')}"
        self._options.follow(said, len(trials) / self._options.trials)

    # --- what it is worth ------------------------------------------------------------------------------------------

    def _score(self, outcome: Outcome) -> float:
        """0 or more where the goal is reached, the better the larger; below 0 by how far it is missed.

        Among networks of equal AP50, as those are that find nothing any more, the one with more of its importance left.
        """
        seconds, limit = self._corrected(outcome.seconds), self._goal.limit
        rest = _REST * outcome.kept
        if limit is not None:
            return outcome.ap50 + rest if seconds <= limit else 1 - seconds / limit
        missed = self._drop(outcome) - (self._goal.max_drop or 0.0)
        return 1 / (1 + seconds / self._anchors[0][0]) if missed <= 0 else rest - _REST - missed

    def _drop(self, outcome: Outcome) -> float:
        return outcome.drop_high if self._options.sure else outcome.drop

    def _seconds(self, ratios: Ratios) -> float:
        return self._corrected(self._laboratory.seconds(ratios))

    def _of(self, trial: Trial) -> float:
        """Measured where it was, else predicted and corrected."""
        clocked = self._clocked.get(trial.number)
        return clocked.seconds if clocked else self._corrected(trial.outcome.seconds)

    def _corrected(self, predicted: float) -> float:
        """By how much longer the anchors, which were timed, took than predicted; between two of them in proportion."""
        points = sorted(self._anchors)
        for (left, a), (right, b) in itertools.pairwise(points):
            if left <= predicted <= right and right > left:
                share = (predicted - left) / (right - left)
                return predicted * ((1 - share) * a / left + share * b / right)
        nearest = points[0] if predicted < points[0][0] else points[-1]
        return predicted * nearest[1] / nearest[0]

    # --- what is chosen --------------------------------------------------------------------------------------------

    def _clock(self, trials: tuple[Trial, ...]) -> None:
        """Time those that may be chosen, best first, until one holds what was predicted of it."""
        if not self._laboratory.here:
            return
        ranked = sorted(trials, key=lambda one: -self._score(one.outcome))
        good = [one for one in ranked if self._score(one.outcome) >= 0]
        best = front(trials, self._of)
        waiting = [*good[:1], *(one for one in ranked if one in best), *good, *sorted(best, key=self._of)]
        waiting = list({one.number: one for one in waiting}.values())
        while waiting and (not self._clocked or self._choice(trials) is None):
            group, waiting = waiting[:_TOGETHER], waiting[_TOGETHER:]
            self._options.follow(f"timing {len(group)} networks in turn", 1.0)
            asked = {one.number: one.ratios for one in group}
            unpruned, clocked = self._laboratory.clock(asked, self._options.seconds)
            self._clocked |= clocked
            self._ratio |= {number: one.ratio or one.seconds / unpruned.seconds for number, one in clocked.items()}
            drift = unpruned.seconds / self._anchors[0][1]
            self._anchors = [(predicted, real * drift) for predicted, real in self._anchors]
            self._drift *= drift

    def _choice(self, trials: tuple[Trial, ...]) -> Trial | None:
        candidates = [one for one in trials if one.number in self._clocked or not self._laboratory.here]
        reached = [one for one in candidates if self._reached(one)]
        if self._goal.limit is not None:
            return max(reached, key=lambda one: (one.outcome.ap50, one.outcome.kept), default=None)
        return min(reached, key=lambda one: self._ratio.get(one.number, self._of(one)), default=None)

    def _reached(self, trial: Trial) -> bool:
        """Latency by the upper end of the measured interval, else by the prediction; loss as `sure` says."""
        if self._goal.limit is None:
            return self._drop(trial.outcome) <= (self._goal.max_drop or 0.0)
        clocked = self._clocked.get(trial.number)
        return (clocked.high if clocked else self._of(trial)) <= self._goal.limit

    def _closest(self, trials: tuple[Trial, ...]) -> str:
        if self._goal.limit is not None:
            best = min(trials, key=self._of)
            came = f"the fastest is trial {best.number} with {_fps(self._of(best))} FPS"
        else:
            best = min(trials, key=lambda one: self._drop(one.outcome))
            came = f"the smallest loss of AP50 is {self._drop(best.outcome):.4f}, of trial {best.number}"
        return (
            f"None of {len(trials)} trials reached the goal, {self._goal}: {came}. Make more trials, or ask for less."
        )

    def _said(self, chosen: Trial) -> str:
        outcome, clocked = chosen.outcome, self._clocked.get(chosen.number)
        if clocked is not None:
            interval = f"95 % interval {show(clocked.low, 's')} to {show(clocked.high, 's')}"
            speed = f"{show(clocked.seconds, 's')} a pass, measured ({interval}), {_fps(clocked.seconds)} FPS"
        else:
            seconds = self._of(chosen)
            speed = (
                f"{show(seconds, 's')} a pass, {_fps(seconds)} FPS, predicted from the profile of "
                f"{self._laboratory.device} and not measured, since that device is not here"
            )
        end = "the upper end of its interval" if self._options.sure else "the estimate"
        by = "" if self._goal.limit is not None else f" The loss is judged by {end}."
        if outcome.ap50 < _BLIND * self._laboratory.ap50:
            by += (
                f" Less than {_BLIND:.0%} of its AP50 is left, so that there was little to rank by: search after "
                "training with a penalty on scale factors, or with a short training in every trial."
            )
        return (
            f"Trial {chosen.number} of {len(self._study.trials)}: {speed}; AP50 {outcome.ap50:.4f} on "
            f"{self._laboratory.images} images, {outcome.drop:.4f} less than unpruned (90 % interval "
            f"{outcome.drop_low:.4f} to {outcome.drop_high:.4f}), {outcome.params:,} parameters.{by} {REMARK}"
        )

    def _write(self, trials: tuple[Trial, ...], chosen: Trial | None, sentence: str) -> SearchTable:
        table = SearchTable(
            goal=str(self._goal),
            sentence=sentence,
            device=self._laboratory.device,
            images=self._laboratory.images,
            recovery=str(self._options.recovery),
            trials=tuple(self._tried(one) for one in trials),
            chosen=None if chosen is None else chosen.number,
            limit=self._goal.limit,
            floor=None if self._goal.max_drop is None else self._laboratory.ap50 - self._goal.max_drop,
            notes=(*self._laboratory.notes, *self._doubts()),
        )
        folder = self._options.folder
        (folder / RECORD).write_bytes(canonical(to_json(table)) + b"\n")
        (folder / TABLE).write_text(markdown(table), encoding="utf-8")
        with contextlib.suppress(Unavailable):  # the table says the same, and a search has taken long
            picture(table, folder / PICTURE)
        return table

    def _doubts(self) -> tuple[str, ...]:
        if max(self._drift, 1 / self._drift) <= _STEADY:
            return ()
        return (
            f"The machine was not the same all along: the unpruned network took {self._drift:.2g} times as long at the "
            "end of the search as at its beginning. Latencies are those of the end; better search on an idle machine.",
        )

    def _tried(self, trial: Trial) -> Tried:
        outcome, clocked = trial.outcome, self._clocked.get(trial.number)
        measured = None if clocked is None else (clocked.seconds, clocked.low, clocked.high)
        drops = (outcome.drop, outcome.drop_low, outcome.drop_high)
        predicted = self._corrected(outcome.seconds)
        return Tried(trial.number, trial.ratios, outcome.ap50, *drops, predicted, measured, outcome.params)


def _fps(seconds: float) -> str:
    rate = 1 / seconds
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"
