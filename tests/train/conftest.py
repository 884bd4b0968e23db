"""A set of recordings that a small network learns in seconds: words are tones, speakers have their own pitch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
soundfile = pytest.importorskip("soundfile")

WORDS = ("high", "low", "middle")
SPEAKERS = ("ann", "bob", "cy", "dee")
RATE = 4000

#: Settings that make any recipe a small one.
TINY = {
    "features.sample_rate": RATE, "features.bins": 20, "network.frames": 24, "network.dim": 8, "network.memory": 4,
    "network.theta": 12, "training.epochs": 3, "training.batch": 16, "training.rate": 0.01, "training.stages": 3,
    "augmentation.frequency_mask": 3, "augmentation.time_mask": 4, "augmentation.roll": 2,
}  # fmt: skip


def tone(word: int, speaker: int, take: int) -> np.ndarray:
    generator = np.random.default_rng([word, speaker, take])
    time = np.arange(int(RATE * (0.15 + 0.02 * take))) / RATE
    pitch = (1400, 250, 650)[word] * (1 + 0.02 * speaker)
    sound = 0.4 * np.sin(2 * np.pi * pitch * time + generator.uniform(0, 6)) + 0.02 * generator.normal(size=len(time))
    return sound.astype(np.float32)


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 60 clips as of Speech Commands: 3 words, 4 speakers, 5 takes; bob's validate, cy's test."""
    root = tmp_path_factory.mktemp("data") / "tones"
    lists: dict[str, list[str]] = {"validation_list.txt": [], "testing_list.txt": []}
    for word, label in enumerate(WORDS):
        (root / label).mkdir(parents=True)
        for number, speaker in enumerate(SPEAKERS):
            for take in range(5):
                name = f"{label}/{speaker}_nohash_{take}.wav"
                soundfile.write(root / name, tone(word, number, take), RATE)
                if speaker in ("bob", "cy"):
                    lists["validation_list.txt" if speaker == "bob" else "testing_list.txt"].append(name)
    for file, names in lists.items():
        (root / file).write_text("".join(f"{name}\n" for name in names))
    return root
