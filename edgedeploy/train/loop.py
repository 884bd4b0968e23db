"""The training loop: Adam, epoch by epoch, the same for every network that turns features into logits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgedeploy.errors import RunFailed, Unavailable, UsageError
from edgedeploy.train import folder as places
from edgedeploy.train import state
from edgedeploy.train.bank import Bank
from edgedeploy.train.batches import batches
from edgedeploy.train.evaluation import judge
from edgedeploy.train.log import Epoch, best, picture, read_log, write_log
from edgedeploy.train.recipe import Recipe, Training

#: Epochs from one picture of the curves to the next.
_DRAWN = 10

#: What makes an untrained network; it is called with the generator of weights seeded.
Factory = Callable[[], nn.Module]


class Follower:
    """Is told how a training comes along, and does nothing about it."""

    def step(self, epoch: int, share: float) -> None:
        """So much of an epoch, counted from 1, is done."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch has ended, and its state is on disk."""


@dataclass(frozen=True, eq=False)
class Trained:
    """The network of the best epoch, in eval mode on the CPU, and the record of all epochs."""

    network: nn.Module
    epochs: tuple[Epoch, ...]

    @property
    def best(self) -> Epoch:
        """The epoch whose network this is."""
        return best(self.epochs)


@dataclass(frozen=True, eq=False)
class Course:
    """One training.

    Args:
        recipe: how.
        network: what makes the untrained network.
        train: clips to learn from.
        val: clips that the best epoch is chosen by.
        folder: where it is kept; it is there.
        key: tells it from any other, see `edgedeploy.train.state.key_of`.
        keep: writes the network of an epoch that is the best so far.
    """

    recipe: Recipe
    network: Factory
    train: Bank
    val: Bank
    folder: Path
    key: str
    keep: Callable[[nn.Module, Epoch], None]


def train(course: Course, follow: Follower | None = None) -> Trained:
    """Train, or go on with the epoch at which an earlier call in the same folder was stopped, to the same result.

    On one thread the same seed gives the same weights, to the bit.

    Args:
        course: what is trained, how, on what.
        follow: told of every step, and after every epoch, when its state is on disk.

    Raises:
        UsageError: fewer than two clips to train on, the folder holds another training or a damaged one, or it cannot
            be written.
        RunFailed: the loss is not finite any more, or memory ran out.
    """
    _check(course)
    training = course.recipe.training
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = _untrained(course).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=training.rate, betas=training.betas)
    found = state.read(course.folder / places.STATE, course.key)
    epochs: tuple[Epoch, ...] = ()
    kept: Mapping[str, Tensor] = {}
    if found:
        _go_on(course, network, optimizer, found)
        kept, epochs = found.best, read_log(course.folder / places.LOG, found.epoch)
    follow = follow or Follower()
    for index in range(len(epochs), training.epochs):
        with _translated(training):
            epoch = _pass(course, network, optimizer, index, follow)
        if epoch.better(best(epochs) if epochs else None):
            kept = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
            course.keep(_with(network, kept), epoch)
        epochs = (*epochs, epoch)
        write_log(course.folder / places.LOG, epochs)
        _draw(course.folder, epochs, training.epochs)
        own = optimizer.state_dict()
        state.save(
            course.folder / places.STATE, state.Standing(course.key, len(epochs), network.state_dict(), own, kept)
        )
        follow.epoch(epoch)
    return Trained(_with(network, kept), epochs)


def _go_on(course: Course, network: nn.Module, optimizer: torch.optim.Adam, found: state.Standing) -> None:
    """Load the state after an epoch.

    Raises:
        UsageError: tensors are missing in it, or have another shape.
    """
    try:
        _with(network, found.best)
        network.load_state_dict(dict(found.network))
        optimizer.load_state_dict(dict(found.optimizer))
        for weight, own in optimizer.state.items():
            if any(own[name].shape != weight.shape for name in ("exp_avg", "exp_avg_sq")) or own["step"].numel() != 1:
                raise ValueError("Adam's moments are not of the shapes of the weights")
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{course.folder / places.STATE} is damaged: what is in it does not fit the network that is trained here. "
            "Train again from the first epoch with --fresh."
        ) from error


def check(course: Course) -> None:
    """Refuse what cannot be trained; nothing is written.

    Raises:
        UsageError: fewer than two clips to train on, or a network that cannot be built.
    """
    _check(course)
    _untrained(course)


def _check(course: Course) -> None:
    if len(course.train) < 2:
        clips = course.train.clips
        raise UsageError(f"{clips.name} has {len(clips)} clip to train on; at least 2 are needed.")


def _untrained(course: Course) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(course.recipe.training.seed)
        return course.network()


def _with(network: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    copy = deepcopy(network).cpu().eval()
    copy.load_state_dict(dict(weights))
    return copy


def _pass(course: Course, network: nn.Module, optimizer: torch.optim.Optimizer, index: int, follow: Follower) -> Epoch:
    """One epoch, counted from 0."""
    began = time.perf_counter()
    training = course.recipe.training
    device = next(network.parameters()).device
    for group in optimizer.param_groups:
        group["lr"] = training.rate_in(index)
    network.train()
    total, right, seen = 0.0, 0, 0
    for features, labels in batches(course.train, course.recipe, index):
        features, labels = features.to(device), labels.to(device)
        with _precision(training, device):
            logits = network(features)
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += _finite(float(loss.detach()), course, index) * len(features)
        seen += len(features)
        follow.step(index + 1, seen / len(course.train))
        right += int((logits.argmax(dim=1) == labels.argmax(dim=1)).sum())
    score = judge(network, course.val)
    _finite(score.loss, course, index)
    return Epoch(
        number=index + 1,
        loss=total / len(course.train),
        accuracy=right / len(course.train),
        val_loss=score.loss,
        val_accuracy=score.accuracy,
        rate=training.rate_in(index),
        firing=score.firing,
        seconds=time.perf_counter() - began,
    )


def _precision(training: Training, device: torch.device) -> Any:
    return torch.autocast(device.type, torch.bfloat16) if training.precision == "bf16" else nullcontext()


def _finite(loss: float, course: Course, index: int) -> float:
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise RunFailed(
            f"Training in {course.folder}: the loss became {loss} in epoch {index + 1}. Train again with a lower "
            f"training.rate (it was {course.recipe.training.rate:g}), with --fresh or in another folder."
        )
    return loss


@contextmanager
def _translated(training: Training) -> Iterator[None]:
    """Memory that runs out inside becomes a sentence."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise RunFailed(f"Memory ran out at a batch of {training.batch} clips: lower training.batch.") from error
        raise


def _draw(folder: Path, epochs: tuple[Epoch, ...], of: int) -> None:
    """The curves so far, now and then and at the end; without matplotlib there are none."""
    if len(epochs) % _DRAWN and len(epochs) < of:
        return
    try:
        places.write(folder / places.CURVES, picture(epochs))
    except Unavailable:
        return
