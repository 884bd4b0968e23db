"""Log mel filter bank features as Kaldi defines them, of a whole clip or frame by frame.

Written here because the libraries that compute Kaldi's features refuse filters so narrow that no point of the spectrum
falls into one, and 128 filters over a spectrum of 512 points have such a one. It takes nothing but numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import UsageError

Sound = npt.NDArray[np.float32]
Features = npt.NDArray[np.float32]

#: Kaldi's defaults: the first filter begins at this frequency (Hz); each sample loses this share of the one before it.
LOWEST, PRE_EMPHASIS = 20.0, 0.97
#: Energies below this count as this: the resolution of float32.
FLOOR = float(np.finfo(np.float32).eps)
#: Frames computed at once: hours of sound need no more memory than this many frames, besides the features themselves.
_BLOCK = 256


@dataclass(frozen=True)
class Fbank:
    """How sound becomes frames of features: those of Kaldi, with a Hann window and without dither or energy.

    A frame loses its mean, is pre-emphasised and windowed; its power spectrum, over the next power of two, is gathered
    by triangles that are evenly spaced on the mel scale from 20 Hz to half the sample rate; the feature is the natural
    logarithm. The first frame begins with the first sample, and what does not fill a frame at the end is left out.

    Args:
        sample_rate: in Hz.
        bins: mel filters.
        frame: seconds of sound per frame.
        hop: seconds from one frame to the next.
        mean, scale: a value v becomes (v - mean) / scale; the defaults are those of Speech Commands, with the factor
            2 that AST and LMUFormer put into the scale.
    """

    sample_rate: int = 16000
    bins: int = 128
    frame: float = 0.025
    hop: float = 0.010
    mean: float = -6.845978
    scale: float = 2 * 5.5654526

    def __post_init__(self) -> None:
        """Refuse values of which no features can be made.

        Raises:
            UsageError: names the field, the value and what it has to be.
        """
        rate = self.sample_rate
        rules = {
            "sample_rate": (1000 <= rate <= 768_000, "a rate in Hz, from 1000 to 768000"),
            "frame": (rate * self.frame >= 2 and self.frame <= 1, "seconds: at least 2 samples, and at most 1 second"),
            "hop": (rate * self.hop >= 1 and self.hop <= self.frame, "seconds: at least a sample, and at most a frame"),
            "scale": (self.scale > 0, "more than 0"),
        }
        rules = {name: rule for name, rule in rules.items() if not rule[0]} or {
            "bins": (1 <= self.bins <= self._points // 2, f"from 1 to half the {self._points} points of the spectrum")
        }
        for name, (holds, expected) in rules.items():
            if not holds:
                raise UsageError(f"Features: {name} is {getattr(self, name)!r}; it has to be {expected}.")

    @cached_property
    def window(self) -> int:
        """Samples in a frame."""
        return round(self.frame * self.sample_rate)

    @cached_property
    def step(self) -> int:
        """Samples from one frame to the next."""
        return round(self.hop * self.sample_rate)

    @cached_property
    def _points(self) -> int:
        """Of the spectrum: the next power of two."""
        return 1 << (self.window - 1).bit_length()

    def count(self, samples: int) -> int:
        """Whole frames in so many samples."""
        return max(0, 1 + (samples - self.window) // self.step)

    def samples(self, frames: int) -> int:
        """Samples that so many frames take."""
        return self.window + (frames - 1) * self.step if frames else 0

    def filled(self, audio: Sound, frames: int) -> Features:
        """Features float32 (frames, bins) of a clip (n,), not normalised: cut, or filled up with zeros."""
        found = self.extract(audio[: self.samples(frames)])
        features = np.zeros((frames, self.bins), np.float32)
        features[: len(found)] = found
        return features

    def extract(self, audio: Sound) -> Features:
        """Features float32 (frames, bins) of a clip (n,) in -1 to 1, not normalised; no frame in less than one."""
        return self.online().push(audio)

    def normalise(self, features: Features) -> Features:
        """What a model takes: (features - mean) / scale, float32."""
        return (features - np.float32(self.mean)) / np.float32(self.scale)

    def online(self) -> OnlineFbank:
        """The same features of a stream that comes in pieces."""
        return OnlineFbank(self)

    def _compute(self, frames: npt.NDArray[np.float64]) -> Features:
        """Features (n, bins) of frames (n, window). Each row is computed by itself, so that n changes no bit of it."""
        window, index, weights = _tables(self)
        crisp = frames - np.add.reduce(frames, axis=1, keepdims=True) / frames.shape[1]  # mean(), at half its overhead
        lost = PRE_EMPHASIS * crisp
        crisp[:, 1:] -= lost[:, :-1]
        crisp[:, 0] -= lost[:, 0]
        crisp *= window
        spectrum = np.fft.rfft(crisp, self._points)
        power = spectrum.real**2 + spectrum.imag**2
        # take() leaves the points of a filter side by side, so that they are summed in one order whatever n is
        energy = np.einsum("nbp,bp->nb", np.take(power, index, axis=1), weights)
        features: Features = np.log(np.maximum(energy, FLOOR)).astype(np.float32)
        return features


class OnlineFbank:
    """Features of a stream, to the bit those of `Fbank.extract`; holds less than a frame of sound, however long."""

    def __init__(self, fbank: Fbank) -> None:
        self._fbank = fbank
        self.rest: Sound = np.zeros(0, np.float32)

    def push(self, audio: Sound) -> Features:
        """The frames that are complete with the next samples (n,), any n: float32 (k, bins), not normalised."""
        fbank = self._fbank
        window, step = fbank.window, fbank.step
        sound = np.concatenate([self.rest, audio])
        count = fbank.count(len(sound))
        features = np.empty((count, fbank.bins), np.float32)
        for at in range(0, count, _BLOCK):
            frames = np.empty((min(_BLOCK, count - at), window), np.float64)
            for row, frame in enumerate(frames, at):
                frame[:] = sound[row * step : row * step + window]
            features[at : at + _BLOCK] = fbank._compute(frames)
        self.rest = sound[count * step :].copy()
        return features


@lru_cache(maxsize=8)
def _tables(
    fbank: Fbank,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """The window (samples,), and for each filter the points of the spectrum under it and their weights (bins, most)."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(fbank.window) / (fbank.window - 1))
    points = fbank._points
    mel = _mel(np.arange(points // 2) * (fbank.sample_rate / points))  # without the last point, as Kaldi does
    low, high = _mel(np.array([LOWEST, fbank.sample_rate / 2]))
    edges = low + (high - low) / (fbank.bins + 1) * np.arange(fbank.bins + 2)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    dense = np.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)).clip(min=0)
    most = int((dense > 0).sum(axis=1).max(initial=1)) or 1
    index = np.argsort(dense <= 0, axis=1, kind="stable")[:, :most]
    return window, index, np.take_along_axis(dense, index, axis=1)


def _mel(hertz: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    return 1127.0 * np.log1p(np.asarray(hertz, np.float64) / 700.0)
