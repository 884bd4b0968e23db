"""The ladder on the command line: ``edgedeploy compare --ladder``, and what an export says when something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgedeploy.cli.terminal import print_json, print_notes, print_table, progress

if TYPE_CHECKING:
    from edgedeploy.artifact import Artifact
    from edgedeploy.exporter import Evidence
    from edgedeploy.fix import Fix
    from edgedeploy.ladder import Ladder

#: Images, or clips, that every rung runs on.
IMAGES = 8
#: At most so many images to calibrate on when a fix is exported, as an export takes.
CALIBRATION_IMAGES = 200


@dataclass(frozen=True)
class Asked:
    """What ``edgedeploy compare --ladder`` was asked for; see its options."""

    checkpoint: str
    bundle: Path
    data: Path | None
    split: str
    limit: int | None
    threads: int | None
    fix: bool
    output: Path | None
    as_json: bool


def run_ladder(asked: Asked) -> None:
    """Climb, print, and with ``fix`` export again; status 4 where a rung is broken in the end."""
    from edgedeploy.archive import open_artifact
    from edgedeploy.fix import Again, fix
    from edgedeploy.ladder import climb, shape_of
    from edgedeploy.model import load

    fixed: Fix | None = None
    with progress() as say:
        artifact = open_artifact(asked.bundle)
        samples = _samples(asked)
        folder = asked.output or asked.bundle.parent / "fixed"
        again = Again(_calibration(asked, artifact), samples, folder, asked.threads)
        if asked.fix:
            again.check(artifact)
        say("loading the checkpoint")
        model = load(asked.checkpoint, shape_of(artifact, asked.checkpoint))
        ladder = climb(model, artifact, samples, asked.threads, say)
        if asked.fix and ladder.broken is not None:
            fixed = fix(model, artifact, ladder, again, say)
    if asked.as_json:
        print_json({"ladder": ladder, "fix": fixed})
    else:
        _print(ladder)
        if fixed is not None:
            _print_fix(fixed)
    last = ladder if fixed is None else fixed.ladder
    if last.broken is not None:
        raise typer.Exit(4)


def after_export(checkpoint: str, artifact: Artifact, say: Callable[[str], None]) -> list[str]:
    """What is wrong with a new artifact, in sentences; nothing where its golden samples agree, as they mostly do."""
    from edgedeploy.errors import EdgeDeployError
    from edgedeploy.ladder import climb, doubtful, shape_of
    from edgedeploy.model import load
    from edgedeploy.report.ladder import finding_sentences

    if not doubtful(artifact):
        return []
    say("looking for what is wrong")
    try:
        ladder = climb(load(checkpoint, shape_of(artifact, checkpoint)), artifact, say=say)
    except EdgeDeployError as error:
        return [f"the results moved too far, and where could not be found: {error}"]
    if ladder.broken is None:
        return []
    more = f"see: edgedeploy compare {checkpoint} {artifact.path} --data data.yaml --ladder --fix"
    return [f"{ladder.broken} breaks on the golden samples. {' '.join(finding_sentences(ladder))}", more]


def _samples(asked: Asked) -> Evidence | None:
    """Some images or clips of the data set, evenly spread; ``None``, for the golden samples, without one."""
    from edgedeploy.pipeline import evidence_from
    from edgedeploy.tasks.dataset import read_detection_set
    from edgedeploy.tasks.speech_files import is_clips, read_clips

    if asked.data is None:
        return None
    data = (read_clips if is_clips(asked.data) else read_detection_set)(asked.data, asked.split)
    if asked.limit is not None:
        data = data.subset(range(min(asked.limit, len(data))))
    return evidence_from(data, IMAGES)


def _calibration(asked: Asked, artifact: Artifact) -> Evidence:
    """What an export would calibrate on; golden samples, which only float formats take, without a data set."""
    from edgedeploy.exporter import Evidence
    from edgedeploy.pipeline import evidence_from, read_calibration_set

    if asked.data is None:
        samples = [artifact.sample(golden) for golden in artifact.manifest.golden if golden.graph == "main"]
        return Evidence(samples, artifact.manifest.golden_origin)
    return evidence_from(read_calibration_set(asked.data, None), CALIBRATION_IMAGES)


def _print(ladder: Ladder) -> None:
    from edgedeploy.report.ladder import drift_rows, finding_sentences, reasons, rung_rows, verdict

    columns = ["rung", "by", "worst SNR", "largest error", "results moved", ""]
    print_table(f"{ladder.artifact} on {ladder.count} of {ladder.samples}", columns, rung_rows(ladder))
    for reason in reasons(ladder):
        typer.echo(reason)
    if ladder.drift is not None and ladder.drift.begins is not None:
        rows = drift_rows(ladder.drift)
        print_table(f"where it begins, inside {ladder.drift.rung}", ["", "module", "SNR", ""], rows)
    print_notes(finding_sentences(ladder))
    typer.echo(verdict(ladder))


def _print_fix(fixed: Fix) -> None:
    from edgedeploy.report.ladder import fix_rows

    if fixed.rounds:
        print_table("exported again", ["round", "also in float", "result"], fix_rows(fixed))
    typer.echo(fixed.sentence)
