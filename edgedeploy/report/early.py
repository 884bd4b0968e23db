"""Early decisions as rows and as a picture, on both bases, with the figures of the paper beside ours."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgedeploy.errors import Unavailable
from edgedeploy.recognition.early import Early, Moment, Stop, thinned
from edgedeploy.recognition.resampling import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colours of up to five systems, told apart by people who do not see all colours alike.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")


@dataclass(frozen=True)
class Published:
    """The early decision that a paper states: accuracies after so many frames of a window, and where they stand."""

    system: str
    data: str
    source: str
    points: tuple[tuple[int, float], ...]
    window: int
    sound: int
    lookahead: int
    at: int

    @property
    def window_saved(self) -> float:
        """Share of the window that is not heard."""
        return 1 - self.at / self.window

    @property
    def sound_saved(self) -> float:
        """Share of the frames of the sound itself, as if there was no look-ahead."""
        return 1 - self.at / self.sound

    @property
    def waited_saved(self) -> float:
        """Share of the frames of the sound itself, with the look-ahead waited for."""
        return 1 - (self.at + self.lookahead) / self.sound


#: What is printed beside our curves. Of the numbers the first four points are the authors'; that their clips have 98
#: frames of sound, and answers 5 frames of look-ahead, follows from their code.
PAPER = Published(
    system="Spiking LMUFormer",
    data="Speech Commands V2, 35 words",
    source="Liu et al., LMUFormer, ICLR 2024: figs/acc_seq.png of its code",
    points=((36, 0.4877), (63, 0.8692), (87, 0.9517), (128, 0.9612)),
    window=128,
    sound=98,
    lookahead=5,
    at=87,
)


def saving_rows(systems: Sequence[tuple[str, Early]]) -> list[tuple[str, str, str, str, str, str]]:
    """System, accuracy then and at the end, frames heard, and what is saved on the three bases; the paper's last."""
    rows = [_saving_row(name, one) for name, one in systems]
    known = dict(PAPER.points)
    rows.append(
        (
            f"published: {PAPER.system}",
            f"{known[PAPER.at]:.1%} of {known[PAPER.window]:.1%}",
            f"{PAPER.at} of {PAPER.window}",
            f"{PAPER.window_saved:.1%}",
            f"{PAPER.sound_saved:.1%}",
            f"{PAPER.waited_saved:.1%}",
        )
    )
    return rows


def _saving_row(name: str, one: Early) -> tuple[str, str, str, str, str, str]:
    saving = one.saving
    if saving is None:
        return (name, f"{0:.1%} at the end", "", "nothing to save", "", "")
    return (
        name,
        f"{saving.accuracy:.1%} of {saving.final:.1%}",
        f"{saving.heard} of {one.window}",
        share(saving.window),
        share(saving.sound),
        share(saving.waited),
    )


#: The columns of `saving_rows`.
SAVING_COLUMNS = (
    "system",
    "accuracy",
    "frames heard",
    "saved of the window",
    "of the sound",
    "of the sound, look-ahead waited for",
)


def curve_rows(one: Early) -> list[tuple[str, str, str, str]]:
    """Frames heard, seconds of sound that it takes, accuracy, its interval; a dozen of them."""
    return [(f"{m.heard}", f"{m.seconds:.3f} s", f"{m.accuracy:.1%}", _range(m)) for m in thinned(one.curve)]


CURVE_COLUMNS = ("frames heard", "sound, mean", "accuracy", "95 %")


def stop_rows(one: Early) -> list[tuple[str, str, str, str, str]]:
    """Threshold, accuracy, its interval, seconds waited for, share of clips that were stopped before their end."""
    return [
        (
            f"{s.threshold:g}",
            f"{s.accuracy:.1%}",
            _range(s),
            f"{s.seconds:.3f} s",
            f"{s.early:.0%}",
        )
        for s in one.stops
    ]


STOP_COLUMNS = ("stop at score", "accuracy", "95 %", "sound, mean", "stopped early")


def share(found: Interval) -> str:
    """``12.3% (8.0% to 17.1%)``."""
    return f"{found.value:.1%} ({_range(found)})"


def _range(found: Interval | Moment | Stop) -> str:
    return f"{found.low:.1%} to {found.high:.1%}"


def notes(one: Early) -> list[str]:
    """How the numbers are meant."""
    return [
        f"The window has {one.window} frames, and the clips {one.sound:.1f} frames of sound ({one.seconds:.3f} s) on "
        f"average; an answer waits for {one.lookahead} frames beyond those it is about, or for the end of the clip.",
        "Saved is what comes after the first answer from which on the accuracy stays at 99 % of the last one, which "
        "is picked on these very clips, so that it leans upwards: on other clips expect less. "
        f"Published figures: {PAPER.source} ({PAPER.data}); the shares of the sound follow from its {PAPER.sound} "
        f"frames of sound and {PAPER.lookahead} of look-ahead.",
    ]


def picture(systems: Sequence[tuple[str, Early]], title: str = "") -> bytes:
    """A PNG: accuracy over the frames of the window, as in the paper, and over the sound that has to be waited for.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import PercentFormatter
    except ImportError as error:
        raise Unavailable.extra("matplotlib, which draws charts,", "report") from error
    made: Any = Figure(figsize=(11, 4.3), dpi=130, layout="constrained")
    left, right = made.subplots(1, 2, sharey=True)
    for color, (name, one) in zip(COLORS, systems, strict=False):
        answered = [m for m in one.curve if m.heard > 0]
        _curve(left, [m.heard for m in answered], answered, color, name)
        _curve(right, [m.seconds for m in answered], answered, color, name)
        if one.saving is not None:
            left.plot(one.saving.heard, one.saving.accuracy, "o", color=color, ms=6, clip_on=False)
        stops = [stop for stop in one.stops if stop.early > 0]
        right.plot([s.seconds for s in stops], [s.accuracy for s in stops], "x", color=color, ms=6, mew=1.5)
    first = systems[0][1]
    if first.window == PAPER.window:
        xs, ys = zip(*PAPER.points, strict=True)
        left.plot(xs, ys, "s", color="#17212b", mfc="none", ms=6, clip_on=False, label=f"published: {PAPER.system}")
    for axes, end in ((left, first.sound), (right, first.seconds)):
        axes.axvline(end, color="0.6", lw=0.9, ls="--")
        place = (end, 1.0), (-4, -2)
        axes.annotate("sound ends, mean", *place, textcoords="offset points", color="0.35", size=8, rotation=90,
                      ha="right", va="top")  # fmt: skip
    left.set(xlabel="frames of the window heard (dot: 99 % of the last)", ylabel="accuracy", ylim=(0, 1.02))
    right.set(xlabel="seconds of sound waited for, mean (cross: stop at a score)")
    left.set_xlim(0, first.window)
    right.set_xlim(left=0)
    left.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in (left, right):
        axes.grid(color="0.9", lw=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    made.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize="small")
    if title:
        made.suptitle(title, fontsize=11)
    out = io.BytesIO()
    made.savefig(out, format="png")
    return out.getvalue()


def _curve(axes: Axes, xs: Sequence[float], moments: Sequence[Moment], color: str, name: str) -> None:
    axes.fill_between(xs, [m.low for m in moments], [m.high for m in moments], color=color, alpha=0.13, lw=0)
    axes.plot(xs, [m.accuracy for m in moments], color=color, lw=1.6, label=name)
