from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from edgedeploy.errors import UsageError
from edgedeploy.model import Graph, Model, Source
from edgedeploy.recognition.contract import check_same
from edgedeploy.tasks import Keywords, Raw, contract_of
from edgedeploy.tasks.fbank import Fbank
from edgedeploy.tensors import Signature, TensorSpec

TASK = Keywords(("no", "up", "yes"), Fbank(bins=16), 20, 5)


def model(task: Any = TASK, takes: tuple[int | str, ...] = (1, 20, 16), gives: tuple[int | str, ...] = (1, 3)) -> Model:
    signature = Signature((TensorSpec("features", "float32", takes),), (TensorSpec("logits", "float32", gives),))
    source = Source("runs/best.safetensors", "native", "0" * 64)
    return Model("best", {"main": Graph(None, signature)}, source, None if task is None else contract_of(task))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": ("yes", "no", "up")}, r"in labels \(the same 3 in another order\)\."),
        ({"labels": ("no", "up")}, r"in labels \(2 in the checkpoint, 3 in the artifact\)\."),
        ({"labels": ("no", "up", "on")}, r"in labels \(such as 'on' in the checkpoint and 'yes' in the artifact\)\."),
        ({"features": Fbank(bins=16, scale=3.0)}, r"in features \(scale 3\.0 and 11\.1309052\)\."),
        ({"features": Fbank(sample_rate=8000, bins=8)}, r"in features \(sample_rate 8000 and 16000, bins 8 and 16\)\."),
        ({"frames": 21, "lookahead": 0}, r"in frames \(21 and 20\); in look-ahead \(0 and 5\)\."),
    ],
)
def test_what_differs_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(
        UsageError, match=rf"best\.safetensors .* they differ {said} .* made of \(kept\.safetensors\)\."
    ):
        check_same(model(dataclasses.replace(TASK, **changes)), TASK, "kept.safetensors")


def test_the_same_task_and_shapes_without_one_are_let_through() -> None:
    check_same(model(), TASK, "")
    check_same(model(None), TASK, "")
    check_same(model(None, ("batch", 20, 16), ("batch", 3)), TASK, "")


def test_without_a_contract_the_shapes_speak() -> None:
    with pytest.raises(UsageError, match=r"in bins \(8 and 16\); in labels \(4 and 3\)\."):
        check_same(model(None, (1, 20, 8), (1, 4)), TASK, "")
    with pytest.raises(UsageError, match=r"in shapes \(\(1, 3, 64, 64\) to \(1, 3\) in the checkpoint"):
        check_same(model(None, (1, 3, 64, 64)), TASK, "")


def test_a_checkpoint_that_hears_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"best\.safetensors hears no keywords: its task is 'raw'\."):
        check_same(model(Raw()), TASK, "")
