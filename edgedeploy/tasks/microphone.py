"""Sound from a microphone, as it comes."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import Unavailable, UsageError

Sound = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Input:
    """Something that records: ``rate`` is the sample rate in Hz that it would choose by itself."""

    index: int
    name: str
    channels: int
    rate: float
    default: bool


def inputs() -> tuple[Input, ...]:
    """What can record here, in the order of the system; none is no error.

    Raises:
        Unavailable: sounddevice or the PortAudio library is not here.
    """
    return _inputs(_sounddevice())


def find(wanted: str | None) -> Input:
    """The system's default, or the one of which ``wanted`` is the number, or of whose name alone it is a part.

    Raises:
        UsageError: none is, or several are.
        Unavailable: nothing records here; or see `inputs`.
    """
    known = inputs()
    if not known:
        raise Unavailable("Nothing here records sound: plug in a microphone, or give a file with --wav.")
    if wanted is None:
        return next((one for one in known if one.default), known[0])
    if wanted.isdecimal():
        found = [one for one in known if one.index == int(wanted)]
    else:
        found = [one for one in known if wanted.casefold() in one.name.casefold()]
    if len(found) != 1:
        said = "; ".join(f"{one.index} {one.name}" for one in found or known)
        raise UsageError(
            f"'{wanted}' is {'several inputs' if found else 'no input here'}. Choose one by number: {said}."
        )
    return found[0]


def pieces(source: Input, rate: int, seconds: float = 0.1) -> Generator[tuple[Sound, bool], None, None]:
    """Sound in pieces of so many ``seconds``, without an end: float32 (n,) mono in -1 to 1, and whether any was lost.

    Sound is lost before a piece when it is not asked for in time. Recording begins with the first piece.

    Raises:
        Unavailable: it does not record in mono at ``rate``, or it has stopped.
    """
    sounddevice = _sounddevice()
    how = {"device": source.index, "channels": 1, "dtype": "float32", "samplerate": rate}
    try:
        sounddevice.check_input_settings(**how)
        stream = sounddevice.InputStream(**how)
    except (sounddevice.PortAudioError, ValueError) as error:
        raise Unavailable(
            f"'{source.name}' does not record mono sound at {rate} Hz ({_said(error)}): choose another with --input."
        ) from error
    with stream:
        while True:
            try:
                samples, lost = stream.read(max(1, round(rate * seconds)))
            except sounddevice.PortAudioError as error:
                raise Unavailable(f"'{source.name}' has stopped recording ({_said(error)}).") from error
            yield np.clip(samples[:, 0], -1.0, 1.0), bool(lost)


def _inputs(sounddevice: Any) -> tuple[Input, ...]:
    try:
        found, default = list(sounddevice.query_devices()), sounddevice.default.device[0]
    except sounddevice.PortAudioError as error:
        raise Unavailable(f"The sound system of this machine gives no answer ({_said(error)}).") from error
    return tuple(
        Input(i, str(one["name"]), int(one["max_input_channels"]), float(one["default_samplerate"]), i == default)
        for i, one in enumerate(found)
        if one["max_input_channels"] > 0
    )


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError as error:
        raise Unavailable.extra("sounddevice, which listens to microphones,", "microphone") from error
    except OSError as error:  # it is here, and the library that it calls is not
        raise Unavailable(
            f"The PortAudio library is not here ({_said(error)}). Install it with: sudo apt install libportaudio2"
        ) from error
    return sounddevice


def _said(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
