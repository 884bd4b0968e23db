"""``edgedeploy listen``: what it prints and keeps, where it goes on, and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

pytest.importorskip("soundfile")

import soundfile

from edgedeploy.cli import listen as command
from edgedeploy.cli.hearing import Voice
from edgedeploy.errors import EdgeDeployError, Incompatible, Unavailable, UsageError
from edgedeploy.listening import Answer, Listener, Tally
from edgedeploy.tasks import Raw
from tests.listening.ear import RATE, bundle, hear, quiet, stream, tone
from tests.listening.sound_system import SoundSystem

app = typer.Typer()
app.command()(command.listen)
CLIP = np.concatenate([tone("up", 0.3), quiet(0.2)])
LONG = np.concatenate([quiet(1.0), tone("no", 0.4), quiet(1.5), tone("down", 0.4), quiet(1.2)])
QUICK = ("--patience", 3, "--least", 10)


@pytest.fixture
def kws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    hear(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for name, sound in (("clip.wav", CLIP), ("long.wav", LONG)):
        soundfile.write(tmp_path / name, sound, RATE)
    return bundle(tmp_path)


def listen(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def of(kind: str, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == kind]


def refused(kind: type[EdgeDeployError], *arguments: object) -> str:
    result = listen(*arguments)
    assert isinstance(result.exception, kind), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_a_clip_and_its_picture(kws: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = listen(kws, "--wav", "clip.wav", *QUICK, "--plot", "a.png")
    assert result.exit_code == 0, result.output
    (row,) = [line for line in result.stdout.splitlines() if "clip.wav" in line]
    assert row.split()[:4] == ["clip.wav", "0.00", "s", "up"]
    assert row.split()[5:9] == ["0.14", "s", "0.15", "s"]
    assert "no benchmark, which 'edgedeploy bench' makes" in result.stdout
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_lines_for_machines(kws: Path) -> None:
    events = lines(listen(kws, "--wav", "clip.wav", *QUICK, "--json"))
    answers, (decision,), (utterance,), (summary,) = (
        of(k, events) for k in ("answer", "decision", "utterance", "summary")
    )
    assert [one["frames"] for one in answers] == list(range(1, 65))
    assert all(len(one["top"]) == 3 and one["top"][0][1] >= one["top"][2][1] for one in answers)
    assert decision["word"] == utterance["top"][0][0] == "up"
    assert utterance["decision"] == {key: decision[key] for key in utterance["decision"]}
    assert (summary["source"], summary["seconds"], summary["utterances"]) == ("clip.wav", 0.5, 1)
    assert summary["real_time_factor"] == pytest.approx(summary["computing"] / 0.5)
    fewer = of("answer", lines(listen(kws, "--wav", "clip.wav", "--json", "--every", "100ms")))
    assert [round(one["waited"], 3) for one in fewer] == [0.045, 0.145, 0.245, 0.345, 0.445]


def test_words_in_a_long_file(kws: Path) -> None:
    result = listen(kws, "--wav", "long.wav", *QUICK, "--continuous", "--threshold", "0.6")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines() if line.strip().startswith("long.wav")]
    assert [(row[1], row[3]) for row in rows] == [("0.90", "no"), ("2.80", "down")]
    assert [line.split()[2] for line in result.stderr.splitlines()] == ["no", "down"]  # as they are heard
    none = listen(kws, "--wav", "long.wav", "--continuous", "--threshold", "1")
    assert "no word was decided on" in none.stdout
    assert "long.wav: 2 utterances ended without a decision." in none.stdout


def test_a_file_that_cannot_be_heard_does_not_stop_the_others(kws: Path) -> None:
    result = listen(kws, "--wav", "no.wav", "--wav", "clip.wav", "--wav", "other.wav")
    assert "clip.wav" in result.stdout
    assert isinstance(result.exception, UsageError)
    assert "no.wav does not exist" in str(result.exception)


@pytest.mark.parametrize("more", [(), ("--continuous",)])
def test_what_was_stopped_goes_on(
    more: tuple[str, ...], kws: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "first.wav", LONG[:2345], RATE)
    soundfile.write(tmp_path / "rest.wav", LONG[2345:], RATE)
    common = (*QUICK, *more, "--json")
    wanted = lines(listen(kws, "--wav", "long.wav", *common))
    # in two files
    listen(kws, "--wav", "first.wav", *common, "--save-state", "s.npz")
    second = lines(listen(kws, "--wav", "rest.wav", *common, "--resume", "s.npz"))
    assert second[-2]["event"] == wanted[-2]["event"]
    assert {**second[-2], "source": ""} == {**wanted[-2], "source": ""}
    # in the same file, after Ctrl-C in its third second
    push, pieces = Tally.push, iter(range(9))

    def stop(self: Tally, *piece: Any) -> Any:
        if next(pieces) == 3:
            raise KeyboardInterrupt
        return push(self, *piece)

    monkeypatch.setattr(Tally, "push", stop)
    stopped = listen(kws, "--wav", "long.wav", *common, "--save-state", "t.npz")
    assert stopped.exit_code == 130
    assert "go on with --resume t.npz" in stopped.stderr
    assert of("summary", [json.loads(line) for line in stopped.stdout.splitlines()])[0]["seconds"] == 3.0
    monkeypatch.setattr(Tally, "push", push)
    result = listen(kws, "--wav", "long.wav", *common, "--resume", "t.npz", "--save-state", "t.npz")
    assert "going on after 3.000 s in long.wav behind 3000 samples" in result.stderr
    later = lines(result)
    assert later[:-1] == wanted[len(wanted) - len(later) : -1]
    assert later[-1]["seconds"] == pytest.approx(len(LONG) / RATE - 3)


def test_a_microphone(kws: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(**facts: Any) -> None:
        monkeypatch.setitem(sys.modules, "sounddevice", SoundSystem(sound=LONG, **facts))

    install(at_end=KeyboardInterrupt, lost={4, 7})
    result = listen(kws, "--microphone", "--input", "usb", *QUICK)
    assert result.exit_code == 0, result.output  # Ctrl-C is how it ends
    assert "listening to USB microphone" in result.stderr
    assert [line.split()[3] for line in result.stdout.splitlines() if line.strip().startswith("microphone")] == [
        "no",
        "down",
    ]
    assert "sound was lost 2 times" in result.stdout
    install()
    events = lines(listen(kws, "--microphone", "--duration", "1.75s", "--json"))
    assert events[-1]["seconds"] == 1.75
    install()
    assert "Built-in microphone" in listen("--microphones").stdout
    monkeypatch.setitem(sys.modules, "sounddevice", SoundSystem(devices=[]))
    assert "Nothing here records sound" in refused(Unavailable, kws, "--microphone")


def write(path: Path, sound: Any, rate: int = RATE) -> None:
    soundfile.write(path, np.asarray(sound, np.float32), rate, subtype="FLOAT")


def test_sound_that_is_not_right(kws: Path, tmp_path: Path) -> None:
    write(tmp_path / "rate.wav", np.repeat(CLIP, 8), 8 * RATE)
    write(tmp_path / "stereo.wav", np.stack([CLIP, CLIP], axis=1))
    write(tmp_path / "short.wav", CLIP[:24])
    write(tmp_path / "nan.wav", [*CLIP[:300], np.nan])
    write(tmp_path / "silent.wav", 1e-4 * CLIP)
    (tmp_path / "text.wav").write_text("hello")
    for name, said in (
        ("rate.wav", "a sample rate of 8000 Hz, and 1000 Hz is needed: convert it, or add --resample"),
        ("stereo.wav", "has 2 channels"),
        ("short.wav", "too short for an answer"),
        ("nan.wav", "has a sample that is nan, at 0.300 s"),
        ("text.wav", "cannot be read as sound"),
        ("no.wav", "does not exist"),
        (".", "is a folder"),
    ):
        assert said in refused(UsageError, kws, "--wav", name)
    assert "silent.wav: silence: the loudest sample is 5e-05 of full scale" in listen(kws, "--wav", "silent.wav").stdout
    pytest.importorskip("soxr")
    (utterance,) = of("utterance", lines(listen(kws, "--wav", "rate.wav", "--resample", "--json")))
    assert utterance["seconds"] == pytest.approx(0.5)


def test_bundles_and_states_that_are_not_right(kws: Path, tmp_path: Path) -> None:
    clip = ("--wav", "clip.wav")
    whole = bundle(tmp_path / "whole", graphs=("main",))
    other = bundle(tmp_path / "other", graph=b"other")
    listen(kws, *clip, "--save-state", "s.npz")
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "s.npz").read_bytes()[:-30])
    assert "export it with --streaming" in refused(UsageError, whole, *clip)
    assert "'raw' takes samples one by one" in refused(UsageError, bundle(tmp_path / "raw", task=Raw()), *clip)
    assert "belongs to the bundle 'kws'" in refused(Incompatible, other, *clip, "--resume", "s.npz")
    assert "or is damaged" in refused(UsageError, kws, *clip, "--resume", "damaged.npz")
    assert "continuous listening" in refused(UsageError, kws, *clip, "--resume", "s.npz", "--continuous")
    assert "cannot be written" in refused(UsageError, kws, *clip, "--save-state", "no/s.npz")


def test_nothing_is_written_over(kws: Path, tmp_path: Path) -> None:
    clip = ("--wav", "clip.wav")
    listen(kws, *clip, "--save-state", "s.npz")
    kept = (tmp_path / "s.npz").read_bytes()
    sound = (tmp_path / "clip.wav").read_bytes()
    assert "go on from it with --resume s.npz" in refused(UsageError, kws, *clip, "--save-state", "s.npz")
    assert "clip.wav is there already" in refused(UsageError, kws, *clip, "--save-state", "clip.wav")
    assert "inside the bundle" in refused(UsageError, kws, *clip, "--save-state", kws / "s.npz")
    soundfile.write(tmp_path / "loud.wav", 100 * CLIP, RATE, "FLOAT")
    again = ("--resume", "s.npz", "--save-state", "s.npz")
    for name, said in (("no.wav", "does not exist"), ("loud.wav", "samples have to be numbers in -1 to 1")):
        assert said in refused(UsageError, kws, "--wav", name, *again)
    assert (tmp_path / "s.npz").read_bytes() == kept, "sound that is refused costs the state that was kept"
    assert (tmp_path / "clip.wav").read_bytes() == sound


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--wav FILE, or --microphone"),
        (("--wav", "a", "--microphone"), "--wav FILE, or --microphone"),
        (("--wav", "a", "--input", "1"), "--input is about a microphone"),
        (("--wav", "a", "--wav", "b", "--plot", "c.png"), "--plot is about one stream: give one file, not 2"),
        (("--wav", "a", "--plot", "c.jpg"), "c.jpg is no .png, .svg or .pdf file"),
        (("--wav", "a", "--plot", "c.png", "--resume", "s"), "leave out --plot, or --resume"),
        (("--wav", "a", "--plot", "no/c.png"), "there is no folder no"),
        (("--wav", "a", "--every", "-1s"), "--every -1s: a time from 0 up"),
        (("--microphone", "--duration", "-1s"), "--duration -1s: a time from 0 up"),
        (("--wav", "a", "--threshold", "2"), "threshold is between 0 and 1, not 2"),
        (("--wav", "a", "--every", "3"), "no unit"),
    ],
)
def test_what_does_not_go_together_is_refused_before_the_bundle_is_opened(
    arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused(UsageError, "nowhere.edge", *arguments)


def test_a_line_that_lives_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    voice = Voice(Listener(stream()), 0.0, as_json=False)
    voice.begin("a.wav")
    voice.say(Answer(1.0, 7, 0.085, 0.105, np.array([0.1, 0.75, 0.2, 0.0], np.float32)))
    voice.quiet()
    shown = capsys.readouterr()
    assert shown.err == "\r\x1b[K      1.10 s  0.75 ############### no".replace("# no", "#      no") + "\r\x1b[K"
    assert shown.out == ""
