"""A training from a folder of clips to a checkpoint that can be exported, and what it is worth."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from edgedeploy.errors import UsageError
from edgedeploy.models import native
from edgedeploy.recognition.resampling import ENOUGH_SPEAKERS
from edgedeploy.records import read_json, to_json
from edgedeploy.tasks import contract_of
from edgedeploy.tasks.clips import ClipSet
from edgedeploy.tasks.keywords import Keywords
from edgedeploy.train import folder as places
from edgedeploy.train.bank import Bank, Window, read_bank
from edgedeploy.train.baselines import fit_linear
from edgedeploy.train.evaluation import Score, judge
from edgedeploy.train.folder import writing
from edgedeploy.train.log import Epoch, best
from edgedeploy.train.loop import Course, check, train
from edgedeploy.train.networks import LINEAR, build, options_of
from edgedeploy.train.pace import Pace
from edgedeploy.train.recipe import Recipe
from edgedeploy.train.splits import Splits, split
from edgedeploy.train.state import key_of

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Args:
        architecture: a name of `edgedeploy.train.networks.NETWORKS`.
        recipe: how it is trained.
        data: folder of clips, see `edgedeploy.tasks.speech_files.read_clips`.
        folder: where all that comes out is kept; gone on with where it holds the same training.
        held: speakers to test on, see `edgedeploy.train.splits.split`.
        fresh: throw away what the folder has of an earlier training.
    """

    architecture: str
    recipe: Recipe
    data: Path
    folder: Path
    held: str = ""
    fresh: bool = False


@dataclass(frozen=True)
class Part:
    """A part of the data: clips, the speakers in it, and the sha256 of what they said."""

    clips: int
    speakers: int
    digest: str


@dataclass(frozen=True)
class Mark:
    """What tells a training from any other.

    Args:
        architecture, options: of the network; the second are its constructor's.
        recipe: it is trained by.
        held: speakers that are held out, as they were asked for.
        parts: train, val and test.
    """

    architecture: str
    options: Mapping[str, Any]
    recipe: Recipe
    held: str
    parts: Mapping[str, Part]


@dataclass(frozen=True)
class TrainingRun(Mark):
    """What came out of a training.

    Args:
        data: name of the set of clips.
        parameters: trainable ones.
        best: the epoch whose network was kept; ``None`` for what is not trained in epochs.
        val: score of it on the validation clips.
        test: on the test clips; ``None`` where there are none.
        seconds: of all epochs.
        notes: what is to be known of the data.
        tools: versions.
    """

    data: str
    parameters: int
    best: Epoch | None
    val: Score
    test: Score | None
    seconds: float
    notes: tuple[str, ...]
    tools: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the accuracies and their intervals."""
        scores = {name: score for name, score in (("val", self.val), ("test", self.test)) if score is not None}
        told = {n: {**to_json(s), "accuracy": s.accuracy, "interval": list(s.interval)} for n, s in scores.items()}
        return {"schema": 1, **to_json(self), **told}


def run(request: Request, say: Say) -> TrainingRun:
    """Train, keep the best network as best.safetensors, and judge it on the test clips, once.

    Raises:
        UsageError: see `split`, `read_bank`, `options_of` and `train`; or the folder holds something else.
        RunFailed: see `train`.
        Unavailable: what reads sound, or finds the linear classifier, is not installed.
    """
    places.check_free(request.folder)
    recipe = request.recipe
    splits = split(request.data, request.held)
    options = options_of(request.architecture, recipe, len(splits.train.labels))
    sets = {"train": splits.train, "val": splits.val, **({"test": splits.test} if splits.test else {})}
    parts = {name: Part(len(clips), len(clips.speakers), clips.digest()) for name, clips in sets.items()}
    mark = Mark(request.architecture, options, recipe, request.held, parts)
    _refuse_other(request, mark)
    window = Window(recipe.features, recipe.network.frames)
    banks = {name: read_bank(clips, window, say) for name, clips in sets.items()}
    network, epochs = _trained(request, mark, banks, say)
    say("judging the best network")
    found = TrainingRun(
        **vars(mark),
        data=splits.train.name,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        best=best(epochs) if epochs else None,
        val=judge(network, banks["val"]),
        test=judge(network, banks["test"]) if "test" in banks else None,
        seconds=sum(epoch.seconds for epoch in epochs),
        notes=(*_notes(splits, banks), *_few(splits.test)),
        tools=_tools(),
    )
    _keep(request.folder, mark, network, splits.train.labels, to_json(found.best))
    places.write_record(request.folder / places.RESULT, found.to_json())
    return found


def _refuse_other(request: Request, mark: Mark) -> None:
    """Go on with the same training only; of another one that came to no epoch there is nothing to lose.

    Raises:
        UsageError: the folder is another's.
    """
    folder, own = request.folder, to_json(mark)
    if request.fresh or not any((folder / name).exists() for name in places.TRAINED):
        return
    before = read_json(folder / places.MARK)
    if before != own:
        differs = [key for key in own if not isinstance(before, dict) or before.get(key) != own[key]]
        raise UsageError(
            f"{folder} holds a training with another {' and another '.join(differs)}. Give another folder, or throw "
            "away what is in this one with --fresh."
        )


def _begin(request: Request, mark: Mark) -> None:
    """Mark the folder as this training's, when nothing that is asked for can be refused any more.

    Raises:
        UsageError: it cannot be written.
    """
    folder = request.folder
    if request.fresh:
        places.clear(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}.") from error
    places.write_record(folder / places.MARK, mark)


def _trained(request: Request, mark: Mark, banks: Mapping[str, Bank], say: Say) -> tuple[nn.Module, tuple[Epoch, ...]]:
    if request.architecture == LINEAR:
        say("finding the linear classifier")
        linear = fit_linear(banks["train"], banks["val"])
        _begin(request, mark)
        return linear, ()
    labels = banks["train"].clips.labels

    def keep(network: nn.Module, epoch: Epoch) -> None:
        _keep(request.folder, mark, network, labels, to_json(epoch))

    factory = partial(build, request.architecture, mark.options)
    course = Course(request.recipe, factory, banks["train"], banks["val"], request.folder, key_of(mark), keep)
    check(course)
    _begin(request, mark)
    trained = train(course, Pace(request.recipe.training.epochs, say))
    return trained.network, trained.epochs


def _keep(folder: Path, mark: Mark, network: nn.Module, labels: tuple[str, ...], epoch: Any) -> None:
    """Write the network as a checkpoint that can be exported, with what it was trained by and on."""
    recipe = mark.recipe
    task = Keywords(labels, recipe.features, recipe.network.frames, getattr(network, "lookahead", 0))
    record = {
        "architecture": mark.architecture,
        "options": mark.options,
        "task": contract_of(task),
        "training": {"recipe": recipe, "held": mark.held, "parts": mark.parts, "epoch": epoch},
    }
    with writing(folder / places.BEST):
        native.save(folder / places.BEST, network, to_json(record))


def _notes(splits: Splits, banks: Mapping[str, Bank]) -> tuple[str, ...]:
    """What is to be known of the data, each once."""
    faults = [fault for bank in banks.values() for fault in bank.clips.faults]
    notes = [*splits.notes, *faults]
    total, cut = sum(map(len, banks.values())), sum(bank.cut for bank in banks.values())
    if cut:
        frames = banks["train"].window.frames
        notes.append(f"{cut} of {total} clips are longer than the {frames} frames of network.frames, and are cut.")
    return tuple(dict.fromkeys(notes))


def _few(test: ClipSet | None) -> tuple[str, ...]:
    """A sentence where the interval of the test is not one for other speakers; nobody knows who is not named."""
    if test is None or not all(clip.speaker for clip in test.clips) or len(test.speakers) >= ENOUGH_SPEAKERS:
        return ()
    count = len(test.speakers)
    return (
        f"Test clips of {count} speaker{'s'[: count != 1]}: the 95 % interval is over clips, and too narrow for "
        "other speakers; edgedeploy compare resamples speakers.",
    )


def _tools() -> dict[str, str]:
    found = {}
    for name in ("edgedeploy", "torch", "numpy", "scikit-learn"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
