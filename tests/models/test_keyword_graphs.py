"""Checkpoints of keyword networks become models of one graph or two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch

from edgedeploy.capture import EagerSession
from edgedeploy.errors import UsageError
from edgedeploy.model import InputShape, load
from edgedeploy.models.keyword_graphs import graphs
from edgedeploy.models.lmuformer import LMUFormer
from edgedeploy.models.native import read, save
from edgedeploy.tasks import STREAM, Detect, Keywords, contract_of
from edgedeploy.tasks.fbank import Fbank

Make = Callable[..., LMUFormer]
TINY: dict[str, Any] = {"bins": 12, "dim": 8, "memory": 6, "theta": 16, "frames": 20}
TASK = Keywords(labels=("a", "b", "c"), features=Fbank(bins=12), frames=20)


@pytest.fixture
def checkpoint(lively: Make, tmp_path: Path) -> Path:
    return written(tmp_path / "words.safetensors", lively(3, **TINY), contract_of(TASK))


def written(path: Path, network: LMUFormer, task: dict[str, Any]) -> Path:
    save(path, network, {"architecture": "lmuformer", "options": network.options, "task": task})
    return path


def test_both_graphs_of_a_checkpoint_say_the_same(checkpoint: Path, lively: Make) -> None:
    model = load(checkpoint, InputShape(streaming=True))
    assert set(model.graphs) == {"main", STREAM}
    assert model.task == contract_of(TASK)
    session = EagerSession(model)

    def logits(outputs: Any) -> npt.NDArray[np.float32]:
        return np.asarray(outputs["logits"], np.float32)

    features = np.random.default_rng(0).standard_normal((1, 20, 12)).astype(np.float32)
    whole = logits(session.run({"features": features}))
    np.testing.assert_allclose(whole, lively(3, **TINY)(torch.from_numpy(features)).numpy(), rtol=0, atol=1e-6)
    for _ in range(2):
        session.reset()
        for t in range(25):
            frame, end = features[:, min(t, 19)], np.full((1, 1), float(t >= 20), np.float32)
            found = session.run({"frame": frame, "end": end}, STREAM)
        assert found["heard"].item() == 20
        np.testing.assert_allclose(logits(found), whole, rtol=0, atol=1e-6)


def test_what_is_asked_of_the_shape(checkpoint: Path) -> None:
    assert set(load(checkpoint).graphs) == {"main"}
    batched = load(checkpoint, InputShape(batch=4, streaming=True)).graphs
    assert batched["main"].signature.inputs[0].shape == (4, 20, 12)
    assert batched[STREAM].signature.inputs[0].shape == (1, 12)
    free = load(checkpoint, InputShape(dynamic=("batch",))).graphs["main"].signature
    assert free.inputs[0].shape == ("batch", 20, 12)
    assert free.outputs[0].shape == ("batch", 3)
    for shape in (InputShape(size=(64, 64)), InputShape(dynamic=("size",))):
        with pytest.raises(UsageError, match="frames of sound"):
            load(checkpoint, shape)


def test_a_stream_of_what_has_none_is_refused(aerial: Path) -> None:
    with pytest.raises(UsageError, match="no form that runs step by step"):
        load(aerial, InputShape(streaming=True))


def test_the_network_is_left_as_it_is(lively: Make) -> None:
    network = lively(3, **TINY)
    memory = network.units[0].memory
    made = graphs(network, TASK, InputShape(streaming=True))
    assert network.units[0].memory is memory
    assert made["main"].network is not network


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"labels": ["a", "b"]}, "The task has 2 labels, but its network has 3"),
        ({"features": {"bins": 13}}, "13 bins of features, but its network has 12"),
        ({"lookahead": 0}, "0 frames of look-ahead, but its network has 5"),
    ],
)
def test_a_task_that_the_network_contradicts_is_refused(
    task: dict[str, Any], said: str, lively: Make, tmp_path: Path
) -> None:
    contract = contract_of(TASK)
    contract.update({key: {**contract[key], **v} if isinstance(v, dict) else v for key, v in task.items()})
    path = written(tmp_path / "words.safetensors", lively(3, **TINY), contract)
    with pytest.raises(UsageError, match=said):
        load(path)


def test_a_network_for_sound_is_not_for_images(lively: Make, tmp_path: Path) -> None:
    path = written(
        tmp_path / "words.safetensors", lively(3, **TINY), contract_of(Detect.yolov8(("car", "van"), (64, 64)))
    )
    with pytest.raises(UsageError, match="'detect' cannot be exported yet with the architecture 'lmuformer'"):
        read(path)
