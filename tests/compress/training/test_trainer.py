"""Training a detector further: resuming, the penalty, the teacher, several processes, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgedeploy.compress.detector import Detector
from edgedeploy.compress.lineage import Lineage
from edgedeploy.compress.recipe import Distillation, Slimming, Training
from edgedeploy.compress.training import epochs
from edgedeploy.compress.training.epochs import Epoch
from edgedeploy.compress.training.trainer import Extra, Trained, train
from edgedeploy.errors import RunFailed, UsageError
from edgedeploy.tasks.dataset import read_detection_set

pytest.importorskip("ultralytics")
pytest.importorskip("torch_pruning")

TINY = Training(
    epochs=3, batch=4, size=64, warmup=1.0, close_mosaic=1, every=2, overrides={"nbs": 8, "device": "cpu", "workers": 0}
)


class Killed(Exception):
    """What ends a training in a test."""


def network(labels: tuple[str, ...], seed: int, narrow: bool = False) -> Any:
    """A YOLOv8n that has just been made; its boxes are about as large as objects, so that it has something to learn."""
    from edgedeploy.models.yolo import quietly

    with quietly():
        from ultralytics.nn.tasks import DetectionModel
    torch.manual_seed(seed)
    made: Any = DetectionModel("yolov8n.yaml", nc=len(labels), verbose=False).eval()
    made.names = dict(enumerate(labels))
    with torch.no_grad():
        for branch in made.model[-1].cv2:
            branch[-1].bias.view(4, 16)[:, 1] = 6.0
    if narrow:  # as pruning leaves it: half the channels of the block that the head reads at stride 8
        block, head = made.model[15].cv2, made.model[-1]
        block.conv = torch.nn.Conv2d(block.conv.in_channels, 32, 1, bias=False)
        block.bn = copy.deepcopy(made.model[1].bn)
        for reader in (made.model[16], head.cv2[0][0], head.cv3[0][0]):
            old = reader.conv
            reader.conv = torch.nn.Conv2d(32, old.out_channels, 3, old.stride, 1, bias=False)
    return made


@pytest.fixture(scope="module")
def staged(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from edgedeploy.compress.staging import stage

    train, val = (read_detection_set(scenes, split).subset(range(n)) for split, n in (("train", 8), ("val", 2)))
    return stage(train, val, tmp_path_factory.mktemp("staged") / "data")


@pytest.fixture(scope="module")
def make(staged: Any) -> Callable[..., Detector]:
    def detector(seed: int, narrow: bool = False) -> Detector:
        return Detector(network(staged.labels, seed, narrow), staged.labels, (64, 64), Lineage("x.pt", "0" * 64))

    return detector


@pytest.fixture(scope="module")
def student(make: Callable[..., Detector]) -> Detector:
    return make(0, narrow=True)


@pytest.fixture(scope="module")
def extra(make: Callable[..., Detector]) -> Extra:
    """A penalty and a teacher at once; with a teacher that is wider, there are connectors."""
    return Extra(Slimming(rate=100.0, method="proximal"), Distillation(warmup=2), make(1))


@pytest.fixture(scope="module")
def whole(
    student: Detector, staged: Any, extra: Extra, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Trained, Path]:
    """A training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return train(student, staged, TINY, folder, extra), folder


def test_killed_it_goes_on_to_the_same_weights(
    student: Detector, staged: Any, extra: Extra, whole: tuple[Trained, Path], tmp_path: Path
) -> None:
    def killed(epoch: Epoch) -> None:
        raise Killed

    for number in (1, 2):
        with pytest.raises(Killed):
            train(student, staged, TINY, tmp_path, extra, killed)
        assert [epoch.number for epoch in epochs.read(tmp_path / "epochs.jsonl")] == list(range(1, number + 1))
    random.random(), np.random.rand(), torch.rand(1)
    told: list[Epoch] = []
    resumed = train(student, staged, TINY, tmp_path, extra, told.append)
    again = train(student, staged, TINY, tmp_path, extra, told.append)  # done: nothing is trained
    assert [epoch.number for epoch in told] == [3]
    expected = whole[0].network.state_dict()
    for one in (resumed, again):
        assert [replace(e, seconds=0) for e in one.epochs] == [replace(e, seconds=0) for e in whole[0].epochs]
        assert one.seconds == pytest.approx(sum(epoch.seconds for epoch in one.epochs))
        found = one.network.state_dict()
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_what_comes_out_is_a_plain_network(student: Detector, whole: tuple[Trained, Path]) -> None:
    from ultralytics.nn.tasks import DetectionModel

    made = whole[0].network
    assert type(made) is DetectionModel
    assert set(made.__dict__) == set(student.network.__dict__)
    assert not any(module.training for module in made.modules())
    for name, tensor in made.state_dict().items():
        assert tensor.device.type == "cpu"
        assert tensor.is_contiguous()
        assert tensor.dtype in (torch.float32, torch.int64)
        assert tensor.shape == student.network.state_dict()[name].shape
    trained = {name: p.requires_grad for name, p in made.named_parameters()}
    assert trained == {name: p.requires_grad for name, p in student.network.named_parameters()}
    assert made.model[15].cv2.conv.out_channels == 32  # as narrow as it was
    pickle.dumps(made)
    with torch.no_grad():
        assert torch.isfinite(made(torch.rand(1, 3, 64, 64))[0]).all()


def test_the_log_and_the_state(student: Detector, staged: Any, whole: tuple[Trained, Path]) -> None:
    trained, folder = whole
    assert sorted(path.name for path in folder.rglob("*")) == ["args.yaml", "epochs.jsonl", "last.pt"]
    assert epochs.read(folder / "epochs.jsonl") == trained.epochs
    one, two, three = trained.epochs
    assert [one.penalty, two.penalty, three.penalty] == pytest.approx([100, 70, 40])  # 100 (1 - 0.9 e / 3)
    assert [one.rate, two.rate, three.rate] == pytest.approx([0.005, 0.0067, 0.0034], rel=0.01)
    assert (one.ap50, two.ap50 is None, three.ap50 is None) == (None, False, False)  # every second, and the last
    assert one.losses["cwd"] > 0
    assert three.losses["cwd"] == 0  # off with mosaic
    assert "model.15.cv2.bn" in one.small
    assert not any(name.startswith("model.22.") for name in one.small)
    assert max(one.small.values()) < 0.5 < min(three.small.values())
    state = torch.load(folder / "last.pt", weights_only=True)
    names = {name for name in state["ema"] if not name.startswith("connectors.")}
    assert "connectors.15.weight" in state["ema"]
    result = trained.network.state_dict()
    assert names == set(result)
    assert all(torch.equal(result[name], state["ema"][name]) for name in names)  # the average,
    assert not torch.equal(result["model.0.conv.weight"], state["network"]["model.0.conv.weight"])  # not the last
    assert state["network"]["model.1.bn.weight"].eq(0).any()  # proximal
    assert not state["network"]["model.22.cv2.0.0.bn.weight"].eq(0).any()
    assert not list(staged.folder.rglob("*.cache"))


def test_manners(student: Detector, staged: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {name: tensor.clone() for name, tensor in student.network.state_dict().items()}
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    made = train(student, staged, replace(TINY, epochs=1, precision="bf16", every=0), tmp_path / "a")
    assert capfd.readouterr().out == ""
    assert states[:2] == (random.getstate(), str(np.random.get_state()))
    assert torch.equal(states[2], torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in student.network.state_dict().items())
    assert made.network.model[0].conv.weight.dtype == torch.float32
    assert (made.epochs[0].small, made.epochs[0].penalty) == ({}, 0.0)
    none = train(student, staged, replace(TINY, epochs=0), tmp_path / "b")
    assert none.epochs == ()
    assert all(torch.equal(before[name], tensor) for name, tensor in none.network.state_dict().items())


def test_one_penalty_per_step_however_many_batches(
    student: Detector, staged: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgedeploy.compress.training import loop, slimming

    seen: list[tuple[str, float]] = []
    take, forward = slimming.take_step, loop.Loop.preprocess_batch

    def step(*args: Any) -> bool:
        optimizer, penalty, rate = args[1], args[3], args[4]
        for group in optimizer.param_groups:
            if any(id(p) in {id(gamma) for gamma in penalty.factors.values()} for p in group["params"]):
                assert group["weight_decay"] == 0.0
        assert set(penalty.factors) == {"model.0.bn", "model.1.bn"}
        seen.append(("step", rate))
        return take(*args)

    def batch(self: Any, data: Any) -> Any:
        seen.append(("batch", 0.0))
        return forward(self, data)

    monkeypatch.setattr(loop, "take_step", step)
    monkeypatch.setattr(loop.Loop, "preprocess_batch", batch)
    monkeypatch.setattr(slimming.Penalty, "add", lambda self, rate: seen.append(("penalty", rate)))
    settings = replace(TINY, epochs=2, batch=2, warmup=0.0, every=0, overrides={**TINY.overrides, "nbs": 6})
    train(student, staged, settings, tmp_path, Extra(Slimming(rate=1.0), slimmed=("model.0.bn", "model.1.bn")))
    # Four batches of two, accumulated by three: a step after the third, and one of what is left at the end of an epoch.
    expected = []
    for rate in (1.0, 0.55):
        expected += [("batch", 0.0)] * 3 + [("step", rate), ("penalty", rate), ("batch", 0.0)]
        expected += [("step", rate), ("penalty", rate)]
    assert seen == expected


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": ("a", "b")}, "without the class 'a'"),
        ({"extra": Extra(distillation=Distillation())}, "needs a teacher"),
        ({"teacher": ("x", "y", "z")}, "Teacher and student have different classes: x, y, z, and"),
        ({"images": 0}, "has no training images"),
        ({"images": 5, "size": 32}, "one value per channel"),
        ({"optimizer": "Adam8"}, "no optimizer 'Adam8'. Did you mean 'Adam'"),
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"overrides": {"epochs": 5}}, "overrides.epochs cannot be set"),
        ({"overrides": {"mosaik": 0.5}}, "'mosaik' is not a valid"),
        ({"overrides": {"mosaic": 7.0}}, "'mosaic=7.0'"),
        ({"overrides": {"cache": "disk"}}, "writes beside the images"),
        ({"overrides": {"device": "0,1"}}, "torchrun"),
        ({"slimmed": ("model.0.conv",)}, "model.0.conv is no batch normalisation"),
        ({"world": "3"}, "batch of 4 cannot be divided among 3 processes"),
    ],
)
def test_what_cannot_be_trained(
    student: Detector, staged: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any], said: str,
) -> None:  # fmt: skip
    detector, data, extra, training = student, staged, change.pop("extra", Extra()), TINY
    if labels := change.pop("labels", None):
        detector = replace(student, labels=labels)
    if labels := change.pop("teacher", None):
        extra = Extra(distillation=Distillation(), teacher=replace(student, labels=labels))
    if (count := change.pop("images", None)) is not None:
        data = replace(staged, train=staged.train.subset(range(count)))
    if slimmed := change.pop("slimmed", None):
        extra = Extra(Slimming(), slimmed=slimmed)
    if world := change.pop("world", None):
        monkeypatch.setenv("WORLD_SIZE", world)
    if "overrides" in change:
        change["overrides"] = {"device": "cpu", **change["overrides"]}
    with pytest.raises(UsageError) as caught:
        train(detector, data, replace(training, **change), tmp_path, extra)
    assert said in str(caught.value)
    assert not (tmp_path / "last.pt").exists()


@pytest.mark.parametrize(
    ("off", "close_mosaic", "weights"),
    [(None, 1, [2, 2, 0]), (None, 0, [2, 2, 2]), (None, 3, [2, 2, 2]), (None, 10, [2, 2, 2]), (2, 10, [2, 0, 0])],
)
def test_distillation_ends_with_mosaic_but_takes_place(off: int | None, close_mosaic: int, weights: list[int]) -> None:
    from edgedeploy.compress.training.loop import distillation_at

    distillation, training = Distillation(weight=2.0, off=off), replace(TINY, close_mosaic=close_mosaic)
    assert [distillation_at(distillation, training, epoch) for epoch in range(3)] == weights


def test_distillation_that_is_never_on_is_refused(student: Detector, staged: Any, tmp_path: Path) -> None:
    extra = Extra(distillation=Distillation(off=3), teacher=student)
    with pytest.raises(UsageError, match=r"off in all 3 epochs, its last 3\. Set distillation\.off lower"):
        train(student, staged, TINY, tmp_path, extra)


def test_what_is_drawn_in_the_process_itself_depends_on_the_epoch_alone(
    student: Detector, staged: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes of ``multi_scale`` are drawn here while workers make the images; a resumed training draws the same."""
    from edgedeploy.compress.training import loop

    drawn: list[float] = []
    begin = loop.Loop._begin_epoch

    def begun(self: loop.Loop) -> None:
        begin(self)
        drawn.append(random.random())

    monkeypatch.setattr(loop.Loop, "_begin_epoch", begun)

    def killed(epoch: Epoch) -> None:
        raise Killed

    training = replace(TINY, epochs=2, every=0)
    with pytest.raises(Killed):
        train(student, staged, training, tmp_path / "killed", follow=killed)
    train(student, staged, training, tmp_path / "killed")
    train(student, staged, training, tmp_path / "whole")
    assert drawn[:2] == drawn[2:]
    assert drawn[0] != drawn[1]


def test_a_folder_of_something_else(
    student: Detector, staged: Any, whole: tuple[Trained, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="another network, data or settings, 3 epochs of it"):
        train(student, staged, TINY, whole[1])
    (tmp_path / "last.pt").write_bytes((whole[1] / "last.pt").read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"last\.pt is damaged"):
        train(student, staged, TINY, tmp_path)


@pytest.mark.parametrize("words", ["[enforce fail] DefaultCPUAllocator: can't allocate memory", "CUDA out of memory."])
def test_out_of_memory(
    student: Detector, staged: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    from edgedeploy.compress.training import loop

    def full(*args: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(loop.Loop, "preprocess_batch", full)
    with pytest.raises(
        RunFailed, match=r"^Out of memory with batch 4 at 64 pixels\. Try batch 2, or size 32"
    ) as caught:
        train(student, staged, TINY, tmp_path)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_loss_that_is_not_finite(student: Detector, staged: Any, tmp_path: Path) -> None:
    broken = dataclasses.replace(student, network=copy.deepcopy(student.network))
    with torch.no_grad():
        broken.network.model[3].conv.weight[0] = float("nan")
    with pytest.raises(RunFailed, match=r"became NaN or infinite in epoch 1. Lower rate \(0.01\)"):
        train(broken, staged, TINY, tmp_path)
    assert not (tmp_path / "last.pt").exists()


WORKER = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_trainer import shared_training
folder = Path({folder!r})
trained = shared_training(Path({scenes!r}), folder)
found = {{"network": trained.network.state_dict(), "epochs": [epoch.number for epoch in trained.epochs]}}
torch.save(found, folder / (os.environ.get("RANK", "0") + ".pt"))
"""


def shared_training(scenes: Path, folder: Path, seed: int = 0) -> Trained:
    """A training that one or several processes do, without mosaics, which are made of what the own process has seen."""
    from edgedeploy.compress.staging import stage

    sets = [read_detection_set(scenes, split).subset(range(8)) for split in ("train", "val")]
    staged = stage(sets[0], sets[1], folder / "data")
    detector = Detector(network(staged.labels, 0), staged.labels, (64, 64), Lineage("x.pt", "0" * 64))
    overrides = {**TINY.overrides, "mosaic": 0.0}
    settings = replace(TINY, epochs=2, batch=8, rate=1e-4, warmup=0.0, every=0, seed=seed, overrides=overrides)
    with pytest.MonkeyPatch.context() as patch:
        _keep_statistics(patch)
        return train(detector, staged, settings, folder / "run", Extra(Slimming()))


def _keep_statistics(patch: pytest.MonkeyPatch) -> None:
    """Normalise by running statistics, and clip nothing.

    Statistics of a batch are those of the part that a process has; in a network as raw as this one they decide
    everything. What is clipped would hide that gradients are too large or too small.
    """
    from edgedeploy.compress.training import loop, slimming

    before = loop.Loop._model_train

    def frozen(self: Any) -> None:
        before(self)
        for module in self.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()

    patch.setattr(loop.Loop, "_model_train", frozen)
    patch.setattr(slimming, "CLIP", float("inf"))


@pytest.mark.slow
def test_two_processes_do_what_one_does(scenes: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    both.mkdir()
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER.format(tests=str(Path(__file__).parent), scenes=str(scenes), folder=str(both)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(worker)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(both / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["epochs"] == second["epochs"] == [1, 2]
    assert all(torch.equal(second["network"][name], tensor) for name, tensor in first["network"].items())

    one = shared_training(scenes, tmp_path / "one").network
    other = shared_training(scenes, tmp_path / "other", seed=1).network
    start = network(tuple(one.names.values()), 0)
    learnt = [_difference(model.state_dict(), start) for model in (one, other)]
    shared = _difference(first["network"], start)
    # The same direction, nearer than that of another augmentation. The length differs, because each process divides its
    # loss by what its own images have to find; were gradients summed and not averaged, it would be twice as large.
    assert torch.cosine_similarity(shared, learnt[0], 0) > 0.995 > torch.cosine_similarity(learnt[1], learnt[0], 0)
    assert 0.7 < shared.norm() / learnt[0].norm() < 1.4


def _difference(state: dict[str, torch.Tensor], start: Any) -> torch.Tensor:
    """What the weights have moved by, all in one vector."""
    return torch.cat([(state[name] - p.detach()).flatten() for name, p in start.named_parameters()])
