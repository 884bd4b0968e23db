"""Synthetic sound with the make of speech: it stands in for recordings where there are none, and says nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_Samples = npt.NDArray[np.float64]

#: Resonances of some vowels, in Hz (of the order of those of Peterson and Barney, 1952), and how wide they are.
_VOWELS = ((270, 2290, 3010), (530, 1840, 2480), (730, 1090, 2440), (570, 840, 2410), (300, 870, 2240))
_WIDTHS = (60.0, 90.0, 150.0)
#: Spans (shortest, longest): seconds of a sound, pitch in Hz, middle of a hiss in Hz.
_SECONDS, _PITCH, _HISS = (0.06, 0.20), (90.0, 240.0), (2500.0, 6000.0)


def babble(seed: int, seconds: float, rate: int) -> npt.NDArray[np.float32]:
    """Vowels with a gliding pitch, hisses and pauses in turn, float32 (seconds * rate,), within -0.5 to 0.5.

    The same for the same arguments.
    """
    random = np.random.default_rng(seed)
    length = max(1, round(seconds * rate))
    sound = 1e-3 * random.standard_normal(length)  # the room
    pitch, at = random.uniform(*_PITCH), 0
    while at < length:
        count = max(2, round(random.uniform(*_SECONDS) * rate))
        kind = random.choice(3, p=(0.6, 0.25, 0.15))
        if kind < 2:
            made = _vowel(random, count, rate, pitch) if kind == 0 else _hiss(random, count, rate)
            made *= np.hanning(count) ** 0.5 / max(float(np.abs(made).max()), 1e-9) * random.uniform(0.1, 0.45)
            sound[at : at + count] += made[: length - at]
        at += count
    return sound.clip(-0.5, 0.5).astype(np.float32)


def _vowel(random: np.random.Generator, count: int, rate: int, pitch: float) -> _Samples:
    """Harmonics of a pitch that glides, as loud as the resonances of a vowel make them."""
    begin, end = random.uniform(0.85, 1.15, 2)
    glide = pitch * np.linspace(float(begin), float(end), count)
    phase = 2 * np.pi * np.cumsum(glide) / rate
    harmonics = np.arange(1, max(2, int(rate / 2 / (1.2 * pitch))))
    loud = sum(
        1 / (1 + ((harmonics * pitch - centre) / width) ** 2) ** 0.5
        for centre, width in zip(_VOWELS[random.integers(len(_VOWELS))], _WIDTHS, strict=True)
    )
    made = np.zeros(count)
    for harmonic, amplitude in zip(harmonics, np.asarray(loud) / harmonics**0.5, strict=True):
        made += amplitude * np.sin(harmonic * phase)
    return made


def _hiss(random: np.random.Generator, count: int, rate: int) -> _Samples:
    """Noise around a frequency, as of an s or an f."""
    spectrum = np.fft.rfft(random.standard_normal(count))
    hertz = np.fft.rfftfreq(count, 1 / rate)
    centre = min(random.uniform(*_HISS), 0.4 * rate)
    return np.fft.irfft(spectrum * np.exp(-(((hertz - centre) / 1200) ** 2)), count)
