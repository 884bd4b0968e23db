"""Golden vectors of streams: every step of a sample, stacked, and what the last one says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgedeploy.errors import ExportFailed, UsageError
from edgedeploy.exporter import Exporter, _refuse_wrong
from edgedeploy.golden import Pair, Ready, record, run_stream, streams
from edgedeploy.model import Model, Source
from edgedeploy.runtime import Outputs
from edgedeploy.tasks import STREAM, Keywords, Raw
from edgedeploy.tasks.fbank import Fbank
from edgedeploy.tensors import Array, Signature, StateSpec, TensorSpec

TASK = Keywords(("yes", "no"), Fbank(bins=4), frames=6, lookahead=2)
LOGITS = TensorSpec("logits", "float32", (1, 2))
MAIN = Signature((TensorSpec("features", "float32", (1, 6, 4)),), (LOGITS,))
STEP = Signature(
    (TensorSpec("frame", "float32", (1, 4)), TensorSpec("end", "float32", (1, 1))),
    (LOGITS, TensorSpec("heard", "float32", (1, 1))),
    (StateSpec("sum", "sum_next", "float32", (1, 4)), StateSpec("count", "count_next", "float32", (1, 1))),
)
SIGNATURES = {"main": MAIN, STREAM: STEP}


class Summing:
    """The mean of the frames so far, two of its values as logits; a gain of its own for either graph."""

    def __init__(self, **gains: float) -> None:
        self.gains = {"main": 1.0, STREAM: 1.0, **gains}
        self.total, self.count = np.zeros((1, 4), np.float32), 0

    @property
    def facts(self) -> Mapping[str, str | int | float]:
        return {"runtime": "summing", "version": "1", "threads": 1}

    def run(self, inputs: Mapping[str, Array], graph: str = "main") -> Outputs:
        if graph == "main":
            mean = inputs["features"].astype(np.float32).mean(axis=1)
            return {"logits": self.gains["main"] * mean[:, :2]}
        if not inputs["end"].any():
            self.total, self.count = self.total + inputs["frame"].astype(np.float32), self.count + 1
        mean = self.total / max(1, self.count)
        heard = np.full((1, 1), max(0, self.count - TASK.lookahead), np.float32)
        return {"logits": np.float32(self.gains[STREAM]) * mean[:, :2], "heard": heard}

    def reset(self) -> None:
        self.total, self.count = np.zeros((1, 4), np.float32), 0

    def close(self) -> None: ...


def clip(frames: int = 5, seed: int = 0) -> npt.NDArray[np.float32]:
    fbank = TASK.features
    samples = (frames - 1) * fbank.step + fbank.window
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


def test_a_sample_of_a_stream_is_all_its_steps() -> None:
    session = Summing()
    first = run_stream(session, STEP, TASK, clip())
    assert {name: values.shape for name, values in first.items()} == {"logits": (8, 2), "heard": (8, 1)}
    assert first["heard"].ravel().tolist() == [0, 0, 1, 2, 3, 4, 4, 4]
    again = run_stream(session, STEP, TASK, clip())  # from the start, whatever was before
    np.testing.assert_array_equal(again["logits"], first["logits"])
    whole = Ready.of(TASK, "main", MAIN, clip()).run(session)
    np.testing.assert_allclose(first["logits"][-1:].astype(float), whole["logits"].astype(float), rtol=1e-5)


def test_what_goes_in_is_every_step_of_it() -> None:
    frames, ends = Ready.of(TASK, STREAM, STEP, clip()).tensors
    (features,) = Ready.of(TASK, "main", MAIN, clip()).tensors
    assert ends.ravel().tolist() == [0] * 6 + [1] * 2
    np.testing.assert_array_equal(frames[:6], features[0])


def test_the_result_is_that_of_the_last_step() -> None:
    ready = Ready.of(TASK, STREAM, STEP, clip())
    wanted = ready.run(Summing())
    early = {"logits": np.zeros_like(wanted["logits"]), "heard": wanted["heard"]}
    early["logits"][-1] = wanted["logits"][-1]
    silent = {**wanted, "heard": np.zeros_like(wanted["heard"])}
    assert ready.distance(wanted, early) == 0
    assert ready.distance(wanted, {**wanted, "logits": wanted["logits"][:, ::-1].copy()}) == 1
    assert ready.distance(wanted, silent) == 1
    assert ready.distance(silent, silent) == 0


def test_less_than_a_frame_is_refused() -> None:
    with pytest.raises(UsageError, match="too short for one step of the graph 'stream'"):
        Ready.of(TASK, STREAM, STEP, np.zeros(10, np.float32))


def test_both_graphs_have_vectors_of_the_same_samples(tmp_path: Path) -> None:
    pair = Pair(TASK, Summing(), Summing(stream=1.01), SIGNATURES)
    golden = record(tmp_path, pair, [clip(seed=1), clip(seed=2)])
    assert [one.graph for one in golden] == ["main", "main", STREAM, STREAM]
    assert golden[0].sample == golden[2].sample != golden[3].sample
    assert [len(one.prepared) for one in golden] == [1, 1, 2, 2]
    assert np.load(tmp_path / golden[2].outputs["logits"]).shape == (8, 2)
    assert golden[0].distance == 0
    assert golden[0].agreement[0].snr == 200
    assert golden[2].agreement[0].snr == pytest.approx(40, abs=0.1)
    assert golden[2].agreement[1].snr == 200


def test_fp32_that_is_wrong_in_the_step_graph_alone_is_refused(tmp_path: Path) -> None:
    model = Model("m", {}, Source("m", "factory", "0" * 64))
    golden = record(tmp_path, Pair(TASK, Summing(), Summing(stream=1.01), SIGNATURES), [clip()])
    with pytest.raises(ExportFailed, match=r"an FP32 graph 'stream' of m .* output 'logits' .* SNR of 40 dB"):
        _refuse_wrong(_Fake(), model, golden)
    _refuse_wrong(_Fake(), model, golden[:1])


def test_a_task_without_a_feed_streams_nothing() -> None:
    assert streams(TASK, STREAM)
    assert not streams(TASK, "main")
    assert not streams(Raw(), STREAM)


class _Fake(Exporter):
    name, runtime, precisions = "fake", "fake", ("fp32",)

    def write(self, job: object) -> object:  # type: ignore[override]
        raise NotImplementedError
