"""Two artifacts measured in turn, as rows of a table and as one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgedeploy.bench.measurement import END_TO_END, Measurement
from edgedeploy.bench.statistics.quantiles import TooFew, label
from edgedeploy.bench.statistics.ratio import Ratio
from edgedeploy.bench.versus import Versus
from edgedeploy.records import to_json
from edgedeploy.units import show

#: Quantiles of end-to-end that are compared; the parts are compared at the median.
QUANTILES = (0.5, 0.9, 0.99)
#: Processes of a side from which on the rank test is shown: what differs from start to start fools it with fewer.
ENOUGH = 5
HEADER = ("", "first", "second", "second / first", "95 % interval", "p, rank test")


def headline(found: Versus) -> str:
    """One sentence: which one is faster, by how much, or that this run does not tell."""
    ratio, first, second = found.ratio(), *_names(found)
    if isinstance(ratio, TooFew):
        return f"{first} and {second} cannot be compared: {ratio}. Measure longer."
    between = f"{_bounds(ratio)}, {ratio.counts[0]} passes in turn"
    if not ratio.decided:
        return f"No difference is seen between {first} and {second}: ratio {ratio.value:.3f} ({between})."
    if ratio.value > 1:
        return f"{second} takes {ratio.value:.3f} times as long as {first} ({between})."
    return f"{second} takes {ratio.value:.3f} of the time of {first} ({between})."


def rows(found: Versus) -> list[tuple[str, ...]]:
    """A row per part at the median, and per quantile of end-to-end, under `HEADER`."""
    parts = [(str(part), ratio, part, 0.5) for part, ratio in found.parts.items() if part != END_TO_END]
    whole = [(f"{END_TO_END} {label(q)}", found.ratio(q), END_TO_END, q) for q in QUANTILES]
    return [
        (name, _at(found.first, q, part), _at(found.second, q, part), *_ratio(ratio, len(found.blocks)))
        for name, ratio, part, q in (*parts, *whole)
    ]


def summary(found: Versus) -> dict[str, Any]:
    """Ratios as plain values: of the parts at the median, of end-to-end at `QUANTILES`; ``None`` where too few.

    ``p`` is ``None`` with fewer than `ENOUGH` processes.
    """
    pairs = len(found.blocks)
    whole = {label(q): found.ratio(q) for q in QUANTILES}
    return {
        "first": _side(found.first),
        "second": _side(found.second),
        "parts": {part: _plain(ratio, pairs) for part, ratio in found.parts.items()},
        "end-to-end": {name: _plain(ratio, pairs) for name, ratio in whole.items()},
    }


def _side(measurement: Measurement) -> dict[str, str]:
    conditions = measurement.conditions
    return {"name": conditions.name, "digest": conditions.digest, "graph": conditions.graph}


def _names(found: Versus) -> tuple[str, str]:
    """Those of the artifacts, told apart by graph, backend or digest where they are alike."""
    sides = (found.first.conditions, found.second.conditions)
    for names in (
        [Path(side.name).name for side in sides],
        [side.subject for side in sides],
        [f"{side.name} on {side.backend}" for side in sides],
        [f"{side.name} {side.digest[:8]}" for side in sides],
    ):
        if names[0] != names[1]:
            return names[0], names[1]
    return f"{sides[0].name} (first)", f"{sides[1].name} (second)"


def _at(measurement: Measurement, q: float, part: Any) -> str:
    value = measurement.percentile(q, part)
    return show(value, "s") if isinstance(value, float) else "-"


def _ratio(ratio: Ratio | TooFew, pairs: int) -> tuple[str, str, str]:
    if isinstance(ratio, TooFew):
        return f"needs {ratio.needed} samples", "", ""
    return f"{ratio.value:.3f}", _bounds(ratio), f"{ratio.p:.2g}" if pairs >= ENOUGH else f"needs {ENOUGH} processes"


def _bounds(ratio: Ratio) -> str:
    return f"{ratio.low:.3f} to {ratio.high:.3f}"


def _plain(ratio: Ratio | TooFew, pairs: int) -> Any:
    if isinstance(ratio, TooFew):
        return None
    return {**to_json(ratio), "p": ratio.p if pairs >= ENOUGH else None, "decided": ratio.decided}
