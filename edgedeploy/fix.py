"""Doing what the ladder advises: export again with the named modules in float, climb again, and say what it changed."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedeploy import device
from edgedeploy.artifact import SUFFIX, Artifact, replace_directory
from edgedeploy.errors import ExportFailed, UsageError
from edgedeploy.exporter import Evidence, Exporter, Progress, Request, export
from edgedeploy.ladder import Ladder, climb, shape_of
from edgedeploy.model import Model
from edgedeploy.rungs import Rung, Subject

#: Exports that are tried: noise that adds up over many modules is no case for keeping them one by one.
ROUNDS = 4


@dataclass(frozen=True)
class Round:
    """One export and its ladder: modules added to ``keep_float``, the first rung that broke after it, what changed."""

    added: tuple[str, ...]
    broken: str | None
    sentence: str


@dataclass(frozen=True)
class Fix:
    """What came of it. ``artifact`` is the new bundle, there only if its ladder holds; ``sentence`` sums it up."""

    rounds: tuple[Round, ...]
    artifact: str | None
    ladder: Ladder
    sentence: str


@dataclass(frozen=True)
class Again:
    """How to export again: real images to calibrate on, samples to climb on, where to, and threads."""

    calibration: Evidence
    samples: Evidence | None
    directory: Path
    threads: int | None = None

    def check(self, artifact: Artifact) -> None:
        """Say before any work what would be missing.

        Raises:
            UsageError: int8 without images to calibrate on.
        """
        if artifact.manifest.exporter.precision == "int8" and self.calibration.calibration is None:
            raise UsageError("To export int8 again there have to be images to calibrate on: give --data data.yaml.")


def fix(model: Model, artifact: Artifact, ladder: Ladder, again: Again, say: Progress | None = None) -> Fix:
    """Export ``model`` again as its findings advise until the ladder holds, at most `ROUNDS` times.

    ``again.directory/NAME.edge`` is written, or replaced, only by a bundle whose every rung holds.

    Raises:
        UsageError: int8 without images to calibrate on, or the directory cannot be written.
    """
    say = say or (lambda _: None)
    subject = Subject.of(model, artifact, again.samples, again.threads)
    again.check(artifact)
    exporter, rounds = subject.exporter(), list[Round]()
    try:
        again.directory.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=".edgedeploy-fix-", dir=again.directory)
    except OSError as error:
        raise UsageError(f"{again.directory} cannot be written: {error.strerror}.") from error
    with temporary as folder:
        while ladder.broken is not None and len(rounds) < ROUNDS:
            wanted = _wanted(ladder, exporter)
            if wanted is None:
                break
            say(f"exporting again, round {len(rounds) + 1}")
            try:
                made, exporter, added = _export(subject, exporter, wanted, again, Path(folder), say)
            except ExportFailed as error:
                rounds.append(Round(wanted, ladder.broken, str(error)))
                break
            if not added and wanted:
                break
            following = climb(subject.model, made, again.samples, again.threads, say)
            rounds.append(Round(added, following.broken, _change(ladder, following)))
            ladder = following
        if ladder.broken is not None or not rounds:
            return Fix(tuple(rounds), None, ladder, _failed(ladder, rounds))
        target = again.directory / f"{artifact.manifest.name}{SUFFIX}"
        replace_directory(made.path, target)
    kept = f" with {', '.join(exporter.keep_float)} in float" if exporter.keep_float else ""
    sentence = f"Exported again{kept}, every rung holds: {target}."
    ladder = dataclasses.replace(ladder, artifact=str(target))
    return Fix(tuple(rounds), str(target), ladder, sentence)


def _wanted(ladder: Ladder, exporter: Exporter) -> tuple[str, ...] | None:
    """Modules to keep in float now; of those that are already, the module around them. ``None``: nothing can help."""
    finding = next((finding for finding in ladder.findings if finding.export_again), None)
    if finding is None:
        return None
    wanted = []
    for name in finding.keep_float:
        while name in exporter.keep_float:
            name = name.rpartition(".")[0]
        wanted.append(name)
    kept = tuple(dict.fromkeys(filter(None, wanted)))
    return kept if kept or not finding.keep_float else None


def _export(
    subject: Subject, exporter: Exporter, wanted: tuple[str, ...], again: Again, folder: Path, say: Progress
) -> tuple[Artifact, Exporter, tuple[str, ...]]:
    """The new bundle, how it was exported, and which of ``wanted`` that kept in float.

    Not all modules are something that a backend lowers: of what it does not know, the module around it is kept.
    """
    name = subject.artifact.manifest.device
    profile = device.load(name) if name in device.names() else None
    shape = shape_of(subject.artifact, subject.model.source.reference)
    while True:
        other = dataclasses.replace(exporter, keep_float=(*exporter.keep_float, *wanted))
        try:
            made = export(subject.model, Request(other, again.calibration, shape, profile), folder, say)
            return made, other, wanted
        except UsageError as error:
            others = [m.rpartition(".")[0] if f"'{m}'" in str(error) else m for m in wanted]
            others = [m for m in others if m and m not in exporter.keep_float]
            if others == list(wanted):
                raise
            wanted = tuple(dict.fromkeys(others))


def _change(before: Ladder, after: Ladder) -> str:
    """How the artifact's results moved before and after."""
    one, other = before.rungs[-1], after.rungs[-1]
    state = "every rung holds" if after.broken is None else f"{after.broken} still breaks"
    return f"results move by {_moved(other)} instead of {_moved(one)}; {state}"


def _moved(rung: Rung) -> str:
    return "an unknown distance" if rung.distance is None else f"{rung.distance:.3f}"


def _failed(ladder: Ladder, rounds: Sequence[Round]) -> str:
    if ladder.broken is None:
        return "Every rung holds: there is nothing to fix."
    said = ladder.findings[0].advice if ladder.findings else "Export in a higher precision."
    tried = (
        f"after {len(rounds)} exports" if len(rounds) > 1 else "after one export" if rounds else "by exporting again"
    )
    return f"{ladder.broken} could not be fixed {tried}; no bundle was written. {said}"
