"""How far tensors are from their reference, in numbers that a wrong channel or a wrong colour cannot hide in."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.artifact import Fingerprint, OutputAgreement
from edgedeploy.compare import EXACT_SNR, PROBES, agreement, fingerprint, fingerprints_agree, snr
from edgedeploy.records import canonical, from_json, to_json

RNG = np.random.default_rng(0)
HALVES = st.lists(st.floats(-60000, 60000, width=16), min_size=1, max_size=20)


def one(reference: object, values: object) -> OutputAgreement:
    (found,) = agreement({"y": np.asarray(reference)}, {"y": np.asarray(values)})
    return found


# snr


@pytest.mark.parametrize(("noise", "expected"), [(1.0, 0.0), (0.1, 20.0), (0.01, 40.0), (10.0, -20.0)])
def test_it_is_in_decibels(noise: float, expected: float) -> None:
    reference = np.ones(100)
    assert snr(reference, reference + noise) == pytest.approx(expected, abs=1e-9)


def test_the_extremes_are_numbers() -> None:
    zeros, ones = np.zeros(3), np.ones(3)
    assert snr(ones, ones) == EXACT_SNR
    assert snr(zeros, zeros) == EXACT_SNR
    assert snr(zeros, ones) == -EXACT_SNR
    assert snr(ones, np.array([1, np.nan, 1])) == -EXACT_SNR
    assert snr(ones, np.array([1, np.inf, 1])) == -EXACT_SNR
    assert snr(np.empty(0), np.empty(0)) == EXACT_SNR
    assert snr(ones, ones + 1e-300) == EXACT_SNR
    assert snr(ones, ones * 1e150) == -EXACT_SNR


def test_integers_and_halves_do_not_overflow() -> None:
    assert snr(np.array([200], np.uint8), np.array([100], np.uint8)) == pytest.approx(20 * np.log10(2))
    assert snr(np.full(9, 60000, np.float16), np.full(9, 59968, np.float16)) == pytest.approx(65.46, abs=0.01)


@given(values=HALVES, scale=st.sampled_from([0.5, 2.0, 1024.0]))
def test_it_does_not_depend_on_the_unit(values: list[float], scale: float) -> None:
    reference = np.array(values)
    other = reference * 1.01 + 0.25
    assert snr(reference, other) == pytest.approx(snr(reference * scale, other * scale), abs=1e-6)


@given(values=HALVES, other=HALVES)
def test_it_is_always_a_number(values: list[float], other: list[float]) -> None:
    count = min(len(values), len(other))
    found = snr(np.array(values[:count], np.float16), np.array(other[:count], np.float16))
    assert -EXACT_SNR <= found <= EXACT_SNR


# agreement


def test_scores_are_not_hidden_behind_boxes() -> None:
    """Boxes in hundreds of pixels and scores below one, in one tensor: all scores lost is 50 dB over all."""
    output = RNG.random((1, 84, 8400)).astype(np.float32)
    output[:, :4] *= 640
    broken = output.copy()
    broken[:, 4:] = 0
    found = one(output, broken)
    assert found.snr > 40
    assert found.worst_snr == pytest.approx(0, abs=0.1)
    assert found.max_abs == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("shape", [(1, 6, 100), (1, 100, 6), (2, 3, 8, 8)])
def test_one_wrong_channel_is_found_wherever_channels_are(shape: tuple[int, ...]) -> None:
    output = RNG.random(shape) + 1
    broken = output.copy()
    axis = 1 if shape[1] <= shape[-1] else len(shape) - 1
    np.moveaxis(broken, axis, 0)[2] *= -1
    found = one(output, broken)
    assert found.worst_snr == pytest.approx(-6.02, abs=0.01)
    assert found.worst_snr < found.snr
    assert one(output, output).worst_snr == EXACT_SNR


def test_a_channel_without_signal_says_nothing() -> None:
    """The score of a class that is nowhere in the picture: its rounding errors are no disagreement."""
    output = RNG.random((1, 6, 100)) + 1
    output[:, 5] = 1e-6
    other = output.copy()
    other[:, 5] *= 3
    assert one(output, other).worst_snr > 100


def test_an_output_that_is_missing_or_of_another_shape_agrees_in_nothing() -> None:
    reference = np.ones((1, 2))
    for outputs in ({}, {"y": np.ones((1, 3))}, {"y": np.ones(2)}, {"z": reference}):
        (found,) = agreement({"y": reference}, outputs)
        assert (found.snr, found.worst_snr) == (-EXACT_SNR, -EXACT_SNR)


def test_each_output_has_its_record_in_the_order_of_the_reference() -> None:
    outputs = {"b": np.ones((1, 2)), "a": np.zeros((1, 3))}
    found = agreement(outputs, {"a": outputs["a"], "b": outputs["b"] * 2})
    assert [(f.output, f.snr) for f in found] == [("b", 0), ("a", EXACT_SNR)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_all_noise_and_can_be_saved(bad: float) -> None:
    output = RNG.random((1, 4, 10))
    broken = output.copy()
    broken[0, 1, 3] = bad
    found = one(output, broken)
    assert (found.snr, found.worst_snr) == (-EXACT_SNR, -EXACT_SNR)
    record = from_json(OutputAgreement, json.loads(canonical(to_json(found))), "here")
    assert record == found


@given(values=HALVES)
def test_the_worst_channel_is_never_better_than_the_whole_and_saves(values: list[float]) -> None:
    reference = np.array(values, np.float16).reshape(1, 1, -1)
    found = one(reference, reference * np.float16(0.99))
    assert found.worst_snr <= found.snr + 1e-9
    canonical(to_json(found))


def test_nothing_agrees_with_nothing() -> None:
    found = one(np.empty((1, 0, 6), np.float32), np.empty((1, 0, 6), np.float32))
    assert (found.snr, found.max_abs) == (EXACT_SNR, 0)


# fingerprints


def picture(shape: tuple[int, ...] = (1, 3, 64, 64)) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Smooth, and different in each colour."""
    y, x = np.mgrid[: shape[2], : shape[3]]
    planes = [np.sin(x / 9) + 0.3, np.cos(y / 7), np.sin((x + y) / 11) - 0.2]
    return np.stack(planes)[np.newaxis].astype(np.float32)


def test_a_tensor_agrees_with_itself() -> None:
    stored = fingerprint(picture())
    assert len(stored.probes) == PROBES
    assert fingerprints_agree(stored, fingerprint(picture()))
    assert from_json(Fingerprint, json.loads(canonical(to_json(stored))), "here") == stored


def test_a_grey_level_here_and_there_is_forgiven() -> None:
    image = picture()
    off = image + np.where(RNG.random(image.shape) < 0.5, 1, -1).astype(np.float32) / 255
    assert fingerprints_agree(fingerprint(image), fingerprint(off))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t[:, ::-1],  # BGR for RGB
        lambda t: t * 255,
        lambda t: t / 1.2,
        lambda t: t + 0.1,
        lambda t: t[..., ::-1],  # mirrored
        lambda t: t.transpose(0, 1, 3, 2),
        lambda t: np.roll(t, 8, axis=-1),  # padded on the other side
        lambda t: t[:, :, :32],
        lambda t: np.zeros_like(t),
    ],
    ids=["colour", "range", "scale", "mean", "mirrored", "transposed", "shifted", "cropped", "black"],
)
def test_other_preprocessing_is_noticed(change: object) -> None:
    assert callable(change)
    assert not fingerprints_agree(fingerprint(picture()), fingerprint(change(picture())))


def test_small_and_constant_tensors_have_fingerprints() -> None:
    for tensor in (np.zeros((1,)), np.ones((1, 2)), np.array(3.0), np.arange(5)):
        stored = fingerprint(tensor)
        assert fingerprints_agree(stored, fingerprint(tensor))
        assert not fingerprints_agree(stored, fingerprint(tensor + 1))
