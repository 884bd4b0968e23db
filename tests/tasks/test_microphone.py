"""Microphones, by way of a sound system that is made up."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.tasks import microphone
from tests.listening.sound_system import SoundSystem

Install = Callable[..., SoundSystem]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    def install(**facts: Any) -> SoundSystem:
        system = SoundSystem(**facts)
        monkeypatch.setitem(sys.modules, "sounddevice", system)
        return system

    return install


def test_inputs_are_those_that_record(install: Install) -> None:
    install()
    found = microphone.inputs()
    assert [(one.index, one.name, one.channels, one.default) for one in found] == [
        (1, "USB microphone", 1, False),
        (2, "Built-in microphone", 2, True),
    ]
    assert microphone.find(None).name == "Built-in microphone"
    assert microphone.find("usb").index == 1
    assert microphone.find("1").index == 1
    for wanted, said in (("mic", "several inputs"), ("0", "no input here"), ("xyz", "no input here")):
        with pytest.raises(UsageError, match=f"'{wanted}' is {said}.*: 1 USB microphone; 2 Built-in microphone"):
            microphone.find(wanted)


def test_pieces_are_mono_and_say_what_was_lost(install: Install) -> None:
    system = install(sound=np.linspace(-2, 2, 450, dtype=np.float32), lost={1})
    with closing(microphone.pieces(microphone.find("1"), 1000)) as pieces:
        got = [next(pieces) for _ in range(3)]
    assert [lost for _, lost in got] == [False, True, False]
    assert [piece.shape for piece, _ in got] == [(100,)] * 3
    assert got[0][0].dtype == np.float32
    assert float(got[0][0].min()) == -1.0  # what is louder than full scale is clipped
    assert system.asked == {"device": 1, "channels": 1, "dtype": "float32", "samplerate": 1000}
    assert system.open == 0


def test_what_is_not_here(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(devices=[])
    assert microphone.inputs() == ()
    with pytest.raises(Unavailable, match=r"Nothing here records sound.*--wav"):
        microphone.find(None)
    install(rates=(44100,))
    with pytest.raises(
        Unavailable, match=r"'USB microphone' does not record mono sound at 1000 Hz \(Invalid sample ra"
    ):
        next(microphone.pieces(microphone.find("1"), 1000))
    install(sound=np.zeros(150, np.float32))
    with pytest.raises(Unavailable, match=r"'USB microphone' has stopped recording \(Device unavailable\)"):
        list(microphone.pieces(microphone.find("1"), 1000))
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(Unavailable, match=r"edgedeploy\[microphone\]"):
        microphone.inputs()


def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(Unavailable, match=r"The PortAudio library is not here.*apt install libportaudio2"):
        microphone.inputs()
