"""Features are those of Kaldi's definition, whole or in pieces, at the numbers that the model was trained with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedeploy.errors import UsageError
from edgedeploy.tasks.audio import read_audio
from edgedeploy.tasks.babble import babble
from edgedeploy.tasks.fbank import Fbank

SOUND = babble(3, 1.0, 16000)


def by_definition(sound: npt.NDArray[np.float32], bins: int, rate: int = 16000) -> npt.NDArray[np.float64]:
    """Kaldi's filter bank, one frame, one point of the spectrum and one filter at a time; 25 ms every 10 ms."""
    size, hop = rate // 40, rate // 100
    points = 2 ** int(np.ceil(np.log2(size)))
    window = [0.5 - 0.5 * np.cos(2 * np.pi * i / (size - 1)) for i in range(size)]
    turn = np.exp(-2j * np.pi * np.outer(np.arange(points // 2), np.arange(size)) / points)

    def mel(hertz: float) -> float:
        return 1127 * float(np.log(1 + hertz / 700))

    width = (mel(rate / 2) - mel(20)) / (bins + 1)
    filters = np.zeros((bins, points // 2))
    for b in range(bins):
        left = mel(20) + b * width
        for k in range(points // 2):
            up = (mel(k * rate / points) - left) / width
            if 0 < up < 2:
                filters[b, k] = up if up <= 1 else 2 - up
    rows = []
    for start in range(0, len(sound) - size + 1, hop):
        frame = sound[start : start + size].astype(float)
        frame = frame - frame.mean()
        frame = np.array([frame[i] - 0.97 * frame[max(i - 1, 0)] for i in range(size)]) * window
        power = np.abs(turn @ frame) ** 2
        rows.append(np.log(np.maximum(filters @ power, np.finfo(np.float32).eps)))
    return np.array(rows)


def test_recordings_have_the_features_of_the_definition(shared: Path) -> None:
    for word in ("yes", "seven"):
        clip = sorted((shared / "data" / "speech_commands" / word).glob("*.wav"))[0]
        sound = read_audio(clip, 16000)
        np.testing.assert_allclose(Fbank().extract(sound), by_definition(sound, 128), rtol=0, atol=2e-5)


def test_synthetic_sound_has_them_at_other_rates_too() -> None:
    for rate, bins in ((8000, 40), (22050 // 200 * 200, 64)):
        sound = babble(1, 0.3, rate)
        found = Fbank(sample_rate=rate, bins=bins).extract(sound)
        np.testing.assert_allclose(found, by_definition(sound, bins, rate), rtol=0, atol=2e-5)


@pytest.mark.parametrize("bins", [23, 80])
def test_a_library_agrees_on_as_many_filters_as_it_takes(bins: int) -> None:
    knf: Any = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "hanning"
    options.mel_opts.num_bins = bins
    library = knf.OnlineFbank(options)
    library.accept_waveform(16000, SOUND.tolist())
    wanted = np.stack([library.get_frame(i) for i in range(library.num_frames_ready)])
    # It computes in float32, of which the quietest filters keep three places.
    np.testing.assert_allclose(Fbank(bins=bins).extract(SOUND), wanted, rtol=0, atol=5e-3)


def test_a_second_is_98_frames_and_padding_is_not_silence() -> None:
    fbank = Fbank()
    features = fbank.extract(SOUND)
    assert (features.shape, features.dtype) == ((98, 128), np.dtype(np.float32))
    assert fbank.normalise(np.zeros((1, 128), np.float32)) == pytest.approx(0.615, abs=5e-4)
    silence = fbank.normalise(fbank.extract(np.zeros(16000, np.float32)))
    assert silence == pytest.approx(-0.817, abs=5e-4)
    assert silence.dtype == np.float32
    floored = [b for b in range(128) if (features[:, b] == features.min()).all()]
    assert floored == [3]  # no point of the spectrum is under that filter


def test_the_mean_of_a_clip_is_of_no_account() -> None:
    off = (SOUND + np.float32(0.1)).astype(np.float32)
    np.testing.assert_allclose(Fbank().extract(off), Fbank().extract(SOUND), rtol=0, atol=1e-2)
    np.testing.assert_array_equal(
        Fbank().extract(np.full(800, 0.25, np.float32)), Fbank().extract(np.zeros(800, np.float32))
    )


fbanks = st.sampled_from(
    [Fbank(), Fbank(bins=1), Fbank(bins=13, hop=0.025), Fbank(8000, 40), Fbank(1000, 2, frame=0.004, hop=0.001)]
)


@given(fbanks, st.lists(st.integers(0, 900), max_size=12), st.integers(0, 1 << 16))
@settings(max_examples=40)
def test_a_stream_in_pieces_has_the_same_features_to_the_bit(fbank: Fbank, pieces: list[int], seed: int) -> None:
    sound = (np.random.default_rng(seed).standard_normal(sum(pieces)) * 0.1).astype(np.float32)
    online, at, found = fbank.online(), 0, []
    for length in pieces:
        found.append(online.push(sound[at : at + length]))
        at += length
    whole = fbank.extract(sound)
    assert len(whole) == fbank.count(len(sound)) == len(range(0, len(sound) - fbank.window + 1, fbank.step))
    np.testing.assert_array_equal(np.concatenate([whole[:0], *found]), whole)


def test_blocks_of_a_long_clip_meet_without_a_seam() -> None:
    fbank = Fbank(8000, 20)
    sound = babble(5, 6.0, 8000)
    whole = fbank.extract(sound)  # several blocks
    assert len(whole) > 2 * 256
    for at in (0, 255, 256, 511, 512):
        np.testing.assert_array_equal(fbank.extract(sound[at * fbank.step :][: fbank.window])[0], whole[at])


def test_a_stream_keeps_less_than_a_frame_however_long() -> None:
    fbank = Fbank(8000, 8)
    online = fbank.online()
    for _ in range(300):
        online.push(SOUND[:3000])
        held = [value for value in vars(online).values() if value is not fbank]
        assert len(held) == 1
        assert held[0].size < fbank.window
        assert held[0].base is None  # a view would keep the whole piece


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sample_rate": 0}, "sample_rate is 0"),
        ({"bins": 0}, "from 1 to half the 512 points"),
        ({"bins": 257}, "bins is 257"),
        ({"frame": 2.0}, "frame is 2.0"),
        ({"frame": 0.00001}, "at least 2 samples"),
        ({"hop": 0.0}, "at least a sample"),
        ({"hop": 0.03}, "at most a frame"),
        ({"scale": 0.0}, "more than 0"),
    ],
)
def test_values_that_make_no_features_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        replace(Fbank(), **change)
