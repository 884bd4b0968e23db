"""Trials of a search, kept in SQLite by Optuna, and what to try next.

A trial is added when it is finished, in one transaction: a search that is killed loses the trial it was at and nothing
else, and goes on where it was. What is kept are the two facts, accuracy and latency; what they are worth for a goal is
worked out when the next trial is proposed, so that the same trials serve another goal too.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedeploy.errors import Unavailable, UsageError

#: Of the study in its file.
NAME = "prune ratios"
#: Proposals that are made until one is new.
_ATTEMPTS = 20
#: What of an outcome is no objective.
_ATTRIBUTES = ("drop", "drop_low", "drop_high", "params", "kept")

Ratios = dict[str, float]


@dataclass(frozen=True)
class Space:
    """What is searched: for every block a ratio of 0, ``step``, 2 ``step``, ... up to ``most``."""

    blocks: tuple[str, ...]
    most: float = 0.9
    step: float = 0.05

    def __post_init__(self) -> None:
        """Refuse ratios that would empty a layer.

        Raises:
            UsageError: names the value.
        """
        if not 0 < self.step <= self.most < 1:
            raise UsageError(
                f"A search takes ratios up to {self.most:g} in steps of {self.step:g}; give a largest ratio below 1, "
                "and a step above 0 and not larger."
            )

    def uniform(self, ratio: float) -> Ratios:
        """The same ratio for every block."""
        return self.snapped(dict.fromkeys(self.blocks, ratio))

    def snapped(self, ratios: Mapping[str, float], move: float = 0.0) -> Ratios:
        """The ratios with ``move`` added, each at the nearest step and within the space."""
        steps = int(self.most / self.step + 1e-9)
        return {
            block: round(min(steps, max(0, round((ratios[block] + move) / self.step))) * self.step, 6)
            for block in self.blocks
        }


@dataclass(frozen=True)
class Outcome:
    """What was found of one set of ratios.

    Args:
        ap50: on the images of the search.
        drop: that of the unpruned network less it, on the same images.
        drop_low: lower end of its paired interval; ``drop_high`` the upper.
        seconds: of a pass, predicted from shapes.
        params: of the pruned network.
        kept: share of the importance of all channels that is still there.
    """

    ap50: float
    drop: float
    drop_low: float
    drop_high: float
    seconds: float
    params: int
    kept: float = 1.0


@dataclass(frozen=True)
class Trial:
    """A finished one; numbers count from 0."""

    number: int
    ratios: Ratios
    outcome: Outcome


class Study:
    """The trials in a file, and facts that are found once.

    Args:
        path: of the SQLite file; made where there is none.
        space: what is searched.
        identity: plain values of all that a trial depends on.

    Raises:
        UsageError: the file holds a search of something else, or is damaged.
        Unavailable: Optuna is not installed.
    """

    def __init__(self, path: Path, space: Space, identity: Mapping[str, Any]) -> None:
        self._space, self._path = space, path
        optuna = _optuna()
        plain = json.loads(json.dumps({**identity, "blocks": space.blocks, "most": space.most, "step": space.step}))
        with _quiet(), _translated(path):
            storage = optuna.storages.RDBStorage(_url(path))
            self._study = optuna.create_study(
                storage=storage, study_name=NAME, directions=("maximize", "minimize"), load_if_exists=True
            )
            known = self._study.user_attrs.get("identity")
            if known is None:
                self._study.set_user_attr("identity", plain)
                known = plain
            self._trials = [_trial(number, one) for number, one in enumerate(self._study.get_trials(deepcopy=False))]
        if known != plain:
            others = ", ".join(key for key in {**known, **plain} if known.get(key) != plain.get(key))
            raise UsageError(
                f"{path} is a search of something else: other {others}. Give another folder, or delete it."
            )

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All that are finished, in order."""
        return tuple(self._trials)

    def fact(self, name: str, find: Callable[[], Any]) -> Any:
        """A plain value that is found once and kept."""
        with _translated(self._path):
            known = self._study.user_attrs.get(name)
        if known is None:
            known = json.loads(json.dumps(find()))
            with _translated(self._path):
                self._study.set_user_attr(name, known)
        return known

    def add(self, ratios: Ratios, outcome: Outcome) -> Trial:
        """Keep a finished trial."""
        optuna = _optuna()
        values = (outcome.ap50, outcome.seconds)
        with _quiet(), _translated(self._path):
            self._study.add_trial(
                optuna.trial.create_trial(
                    params=dict(ratios),
                    distributions=_distributions(self._space),
                    values=values,
                    user_attrs={name: getattr(outcome, name) for name in _ATTRIBUTES},
                )
            )
        self._trials.append(Trial(len(self._trials), dict(ratios), outcome))
        return self._trials[-1]

    def propose(self, score: Callable[[Outcome], float], seed: int) -> Ratios:
        """What to try next: the tree-structured Parzen estimator over all blocks at once, on the scores so far.

        S. Falkner et al., "BOHB", ICML 2018, section 3.2: a density of the good trials over one of the others. The
        same trials, scores and seed give the same proposal.
        """
        optuna = _optuna()
        distributions = _distributions(self._space)
        with _quiet():
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=1)
            scored = optuna.create_study(direction="maximize", sampler=sampler)
            scored.add_trials(
                [
                    optuna.trial.create_trial(params=one.ratios, distributions=distributions, value=score(one.outcome))
                    for one in self._trials
                ]
            )
            found = scored.ask(distributions).params
        return self._space.snapped(found)


@dataclass(frozen=True)
class Plan:
    """How a search goes on.

    Args:
        trials: that there are to be in all.
        starts: what is tried first, in this order.
        seed: of all proposals; a search that was interrupted tries what it would have tried.
        adjust: what is really tried of a proposal.
        follow: told the finished trials after each.
    """

    trials: int
    starts: Sequence[Ratios]
    seed: int = 0
    adjust: Callable[[Ratios], Ratios] = lambda ratios: ratios
    follow: Callable[[tuple[Trial, ...]], None] = lambda _: None


def explore(
    study: Study, plan: Plan, evaluate: Callable[[Ratios], Outcome], score: Callable[[Outcome], float]
) -> tuple[Trial, ...]:
    """Make trials until there are as many as planned; those of an earlier call count.

    Args:
        study: where they are kept.
        plan: how many, and what first.
        evaluate: makes one.
        score: what an outcome is worth; the larger the better.

    Raises:
        UsageError: fewer than one trial is planned.
    """
    if plan.trials < 1:
        raise UsageError(f"A search of {plan.trials} trials finds nothing; give 1 or more.")
    starts = _different(plan.starts)
    while len(study.trials) < plan.trials:
        number, tried = len(study.trials), [one.ratios for one in study.trials]
        waiting = [ratios for ratios in starts if ratios not in tried]
        if waiting:
            ratios = waiting[0]
        else:
            new = (plan.adjust(study.propose(score, _seed(plan.seed, number, i))) for i in range(_ATTEMPTS))
            found = next((one for one in new if one not in tried), None)
            if found is None:
                break  # everything that is worth a try was tried
            ratios = found
        study.add(ratios, evaluate(ratios))
        plan.follow(study.trials)
    return study.trials


def front(trials: Sequence[Trial], seconds: Callable[[Trial], float]) -> tuple[Trial, ...]:
    """Those that no other one beats in both, from the fastest to the most accurate."""
    kept: list[Trial] = []
    for trial in sorted(trials, key=lambda one: (seconds(one), -one.outcome.ap50)):
        if not kept or trial.outcome.ap50 > kept[-1].outcome.ap50:
            kept.append(trial)
    return tuple(kept)


def _different(starts: Sequence[Ratios]) -> list[Ratios]:
    found: list[Ratios] = []
    for one in starts:
        if one not in found:
            found.append(one)
    return found


def _seed(seed: int, number: int, attempt: int) -> int:
    return (seed * 1_000_003 + number * 1009 + attempt) % (1 << 32)


def _trial(number: int, one: Any) -> Trial:
    attributes = one.user_attrs
    numbers = {name: attributes[name] for name in _ATTRIBUTES}
    outcome = Outcome(ap50=one.values[0], seconds=one.values[1], **numbers)
    return Trial(number, {name: round(value, 6) for name, value in one.params.items()}, outcome)


def _distributions(space: Space) -> dict[str, Any]:
    optuna = _optuna()
    high = round(int(space.most / space.step + 1e-9) * space.step, 6)
    return {block: optuna.distributions.FloatDistribution(0.0, high, step=space.step) for block in space.blocks}


def _url(path: Path) -> str:
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(path)).render_as_string()


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise Unavailable.extra("optuna, which searches,", "compress") from error
    return optuna


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's log and its notes about experimental parts away from the user."""
    optuna = _optuna()
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """What the database says, in one sentence."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError, KeyError) as error:
        line = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UsageError(f"{path} holds no trials of a search that can be read: {line}. Delete it.") from error
