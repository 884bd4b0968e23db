"""A compression worked off with stages that only say what they were asked: done, reused, refused, gone on with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedeploy.accuracy import Accuracy, Assessment, Progress, paired_difference
from edgedeploy.compress.detector import Detector
from edgedeploy.compress.folder import BEST, BEST_ULTRALYTICS, JUDGED, USED
from edgedeploy.compress.judgements import Judgements
from edgedeploy.compress.lineage import Lineage
from edgedeploy.compress.pace import duration
from edgedeploy.compress.recipe import Distillation, Pruning, Recipe, Slimming, Training
from edgedeploy.compress.result import judge_key, read_run
from edgedeploy.compress.run import run
from edgedeploy.compress.searching.goal import Goal
from edgedeploy.compress.stages import Request
from edgedeploy.compress.training.epochs import Epoch
from edgedeploy.compress.work import Hunt, Made, Order, Passed
from edgedeploy.errors import UsageError
from edgedeploy.model import file_digest
from edgedeploy.plan.journal import alone
from edgedeploy.records import from_json, read_json, to_json
from edgedeploy.report.compression.records import Rung
from edgedeploy.tasks.coco import DetectionAccuracy
from edgedeploy.tasks.detect import Detections
from edgedeploy.tasks.matches import match_table
from edgedeploy.tasks.samples import DetectionSet, Sample

LABELS = ("car", "van")
SHORT = Training(epochs=2, size=64)
RECIPE = Recipe("all", sparse=SHORT, finetune=replace(SHORT, epochs=3), distill=SHORT)


@dataclass
class Fake:
    """Networks are lists of what was done to them; everything that is asked for is noted in ``asked``."""

    place: Path
    labels: tuple[str, ...] = LABELS
    asked: list[str] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    hunted: list[Path] = field(default_factory=list)
    killed: str = ""
    said: list[str] = field(default_factory=list)

    def data(self, path: Path, part: str) -> DetectionSet:
        samples = []
        for i in range(6):
            image = path.parent / f"{part}{i}.png"
            box = np.array([[0, 0, 8 + i, 8]], np.float32)
            kinds = np.array([i % len(LABELS)])
            samples.append(Sample(image, (16, 16), box, kinds, np.array([8.0 * (8 + i)]), np.array([False])))
        return DetectionSet(path.stem, LABELS, tuple(samples), part)

    def read(self, path: Path) -> Detector:
        self.asked.append(f"read {path.name}")
        known = json.loads(path.read_text())
        lineage = from_json(Lineage, known["lineage"], "") if known["lineage"] else Lineage(path.name, "sha")
        return Detector(known["network"], tuple(known["labels"]), (64, 64), lineage)

    def train(self, order: Order, sets: tuple[DetectionSet, DetectionSet], folder: Path, follow: Passed) -> Made:
        self.asked.append(f"train {order.stage}")
        self.orders.append(order)
        log = order.folder / "epochs"
        done = int(log.read_text()) if log.exists() else 0
        self.asked.append(f"from epoch {done}")
        for number in range(done + 1, order.training.epochs + 1):
            if self.killed == f"{order.stage} {number}":
                raise KeyboardInterrupt
            log.write_text(str(number))
            follow(Epoch(number, {"box": 1.0}, 0.01, ap50=0.5, small={"a": 0.25}, seconds=30.0))
        known = json.loads(order.source.read_text())
        detector = self.read(order.source)
        return Made(
            replace(detector, network=[*known["network"], order.stage], labels=sets[0].labels),
            order.training.epochs,
            30.0 * order.training.epochs,
        )

    def search(self, detector: Detector, pruning: Pruning, hunt: Hunt, say: Callable[[str], None]) -> Pruning:
        self.asked.append(f"search {hunt.goal.max_drop} in {hunt.folder.parent.name}")
        self.hunted.append(hunt.folder)
        return replace(pruning, ratio=0.3)

    def prune(self, detector: Detector, pruning: Pruning, size: tuple[int, int]) -> Made:
        self.asked.append("prune")
        return Made(
            replace(detector, network=[*detector.network, f"prune {pruning.ratio}"]),
            settings={"prune": to_json(pruning)},
            notes={"widths": [8]},
        )

    def count(self, detector: Detector, size: tuple[int, int]) -> tuple[int, int]:
        self.asked.append("count")
        return 1000 - 100 * len(detector.network), size[0] * size[1]

    def judge(
        self, detector: Detector, data: DetectionSet, protocol: str, size: tuple[int, int], progress: Progress
    ) -> Assessment:
        """Each thing that was done to a network moves its boxes: it is right on fewer images."""
        self.asked.append(f"judge {protocol}")
        worse = len(detector.network)
        found = []
        for i, sample in enumerate(data.samples):
            boxes = sample.boxes + (4 if i < worse else 0)
            found.append(Detections(boxes.astype(np.float32), np.array([0.9], np.float32), sample.classes))
            progress(i + 1, len(data))
        metric = DetectionAccuracy(0.5, 1 - worse / 10, 0.5, 0.5, None, None, 0.5, (), 6, 6, 300, (0.5,), "fake")
        accuracy = Accuracy(metric, "net", data.name, data.split, data.digest(), size, 0.001, 0.7, "fake")
        return Assessment(accuracy, tuple(found), match_table(data, found))

    def write(self, path: Path, detector: Detector) -> str:
        lineage = to_json(detector.lineage)
        for step in lineage["steps"]:
            step["seconds"] = 0  # the same work gives the same file
        path.write_text(json.dumps({"network": detector.network, "labels": detector.labels, "lineage": lineage}))
        return file_digest(path)

    def write_ultralytics(self, path: Path, detector: Detector) -> None:
        path.write_text(f"for others: {detector.network}")

    def tools(self) -> Mapping[str, str]:
        return {"fake": "1"}

    def __call__(self, **changes: Any) -> Any:
        """Run with changes to the usual request; what was asked for and said is that of this run alone."""
        self.asked, self.orders, self.said = [], [], []
        request = Request(self.place / "net.pt", RECIPE, self.place / "data.yaml", self.place / "out")
        return run(replace(request, **changes), self, self.said.append)

    @property
    def trained(self) -> list[str]:
        return [order.stage for order in self.orders]


@pytest.fixture
def work(tmp_path: Path) -> Fake:
    for part in ("train", "val"):
        for i in range(6):
            (tmp_path / f"{part}{i}.png").write_bytes(f"{part} {i}".encode())
    fake = Fake(tmp_path)
    (tmp_path / "net.pt").write_text(json.dumps({"network": [], "labels": LABELS, "lineage": None}))
    return fake


def network(path: Path) -> Any:
    return json.loads(path.read_text())["network"]


def test_every_stage_starts_from_the_one_before_and_the_teacher_is_the_baseline(work: Fake) -> None:
    found, out = work(), work.place / "out"
    assert [rung.stage for rung in found.rungs] == ["baseline", "sparse", "prune", "finetune", "distill"]
    assert [rung.name for rung in found.rungs] == ["baseline", "sparse", "pruned", "fine-tuned", "distilled"]
    assert network(out / BEST) == ["sparse", "prune 0.5", "finetune", "distill"]
    assert network(out / "baseline.safetensors") == []
    assert "'distill'" in (out / BEST_ULTRALYTICS).read_text()
    sparse, finetune, distill = work.orders
    assert (sparse.source, sparse.slimming, sparse.teacher) == (out / "baseline.safetensors", Slimming(), None)
    assert (finetune.source, finetune.slimming, finetune.distillation) == (out / "prune.safetensors", None, None)
    assert (distill.source, distill.teacher) == (out / "finetune.safetensors", out / "baseline.safetensors")
    assert distill.distillation == Distillation()
    assert [order.folder.name for order in work.orders] == ["2-sparse", "4-finetune", "5-distill"]
    assert not any(order.adapt for order in work.orders)
    steps = from_json(Lineage, json.loads((out / BEST).read_text())["lineage"], "").steps
    assert [step.stage for step in steps] == ["sparse", "prune", "finetune", "distill"]
    assert steps[1].numbers == {"params": 800, "macs": 4096, "ap50": 0.8, "ap50_95": 0.5}
    assert steps[0].settings["slimming"]["rate"] == 1e-4
    assert (steps[0].data, steps[1].data) == (found.used.train, "")
    assert steps[0].tools == {"fake": "1", "protocol": "ultralytics", "size": "64x64"}


def test_what_came_out_is_kept_so_that_it_can_be_compared_later(work: Fake) -> None:
    found, out = work(), work.place / "out"
    assert read_run(out) == found
    assert from_json(Rung, read_json(out / "prune.assessment.json"), "") == found.rungs[2]
    baseline, sparse, pruned, *_ = found.rungs
    assert (baseline.difference, baseline.against_previous, baseline.previous) == (None, None, "")
    assert (pruned.params, pruned.macs, pruned.flops, pruned.size) == (800, 4096, 8192, (64, 64))
    assert pruned.bytes == (out / "prune.safetensors").stat().st_size
    judged = {
        rung.name: Judgements(out / JUDGED).judge(
            judge_key(rung.sha256, found.used.val, found.used.protocol, found.used.size), work_must_not
        )
        for rung in found.rungs
    }
    assert pruned.difference == paired_difference(judged["baseline"].matches, judged["pruned"].matches)
    assert pruned.against_previous == paired_difference(judged["sparse"].matches, judged["pruned"].matches)
    assert pruned.difference is not None
    assert pruned.difference.ap50.estimate < 0
    assert pruned.previous == sparse.name


def work_must_not() -> Assessment:
    raise AssertionError("was judged already")


def test_a_second_run_does_nothing(work: Fake) -> None:
    first = work()
    again = work()
    assert work.asked == []
    assert again.rungs == first.rungs
    assert set(again.states.values()) == {"reused"}
    assert again.seconds == first.seconds
    assert again.epochs == {"sparse": 2, "finetune": 3, "distill": 2}


@pytest.mark.parametrize(
    ("change", "trained"),
    [
        ({"slimming": Slimming(rate=1e-3)}, ["sparse", "finetune", "distill"]),
        ({"prune": Pruning(ratio=0.25)}, ["finetune", "distill"]),
        ({"finetune": replace(SHORT, rate=0.1)}, ["finetune", "distill"]),
        ({"distillation": Distillation(temperature=2.0)}, ["distill"]),
        ({"distillation": Distillation(weight=0.0)}, ["distill"]),
        ({"distillation": Distillation(teacher="sparse")}, ["distill"]),
        ({"distill": None}, []),
    ],
)
def test_changed_settings_redo_their_stage_and_those_after_it(
    change: dict[str, Any], trained: list[str], work: Fake
) -> None:
    work()
    found = work(recipe=replace(RECIPE, **change))
    assert work.trained == trained
    assert all(order.folder.joinpath("epochs").read_text() for order in work.orders)
    assert "from epoch 1" not in work.asked, "the state of other settings was gone on with"
    assert "from epoch 2" not in work.asked
    last = found.rungs[-1]
    assert network(work.place / "out" / BEST) == network(work.place / "out" / last.file)
    if "distillation" in change and work.orders:
        taught = change["distillation"].weight > 0
        assert (work.orders[-1].teacher is not None) == taught
        assert last.name == ("distilled" if taught else "trained on")
        if taught:
            assert work.orders[-1].teacher == work.place / "out" / f"{change['distillation'].teacher}.safetensors"


def test_another_protocol_is_only_another_judgement(work: Fake) -> None:
    work()
    found = work(protocol="visdrone")
    assert [asked for asked in work.asked if not asked.startswith("read")] == ["judge visdrone"] * 5
    assert found.rungs[0].protocol.startswith("visdrone: at most 500")
    work()
    assert work.asked == []


def test_a_copy_of_the_folder_goes_another_way(work: Fake) -> None:
    work()
    shutil.copytree(work.place / "out", work.place / "control")
    control = replace(RECIPE, name="control", distillation=Distillation(weight=0.0))
    found = work(recipe=control, folder=work.place / "control")
    assert work.trained == ["distill"]
    assert work.orders[0].source == work.place / "control" / "finetune.safetensors"
    assert work.orders[0].distillation is None
    assert found.states == {**dict.fromkeys(["baseline", "sparse", "prune", "finetune"], "reused"), "distill": "done"}


def test_a_killed_stage_is_gone_on_with(work: Fake) -> None:
    work.killed = "finetune 3"
    with pytest.raises(KeyboardInterrupt):
        work()
    assert [rung.stage for rung in read_run(work.place / "out").rungs] == ["baseline", "sparse", "prune"]
    assert not (work.place / "out" / BEST).exists()
    work.killed = ""
    found = work()
    assert work.trained == ["finetune", "distill"]
    assert "from epoch 2" in work.asked
    assert found.states["sparse"] == "reused"
    assert found.seconds["finetune"] == 90, "what was done before the kill counts"
    assert found.best == BEST


def test_a_file_that_was_damaged_is_made_again(work: Fake) -> None:
    work()
    (work.place / "out" / "prune.safetensors").write_text("half")
    (work.place / "out" / BEST).unlink()
    found = work()
    assert work.asked.count("prune") == 1
    assert work.trained == []  # what came out of it is what it was
    assert found.states["prune"] == "done"
    assert (work.place / "out" / BEST).is_file()


def test_single_stages_one_after_the_other(work: Fake) -> None:
    with pytest.raises(UsageError, match="Stage finetune needs the result of stage sparse, which is not there yet"):
        work(stages=("finetune",))
    assert work.trained == []
    found = work(stages=("sparse",))
    assert (found.best, [rung.stage for rung in found.rungs]) == ("", ["baseline", "sparse"])
    with pytest.raises(UsageError, match=r"needs the result of stage prune.*run --stage prune first"):
        work(stages=("finetune",))
    with pytest.raises(UsageError, match="Stage finetune needs the result of stage prune"):
        work(stages=("sparse", "finetune"))
    found = work(stages=("prune", "finetune"))
    assert [rung.stage for rung in found.rungs] == ["baseline", "sparse", "prune", "finetune"]
    with pytest.raises(UsageError, match="stage sparse, which was made with other settings"):
        work(stages=("prune",), recipe=replace(RECIPE, slimming=Slimming(rate=1e-3)))
    assert work(stages=("distill",)).best == BEST
    work(stages=("prune",))
    assert "prune" not in work.asked


def test_shares_are_searched_for_from_the_slimmed_network_and_kept(work: Fake) -> None:
    work(goal=Goal(max_drop=0.02))
    assert "search 0.02 in search" in work.asked
    out = work.place / "out"
    assert network(out / "prune.safetensors") == ["sparse", "prune 0.3"]
    steps = from_json(Lineage, json.loads((out / BEST).read_text())["lineage"], "").steps
    assert steps[1].settings["prune"]["ratio"] == 0.3
    work(goal=Goal(max_drop=0.02))
    assert work.asked == []
    work(goal=Goal(max_drop=0.01))
    assert work.trained == []  # the same shares were found
    assert "search 0.01 in search" in work.asked
    work(goal=Goal(max_drop=0.01), trials=100)
    first, second, third = work.hunted
    assert second == third, "more trials begin again"
    assert first != second


def test_a_checkpoint_for_other_classes_needs_a_baseline(work: Fake) -> None:
    (work.place / "net.pt").write_text(json.dumps({"network": [], "labels": [*LABELS, "bus"], "lineage": None}))
    with pytest.raises(UsageError, match=r"has 3 classes \(car, van, bus\), the data 2 \(car, van\).*\[baseline\]"):
        work()
    assert work.trained == []
    work(recipe=replace(RECIPE, baseline=SHORT))
    assert work.trained == ["baseline", "sparse", "finetune", "distill"]
    assert (work.orders[0].source, work.orders[0].adapt) == (work.place / "net.pt", True)
    assert work.orders[-1].teacher == work.place / "out" / "baseline.safetensors"
    assert not any(order.adapt for order in work.orders[1:])


def test_another_checkpoint_or_other_data_are_refused_until_told_to_begin_again(work: Fake) -> None:
    work()
    (work.place / "out" / "notes.txt").write_text("mine")
    (work.place / "net.pt").write_text(json.dumps({"network": ["other"], "labels": LABELS, "lineage": None}))
    with pytest.raises(UsageError, match=r"was made from another checkpoint, net\.pt .*--fresh"):
        work()
    found = work(fresh=True)
    assert set(found.states.values()) == {"done"}
    (work.place / "val0.png").write_bytes(b"another picture")
    with pytest.raises(UsageError, match="was made from other validation data"):
        work()
    assert work.asked == []
    work(fresh=True)
    assert (work.place / "out" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stages": ("prun",)}, ["There is no stage 'prun'.", "Did you mean 'prune'?"]),
        ({"stages": ("baseline",)}, ["The recipe all has no stage 'baseline'; it has sparse, prune"]),
        ({"recipe": Recipe("none", sparse=None, prune=None, finetune=None, distill=None)}, ["none has no stage"]),
        (
            {"recipe": replace(RECIPE, sparse=None, distillation=Distillation(teacher="sparse"))},
            ["takes the network after stage 'sparse' as the teacher"],
        ),
        ({"recipe": replace(RECIPE, prune=Pruning(device="jetson"))}, ["There is no device 'jetson'."]),
        ({"goal": Goal(30.0), "recipe": replace(RECIPE, prune=None)}, ["no stage 'prune'"]),
        ({"protocol": "visdrones"}, ["There is no protocol 'visdrones'"]),
        ({"checkpoint": Path("gone.pt")}, ["gone.pt does not exist"]),
        ({"data": Path("train.json")}, ["train.json is one part", "--val"]),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    changes: dict[str, Any], words: list[str], work: Fake
) -> None:
    with pytest.raises(UsageError) as caught:
        work(**changes)
    for word in words:
        assert word in str(caught.value)
    assert not (work.place / "out").exists()


def test_a_folder_of_somebody_else_is_left_alone(work: Fake) -> None:
    out = work.place / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("chapter 1")
    for fresh in (False, True):
        with pytest.raises(UsageError, match=r"out holds something else \(thesis\.tex\)"):
            work(fresh=fresh)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    with pytest.raises(UsageError, match="is a file"):
        work(folder=out / "thesis.tex")


def test_two_at_once_in_one_folder_are_one_too_many(work: Fake) -> None:
    with alone(work.place / "out", "compress"), pytest.raises(UsageError, match="Another 'edgedeploy compress' is at"):
        work()
    assert work.asked == []


def test_each_epoch_is_a_line_with_the_time_that_is_left(work: Fake) -> None:
    work()
    lines = [line for line in work.said if "epoch " in line]
    assert lines[0] == "sparse: epoch 1 of 2: loss 1.000, AP50 0.500, 25% small factors, about 3 min left"
    assert lines[1].endswith("about 2 min left")
    assert lines[-1] == "distill: epoch 2 of 2: loss 1.000, AP50 0.500, about 0 s left"
    assert [duration(seconds) for seconds in (4, 130, 5000, 7900)] == ["4 s", "2 min", "83 min", "2 h 12 min"]


def test_pruning_by_latency_is_done_again_for_another_size(work: Fake) -> None:
    """The time that channels buy is that at the size of the last training."""
    recipe = replace(RECIPE, prune=Pruning(policy="latency"))
    work(recipe=recipe)
    larger = replace(SHORT, size=128)
    work(recipe=replace(recipe, distill=larger))
    assert work.asked.count("prune") == 1
    work(recipe=RECIPE)
    work(recipe=replace(RECIPE, distill=larger))
    assert "prune" not in work.asked


def test_images_to_train_and_to_judge_on_are_said_to_be_the_same(work: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    assert work().doubts == ()
    same = work.data(work.place / "data.yaml", "train")
    monkeypatch.setattr(work, "data", lambda path, part: replace(same, split=part))
    (doubt,) = work(fresh=True).doubts
    assert doubt.startswith("6 images are in training and validation data, the first is ")


def test_an_image_that_has_gone_is_named(work: Fake) -> None:
    (work.place / "train3.png").unlink()
    with pytest.raises(UsageError, match=r"train3\.png, an image of data, cannot be read: No such file"):
        work()


def test_the_record_says_what_was_used(work: Fake) -> None:
    found = work()
    used = read_json(work.place / "out" / USED)
    assert isinstance(used, dict)
    assert used["recipe"]["finetune"]["epochs"] == 3
    assert used["parent"] == file_digest(work.place / "net.pt")
    assert (found.used.train, found.used.val) == tuple(
        work.data(work.place / "data.yaml", part).digest() for part in ("train", "val")
    )
