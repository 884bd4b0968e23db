"""What is done to a clip before a network is trained on it: functions of arrays and a random generator.

They follow the pipeline of the LMUFormer code for Speech Commands V2 (after that of AST), in its order: mixing of
waves, masks on raw features, and noise and shift on normalised ones. ``faster`` comes from Ko et al., "Audio
Augmentation for Speech Recognition" (2015), ``filtered`` from Nam et al., "FilterAugment" (2022), and neither is in the
paper. None changes what it is given.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def faster(wave: Array, factor: float) -> Array:
    """``wave`` (n,) played ``factor`` times as fast: (round(n / factor),), by linear interpolation."""
    count = max(1, round(len(wave) / factor))
    if count == len(wave) or not len(wave):
        return wave
    played: Array = np.interp(np.arange(count) * factor, np.arange(len(wave)), wave).astype(np.float32)
    return played


def mixed(wave: Array, other: Array, share: float) -> Array:
    """``share`` of ``wave`` (n,) and the rest of ``other``, filled up or cut to n; its mean is taken away."""
    partner = np.zeros_like(wave)
    count = min(len(wave), len(other))
    partner[:count] = other[:count]
    sound = np.float32(share) * wave + np.float32(1 - share) * partner
    return centred(sound)


def centred(wave: Array) -> Array:
    """``wave`` without its mean."""
    return wave - wave.mean(dtype=np.float64).astype(np.float32) if len(wave) else wave


def filtered(features: Array, decibels: float, generator: np.random.Generator) -> Array:
    """Raw log ``features`` (frames, bins) as through another room and microphone; frames of zeros are no sound.

    FilterAugment with linear slopes: 3 to 6 bands of drawn widths; the gain at each end of one is drawn from
    -``decibels`` to ``decibels``.
    """
    last = features.shape[1] - 1
    bands = int(generator.integers(3, 7))
    ends = np.sort(np.concatenate([[0.0, last], generator.uniform(0, last, bands - 1)]))
    gains = generator.uniform(-decibels, decibels, bands + 1) * (np.log(10) / 10)
    curve = np.interp(np.arange(last + 1), ends, gains).astype(np.float32)
    filtered: Array = np.where(features.any(axis=1, keepdims=True), features + curve, features)
    return filtered


def masked(features: Array, width: int, axis: int, generator: np.random.Generator) -> Array:
    """``features`` with a stretch of ``axis`` set to 0; its width is drawn from 0 to below ``width``.

    Park et al., "SpecAugment" (2019), with one mask per axis; the value is that of raw features.
    """
    size = features.shape[axis]
    wide = int(generator.integers(min(width, size + 1)))
    start = int(generator.integers(size - wide + 1))
    out = features.copy()
    out[(slice(None),) * axis + (slice(start, start + wide),)] = 0
    return out


def noisy(features: Array, amplitude: float, generator: np.random.Generator) -> Array:
    """``features`` and uniform noise from 0 to a height that is drawn below ``amplitude``."""
    height = np.float32(generator.random() * amplitude)
    noise: Array = generator.random(features.shape, dtype=np.float32) * height
    return features + noise


def rolled(features: Array, most: int, generator: np.random.Generator) -> Array:
    """``features`` (frames, bins) shifted around by -``most`` to ``most`` - 1 frames."""
    return np.roll(features, int(generator.integers(-most, most)), axis=0)
