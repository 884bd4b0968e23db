"""A tiny untrained LMUFormer with all its graphs, real files of sound, and hearings made by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedeploy.recognition.hearing import Hearing
from edgedeploy.tasks import Keywords, contract_of
from edgedeploy.tasks.fbank import Fbank

WORDS = ("down", "no", "up", "yes")
FEATURES = Fbank(sample_rate=4000, bins=16)
FRAMES = 20


@dataclass(frozen=True)
class Kit:
    """A checkpoint, the task in it, and a folder of clips by three speakers: shorter than its window, and longer."""

    checkpoint: Path
    task: Keywords
    clips: Path


@pytest.fixture(scope="session")
def keywords(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    torch = pytest.importorskip("torch")
    soundfile: Any = pytest.importorskip("soundfile")
    from edgedeploy.models import native
    from edgedeploy.models.lmuformer import LMUFormer
    from edgedeploy.tasks.babble import babble

    root = tmp_path_factory.mktemp("keywords")
    options: dict[str, Any] = {"classes": 4, "bins": 16, "dim": 8, "memory": 6, "theta": 10, "frames": FRAMES}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = LMUFormer(**options).eval()
        torch.nn.init.normal_(network.head.weight, std=2.0)
    task = Keywords(WORDS, FEATURES, FRAMES, network.lookahead)
    record = {"architecture": "lmuformer", "options": options, "task": contract_of(task)}
    native.save(root / "tiny.safetensors", network, record)
    listed: list[str] = []
    for word in WORDS:
        (root / "clips" / word).mkdir(parents=True)
        for number, speaker in enumerate(("ann", "bob", "cy")):
            sound = babble(number + 7 * len(listed), (0.12, 0.2, 0.4)[number], FEATURES.sample_rate)
            listed.append(f"{word}/{speaker}_nohash_0.wav")
            soundfile.write(root / "clips" / listed[-1], sound, FEATURES.sample_rate)
    (root / "clips" / "testing_list.txt").write_text("\n".join(listed))
    return Kit(root / "tiny.safetensors", task, root / "clips")


def _heard(
    right: Sequence[Sequence[int]], speakers: Sequence[str], frames: int = 98, after: Sequence[int] = (128,)
) -> Hearing:
    table = np.array(right, np.int64)
    logits = np.zeros((*table.shape, 2), np.float32)
    logits[..., 0], logits[..., 1] = table, 1 - table
    count = len(table)
    return Hearing(
        labels=("a", "b"),
        logits=logits,
        heard=np.array(after, np.int64),
        frames=np.full(count, frames, np.int64),
        words=np.zeros(count, np.int64),
        speakers=tuple(speakers),
        clips=tuple(f"a/{i}.wav" for i in range(count)),
    )


@pytest.fixture(scope="session")
def heard() -> Callable[..., Hearing]:
    """``heard(right, speakers)``: a hearing of two words that is right where the table (clips, answers) has a 1."""
    return _heard
