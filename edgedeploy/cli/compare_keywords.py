"""``edgedeploy compare`` for models that hear keywords: did the export keep the accuracy, and the early decision?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgedeploy.cli.terminal import print_json, print_notes, print_table, progress, writable
from edgedeploy.errors import Unavailable, UsageError

if TYPE_CHECKING:
    from edgedeploy.recognition.comparison import GraphComparison, KeywordComparison
    from edgedeploy.recognition.early import Early
    from edgedeploy.tasks.clips import ClipSet

#: The equivalence margin where the user states none: one point of accuracy.
MARGIN = 0.01


@dataclass(frozen=True)
class Asked:
    """What ``edgedeploy compare`` was asked for; see its options. ``margin`` is ``None`` where none was given."""

    checkpoint: str
    bundle: Path
    data: Path
    split: str
    limit: int | None
    margin: float | None
    threads: int | None
    pictures: Path
    show: int
    as_json: bool


def run_keywords(asked: Asked) -> None:
    """Compare, print, draw; status 4 where a margin was given and the answer is not *pass*."""
    from edgedeploy.recognition.comparison import Options, compare_keywords

    data = _clips(asked)
    options = Options(margin=MARGIN if asked.margin is None else asked.margin, threads=asked.threads)
    with progress() as say:
        compared = compare_keywords(asked.checkpoint, asked.bundle, data, options, say)
    drawn = _draw(compared, asked)
    if asked.as_json:
        print_json({"comparison": compared, "pictures": [drawn] if drawn else []})
    else:
        _print(compared, asked.show)
        if drawn:
            typer.echo(f"drawn: {drawn}")
        print_notes(list(dict.fromkeys([*compared.doubts, *compared.equivalence.doubts])))
        typer.echo(f"{compared.equivalence.outcome}: {compared.equivalence.sentence}")
    if asked.margin is not None and compared.equivalence.outcome != "pass":
        raise typer.Exit(4)


def _clips(asked: Asked) -> ClipSet:
    """The split that was asked for; a limit takes clips evenly from all of it, which is sorted by words."""
    from edgedeploy.tasks.speech_files import read_clips

    data = read_clips(asked.data, asked.split)
    if asked.limit is None or asked.limit >= len(data):
        return data
    return data.subset(i * len(data) // asked.limit for i in range(asked.limit))


def _draw(compared: KeywordComparison, asked: Asked) -> Path | None:
    """The early decisions of both, where there are any; nothing with ``--show 0`` or without what draws."""
    from edgedeploy.report.early import picture

    sides = [
        (name, one)
        for graph in compared.graphs
        for name, one in (("FP32 checkpoint", graph.reference_early), ("artifact", graph.candidate_early))
        if one is not None
    ]
    if not sides or not asked.show:
        return None
    try:
        content = picture(sides)
    except Unavailable:
        return None
    path = asked.pictures / "early.png"
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return path


def _print(compared: KeywordComparison, show: int) -> None:
    from edgedeploy.recognition.resampling import ENOUGH_SPEAKERS
    from edgedeploy.report.recognition import GRAPHS, fact_rows, metric_rows, speaker_rows, test_rows

    print_table("compared", ["", ""], fact_rows(compared))
    print_table("accuracy", ["", "FP32", "artifact", "difference"], metric_rows(compared))
    for graph in compared.graphs:
        _print_graph(graph, max(show, 3))
    last = compared.graphs[-1]
    print_table(f"difference, {GRAPHS[last.graph]}", ["", ""], test_rows(last.difference))
    if 1 < len(last.reference.speakers) < ENOUGH_SPEAKERS:
        rows = speaker_rows([("FP32", last.reference), ("artifact", last.candidate)])
        print_table(f"speakers, {GRAPHS[last.graph]}", ["speaker", "clips", "FP32", "artifact"], rows)
    if last.reference_early is not None and last.candidate_early is not None:
        _print_early(last.reference_early, last.candidate_early)


def _print_graph(graph: GraphComparison, most: int) -> None:
    from edgedeploy.report.recognition import GRAPHS, changed_rows, word_rows

    name = GRAPHS[graph.graph]
    fell = word_rows(graph, most)
    if fell:
        print_table(f"words that fell most, {name}", ["word (clips)", "FP32", "artifact", "difference"], fell)
    changed = changed_rows(graph.changed, most)
    if changed:
        print_table(f"clips heard otherwise, {name}", ["clip", "spoken", "FP32 -> artifact", "score moved"], changed)


def _print_early(reference: Early, candidate: Early) -> None:
    from edgedeploy.report.early import SAVING_COLUMNS, STOP_COLUMNS, notes, saving_rows, stop_rows

    sides = [("FP32", reference), ("artifact", candidate)]
    print_table("deciding early, at 99 % of the final accuracy", SAVING_COLUMNS, saving_rows(sides))
    print_table("deciding early, artifact", STOP_COLUMNS, stop_rows(candidate))
    print_notes(notes(candidate))


def refuse(**options: object) -> None:
    """Refuse options that say how boxes are counted.

    Raises:
        UsageError: one of them was given; the name is that of the option.
    """
    for name, value in options.items():
        if value is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} says how boxes are counted, and this model hears keywords: leave it out."
            )
