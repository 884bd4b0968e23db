"""MLPerf Tiny's keyword model, float and int8, on the clips of a folder in the layout of Speech Commands.

    python -m benchmarks.peers.mlperf_tiny_keywords WEIGHTS --data speech_commands/ [--json OUT]

WEIGHTS is a folder with ``kws_ref_model_float32.tflite`` and ``kws_ref_model.tflite`` (mlcommons/tiny, Apache-2.0). The
model knows ten words, silence and "unknown". It was trained on Speech Commands v2, which holds clips of v1 too: only
those of the official testing list were surely not in its training set, and they are counted apart. Needs
``pip install ai-edge-litert``.

Features are those that the benchmark defines: one second of sound divided by its largest sample, 30 ms Hann windows
every 20 ms, magnitudes of a 512-point transform, 40 triangular filters from 20 to 4000 Hz on HTK's mel scale, natural
logarithm of them plus 1e-6, and the first 10 of their cosine transform.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import Unavailable
from edgedeploy.recognition.hearing import Hearing
from edgedeploy.recognition.paired import Paired, paired
from edgedeploy.recognition.words import WordAccuracy, word_accuracy
from edgedeploy.records import to_json
from edgedeploy.tasks.audio import read_audio
from edgedeploy.tasks.clips import ClipSet
from edgedeploy.tasks.speech_files import read_clips

Floats = npt.NDArray[np.float32]
LABELS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "silence", "unknown")
WORDS = LABELS[:10]
RATE, WINDOW, STRIDE, POINTS = 16000, 480, 320, 512
FILTERS, LOWEST, HIGHEST, COEFFICIENTS = 40, 20.0, 4000.0, 10
FILES = {"float": "kws_ref_model_float32.tflite", "int8": "kws_ref_model.tflite"}
SEEN = (
    "MLPerf Tiny's model was trained on Speech Commands v2, and clips outside the testing list may have been part of "
    "that training: on these its accuracy is not that on new speakers."
)


@dataclass(frozen=True)
class Beside:
    """What came out: of both models on all clips of the ten words, and on those of the official testing list."""

    words: tuple[str, ...]
    data: str
    all_float: WordAccuracy
    all_int8: WordAccuracy
    int8_minus_float: Paired
    test_float: WordAccuracy | None
    test_int8: WordAccuracy | None
    others_as_unknown: float
    doubts: tuple[str, ...]
    schema: int = 1


def mel_filters() -> npt.NDArray[np.float64]:
    """Weights (257, 40) from magnitudes to mel filters: triangles on the mel scale; the lowest bin counts in none."""
    hertz = np.linspace(0, RATE / 2, POINTS // 2 + 1)
    mel, low, high = (1127 * np.log1p(np.asarray(f) / 700) for f in (hertz, LOWEST, HIGHEST))
    edges = np.linspace(low, high, FILTERS + 2)
    rising = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    weights: npt.NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling))
    weights[0] = 0
    return weights


def features(audio: Floats) -> Floats:
    """What the model takes for a clip, float32 (n,) at 16 kHz: (1, 49, 10, 1)."""
    sound = np.zeros(RATE, np.float64)
    count = min(RATE, len(audio))
    loudest = float(audio.max(initial=0.0))  # the largest sample, not the largest magnitude: so the model was trained
    sound[:count] = audio[:count] / loudest if loudest > 0 else audio[:count]
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::STRIDE]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    magnitudes = np.abs(np.fft.rfft(frames * hann, POINTS, axis=1))
    logs = np.log(magnitudes @ mel_filters() + 1e-6)
    k, n = np.arange(COEFFICIENTS), np.arange(FILTERS)
    cosine = np.cos(np.pi * k[:, None] * (n + 0.5) / FILTERS) * np.sqrt(2 / FILTERS)
    found: Floats = (logs @ cosine.T).astype(np.float32)[None, :, :, None]
    return found


def open_model(path: Path) -> Callable[[Floats], Floats]:
    """From features to probabilities (12,); of the int8 model, what its quantisation leaves of them.

    Raises:
        Unavailable: what runs .tflite files is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise Unavailable("This needs LiteRT. Install it with: pip install ai-edge-litert") from error
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(values: Floats) -> Floats:
        interpreter.set_tensor(taken["index"], _stored(values, taken))
        interpreter.invoke()
        out = interpreter.get_tensor(given["index"])[0]
        if out.dtype == np.float32:
            return np.asarray(out)
        scale, zero = given["quantization"]
        return np.asarray((out.astype(np.float32) - zero) * scale, np.float32)

    return run


def _stored(values: Floats, detail: dict[str, Any]) -> npt.NDArray[np.generic]:
    if detail["dtype"] is np.float32:
        return values
    scale, zero = detail["quantization"]
    return np.asarray(np.clip(np.round(values / scale + zero), -128, 127), detail["dtype"])


def listen(model: Callable[[Floats], Floats], data: ClipSet) -> Hearing:
    """The model on clips of words that are all in `LABELS`."""
    answers, frames = [], []
    for clip in data.clips:
        audio = read_audio(clip.path, RATE, resample=True)
        answers.append(np.log(np.maximum(model(features(audio)), 1e-7)))
        frames.append(49)
    return Hearing(
        labels=LABELS,
        logits=np.stack(answers)[:, None].astype(np.float32),
        heard=np.array([49], np.int64),
        frames=np.array(frames, np.int64),
        words=np.array([LABELS.index(data.labels[clip.word]) for clip in data.clips], np.int64),
        speakers=tuple(clip.speaker for clip in data.clips),
        clips=tuple(f"{clip.path.parent.name}/{clip.path.name}" for clip in data.clips),
    )


def known(data: ClipSet) -> ClipSet:
    """The clips of the ten words."""
    return data.subset(i for i, clip in enumerate(data.clips) if data.labels[clip.word] in WORDS)


def beside(weights: Path, folder: Path) -> Beside:
    """Both models on the clips of ``folder``.

    Raises:
        UsageError: a file is missing or damaged.
        Unavailable: LiteRT is not installed.
    """
    both = [open_model(weights / name) for name in FILES.values()]
    whole = read_clips(folder, "all")
    rest = whole.subset(i for i, clip in enumerate(whole.clips) if whole.labels[clip.word] not in WORDS)
    test = known(read_clips(folder, "test"))
    one, other = (listen(model, known(whole)) for model in both)
    tested = [word_accuracy(listen(model, test)) if len(test) else None for model in both]
    guesses = [int(both[0](features(read_audio(clip.path, RATE, resample=True))).argmax()) for clip in rest.clips]
    return Beside(
        words=WORDS,
        data=whole.name,
        all_float=word_accuracy(one),
        all_int8=word_accuracy(other),
        int8_minus_float=paired(one, other),
        test_float=tested[0],
        test_int8=tested[1],
        others_as_unknown=float(np.mean([guess == LABELS.index("unknown") for guess in guesses])) if guesses else 0.0,
        doubts=(SEEN,),
    )


def _line(name: str, found: WordAccuracy | None) -> str:
    if found is None:
        return f"{name}: no such clip"
    one = found.accuracy
    return f"{name}: {one.value:.1%} ({one.low:.1%} to {one.high:.1%}, {one.method}), {found.right} of {found.clips}"


def main() -> int:
    """Run, print, and write the record."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("weights", type=Path)
    made.add_argument("--data", type=Path, required=True)
    made.add_argument("--json", type=Path, help="write the record here")
    arguments = made.parse_args()
    found = beside(arguments.weights, arguments.data)
    for name in ("all_float", "all_int8", "test_float", "test_int8"):
        print(_line(name.replace("_", ", "), getattr(found, name)))
    change = found.int8_minus_float.speakers
    print(f"int8 - float: {change.estimate:+.4f} ({change.confidence:.0%}: {change.low:+.4f} to {change.high:+.4f})")
    print(f"of other words, heard as unknown: {found.others_as_unknown:.1%}")
    for doubt in found.doubts:
        print(f"! {doubt}")
    if arguments.json:
        arguments.json.write_text(json.dumps(to_json(found), indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
