"""An epoch of augmented clips: everything about it follows from seed and epoch, and so needs no state to be kept."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgedeploy.train.augment import centred, faster, filtered, masked, mixed, noisy, rolled
from edgedeploy.train.bank import Bank
from edgedeploy.train.recipe import Augmentation, Recipe

Array = npt.NDArray[np.float32]


def batches(bank: Bank, recipe: Recipe, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of an epoch, counted from 0: features (clips, frames, bins) and soft labels (clips, classes).

    A last batch of a single clip would have no variance to normalise by: that clip joins the batch before.
    """
    seed = recipe.training.seed
    order = np.random.default_rng([seed, epoch]).permutation(len(bank))
    cuts = range(recipe.training.batch, len(bank) - 1, recipe.training.batch)
    for part in np.split(order, list(cuts)):
        drawn = [
            example(bank, int(index), recipe.augmentation, np.random.default_rng([seed, epoch, int(index)]))
            for index in part
        ]
        features, labels = zip(*drawn, strict=True)
        yield torch.from_numpy(np.stack(features)), torch.from_numpy(np.stack(labels))


def example(bank: Bank, index: int, how: Augmentation, generator: np.random.Generator) -> tuple[Array, Array]:
    """A clip as it is trained on: normalised features (frames, bins), and the share of each word in it (classes,)."""
    labels = np.zeros(len(bank.clips.labels), np.float32)
    fbank = bank.window.fbank
    features, share, other = _sound(bank, index, how, generator)
    labels[bank.words[index]] += share
    labels[bank.words[other]] += 1 - share
    if how.filter:
        features = filtered(features, how.filter, generator)
    if how.frequency_mask:
        features = masked(features, how.frequency_mask, 1, generator)
    if how.time_mask:
        features = masked(features, how.time_mask, 0, generator)
    features = fbank.normalise(features)
    if how.noise:
        features = noisy(features, how.noise, generator)
    if how.roll:
        features = rolled(features, how.roll, generator)
    return features, labels


def _sound(bank: Bank, index: int, how: Augmentation, generator: np.random.Generator) -> tuple[Array, float, int]:
    """Raw features of a clip that others may be mixed into; its own share, and which the other clip is."""
    share, other = 1.0, index
    if generator.random() < how.mixup:
        other = int(generator.integers(len(bank)))
        share = float(generator.beta(how.beta, how.beta))
    elif not how.speed:
        return bank.raw(index), share, other
    wave = centred(_played(bank.waves[index], how, generator))
    if share < 1:
        wave = mixed(wave, centred(_played(bank.waves[other], how, generator)), share)
    return bank.window.raw(wave), share, other


def _played(wave: Array, how: Augmentation, generator: np.random.Generator) -> Array:
    return faster(wave, 1 + generator.uniform(-how.speed, how.speed)) if how.speed else wave
