"""A `Ladder` as rows of text and sentences. Pure functions of the record."""

from __future__ import annotations

from edgedeploy.drift import Drift, ModuleDrift
from edgedeploy.fix import Fix
from edgedeploy.ladder import Ladder
from edgedeploy.rungs import Rung

#: Modules shown after the one where the drift begins.
AFTER = 2


def rung_rows(ladder: Ladder) -> list[tuple[str, str, str, str, str, str]]:
    """Rung, who computed it, SNR of the worst channel, largest error, how far results moved, whether it held."""
    return [
        (rung.name, rung.by, *_tensors(rung), "-" if rung.distance is None else f"{rung.distance:.3f}", rung.state)
        for rung in ladder.rungs
    ]


def reasons(ladder: Ladder) -> list[str]:
    """Why rungs broke or were left out."""
    return [f"{rung.name} {rung.state}: {rung.seen}" for rung in ladder.rungs if rung.seen]


def drift_rows(drift: Drift) -> list[tuple[str, str, str, str]]:
    """Modules around the one where the drift begins: the last good one, that, and some after it."""
    if drift.begins is None:
        return []
    at = drift.modules.index(drift.begins)
    rows = [("begins", drift.begins), *(("after", row) for row in drift.modules[at + 1 : at + 1 + AFTER])]
    if drift.before is not None:
        rows.insert(0, ("last good", drift.before))
    return [(where, _module(row), f"{row.snr:.1f} dB", _oddities(row)) for where, row in rows]


def finding_sentences(ladder: Ladder) -> list[str]:
    """What was found and what to do."""
    return [f"{finding.sentence} {finding.advice}" for finding in ladder.findings]


def verdict(ladder: Ladder) -> str:
    """One line: the first rung that broke, or that none did; and what did not run."""
    if ladder.broken is not None:
        return f"broken: {ladder.broken} is the first of {len(ladder.rungs)} rungs that breaks"
    if ladder.rungs[-1].state == "skipped":
        return "not known: the artifact did not run here; every form before it holds"
    return f"holds: every rung, over {ladder.count} samples"


def fix_rows(fixed: Fix) -> list[tuple[str, str, str]]:
    """Round, modules added to those in float, and what changed."""
    return [(str(i), ", ".join(one.added) or "none", one.sentence) for i, one in enumerate(fixed.rounds, 1)]


def _tensors(rung: Rung) -> tuple[str, str]:
    worst = rung.worst
    if worst is None:
        return "-", "-"
    if rung.nonfinite:
        return "NaN", "-"
    return f"{worst.worst_snr:.0f} dB", f"{max(one.max_abs for one in rung.agreement):.3g}"


def _module(row: ModuleDrift) -> str:
    return f"{row.module} + {row.fused}" if row.fused else row.module


def _oddities(row: ModuleDrift) -> str:
    said = [f"{row.nonfinite} NaN or infinite"] if row.nonfinite else []
    said += [f"{row.clipped:.0%} clipped"] if row.clipped >= 0.01 else []
    return ", ".join(said)
