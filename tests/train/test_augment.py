"""Augmentations: what they keep, what they change, and that a generator decides all of it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.train.augment import centred, faster, filtered, masked, mixed, noisy, rolled

seeds = st.integers(0, 2**32 - 1)


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 1.0, shape).astype(np.float32)


@given(seeds, st.integers(1, 400), st.integers(0, 400), st.floats(0, 1))
def test_a_mix_is_as_long_as_its_first_clip_and_has_no_mean(seed: int, long: int, other: int, share: float) -> None:
    wave, partner = drawn(seed, long), drawn(seed + 1, other)
    before = wave.copy(), partner.copy()
    found = mixed(wave, partner, share)
    assert found.shape == wave.shape
    assert found.dtype == np.float32
    assert abs(found.mean()) < 1e-6
    np.testing.assert_array_equal(wave, before[0])
    np.testing.assert_array_equal(partner, before[1])
    filled = np.pad(partner, (0, max(0, long - other)))[:long]
    expected = share * wave.astype(np.float64) + (1 - share) * filled
    np.testing.assert_allclose(found, expected - expected.mean(), atol=1e-6)


def test_all_of_one_clip_is_that_clip() -> None:
    wave = drawn(0, 50)
    np.testing.assert_array_equal(mixed(wave, drawn(1, 80), 1.0), centred(wave))


@given(seeds, st.integers(2, 40), st.floats(0, 20))
def test_a_filter_is_one_curve_for_all_frames_of_sound(seed: int, bins: int, decibels: float) -> None:
    features = drawn(seed, 5, bins)
    features[3] = 0
    found = filtered(features, decibels, np.random.default_rng(seed))
    assert found.dtype == np.float32
    assert (found[3] == 0).all(), "what comes after a clip is no sound"
    curve = (found - features)[[0, 1, 2, 4]]
    np.testing.assert_allclose(curve, np.broadcast_to(curve[:1], curve.shape), atol=1e-5)
    assert np.abs(curve).max() <= decibels * np.log(10) / 10 + 1e-5


@given(seeds, st.integers(1, 60), st.integers(1, 60), st.integers(0, 1))
def test_a_mask_is_one_stretch_narrower_than_asked(seed: int, width: int, size: int, axis: int) -> None:
    features = drawn(seed, *((size, 7) if axis == 0 else (7, size)))
    found = masked(features, width, axis, np.random.default_rng(seed))
    gone = np.flatnonzero((found == 0).all(axis=1 - axis))
    assert len(gone) < width or len(gone) == 0
    assert len(gone) == 0 or gone[-1] - gone[0] == len(gone) - 1
    kept = np.delete(np.arange(size), gone)
    np.testing.assert_array_equal(found.take(kept, axis), features.take(kept, axis))
    assert (features > 0).all(), "the features themselves were masked"


def test_masks_are_as_wide_as_they_may_be_and_lie_everywhere() -> None:
    generator = np.random.default_rng(0)
    found = np.stack([masked(np.ones((100, 1), np.float32), 48, 0, generator)[:, 0] == 0 for _ in range(2000)])
    widths = found.sum(axis=1)
    assert (widths.min(), widths.max()) == (0, 47)
    assert abs(widths.mean() - 23.5) < 1
    assert found.any(axis=0).all()


@given(seeds, st.floats(0, 2))
def test_noise_is_from_zero_to_below_its_amplitude(seed: int, amplitude: float) -> None:
    features = np.zeros((5, 4), np.float32)
    found = noisy(features, amplitude, np.random.default_rng(seed))
    assert found.dtype == np.float32
    assert (found >= 0).all()
    assert (found <= amplitude).all()


def test_a_roll_is_by_less_than_most_forward_and_by_most_backward() -> None:
    features = np.arange(40, dtype=np.float32)[:, None] + np.zeros((1, 3), np.float32)
    generator = np.random.default_rng(0)
    shifts = {int(rolled(features, 10, generator)[0, 0]) for _ in range(500)}
    assert shifts == {*range(11), *range(31, 40)}  # by -10 frame 10 comes first, by 9 frame 31


@given(seeds, st.integers(1, 300), st.floats(0.5, 1.5))
def test_faster_is_shorter_and_within_the_sound(seed: int, long: int, factor: float) -> None:
    wave = drawn(seed, long)
    found = faster(wave, factor)
    assert len(found) == max(1, round(long / factor))
    assert found.dtype == np.float32
    assert wave.min() <= found.min()
    assert found.max() <= wave.max()


def test_a_tone_played_faster_is_higher() -> None:
    wave = np.sin(2 * np.pi * 50 * np.arange(1000) / 1000).astype(np.float32)
    spectrum = np.abs(np.fft.rfft(faster(wave, 1.25)))
    assert int(spectrum.argmax()) * 1000 / 800 == 62.5
