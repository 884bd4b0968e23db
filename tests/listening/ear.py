"""A keyword model without a runtime: each frame has a vote for one of four tones, by how much it stands out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from edgedeploy import plugins
from edgedeploy.artifact import SCHEMA, ExporterRecord, GraphRecord, Manifest, seal, writing
from edgedeploy.model import Source
from edgedeploy.runtime import Outputs, Runtime, Session, check_state
from edgedeploy.stream import Stream
from edgedeploy.tasks import Keywords, contract_of
from edgedeploy.tasks.fbank import Fbank
from edgedeploy.tensors import Array, Signature, StateSpec, TensorSpec

Sound = npt.NDArray[np.float32]

RATE = 1000
#: A frame is 25 samples, the next begins 10 later; 64 frames are 0.655 s.
TASK = Keywords(("yes", "no", "up", "down"), Fbank(RATE, 8), frames=64, lookahead=2)
SIGNATURE = Signature(
    (TensorSpec("frame", "float32", (1, 8)), TensorSpec("end", "float32", (1, 1))),
    (TensorSpec("logits", "float32", (1, 4)), TensorSpec("heard", "float32", (1, 1))),
    (StateSpec("sum", "sum_next", "float32", (1, 4)), StateSpec("counts", "counts_next", "float32", (1, 2))),
)


class Ear:
    """The session; frames that are still in the look-ahead count in the sum already."""

    facts: ClassVar[dict[str, str | int | float]] = {"runtime": "ear", "version": "1"}

    def __init__(self) -> None:
        self.closed = False
        self._sum, self._counts = np.zeros((1, 4), np.float32), np.zeros((1, 2), np.float32)

    def run(self, inputs: Mapping[str, Array], graph: str = "main") -> Outputs:
        SIGNATURE.check(inputs)
        assert graph == "stream"
        end = float(inputs["end"][0, 0])
        frame = inputs["frame"].astype(np.float32).reshape(4, 2).max(axis=1)
        vote = (np.arange(4) == frame.argmax()) * (frame.max() - frame.min())
        self._sum = (self._sum + (1 - end) * vote).astype(np.float32)
        self._counts = self._counts + np.array([[1 - end, end]], np.float32)
        seen, ended = self._counts[0]
        heard = np.array([[max(0.0, seen + ended - TASK.lookahead)]], np.float32)
        return {"logits": (8 * self._sum / seen - 3).astype(np.float32), "heard": heard}

    def reset(self) -> None:
        self._sum, self._counts = np.zeros((1, 4), np.float32), np.zeros((1, 2), np.float32)

    def close(self) -> None:
        self.closed = True

    def state(self) -> dict[str, Array]:
        return {"sum": self._sum.copy(), "counts": self._counts.copy()}

    def restore(self, state: Mapping[str, Array]) -> None:
        check_state([SIGNATURE], state)
        self._sum, self._counts = state["sum"].astype(np.float32), state["counts"].astype(np.float32)


class Secretive(Ear):
    """One that keeps its state to itself."""

    state = restore = None  # type: ignore[assignment]


@dataclass(frozen=True)
class EarRuntime(Runtime):
    name: ClassVar[str] = "ear"

    @classmethod
    def version(cls) -> str:
        return "1"

    def open(self, files: Mapping[str, Path], signatures: Mapping[str, Signature]) -> Session:
        return Ear()


def stream(session: Session | None = None) -> Stream[Any]:
    return Stream(TASK, session or Ear(), SIGNATURE)


def tone(word: str, seconds: float, loud: float = 0.5) -> Sound:
    """The tone of a word, which begins at once."""
    frequency = (60.0, 150.0, 280.0, 440.0)[TASK.labels.index(word)]
    return (loud * np.cos(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def quiet(seconds: float) -> Sound:
    return np.zeros(round(seconds * RATE), np.float32)


def bundle(
    directory: Path, task: Any = TASK, graphs: tuple[str, ...] = ("main", "stream"), graph: bytes = b"x"
) -> Path:
    """A bundle that opens where `hear` was called."""
    manifest = Manifest(
        schema=SCHEMA,
        name="kws",
        created="2026-01-01T00:00:00+00:00",
        source=Source("kws.safetensors", "native", "0" * 64),
        task=contract_of(task),
        graphs={name: GraphRecord(f"graphs/{name}.onnx", SIGNATURE) for name in graphs},
        exporter=ExporterRecord("ear", "ear", None, "fp32", {}, {}),
        tools={},
        calibration=None,
        golden=(),
        golden_origin="test",
        golden_by="test",
        requires=(),
        device=None,
        request="r",
        seconds=1.0,
        notes=(),
        files={},
    )
    with writing(directory, "kws") as temporary:
        (temporary / "graphs").mkdir()
        for name in graphs:
            (temporary / "graphs" / f"{name}.onnx").write_bytes(graph if name == "stream" else b"main")
        seal(temporary, manifest)
    return directory / "kws.edge"


def hear(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on every runtime is the ear's."""
    monkeypatch.setattr(plugins, "find", lambda group, name: EarRuntime)
