"""Files of sound: at the right rate or refused, whole or in pieces, and whatever is in them."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.tasks import audio
from edgedeploy.tasks.audio import blocks, read_audio
from edgedeploy.tasks.babble import babble

soundfile: Any = pytest.importorskip("soundfile")

SOUND = babble(0, 0.5, 8000)


def written(path: Path, sound: Any = SOUND, rate: int = 8000, **options: Any) -> Path:
    soundfile.write(path, sound, rate, **options)
    return path


@pytest.mark.parametrize(("name", "error"), [("a.wav", 2**-15), ("a.flac", 2**-15), ("a.ogg", 0.2)])
def test_what_was_written_is_read(tmp_path: Path, name: str, error: float) -> None:
    found = read_audio(written(tmp_path / name), 8000)
    assert (found.dtype, found.shape) == (np.dtype(np.float32), SOUND.shape)
    assert np.abs(found - SOUND).max() <= error


def test_another_rate_is_refused_or_resampled(tmp_path: Path) -> None:
    pytest.importorskip("soxr")
    time = np.arange(16000) / 16000
    tone = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    path = written(tmp_path / "tone.wav", tone[::2])
    with pytest.raises(UsageError, match=r"8000 Hz, and 16000 Hz is needed: .*--resample"):
        read_audio(path, 16000)
    found = read_audio(path, 16000, resample=True)
    assert (found.dtype, len(found)) == (np.dtype(np.float32), 16000)
    np.testing.assert_allclose(found[500:-500], tone[500:-500], atol=1e-3)


@pytest.mark.parametrize("rate", [8000, 16000, 11025])
def test_pieces_are_the_whole_and_small(tmp_path: Path, rate: int) -> None:
    pytest.importorskip("soxr")
    path = written(tmp_path / "long.wav", np.tile(SOUND, 20))
    pieces = list(blocks(path, rate, resample=True, seconds=0.25))
    np.testing.assert_array_equal(np.concatenate(pieces), read_audio(path, rate, resample=True))
    assert abs(sum(map(len, pieces)) - 10 * rate) <= 1
    # A resampler works in chunks of its own: what it holds back comes with a later piece.
    assert max(map(len, pieces)) <= (0.25 if rate == 8000 else 1.0) * rate


def test_a_clip_of_hours_is_no_clip_but_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "long.wav", np.tile(SOUND, 30))
    monkeypatch.setattr(audio, "LONGEST", 10.0)
    with pytest.raises(UsageError, match="more than 10 s: take it as a stream"):
        read_audio(path, 8000)
    assert sum(len(piece) for piece in blocks(path, 8000)) == 30 * len(SOUND)


def test_files_that_hold_no_mono_sound_are_refused(tmp_path: Path) -> None:
    bad = SOUND.copy()
    bad[2000] = np.nan
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "nothing.wav").touch()
    cases = {
        written(tmp_path / "stereo.wav", np.stack([SOUND, SOUND], axis=1)): "2 channels: mix them down",
        written(tmp_path / "nan.wav", bad, subtype="FLOAT"): r"nan, at 0\.250 s",
        written(tmp_path / "empty.wav", SOUND[:0]): "0 samples",
        tmp_path / "text.wav": "cannot be read as sound",
        tmp_path / "nothing.wav": "cannot be read as sound",
        tmp_path / "none.wav": "does not exist",
        tmp_path: "is a folder",
    }
    for path, said in cases.items():
        with pytest.raises(UsageError, match=said):
            read_audio(path, 8000)


def header(path: Path, whole: int | None, size: int) -> Path:
    """The file with other sizes in its header: of all, and of the samples."""
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = size.to_bytes(4, "little")
    if whole is not None:
        content[4:8] = whole.to_bytes(4, "little")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_wav_that_is_cut_off_is_refused(tmp_path: Path, subtype: str) -> None:
    path = written(tmp_path / "a.wav", subtype=subtype)
    whole = path.read_bytes()
    start = whole.index(b"data") + 8
    bytes_each = {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}[subtype]
    path.write_bytes(whole[: start + 1000 * bytes_each])
    said = rf"a\.wav is cut off: it says 0\.500 s .* holds 0\.125 s, so that 0\.375 s \({3000 * bytes_each} bytes\)"
    with pytest.raises(UsageError, match=said):
        read_audio(path, 8000)
    with pytest.raises(UsageError, match="is cut off"):
        next(blocks(path, 8000))
    path.write_bytes(whole[:start])
    with pytest.raises(UsageError, match="before its first sample"):
        read_audio(path, 8000)


@pytest.mark.parametrize(
    ("whole", "size"),
    [(0xFFFFFFFF, 0xFFFFFFFF), (0, 0), (8, 0), (36, 0), (0xFFFFFFFF, 0), (0x7FFFF024, 0x7FFFF000), (None, 0xFFFFFFFF)],
)
def test_a_wav_that_was_written_to_a_pipe_is_read_to_its_end(tmp_path: Path, whole: int | None, size: int) -> None:
    path = header(written(tmp_path / "a.wav", np.tile(SOUND, 5)), whole, size)
    expected = read_audio(written(tmp_path / "b.wav", np.tile(SOUND, 5)), 8000)
    np.testing.assert_array_equal(read_audio(path, 8000), expected)
    np.testing.assert_array_equal(np.concatenate(list(blocks(path, 8000, seconds=0.3))), expected)


def test_what_stands_behind_the_samples_is_no_sound(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", SOUND[:-1], subtype="PCM_U8")  # an odd number of bytes, and one to fill up
    more = b"LIST" + (4).to_bytes(4, "little") + b"INFO"
    path.write_bytes(path.read_bytes() + more)
    assert len(read_audio(path, 8000)) == len(SOUND) - 1
    none = written(tmp_path / "none.wav", SOUND[:0])
    size = len(none.read_bytes() + more) - 8
    none.write_bytes(none.read_bytes() + more)
    with pytest.raises(UsageError, match="0 samples"):
        read_audio(header(none, size, 0), 8000)


def test_a_rate_that_sound_does_not_have_is_not_resampled(tmp_path: Path) -> None:
    pytest.importorskip("soxr")
    with pytest.raises(UsageError, match="1 Hz is no rate of sound"):
        read_audio(written(tmp_path / "slow.wav", rate=1), 16000, resample=True)


@pytest.mark.parametrize("package", ["soundfile", "soxr"])
def test_a_missing_package_says_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    path = written(tmp_path / "a.wav")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Unavailable, match=rf"{package}.*edgedeploy\[audio\]"):
        read_audio(path, 16000, resample=True)


def _bytes(kind: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, SOUND[:600], 8000, format=kind)
    return buffer.getvalue()


FILES = {kind: _bytes(kind) for kind in ("WAV", "FLAC", "OGG")}


@given(
    st.sampled_from(sorted(FILES)),
    st.integers(0, 2000),
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=4),
)
@settings(max_examples=80)
def test_damaged_files_give_sound_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, kind: str, cut: int, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(FILES[kind][:cut])
    for at, value in changes:
        content[at : at + 1] = bytes([value])
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind.lower()}"
    path.write_bytes(content)
    try:
        sound = read_audio(path, 8000)
    except UsageError as error:
        assert str(path) in str(error)
    else:
        assert sound.dtype == np.float32
        assert np.isfinite(sound).all()
        assert sound.ndim == 1
        assert len(sound)
