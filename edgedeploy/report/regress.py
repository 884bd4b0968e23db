"""A `Regression` as rows of text and as Markdown. Pure functions of the record."""

from __future__ import annotations

from collections.abc import Sequence

from edgedeploy.bench.statistics.quantiles import label
from edgedeploy.regress import Change, Regression, percent
from edgedeploy.report.markdown import escaped
from edgedeploy.units import show

HEADER = ("end to end", "before", "now", "change", "")


def change_rows(regression: Regression) -> list[tuple[str, ...]]:
    """A row per percentile under `HEADER`."""
    return [_row(change) for change in regression.changes]


def ranks(regression: Regression) -> str:
    """What the rank test says of all passes."""
    return (
        f"a pass of now takes longer than one of before with probability {regression.superiority:.2f} "
        f"(rank test p = {regression.p:.2g})"
    )


def means(regression: Regression) -> str:
    """Which rows hold means over processes, and so not the percentile of all passes that a measurement shows."""
    rows = [label(change.q) for change in regression.changes if change.of_processes]
    return f"{', '.join(rows)}: geometric means of those of each process, not of all passes together" if rows else ""


def markdown(found: Sequence[Regression]) -> str:
    """A section per subject, as for the summary of a CI job."""
    lines = []
    for one in found:
        lines += [f"## {escaped(one.outcome)}: {escaped(one.subject)}", "", escaped(one.sentence), ""]
        lines += ["| " + " | ".join(HEADER) + " |", "|" + " --- |" * len(HEADER)]
        lines += ["| " + " | ".join(map(escaped, row)) + " |" for row in change_rows(one)]
        lines += ["", *(f"- {escaped(note)}" for note in (means(one), ranks(one), *notes(one)) if note), ""]
    return "\n".join(lines)


def notes(regression: Regression) -> list[str]:
    """What qualifies the answer."""
    forced = [f"The conditions differ ({'; '.join(regression.differences)})."] if regression.differences else []
    return [*forced, *regression.notes]


def _row(change: Change) -> tuple[str, ...]:
    name = label(change.q)
    if change.before is None or change.after is None or change.ratio is None or change.low is None:
        return name, "-", "-", "-", f"needs {change.needs} samples on either side"
    high = change.ratio if change.high is None else change.high
    moved = f"{percent(change.ratio)} ({percent(change.low)} to {percent(high)})"
    return name, show(change.before, "s"), show(change.after, "s"), moved, change.finding
