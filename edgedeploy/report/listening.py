"""What was heard: as rows of a table, and one source of sound as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import UsageError
from edgedeploy.listening import Account, Answer, Decision, Utterance
from edgedeploy.report.charts import figure
from edgedeploy.report.compression.chart import COLORS
from edgedeploy.report.svg import INK, MUTED, PAPER, SERIES, STYLE, clean, drawing
from edgedeploy.tasks.keywords import Keywords

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADER = ("sound", "from", "word", "score", "decided after", "with look-ahead", "then")
#: Words that get a line of their own in a picture, and points of it.
WORDS, WIDTH, HEIGHT = 5, 720, 460
#: Decisions that are written out in a picture.
FEW = 3


@dataclass(frozen=True, eq=False)
class Scene:
    """What a picture shows of one source: the ``sound`` from its beginning, float32 (n,), and what was known when.

    ``threshold`` is the score that a word had to reach.
    """

    source: str
    sound: npt.NDArray[np.float32]
    answers: tuple[Answer, ...]
    decisions: tuple[Decision, ...]
    threshold: float


def rows(accounts: Sequence[Account]) -> list[tuple[str, ...]]:
    """A row per utterance under `HEADER`; times in seconds of sound."""
    return [
        (
            Path(account.source).name or account.source,
            f"{one.begin:.2f} s",
            one.top[0][0],
            f"{one.top[0][1]:.3f}",
            *_decided(one),
            ", ".join(f"{word} {score:.3f}" for word, score in one.top[1:]),
        )
        for account in accounts
        for one in account.utterances
    ]


def _decided(one: Utterance) -> tuple[str, str]:
    found = one.decision
    if found is None:
        return "not early", ""
    other = "" if found.word == one.top[0][0] else f"{found.word}: "
    return f"{other}{found.rested:.2f} s", f"{found.waited:.2f} s"


def notes(accounts: Sequence[Account]) -> list[str]:
    """What qualifies the rows: doubts, what was not decided, and what it took."""
    said = []
    for account in accounts:
        name = Path(account.source).name or account.source
        said += [f"{name}: {doubt}" for doubt in account.doubts]
        said += [f"{name}: {doubt}" for one in account.utterances for doubt in one.doubts]
        if account.undecided:
            plural = "s" if account.undecided != 1 else ""
            said.append(f"{name}: {account.undecided} utterance{plural} ended without a decision.")
    sound, computing = (sum(getattr(one, key) for one in accounts) for key in ("seconds", "computing"))
    if sound:
        said.append(
            f"{sound:.2f} s of sound took {computing:.2f} s, a real-time factor of {computing / sound:.2g} here:"
            " no benchmark, which 'edgedeploy bench' makes."
        )
    return said


def refuse_suffix(path: Path) -> None:
    """Refuse a file that is no picture by its name.

    Raises:
        UsageError: it is not.
    """
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"{path} is no .png, .svg or .pdf file.")


def picture(scene: Scene, task: Keywords, path: Path) -> Path:
    """The scores of the likeliest words as they became known, above the features of the sound; decisions are marked.

    A score stands where the sound ends that had to be heard for it.

    Raises:
        UsageError: there is nothing to show, or not a picture's suffix.
        Unavailable: matplotlib is not installed.
    """
    refuse_suffix(path)
    if not scene.answers:
        raise UsageError(f"There is nothing to plot: {scene.source} gave no answer.")
    with drawing("listening"):
        import matplotlib as mpl

        style = {key: COLORS.get(value, value) if isinstance(value, str) else value for key, value in STYLE.items()}
        with mpl.rc_context(style):
            made = figure(WIDTH, HEIGHT)
            upper, lower = made.subplots(2, 1, sharex=True, height_ratios=(3, 2))
            _scores(upper, scene, task)
            _features(lower, scene, task)
            made.savefig(path, dpi=160, facecolor=COLORS[PAPER])
    return path


def _scores(axes: Axes, scene: Scene, task: Keywords) -> None:
    scores = np.stack([answer.scores for answer in scene.answers])
    when = np.array([answer.begin + answer.waited for answer in scene.answers])
    begins = np.array([answer.begin for answer in scene.answers])
    breaks = np.flatnonzero(np.diff(begins)) + 1  # no line from one utterance to the next
    ends = [*(breaks - 1), len(when) - 1]
    likeliest = np.argsort(-scores[ends].max(axis=0), kind="stable")[:WORDS]
    for word, color in zip(likeliest, SERIES, strict=False):
        axes.plot(
            np.insert(when, breaks, np.nan), np.insert(scores[:, word], breaks, np.nan),
            color=COLORS[color], linewidth=1.8, label=clean(task.labels[word]),
        )  # fmt: skip
    _mark(axes, scene)
    axes.axhline(scene.threshold, color=COLORS[MUTED], linewidth=1.0, linestyle=":")
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("score")
    axes.set_title(clean(Path(scene.source).name or scene.source), color=COLORS[INK])
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), labelcolor=COLORS[MUTED])


def _mark(axes: Axes, scene: Scene) -> None:
    """A line for each decision, and what it was: a few with their times, many as words along their lines."""
    few, end = len(scene.decisions) <= FEW, scene.answers[-1].begin + scene.answers[-1].waited
    for one in scene.decisions:
        at, word = one.begin + one.waited, clean(one.word)
        left = not few or at > end / 2
        axes.axvline(at, color=COLORS[INK], linewidth=1.0, linestyle="--")
        axes.annotate(
            f"{word}, {at:.2f} s" if few else word, (at, 1.0), xycoords=("data", "axes fraction"),
            xytext=(-4 if left else 4, -4), textcoords="offset points", color=COLORS[INK], fontsize=9.5,
            rotation=0 if few else 90, va="top", ha="right" if left else "left",
        )  # fmt: skip


def _features(axes: Axes, scene: Scene, task: Keywords) -> None:
    fbank = task.features
    found = fbank.extract(scene.sound)
    end = (len(found) - 1) * fbank.hop + fbank.frame
    axes.imshow(
        found.T, origin="lower", aspect="auto", interpolation="nearest", cmap="magma",
        extent=(0.0, end, 0.0, float(fbank.bins)),
    )  # fmt: skip
    for one in scene.decisions:
        axes.axvline(one.begin + one.waited, color=COLORS[PAPER], linewidth=1.0, linestyle="--")
    axes.grid(visible=False)
    axes.set_xlim(0.0, end)
    axes.set_ylabel("mel filter")
    axes.set_xlabel("sound, s")
