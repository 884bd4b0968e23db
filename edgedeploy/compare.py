"""Tensor agreement: how far the outputs of a rung are from their FP32 reference.

A detection output holds boxes in pixels (0 to 640) and scores (0 to 1) in one tensor. One number over all of it would
say that the scores do not matter, so the signal-to-noise ratio is also taken per channel and the worst one reported.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgedeploy.artifact import Fingerprint, OutputAgreement
from edgedeploy.tensors import Array

#: An exact match has no noise; its ratio is reported as this many dB so that it stays a number.
EXACT_SNR = 200.0
PROBES = 32


def snr(reference: Array, values: Array) -> float:
    """Signal-to-noise ratio in dB: 10 log10(sum r^2 / sum (r - v)^2), within +-`EXACT_SNR`; NaN counts as all noise."""
    r, v = reference.astype(np.float64), values.astype(np.float64)
    noise, signal = float(np.sum((r - v) ** 2)), float(np.sum(r**2))
    if not np.isfinite(noise):
        return -EXACT_SNR
    if noise == 0:
        return EXACT_SNR
    return float(np.clip(10 * np.log10(signal / noise), -EXACT_SNR, EXACT_SNR)) if signal else -EXACT_SNR


def agreement(reference: Mapping[str, Array], outputs: Mapping[str, Array]) -> tuple[OutputAgreement, ...]:
    """One record per output of ``reference``; an output that is missing or of another shape agrees in nothing."""
    return tuple(_agreement(name, values, outputs.get(name)) for name, values in reference.items())


def _agreement(name: str, reference: Array, values: Array | None) -> OutputAgreement:
    if values is None or values.shape != reference.shape:
        return OutputAgreement(name, -EXACT_SNR, -EXACT_SNR, float(np.finfo(np.float32).max))
    ratio = snr(reference, values)
    worst = ratio
    if reference.ndim >= 3:
        axis = _channel_axis(reference.shape)
        powers = _channel_snr(reference, values, axis)
        worst = float(powers.min()) if powers.size else ratio
    difference = np.abs(reference.astype(np.float64) - values.astype(np.float64))
    largest = (
        float(difference.max())
        if difference.size and np.isfinite(difference).all()
        else float(np.finfo(np.float32).max if difference.size else 0.0)
    )
    return OutputAgreement(name, ratio, min(worst, ratio), largest)


def _channel_axis(shape: tuple[int, ...]) -> int:
    """Channels are the shorter of the two axes after the batch: (1, 84, 8400) and (1, 8400, 85) both occur."""
    return 1 if shape[1] <= shape[-1] else len(shape) - 1


def _channel_snr(reference: Array, values: Array, axis: int) -> npt.NDArray[np.float64]:
    """SNR per channel, only of channels that carry signal: a class that is nowhere in the image says nothing."""
    other = tuple(i for i in range(reference.ndim) if i != axis)
    r, v = reference.astype(np.float64), values.astype(np.float64)
    peak = np.max(np.abs(r), axis=other)
    signal, noise = np.sum(r**2, axis=other), np.sum((r - v) ** 2, axis=other)
    carries = peak > 0.25 * min(1.0, float(peak.max(initial=0.0)))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 10 * np.log10(signal / noise)
    ratio = np.where(np.isnan(ratio), -EXACT_SNR, ratio)
    clipped: npt.NDArray[np.float64] = np.clip(ratio[carries], -EXACT_SNR, EXACT_SNR)
    return clipped


def fingerprint(tensor: Array) -> Fingerprint:
    """``tensor`` in a few numbers; the probes sit at evenly spread flat positions."""
    flat = tensor.astype(np.float64).ravel()
    positions = np.linspace(0, max(0, flat.size - 1), min(PROBES, flat.size)).astype(np.int64)
    return Fingerprint(tensor.shape, float(flat.mean()), float(flat.std()), tuple(map(float, flat[positions])))


def fingerprints_agree(stored: Fingerprint, found: Fingerprint, tolerance: float = 0.05) -> bool:
    """Whether mean, deviation and the probes agree within ``tolerance`` of the stored deviation.

    One probe in eight may differ more: resizing libraries round differently on sharp edges.
    """
    scale = max(stored.sd, 1e-6) * tolerance
    if stored.shape != found.shape or abs(stored.mean - found.mean) > scale or abs(stored.sd - found.sd) > scale:
        return False
    off = sum(abs(a - b) > scale for a, b in zip(stored.probes, found.probes, strict=True))
    return off <= len(stored.probes) // 8
