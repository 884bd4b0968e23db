"""The training loop: what it learns, that the same seed gives the same bits, and that a kill changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from edgedeploy.errors import RunFailed, UsageError
from edgedeploy.models.mean_fbank import MeanFbank
from edgedeploy.tasks.speech_files import read_clips
from edgedeploy.train import evaluation, loop, state
from edgedeploy.train import folder as places
from edgedeploy.train.bank import Bank, Window, read_bank
from edgedeploy.train.baselines import fit_linear
from edgedeploy.train.batches import batches
from edgedeploy.train.evaluation import Score, judge
from edgedeploy.train.log import Epoch, best, read_log
from edgedeploy.train.loop import Course, Follower, Trained, train
from edgedeploy.train.networks import build, options_of
from edgedeploy.train.recipe import read_recipe
from tests.train.conftest import TINY

Kept = list[tuple[int, dict[str, torch.Tensor]]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def banks(tones: Path) -> dict[str, Bank]:
    recipe = read_recipe("paper", TINY)
    window = Window(recipe.features, recipe.network.frames)
    return {part: read_bank(read_clips(tones, part), window) for part in ("train", "val")}


def course(
    banks: dict[str, Bank], folder: Path, architecture: str = "lmuformer", **changes: Any
) -> tuple[Course, Kept]:
    """A training, and the networks that it keeps."""
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    recipe = read_recipe("paper", {**TINY, **changed})
    kept: Kept = []

    def keep(network: torch.nn.Module, epoch: Epoch) -> None:
        kept.append((epoch.number, dict(network.state_dict())))

    folder.mkdir(parents=True, exist_ok=True)
    factory = partial(build, architecture, options_of(architecture, recipe, 3))
    return Course(recipe, factory, banks["train"], banks["val"], folder, state.key_of(recipe), keep), kept


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def outcome(trained: Trained, folder: Path, key: str) -> tuple[Any, ...]:
    """All that a training leaves, but for the seconds."""
    standing = state.read(folder / places.STATE, key)
    assert standing is not None
    epochs = [vars(epoch) | {"seconds": 0} for epoch in trained.epochs]
    return dict(trained.network.state_dict()), standing.network, epochs


@pytest.fixture(autouse=True)
def no_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than training what is drawn."""
    if "drawn" not in request.keywords:
        monkeypatch.setattr(loop, "picture", lambda epochs: b"")


def test_words_that_are_tones_are_learnt_in_a_few_epochs(banks: dict[str, Bank], tmp_path: Path) -> None:
    plan, kept = course(banks, tmp_path, training__epochs=6, training__batch=6)
    trained = train(plan)
    assert trained.epochs[-1].loss < trained.epochs[0].loss
    assert trained.best.val_accuracy >= 0.8
    assert judge(trained.network, banks["val"]).accuracy == trained.best.val_accuracy
    assert kept[-1][0] == trained.best.number
    assert same(kept[-1][1], trained.network.state_dict())
    assert not trained.network.training
    assert [vars(e) for e in read_log(tmp_path / places.LOG, 6)] == [vars(e) for e in trained.epochs]
    assert sorted(path.name for path in tmp_path.iterdir()) == [places.CURVES, places.LOG, places.STATE]


def test_without_augmentation_both_accuracies_are_of_the_same_kind(banks: dict[str, Bank], tmp_path: Path) -> None:
    same_clips = {"train": banks["val"], "val": banks["val"]}
    still = {f"augmentation__{name}": 0 for name in ("mixup", "frequency_mask", "time_mask", "noise", "roll")}
    plan, _ = course(same_clips, tmp_path, "mean-fbank", training__epochs=1, training__rate=1e-12, **still)
    (epoch,) = train(plan).epochs
    assert epoch.accuracy == epoch.val_accuracy
    assert epoch.loss == pytest.approx(epoch.val_loss, rel=1e-5)


class _Killed(BaseException):
    pass


class _Killer(Follower):
    def __init__(self, epoch: int, share: float = 2.0) -> None:
        self.at = epoch, share

    def step(self, epoch: int, share: float) -> None:
        if (epoch, share) >= self.at:
            raise _Killed

    def epoch(self, epoch: Epoch) -> None:
        if self.at[1] > 1 and epoch.number == self.at[0]:
            raise _Killed


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("lmuformer", {"network__spiking": True, "network__causal": True, "training__precision": "bf16"}),
        ("ds-cnn", {"augmentation__speed": 0.1}),
    ],
)
def test_a_kill_at_any_point_changes_no_bit(
    banks: dict[str, Bank], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, changes: dict[str, Any]
) -> None:
    straight, _ = course(banks, tmp_path / "straight", architecture, **changes)
    expected = outcome(train(straight), straight.folder, straight.key)
    plan, kept = course(banks, tmp_path / "killed", architecture, **changes)
    for killer in (_Killer(1, 0.5), _Killer(1), _Killer(2, 0.1)):
        with pytest.raises(_Killed):
            train(plan, killer)

    def full(path: Path, standing: object) -> None:  # between the log, the kept network and the state
        raise _Killed

    with monkeypatch.context() as patched, pytest.raises(_Killed):
        patched.setattr(state, "save", full)
        train(plan)
    torch.manual_seed(7)  # what else draws numbers in between does not matter
    found = outcome(train(plan), plan.folder, plan.key)
    assert same(found[0], expected[0])
    assert same(found[1], expected[1])
    assert found[2] == expected[2]
    assert same(kept[-1][1], expected[0])
    again = outcome(train(plan), plan.folder, plan.key)
    assert same(again[0], expected[0]), "a training that has ended is read"


def test_another_seed_gives_other_weights(banks: dict[str, Bank], tmp_path: Path) -> None:
    one, other = (course(banks, tmp_path / str(seed), training__seed=seed, training__epochs=1)[0] for seed in (0, 1))
    assert not same(train(one).network.state_dict(), train(other).network.state_dict())


def test_spiking_layers_tell_how_often_they_fire(banks: dict[str, Bank]) -> None:
    recipe = read_recipe("paper", {**TINY, "network.spiking": True})
    network = build("lmuformer", options_of("lmuformer", recipe, 3))
    features, _ = next(iter(batches(banks["train"], recipe, 0)))
    for _ in range(30):
        network(features)  # the norms learn how large the features are
    firing = judge(network, banks["val"]).firing
    assert len(firing) == 11
    assert all(0 <= rate <= 1 for rate in firing.values())
    assert max(firing.values()) > 0


def test_firing_is_weighted_by_clips_and_not_by_batches(
    banks: dict[str, Bank], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read_recipe("paper", {**TINY, "network.spiking": True})
    network = build("lmuformer", options_of("lmuformer", recipe, 3))
    for features, _ in [*batches(banks["train"], recipe, 0)] * 15:
        network(features)
    whole = judge(network, banks["val"]).firing
    monkeypatch.setattr(evaluation, "_BATCH", 14)  # and a batch of one clip
    parts = judge(network, banks["val"]).firing
    assert max(whole.values()) > 0
    assert parts == pytest.approx(whole, rel=1e-3)


def test_a_loss_that_is_no_number_is_a_sentence(banks: dict[str, Bank], tmp_path: Path) -> None:
    def broken() -> torch.nn.Module:
        network = MeanFbank(classes=3, bins=20)
        torch.nn.init.constant_(network.head.bias, float("nan"))
        return network

    plan, _ = course(banks, tmp_path)
    with pytest.raises(RunFailed, match=r"the loss became nan in epoch 1\..*training.rate \(it was 0.01\)"):
        train(replace(plan, network=broken))
    assert not list(tmp_path.iterdir())


def test_memory_that_runs_out_is_a_sentence(
    banks: dict[str, Bank], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(loop, "_pass", full)
    with pytest.raises(RunFailed, match="at a batch of 16 clips"):
        train(course(banks, tmp_path)[0])


def test_a_folder_of_another_training_or_a_damaged_one_is_refused(banks: dict[str, Bank], tmp_path: Path) -> None:
    plan, _ = course(banks, tmp_path, "mean-fbank", training__epochs=2)
    train(plan)
    with pytest.raises(UsageError, match="another network, data or recipe, 2 epochs of it"):
        train(course(banks, tmp_path, "mean-fbank", training__epochs=3)[0])
    log = (tmp_path / places.LOG).read_text()
    (tmp_path / places.LOG).write_text(log.splitlines()[0])
    with pytest.raises(UsageError, match="1 of 2 epochs"):
        train(plan)
    (tmp_path / places.STATE).write_bytes((tmp_path / places.STATE).read_bytes()[:-100])
    with pytest.raises(UsageError, match="damaged"):
        train(plan)


@pytest.mark.parametrize("part", ["network", "best", "optimizer", "moment", "shape", "field"])
def test_a_state_that_lacks_something_is_refused(banks: dict[str, Bank], tmp_path: Path, part: str) -> None:
    plan, _ = course(banks, tmp_path, "mean-fbank", training__epochs=2)
    with pytest.raises(_Killed):
        train(plan, _Killer(1))
    found = torch.load(tmp_path / places.STATE, weights_only=True)
    if part in ("network", "best"):
        found[part].pop(next(iter(found[part])))
    elif part == "optimizer":
        found[part].pop("param_groups")
    elif part == "moment":
        found["optimizer"]["state"][0].pop("exp_avg")
    elif part == "shape":
        found["optimizer"]["state"][0]["exp_avg"] = torch.zeros(7, 7)
    else:
        found.pop("best")
    torch.save(found, tmp_path / places.STATE)
    with pytest.raises(UsageError, match=r"last\.pt is damaged.*--fresh"):
        train(plan)


def test_a_full_disk_is_a_sentence_and_leaves_the_state_before(
    banks: dict[str, Bank], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, _ = course(banks, tmp_path, "mean-fbank", training__epochs=2)
    with pytest.raises(_Killed):
        train(plan, _Killer(1))
    before = (tmp_path / places.STATE).read_bytes()
    real = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        real(path, content[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(UsageError, match="No space left on device"):
        patched.setattr(Path, "write_bytes", full)
        train(plan)
    assert (tmp_path / places.STATE).read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_a_state_is_read_without_running_what_is_pickled(tmp_path: Path) -> None:
    torch.save({"format": 1, "key": Path("/")}, tmp_path / "last.pt")
    with pytest.raises(UsageError, match="damaged"):
        state.read(tmp_path / "last.pt", "key")


def test_the_first_of_the_best_epochs_is_kept() -> None:
    def epoch(number: int, accuracy: float, loss: float) -> Epoch:
        return Epoch(number, 1, 1, loss, accuracy, 0.1)

    epochs = [epoch(1, 0.5, 0.1), epoch(2, 0.9, 0.3), epoch(3, 0.9, 0.2), epoch(4, 0.9, 0.2), epoch(5, 0.8, 0.0)]
    assert best(epochs).number == 3


def test_the_interval_of_a_score_is_wilsons() -> None:
    low, high = Score(10, 8, 0.1).interval
    assert (low, high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)


def test_the_linear_classifier_is_scikit_learns(banks: dict[str, Bank]) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    network = fit_linear(banks["train"], banks["val"])
    assert judge(network, banks["val"]).accuracy > 0.6
    means, words = banks["train"].means(), banks["train"].words
    scaled = (means - means.mean(0)) / (means.std(0) + 1e-6)
    found = [linear.LogisticRegression(C=c, max_iter=10_000).fit(scaled, words) for c in (1e-3, 1e-2, 0.1, 1, 10, 100)]
    features = torch.from_numpy(banks["train"].normalised(range(len(words))))
    logits = network(features).detach().numpy()
    assert any(abs(logits - one.decision_function(scaled)).max() < 1e-3 for one in found)


def test_two_words_and_one_that_is_missing_are_told_apart_by_the_linear_classifier(banks: dict[str, Bank]) -> None:
    pytest.importorskip("sklearn")
    parts = {}
    for name, bank in banks.items():
        chosen = [index for index in range(len(bank)) if bank.words[index] != 1]
        parts[name] = read_bank(bank.clips.subset(chosen), bank.window)
    network = fit_linear(parts["train"], parts["val"])
    assert judge(network, parts["val"]).accuracy > 0.8
    assert judge(network, banks["val"]).right == judge(network, parts["val"]).right
