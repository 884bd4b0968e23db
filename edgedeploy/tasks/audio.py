"""Files of sound: whole clips, or hours of it piece by piece, at the rate that a model takes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import Unavailable, UsageError

Sound = npt.NDArray[np.float32]

#: Seconds that a clip may last; what is longer is a stream, see `blocks`.
LONGEST = 3600.0
#: Suffixes of the files that data sets are made of; more are read.
SUFFIXES = (".wav", ".flac", ".ogg")
#: Sample rates, in Hz, from which and to which sound is resampled.
_RATES = (1000, 768_000)
#: Bytes of sound from which the header of a .wav does not mean what it says: what writes to a pipe cannot come back to
#: the header, and leaves 0xFFFFFFFF or the largest signed number there, or somewhat less.
_ENDLESS = 0x7FFF0000


def read_audio(path: str | Path, rate: int, resample: bool = False) -> Sound:
    """The samples of a clip, float32 (n,) in -1 to 1, at ``rate`` Hz.

    Raises:
        UsageError: it cannot be read, or is empty or cut off, has several channels, another rate (unless
            ``resample``), a sample that is no number, or lasts longer than an hour.
        Unavailable: soundfile, or soxr for another rate, is not installed.
    """
    pieces: list[Sound] = []
    for piece in blocks(path, rate, resample, seconds=10.0):
        pieces.append(piece)
        if sum(map(len, pieces)) > LONGEST * rate:
            raise UsageError(f"{path} lasts more than {LONGEST:g} s: take it as a stream, or cut a clip out of it.")
    return np.concatenate(pieces) if len(pieces) != 1 else pieces[0]


def blocks(path: str | Path, rate: int, resample: bool = False, seconds: float = 1.0) -> Iterator[Sound]:
    """The same samples in pieces of about so many seconds, in memory that does not grow with the file.

    Nothing is opened, and nothing refused, before the first piece is asked for. A .wav whose header does not know how
    long it is, as of what was written to a pipe, is read to the end of the file.

    Raises:
        UsageError, Unavailable: see `read_audio`; there is no limit to the length.
    """
    path = Path(path)
    with _open(path) as file:
        if file.channels != 1:
            raise UsageError(f"{path} has {file.channels} channels: mix them down to one, or pick one.")
        own = int(file.samplerate)
        if own != rate and not resample:
            raise UsageError(
                f"{path} has a sample rate of {own} Hz, and {rate} Hz is needed: convert it, or add --resample "
                "(resample=True)."
            )
        through = None if own == rate else _resampler(path, own, rate)
        yield from _pieces(path, file, through, max(1, round(own * seconds)))


def _pieces(path: Path, file: Any, through: Any, length: int) -> Iterator[Sound]:
    heard = 0
    while len(piece := _read(path, file, length)):
        bad = np.flatnonzero(~np.isfinite(piece))
        if len(bad):
            at = (heard + int(bad[0])) / file.samplerate
            raise UsageError(f"{path} has a sample that is {piece[bad[0]]}, at {at:.3f} s.")
        heard += len(piece)
        yield piece if through is None else through.resample_chunk(piece)
    if not heard:
        raise UsageError(f"{path} holds no sound: it has 0 samples.")
    if through is not None:
        yield through.resample_chunk(np.zeros(0, np.float32), last=True)


@dataclass(frozen=True)
class _Data:
    """The chunk of a .wav that holds the samples.

    Args:
        at: byte of the file where its size is written.
        size: bytes in it, as that says; ``None`` where it says nothing.
        held: bytes from there to the end of the file.
    """

    at: int
    size: int | None
    held: int


class _Unended(io.FileIO):
    """A .wav that says 0 bytes of sound and holds some, with the largest number in place of that 0."""

    def __init__(self, path: Path, at: int) -> None:
        super().__init__(path)
        self._places = range(at, at + 4)

    def readinto(self, buffer: Any) -> int:
        """As of any file."""
        first = self.tell()
        count = super().readinto(buffer) or 0
        for place in self._places:
            if first <= place < first + count:
                memoryview(buffer).cast("B")[place - first] = 0xFF
        return count


def _data_of(path: Path) -> _Data | None:
    """Where a .wav holds its samples; ``None`` for other files, and where there is no telling."""
    end = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] not in (b"RIFF", b"RIFX") or head[8:] != b"WAVE":
            return None
        order: Literal["little", "big"] = "little" if head[:4] == b"RIFF" else "big"
        whole, at = int.from_bytes(head[4:8], order), len(head)
        while len(chunk := file.read(8)) == 8:
            size = int.from_bytes(chunk[4:], order)
            if chunk[:4] == b"data":
                # 0 is meant where the file goes on with other chunks behind it, or ends
                unknown = size >= _ENDLESS or (size == 0 and (whole <= at or whole >= _ENDLESS))
                return _Data(at + 4, None if unknown else size, end - at - 8)
            at = file.seek(at + 8 + size + size % 2)
    return None


def _refuse_cut(path: Path, file: Any, data: _Data) -> None:
    if data.size is None or data.held >= data.size:
        return
    if not file.frames:
        raise UsageError(f"{path} is cut off before its first sample: get it again.")
    held = file.frames / file.samplerate
    of = held * data.size / data.held
    raise UsageError(
        f"{path} is cut off: it says {of:.3f} s of sound and holds {held:.3f} s, so that {of - held:.3f} s "
        f"({data.size - data.held} bytes) are missing. Get it again, or save what is there with a sound editor."
    )


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    if path.is_dir():
        raise UsageError(f"{path} is a folder, not a file of sound.")
    if not path.is_file():
        raise UsageError(f"{path} does not exist, or is no file.")
    try:
        import soundfile
    except (ImportError, OSError) as error:  # the second: it is here, and its C library is not
        raise Unavailable.extra("soundfile, which reads files of sound,", "audio") from error
    with ExitStack() as opened:
        try:
            data = _data_of(path)
            unended = data is not None and data.size is None and data.held > 0
            source = opened.enter_context(_Unended(path, data.at)) if data is not None and unended else path
            file = opened.enter_context(soundfile.SoundFile(source))
        except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
            raise UsageError(f"{path} cannot be read as sound ({_said(error)}); give a .wav, .flac or .ogg.") from error
        if data is not None:
            _refuse_cut(path, file, data)
        yield file


def _read(path: Path, file: Any, length: int) -> Sound:
    try:
        piece: Sound = file.read(length, dtype="float32")
    except (RuntimeError, OSError) as error:
        raise UsageError(f"{path} is damaged: it cannot be read to its end ({_said(error)}).") from error
    return piece


def _resampler(path: Path, own: int, rate: int) -> Any:
    try:
        import soxr
    except ImportError as error:
        raise Unavailable.extra("soxr, which changes the sample rate of sound,", "audio") from error
    for value in (own, rate):
        if not _RATES[0] <= value <= _RATES[1]:
            raise UsageError(f"{path} cannot be brought from {own} to {rate} Hz: {value} Hz is no rate of sound.")
    return soxr.ResampleStream(own, rate, 1, dtype="float32")


def _said(error: BaseException) -> str:
    return str(error).strip().rstrip(".").splitlines()[0][-200:] if str(error).strip() else type(error).__name__
