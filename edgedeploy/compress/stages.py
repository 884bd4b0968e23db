"""What is asked for, and the stages that it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedeploy.compress.folder import check_free, network_file, training_folder
from edgedeploy.compress.recipe import STAGES, Recipe, StageName, Training
from edgedeploy.compress.searching.goal import Goal
from edgedeploy.device import load
from edgedeploy.errors import UsageError, did_you_mean
from edgedeploy.records import to_json
from edgedeploy.tasks.protocol import protocol_of


@dataclass(frozen=True)
class Request:
    """What to compress, how, on which data, and where to.

    Args:
        checkpoint: an Ultralytics .pt, or a .safetensors of an earlier compression.
        recipe: the stages and their settings.
        data: a data set with a part ``train`` and a part ``val``, or, with ``val``, one to train on.
        folder: for everything that comes out; gone on with where it is from the same checkpoint and data.
        val: a data set to validate on, where it is one of its own.
        protocol: of the evaluation, by name.
        stages: only these; all of the recipe where empty.
        goal: what the shares of channels are searched for, in place of the recipe's ratio.
        trials: networks that a search tries.
        fresh: throw away what ``folder`` holds of an earlier compression.
    """

    checkpoint: Path
    recipe: Recipe
    data: Path
    folder: Path
    val: Path | None = None
    protocol: str = "ultralytics"
    stages: tuple[str, ...] = ()
    goal: Goal | None = None
    trials: int = 60
    fresh: bool = False


@dataclass(frozen=True)
class Stage:
    """A stage that is done: its settings, and those of its training where it has one.

    Without settings it is the baseline that is no stage of the recipe: the given checkpoint.
    """

    name: StageName
    settings: Mapping[str, Any]
    training: Training | None = None

    @property
    def file(self) -> str:
        """Of the network after it."""
        return network_file(self.name)

    @property
    def folder(self) -> str:
        """Of the trainer."""
        return training_folder(self.name)


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """What there is to do, from the baseline on; trainings of no epoch are left out."""
    found = [] if recipe.baseline and recipe.baseline.epochs else [Stage("baseline", {})]
    for name in recipe.stages:
        own = getattr(recipe, name)
        if isinstance(own, Training) and not own.epochs:
            continue
        settings: dict[str, Any] = {name: to_json(own)}
        if name == "sparse":
            settings["slimming"] = to_json(recipe.slimming)
        if name == "distill":
            settings["distillation"] = to_json(recipe.distillation)
        found.append(Stage(name, settings, own if isinstance(own, Training) else None))
    return tuple(found)


def check(request: Request, stages: tuple[Stage, ...]) -> None:
    """Refuse what can be refused before anything large is read.

    Raises:
        UsageError: no stage, one that the recipe has not, no such protocol, device or goal, no checkpoint, another
            kind of folder.
    """
    recipe, names = request.recipe, [str(stage.name) for stage in stages if stage.settings]
    if not names:
        raise UsageError(f"The recipe {recipe.name} has no stage, so there is nothing to do.")
    for name in request.stages:
        if name not in STAGES:
            raise UsageError(f"There is no stage '{name}'.{did_you_mean(name, STAGES)}")
        if name not in names:
            raise UsageError(f"The recipe {recipe.name} has no stage '{name}'; it has {', '.join(names)}.")
    if recipe.distillation.teacher == "sparse" and "distill" in names and "sparse" not in names:
        raise UsageError(
            f"The recipe {recipe.name} takes the network after stage 'sparse' as the teacher, but has no such stage."
        )
    protocol_of(request.protocol)
    goal = request.goal
    if goal and "prune" not in names:
        raise UsageError(f"The recipe {recipe.name} has no stage 'prune', so there are no shares to search for.")
    if "prune" in names and recipe.prune is not None and recipe.prune.device is not None:
        load(recipe.prune.device)
    if not request.checkpoint.is_file():
        raise UsageError(
            f"{request.checkpoint} does not exist. Give an Ultralytics .pt, or the .safetensors of a compression."
        )
    if request.data.suffix.lower() == ".json" and request.val is None:
        raise UsageError(f"{request.data} is one part of a data set: give the other one, to validate on, with --val.")
    check_free(request.folder)
