"""Training a detector further: with a penalty on its scale factors, with a teacher, or with neither.

The training itself is that of Ultralytics (`edgedeploy.compress.training.loop`), which is imported when it is needed.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgedeploy.compress.detector import Detector
from edgedeploy.compress.evaluation import digest
from edgedeploy.compress.recipe import Distillation, Slimming, Training
from edgedeploy.compress.staging import Staged
from edgedeploy.compress.training import epochs, state
from edgedeploy.compress.training.epochs import Epoch
from edgedeploy.compress.training.slimming import prunable
from edgedeploy.errors import RunFailed, Unavailable, UsageError, did_you_mean
from edgedeploy.records import to_json

if TYPE_CHECKING:
    from edgedeploy.compress.training.loop import Plan

#: Settings of Ultralytics that are fields of `Training`, or would make it do something else than train.
_OURS = frozenset(
    (
        "amp",
        "batch",
        "classes",
        "close_mosaic",
        "compile",
        "data",
        "distill_model",
        "epochs",
        "exist_ok",
        "fraction",
        "imgsz",
        "lr0",
        "lrf",
        "mode",
        "model",
        "name",
        "optimizer",
        "patience",
        "plots",
        "pretrained",
        "profile",
        "project",
        "quantize",
        "rect",
        "resume",
        "save",
        "save_dir",
        "save_period",
        "seed",
        "single_cls",
        "split",
        "task",
        "time",
        "val",
        "warmup_epochs",
    )
)
_OPTIMIZERS = ("auto", "SGD", "MuSGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSprop")
#: What torch and CUDA say when there is no memory left.
_NO_MEMORY = ("out of memory", "can't allocate memory", "cudnn_status_alloc_failed", "cublas_status_alloc_failed")


@dataclass(frozen=True, eq=False)
class Extra:
    """What a training does beside learning from labels.

    Args:
        slimming: the penalty on scale factors.
        distillation: what is learnt from ``teacher``.
        teacher: of the same classes as the student.
        slimmed: names of the batch normalisations that the penalty is on, or whose scale factors are only logged
            where there is none: `slimming.prunable` with the parts that pruning will keep. ``None``
            is its default, where there is a penalty.
    """

    slimming: Slimming | None = None
    distillation: Distillation | None = None
    teacher: Detector | None = None
    slimmed: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class Trained:
    """What came out: the averaged network (EMA) after the last epoch, and what happened on the way.

    ``network`` is a plain ``DetectionModel``: float32, on the CPU, in eval mode. ``seconds`` is the sum over all
    epochs, those before a kill included.
    """

    network: Any
    epochs: tuple[Epoch, ...]
    seconds: float


def train(
    detector: Detector,
    data: Staged,
    training: Training,
    folder: str | Path,
    extra: Extra | None = None,
    follow: Callable[[Epoch], None] | None = None,
) -> Trained:
    """Train a copy of a detector; where ``folder`` holds the same training unfinished, go on with its last epoch.

    Under torchrun all processes call this, share every batch, and get the same network; the first one measures and
    writes. On one machine the result of a resumed training is that of one which was never interrupted.

    Args:
        detector: where it starts; it is not changed.
        data: images and labels, with the same classes as the detector.
        training: see there. With 0 epochs a copy of the network comes back.
        folder: written to: ``epochs.jsonl`` and ``last.pt``, the state after the last epoch.
        extra: penalty and teacher.
        follow: called after every epoch, when its state is on disk.

    Raises:
        UsageError: classes differ, there are no images, the batch cannot be divided, a setting of Ultralytics is wrong,
            or the folder holds another training.
        RunFailed: out of memory, or the loss is not finite any more.
        Unavailable: ultralytics is not installed.
    """
    extra = extra or Extra()
    loops = _loops()
    rank, world = loops.processes()
    _check(detector, data, training, extra, world)
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    slimmed = _slimmed(detector, extra)
    plan: Plan = loops.Plan(
        detector, data, training, folder, extra.slimming, slimmed, extra.distillation, extra.teacher,
        follow or (lambda epoch: None), _key(detector, data, training, extra, slimmed), rank, world,
    )  # fmt: skip
    with _manners(), _translated(training):
        return _trained(loops, plan)


def _trained(loops: Any, plan: Plan) -> Trained:
    found = state.read(plan.folder, plan.key)
    if plan.training.epochs > (found["epoch"] if found else 0):
        overrides = _overrides(plan)
        loops.settle(overrides)
        loop = loops.Loop(plan, overrides)
        loop.train()
        network, done = loop.snapshot().cpu(), loop.epochs_done
    else:
        network, done = deepcopy(plan.detector.network), epochs.read(plan.folder / state.LOG)
        if found:
            network.load_state_dict({k: v for k, v in found["ema"].items() if not k.startswith("connectors.")})
    return Trained(network, done, math.fsum(epoch.seconds for epoch in done))


def _loops() -> Any:
    from edgedeploy.models.yolo import quietly

    try:
        with quietly():
            from edgedeploy.compress.training import loop
    except ImportError as error:
        raise Unavailable.extra("ultralytics, which trains the network,", "compress") from error
    return loop


def _slimmed(detector: Detector, extra: Extra) -> tuple[str, ...]:
    """Batch normalisations that are penalised, or whose scale factors are logged."""
    if extra.slimming is None and extra.slimmed is None:
        return ()
    names = prunable(detector.network) if extra.slimmed is None else extra.slimmed
    return tuple(dict.fromkeys(names))


def _key(detector: Detector, data: Staged, training: Training, extra: Extra, slimmed: tuple[str, ...]) -> str:
    teacher = None if extra.teacher is None or extra.distillation is None else digest(extra.teacher.network)
    added = [to_json(extra.slimming), list(slimmed), to_json(extra.distillation), teacher]
    return state.key(digest(detector.network), data.digest, to_json(training), *added)


def _overrides(plan: Plan) -> dict[str, Any]:
    """The settings of a training in Ultralytics' names."""
    training = plan.training
    ours = {
        "task": "detect", "mode": "train", "model": "network", "data": str(plan.data.yaml),
        "save_dir": str(plan.folder),
        "epochs": max(training.epochs, 1), "batch": training.batch, "imgsz": training.size, "seed": training.seed,
        "optimizer": training.optimizer, "lr0": training.rate, "lrf": training.final, "patience": 0,
        "warmup_epochs": training.warmup, "close_mosaic": training.close_mosaic, "amp": False, "plots": False,
        "val": True, "pretrained": False, "exist_ok": True, "verbose": False,
    }  # fmt: skip
    if plan.world > 1 and torch.cuda.is_available():
        from os import environ

        ours["device"] = environ.get("LOCAL_RANK", "0")
    return {**ours, **training.overrides}


def _check(detector: Detector, data: Staged, training: Training, extra: Extra, world: int) -> None:
    """Refuse what cannot be trained, before anything is set up.

    Raises:
        UsageError: says what and why.
    """
    _same_classes(data.labels, detector.labels)
    teacher = extra.teacher
    given = extra.distillation
    if given is not None and given.weight > 0 and 0 < training.epochs <= given.last(training):
        raise UsageError(
            f"Distillation is off in all {training.epochs} epochs, its last {given.last(training)}. "
            "Set distillation.off lower, or train longer."
        )
    if extra.distillation is not None and teacher is None:
        raise UsageError("Distillation needs a teacher: give the detector that the student was pruned from.")
    if teacher is not None and teacher.labels != detector.labels:
        raise UsageError(
            f"Teacher and student have different classes: {_listed(teacher.labels)}, and {_listed(detector.labels)}. "
            "Take a teacher that was trained on the same classes."
        )
    if not len(data.train):
        raise UsageError(f"{data.train.name} has no training images.")
    _check_settings(training)
    if training.batch % world:
        raise UsageError(f"A batch of {training.batch} cannot be divided among {world} processes; take a multiple.")
    own = training.batch // world
    last = -(-len(data.train) // world) % own or own
    if last == 1 and training.size < 64:
        raise UsageError(
            f"At {training.size} pixels the last batch, of 1 image, leaves batch normalisation one value per channel. "
            f"Train at 64 pixels or more, or with a batch that does not divide {len(data.train)} images with rest 1."
        )


def check_settings(training: Training) -> None:
    """Refuse settings that no training takes, long before the one that they are for begins.

    Raises:
        UsageError: names the setting, or says what Ultralytics says of it.
        Unavailable: there are some of Ultralytics' own, and it is not installed.
    """
    _check_settings(training)
    if training.overrides:
        _loops().settle(dict(training.overrides))


def _check_settings(training: Training) -> None:
    if training.optimizer not in _OPTIMIZERS:
        raise UsageError(
            f"There is no optimizer '{training.optimizer}'.{did_you_mean(training.optimizer, _OPTIMIZERS)}"
        )
    reserved = sorted(_OURS & set(training.overrides))
    if reserved:
        raise UsageError(
            f"overrides.{reserved[0]} cannot be set: it is a field of the training, or not for a recipe. Leave it out."
        )
    if training.overrides.get("cache") == "disk":
        raise UsageError("overrides.cache is 'disk', which writes beside the images. Use 'ram', or leave it out.")
    if "," in str(training.overrides.get("device", "")):
        raise UsageError("overrides.device names several devices. Start one process for each, with torchrun.")


def _same_classes(data: tuple[str, ...], model: tuple[str, ...]) -> None:
    if data == model:
        return
    if missing := [label for label in model if label not in data]:
        raise UsageError(
            f"The data are without the class {missing[0]!r}, which is one of the detector's {len(model)}; they have "
            f"{_listed(data)}. A detector is first adapted to the classes of its data, by the stage 'baseline'."
        )
    raise UsageError(
        f"Data and detector have different classes, or in another order: {_listed(data)}, and {_listed(model)}. A "
        "detector is first adapted to the classes of its data, by the stage 'baseline'."
    )


def _listed(labels: tuple[str, ...]) -> str:
    text = ", ".join(labels)
    return text if len(text) <= 100 else f"{text[:100]}... ({len(labels)})"


@contextmanager
def _translated(training: Training) -> Iterator[None]:
    """Say in one sentence what went wrong with memory or settings."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error).lower() for words in _NO_MEMORY):
            raise
        half, side = training.batch // 2, max(training.size * 3 // 4 // 32 * 32, 32)
        smaller = f"batch {half}" if half else "a batch of 1 is the least"
        raise RunFailed(
            f"Out of memory with batch {training.batch} at {training.size} pixels. Try {smaller}, or size {side}."
        ) from error


@contextmanager
def _manners() -> Iterator[None]:
    """Leave standard output, the log, the random states and the caller's switches of torch as they were."""
    logger = logging.getLogger("ultralytics")
    exact = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic
    level, states = logger.level, (random.getstate(), np.random.get_state(), torch.get_rng_state())
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        torch.use_deterministic_algorithms(exact[0], warn_only=exact[1])
        torch.backends.cudnn.deterministic = cudnn
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
