"""How well words are recognised, as rows of text. Pure functions of the records."""

from __future__ import annotations

from collections.abc import Sequence

from edgedeploy.accuracy import Difference
from edgedeploy.recognition.comparison import ChangedClip, GraphComparison, KeywordComparison
from edgedeploy.recognition.paired import Paired
from edgedeploy.recognition.words import WordAccuracy

#: What the graphs are called.
GRAPHS = {"main": "whole clip", "stream": "step by step"}


def fact_rows(comparison: KeywordComparison) -> list[tuple[str, str]]:
    """What the numbers depend on, and how the logits agree."""
    one = comparison.graphs[0].candidate
    voices = f", {len(one.speakers)} speakers" if one.speakers else ""
    data = f"{comparison.data}, {comparison.split}: {one.clips} clips{voices} (sha256 {comparison.data_digest[:12]})"
    rows = [
        ("checkpoint", f"{comparison.checkpoint.reference} (sha256 {comparison.checkpoint.sha256[:12]})"),
        ("artifact", f"{comparison.artifact} ({comparison.artifact_digest[:12]})"),
        ("run by", comparison.run_by),
        ("data", data),
    ]
    for graph in comparison.graphs:
        agreed = graph.agreement
        said = (
            f"SNR {agreed.snr:.0f} dB, largest error {agreed.max_abs:.3g}, {len(graph.changed)} clips heard otherwise"
        )
        rows.append((f"logits, {GRAPHS[graph.graph]}", said))
    return rows


def metric_rows(comparison: KeywordComparison) -> list[tuple[str, str, str, str]]:
    """Graph, accuracy of FP32 and of the artifact, difference with its interval."""
    return [
        (GRAPHS[g.graph], accuracy(g.reference), accuracy(g.candidate), difference(g.difference.speakers))
        for g in comparison.graphs
    ]


def word_rows(graph: GraphComparison, most: int) -> list[tuple[str, str, str, str]]:
    """The words whose recall fell most: word with its clips, FP32, artifact, difference."""
    pairs = zip(graph.reference.words, graph.candidate.words, strict=True)
    fell = sorted(((other.share - one.share, one, other) for one, other in pairs), key=lambda row: row[0])
    return [
        (f"{one.name} ({one.clips})", f"{one.share:.1%}", f"{other.share:.1%}", f"{change:+.1%}")
        for change, one, other in fell[:most]
        if change < 0
    ]


def changed_rows(changed: Sequence[ChangedClip], most: int) -> list[tuple[str, str, str, str]]:
    """Clip, what was spoken, what was heard before and after, by how much a score moved."""
    return [(c.clip, c.spoken, f"{c.reference} -> {c.candidate}", f"{c.moved:.3f}") for c in changed[:most]]


def accuracy(found: WordAccuracy) -> str:
    """``93.1% (90.2% to 95.5%)``."""
    one = found.accuracy
    return f"{one.value:.1%} ({one.low:.1%} to {one.high:.1%})"


def difference(found: Difference) -> str:
    """``+0.0033  (90%: -0.0012 to +0.0080)``."""
    return f"{found.estimate:+.4f}  ({found.confidence:.0%}: {found.low:+.4f} to {found.high:+.4f})"


def confusion_rows(found: WordAccuracy) -> list[tuple[str, str, str]]:
    """Spoken, heard, clips."""
    return [(one.spoken, one.heard or "nothing", str(one.clips)) for one in found.confused]


def speaker_rows(systems: Sequence[tuple[str, WordAccuracy]]) -> list[tuple[str, ...]]:
    """Speaker, clips, accuracy of each system."""
    first = systems[0][1].speakers
    return [
        (part.name, str(part.clips), *(f"{found.speakers[i].share:.1%}" for _, found in systems))
        for i, part in enumerate(first)
    ]


def test_rows(found: Paired) -> list[tuple[str, str]]:
    """The tests of a difference, in words."""
    rows = [
        ("interval over speakers", f"{difference(found.speakers)}, {found.voices} speakers"),
        ("interval over clips", f"{difference(found.clips)}, as if each clip had a speaker of its own"),
        ("only one was right", f"+{found.gained} / -{found.lost} clips, McNemar p = {found.mcnemar:.3g}"),
    ]
    if found.signs is not None:
        rows.append(("signs of speakers turned", f"p = {found.signs:.3g}"))
    return rows
