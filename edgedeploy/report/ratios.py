"""Two artifacts that were measured in turn, in a page: the ratio with its interval, part by part."""

from __future__ import annotations

from edgedeploy.bench.statistics.quantiles import TooFew
from edgedeploy.bench.statistics.ratio import Ratio
from edgedeploy.bench.versus import Versus
from edgedeploy.report.charts import BLUE, GREEN, VERMILLION, WIDTH, Chart, figure
from edgedeploy.report.svg import INK, MUTED, drawing, inline
from edgedeploy.report.versus import ENOUGH


def names(versus: Versus) -> tuple[str, str]:
    """What the two sides are called: the backend is added where the models are of one name."""
    sides = (versus.first.conditions, versus.second.conditions)
    if sides[0].name != sides[1].name:
        return sides[0].name, sides[1].name
    told = [f"{side.name} on {side.backend}" for side in sides]
    return (told[0], told[1]) if told[0] != told[1] else (f"{told[0]} (first)", f"{told[1]} (second)")


def sentence(versus: Versus) -> str:
    """Which is faster, by how much, and how sure that is."""
    first, second = names(versus)
    ratio = versus.ratio()
    if isinstance(ratio, TooFew):
        return f"Nothing can be said of {second} over {first}: {ratio}."
    test = f"; p = {ratio.p:.2g} of a rank test" if len(versus.blocks) >= ENOUGH else ""
    text = f"{second} takes {_times(ratio)} times as long as {first} (p50 end to end{test})"
    if ratio.low <= 1 <= ratio.high:
        return f"{text}. The interval contains 1: neither is shown to be faster."
    return f"{text}. The {'second' if ratio.high < 1 else 'first'} is faster."


def chart(versus: Versus, name: str) -> Chart:
    """The ratio of the medians of each part, with its interval, around 1.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    parts = {part: ratio for part, ratio in versus.parts.items() if isinstance(ratio, Ratio)}
    first, second = names(versus)
    with drawing(name):
        made = figure(WIDTH, 60 + 38 * max(1, len(parts)))
        axes = made.subplots()
        for height, ratio in enumerate(reversed(parts.values())):
            color = BLUE if ratio.low <= 1 <= ratio.high else GREEN if ratio.high < 1 else VERMILLION
            axes.plot([ratio.low, ratio.high], [height, height], color=color, linewidth=5, alpha=0.45)
            axes.plot([ratio.value], [height], color=color, marker="o", markersize=6)
            axes.annotate(
                _times(ratio), (1.0, height), xycoords=("axes fraction", "data"), xytext=(4, -3),
                textcoords="offset points", color=INK, annotation_clip=False,
            )  # fmt: skip
        axes.axvline(1, color=MUTED, linewidth=1)
        axes.set_yticks(range(len(parts)), list(reversed(parts)))
        axes.set_ylim(-0.6, len(parts) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.1)
        axes.set_xlabel("time of the second over time of the first")
        svg = inline(made, name, f"{second} over {first}", sentence(versus))
    sure = next((f"{ratio.confidence:.0%}" for ratio in parts.values()), "95%")
    return Chart(svg, f"Ratio of the medians, part by part, with {sure} intervals. Left of 1 the second is faster.")


def _times(ratio: Ratio) -> str:
    return f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
