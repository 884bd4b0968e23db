"""What sounddevice offers, made up."""

from __future__ import annotations

from types import SimpleNamespace, TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

DEVICES = [
    {"name": "Loudspeaker", "max_input_channels": 0, "default_samplerate": 48000.0},
    {"name": "USB microphone", "max_input_channels": 1, "default_samplerate": 44100.0},
    {"name": "Built-in microphone", "max_input_channels": 2, "default_samplerate": 48000.0},
]


class PortAudioError(Exception):
    """Of the library."""


class SoundSystem:
    """The module: records ``sound`` and then fails; ``lost`` are numbers of reads before which some was lost."""

    PortAudioError = PortAudioError
    default = SimpleNamespace(device=[2, 0])

    def __init__(
        self,
        devices: list[dict[str, Any]] = DEVICES,
        rates: tuple[int, ...] = (1000, 16000),
        sound: npt.NDArray[np.float32] | None = None,
        lost: set[int] = frozenset(),  # type: ignore[assignment]
        at_end: type[BaseException] = PortAudioError,
    ) -> None:
        self._devices, self._rates, self._lost, self._at_end = devices, rates, lost, at_end
        self._sound = np.zeros(0, np.float32) if sound is None else sound
        self._reads = self.open = 0
        self.asked: dict[str, Any] = {}

    def query_devices(self) -> list[dict[str, Any]]:
        return self._devices

    def check_input_settings(self, **asked: Any) -> None:
        self.asked = asked
        if asked["samplerate"] not in self._rates:
            raise PortAudioError("Invalid sample rate [PaErrorCode -9997]")

    def InputStream(self, **asked: Any) -> SoundSystem:
        assert asked == self.asked
        return self

    def __enter__(self) -> SoundSystem:
        self.open += 1
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.open -= 1

    def read(self, count: int) -> tuple[npt.NDArray[np.float32], bool]:
        if len(self._sound) < count:
            raise self._at_end("Device unavailable")
        piece, self._sound = self._sound[:count], self._sound[count:]
        self._reads += 1
        return piece[:, None], self._reads - 1 in self._lost
