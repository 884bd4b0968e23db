"""What the networks of `benchmarks.papers.lmuformer` are worth: records, tables, a picture."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.papers.lmuformer_plan import EXPERIMENTS, LMUFORMER, SYSTEMS, Experiment, Job
from edgedeploy.capture import reference_session
from edgedeploy.model import Model, load
from edgedeploy.recognition.early import Early, early
from edgedeploy.recognition.hearing import Ear, Hearing, Prefixes, Whole, hear
from edgedeploy.recognition.paired import Paired, paired
from edgedeploy.recognition.words import WordAccuracy, word_accuracy
from edgedeploy.records import to_json
from edgedeploy.report import early as early_report
from edgedeploy.report import recognition as report
from edgedeploy.tasks import Keywords, from_contract
from edgedeploy.tasks.speech_files import read_clips
from edgedeploy.tensors import Array
from edgedeploy.train.folder import BEST, RESULT
from edgedeploy.train.splits import split

SCHEMA = 1


@dataclass(frozen=True)
class SystemResult:
    """One system over the folds of an experiment, each clip heard by a network that was trained without it.

    Args:
        system: its name.
        folds: how many of the experiment's are in it.
        parameters: of one network.
        seconds: of training, all folds.
        accuracy: over the clips of all folds.
        lmuformer_minus: accuracy of LMUFormer minus that of this one over the same clips, 95 %; ``None`` for itself.
        early: of systems that answer after every frame.
    """

    system: str
    folds: int
    parameters: int
    seconds: float
    accuracy: WordAccuracy
    lmuformer_minus: Paired | None
    early: Early | None


@dataclass(frozen=True)
class ExperimentResult:
    """One experiment, on the folds that LMUFormer was trained without, and of the systems that have all of these.

    ``missing`` says what is not there yet.
    """

    name: str
    title: str
    recipe: Mapping[str, Any]
    systems: tuple[SystemResult, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Beside:
    """A system beside MLPerf Tiny's keyword model, on the clips of the words that it knows.

    ``words`` is the number of words that the system tells apart: it is asked more than the ten.
    """

    system: str
    words: int
    accuracy: WordAccuracy
    minus_mlperf: Paired | None


@dataclass(frozen=True)
class Results:
    """All of it."""

    experiments: tuple[ExperimentResult, ...]
    beside: tuple[Beside, ...]
    doubts: tuple[str, ...]
    schema: int = SCHEMA


def evaluate(jobs: Iterable[Job], data: Path, mlperf: Path | None, say: Callable[[str], None]) -> Results:
    """Hear all test clips by all networks that are there.

    Args:
        jobs: what was to be trained.
        data: holds the data sets.
        mlperf: folder with MLPerf Tiny's keyword model.
        say: told what is going on.

    Raises:
        UsageError: a checkpoint or a clip cannot be read.
    """
    wanted = list(jobs)
    experiments, heard = [], {}
    for experiment in EXPERIMENTS:
        asked = [job for job in wanted if job.experiment is experiment]
        own, missing = ready(asked)
        if own:
            names = dict.fromkeys(job.system.name for job in own)
            heard[experiment.name] = {
                name: _hearing([job for job in own if job.system.name == name], data, say) for name in names
            }
            experiments.append(_result(experiment, own, heard[experiment.name], missing))
    commands = heard.get("commands-speakers", {})
    beside, doubts = _beside(commands, data, mlperf) if mlperf and commands else ((), ())
    return Results(tuple(experiments), beside, doubts)


def ready(jobs: Sequence[Job]) -> tuple[list[Job], tuple[str, ...]]:
    """The jobs whose networks can be compared, in the order of `SYSTEMS`, and sentences about the others."""
    done = {(job.system.name, job.held) for job in jobs if (job.folder / RESULT).is_file()}
    asked = list(dict.fromkeys(job.held for job in jobs))
    folds = [held for held in asked if (LMUFORMER.name, held) in done]
    own, lacking = [], []
    for system in SYSTEMS:
        of = [job for job in jobs if job.system is system and job.held in folds]
        if of and all((system.name, job.held) in done for job in of):
            own += of
        elif any(job.system is system for job in jobs):
            lacking.append(system.name)
    missing = [f"Not trained on all of these folds yet: {', '.join(lacking)}."] if lacking else []
    if len(folds) < len(asked):
        missing.append(f"{len(folds)} of {len(asked)} folds so far.")
    return own, tuple(missing)


def _hearing(jobs: Sequence[Job], data: Path, say: Callable[[str], None]) -> Hearing:
    """All folds of one system put together."""
    joined: Hearing | None = None
    for job in jobs:
        say(f"hearing {job.name}")
        model = load(job.folder / BEST)
        task = _task(model)
        test = split(data / job.experiment.data, job.held).test
        assert test is not None, "every experiment has test clips"
        found = hear(_ear(model, task), task, test)
        joined = found if joined is None else joined.join(found)
    assert joined is not None, "a system has a fold"
    return joined


def _task(model: Model) -> Keywords:
    task = from_contract(model.task or {})
    assert isinstance(task, Keywords), "a keyword network was trained"
    return task


def _ear(model: Model, task: Keywords) -> Ear:
    """All prefixes of a network that has them; of others the final answers."""
    import torch

    network = model.graphs["main"].network
    if not hasattr(network, "prefixes"):
        return Whole(task, reference_session(model), model.graphs["main"].signature)

    def prefixes(features: Array) -> Array:
        with torch.inference_mode():
            found: Array = network.prefixes(torch.from_numpy(features))[0].numpy()
        return found

    return Prefixes(task, prefixes)


def _result(
    experiment: Experiment, jobs: Sequence[Job], heard: Mapping[str, Hearing], missing: tuple[str, ...]
) -> ExperimentResult:
    best = heard[LMUFORMER.name]
    systems = []
    for name, hearing in heard.items():
        own = [job for job in jobs if job.system.name == name]
        records = [json.loads((job.folder / RESULT).read_text("utf-8")) for job in own]
        other = None if name == LMUFORMER.name else paired(hearing, best, confidence=0.95)
        systems.append(
            SystemResult(
                system=name,
                folds=len(own),
                parameters=records[0]["parameters"],
                seconds=sum(record["seconds"] for record in records),
                accuracy=word_accuracy(hearing),
                lmuformer_minus=other,
                early=early(hearing, _task(load(own[0].folder / BEST))) if len(hearing.heard) > 1 else None,
            )
        )
    recipe = json.loads((jobs[0].folder / RESULT).read_text("utf-8"))["recipe"]
    return ExperimentResult(experiment.name, experiment.title, recipe, tuple(systems), missing)


def _beside(heard: Mapping[str, Hearing], data: Path, mlperf: Path) -> tuple[tuple[Beside, ...], tuple[str, ...]]:
    from benchmarks.peers import mlperf_tiny_keywords as peer

    first = next(iter(heard.values()))
    chosen = [i for i, word in enumerate(first.words) if first.labels[word] in peer.WORDS]
    clips = peer.known(read_clips(data / "speech_commands", "all"))
    order = {f"{clip.path.parent.name}/{clip.path.name}": i for i, clip in enumerate(clips.clips)}
    aligned = clips.subset(order[first.clips[i]] for i in chosen)
    rows = []
    theirs = {name: peer.listen(peer.open_model(mlperf / file), aligned) for name, file in peer.FILES.items()}
    for name, hearing in theirs.items():
        rows.append(Beside(f"MLPerf Tiny, {name}", len(peer.LABELS), word_accuracy(hearing), None))
    for name, hearing in heard.items():
        own = subset(hearing, chosen)
        against = paired(theirs["float"], own, confidence=0.95)
        rows.append(Beside(name, len(hearing.labels), word_accuracy(own), against))
    return tuple(rows), (peer.SEEN,)


def subset(hearing: Hearing, chosen: Sequence[int]) -> Hearing:
    """The hearing of these clips alone."""
    return dataclasses.replace(
        hearing,
        logits=hearing.logits[chosen],
        frames=hearing.frames[chosen],
        words=hearing.words[chosen],
        speakers=tuple(hearing.speakers[i] for i in chosen),
        clips=tuple(hearing.clips[i] for i in chosen),
    )


def table(results: Results) -> str:
    """Everything as Markdown."""
    lines = ["# LMUFormer on held-out speakers", ""]
    for one in results.experiments:
        lines += [f"## {one.title}", "", *_settings(one), "", *_accuracies(one), "", *_speakers(one), *_early(one)]
        lines += [f"- {doubt}" for doubt in dict.fromkeys(d for s in one.systems for d in s.accuracy.doubts)]
        lines += [f"- {sentence}" for sentence in one.missing]
        lines.append("")
    if results.beside:
        rows = [
            (b.system, str(b.words), str(b.accuracy.clips), report.accuracy(b.accuracy), _change(b.minus_mlperf))
            for b in results.beside
        ]
        lines += ["## Beside MLPerf Tiny's keyword model, clips of its ten words", ""]
        lines += markdown(("system", "classes", "clips", "accuracy (95 %)", "minus MLPerf Tiny float (95 %)"), rows)
        lines += ["", *(f"- {doubt}" for doubt in results.doubts), ""]
    return "\n".join(lines)


def _settings(one: ExperimentResult) -> list[str]:
    network, training = one.recipe["network"], one.recipe["training"]
    return [
        f"Recipe `{one.recipe['name']}`: {training['epochs']} epochs, batches of {training['batch']}, seed "
        f"{training['seed']}, windows of {network['frames']} frames, {network['dim']} channels."
    ]


def _accuracies(one: ExperimentResult) -> list[str]:
    rows = []
    for s in one.systems:
        test = s.lmuformer_minus
        signs = "" if test is None or test.signs is None else f"{test.signs:.3g}"
        mcnemar = "" if test is None else f"{test.mcnemar:.3g}"
        rows.append(
            (
                s.system,
                f"{s.parameters:,}",
                str(s.accuracy.clips),
                report.accuracy(s.accuracy),
                _change(test),
                signs,
                mcnemar,
            )
        )
    columns = (
        "system",
        "parameters",
        "clips",
        "accuracy (95 %)",
        "LMUFormer minus it (95 %)",
        "p, speakers",
        "p, McNemar",
    )
    return markdown(columns, rows)


def _change(found: Paired | None) -> str:
    if found is None:
        return ""
    one = found.speakers
    return f"{100 * one.estimate:+.1f} points ({100 * one.low:+.1f} to {100 * one.high:+.1f})"


def _speakers(one: ExperimentResult) -> list[str]:
    if not 1 < len(one.systems[0].accuracy.speakers) < 10:
        return []
    named = [(s.system, s.accuracy) for s in one.systems]
    return [*markdown(("speaker", "clips", *(name for name, _ in named)), report.speaker_rows(named)), ""]


def _early(one: ExperimentResult) -> list[str]:
    named = [(s.system, s.early) for s in one.systems if s.early is not None]
    if not named:
        return []
    rows = early_report.saving_rows(named)
    lines = ["Deciding early, at 99 % of the final accuracy:", "", *markdown(early_report.SAVING_COLUMNS, rows), ""]
    name, first = named[0]
    lines += [
        f"{name}, stopping at a score:",
        "",
        *markdown(early_report.STOP_COLUMNS, early_report.stop_rows(first)),
        "",
    ]
    return [*lines, *(f"- {note}" for note in early_report.notes(first))]


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table as lines of Markdown."""
    return [
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def write(results: Results, out: Path) -> list[Path]:
    """lmuformer.json, .md and a picture per experiment below ``out``; the paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / "lmuformer.json", out / "lmuformer.md"]
    paths[0].write_text(json.dumps(to_json(results), indent=1) + "\n", encoding="utf-8")
    paths[1].write_text(table(results), encoding="utf-8")
    for one in results.experiments:
        named = [(s.system, s.early) for s in one.systems if s.early is not None]
        if named:
            paths.append(out / f"lmuformer_{one.name}.png")
            paths[-1].write_bytes(early_report.picture(named, one.title))
    return paths
