"""A search of prune ratios: the strategy on made-up trials, and one real search of a tiny network."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedeploy.errors import BudgetExceeded, Unavailable, UsageError

torch = pytest.importorskip("torch")
pytest.importorskip("optuna")
pytest.importorskip("ultralytics")
pytest.importorskip("torch_pruning")
pytest.importorskip("matplotlib")

from edgedeploy.compress.pruning.timing import Clocked  # noqa: E402
from edgedeploy.compress.recipe import Pruning  # noqa: E402
from edgedeploy.compress.searching import hunt  # noqa: E402
from edgedeploy.compress.searching.goal import Goal, Recovery, SearchOptions  # noqa: E402
from edgedeploy.compress.searching.hunt import TABLE, Hunt  # noqa: E402
from edgedeploy.compress.searching.study import Outcome, Ratios, Space, Study  # noqa: E402
from edgedeploy.report.search import picture  # noqa: E402

BLOCKS = ("model.0", "model.2", "model.4")
#: What a block costs in seconds, and how much of the accuracy goes with it.
COST = {"model.0": 0.006, "model.2": 0.003, "model.4": 0.001}
UNPRUNED = dict.fromkeys(BLOCKS, 0.0)
HARM = {"model.0": 0.05, "model.2": 0.3, "model.4": 0.3}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """One test draws; the others go on as where nothing draws."""

    def draw(*_: object) -> None:
        raise Unavailable("matplotlib is not installed here.")

    monkeypatch.setattr(hunt, "picture", draw)


class Made:
    """Trials with known answers: 10 ms unpruned; the first block is dear and matters little. Reality is slower."""

    def __init__(self, here: bool = False, slower: float = 1.0) -> None:
        self.here, self.slower = here, slower
        self.made: list[Ratios] = []
        self.die_at: int | None = None
        self.device, self.images, self.ap50, self.notes = "a-board", 20, 0.5, ("made up",)

    def pruning(self, ratios: Ratios) -> Pruning:
        return Pruning(ratios=ratios)

    def seconds(self, ratios: Ratios) -> float:
        return sum(COST[block] * (1 - ratio) for block, ratio in ratios.items())

    def kept(self, ratios: Ratios) -> float:
        return 1 - sum(ratios.values()) / len(ratios)

    def plain(self, ratios: Ratios, space: Space) -> Ratios:
        return ratios

    def evaluate(self, ratios: Ratios) -> Outcome:
        if len(self.made) == self.die_at:
            raise KeyboardInterrupt
        self.made.append(ratios)
        drop = sum(HARM[block] * ratio**2 for block, ratio in ratios.items())
        return Outcome(0.5 - drop, drop, drop - 0.02, drop + 0.02, self.seconds(ratios), 1000, self.kept(ratios))

    def anchors(self, space: Space) -> list[tuple[float, float]]:
        predicted = self.seconds(space.uniform(0.0))
        return [(predicted, predicted)]

    def clock(self, ratios: Mapping[int, Ratios], seconds: float) -> tuple[Clocked, dict[int, Clocked]]:
        times = {number: self.slower * self.seconds(one) for number, one in {-1: UNPRUNED, **ratios}.items()}
        found = {n: Clocked(t, 0.99 * t, 1.01 * t, None, None, None, 50) for n, t in times.items()}
        return found.pop(-1), found


def _hunt(folder: Path, made: Made, goal: Goal, **options: Any) -> Hunt:
    folder.mkdir(exist_ok=True)
    settings = SearchOptions(folder, **{"trials": 10, "step": 0.1, **options})
    space = Space(BLOCKS, settings.most, settings.step)
    return Hunt(made, Study(folder / "trials.db", space, {"network": "a"}), space, goal, settings)


def test_target_fps_is_reached_by_what_is_dear_and_matters_little(tmp_path: Path) -> None:
    made = Made()
    found = _hunt(tmp_path, made, Goal(target_fps=150)).run()
    chosen = found.trials[found.chosen]
    assert chosen.seconds <= 1 / 150
    uniform = made.evaluate(Space(BLOCKS, 0.9, 0.1).uniform(0.4))  # the same share of all that is fast enough
    assert chosen.ap50 > uniform.ap50 + 0.02
    assert chosen.ratios["model.0"] > max(chosen.ratios["model.2"], chosen.ratios["model.4"])
    assert found.pruning.ratios == chosen.ratios
    assert "not measured" in found.sentence
    assert "little to rank by" not in found.sentence
    assert "does not predict" in found.sentence
    assert picture(found.table, tmp_path / "a.svg").read_text().count("<path") > 10
    with pytest.raises(UsageError, match=r"no \.png"):
        picture(found.table, tmp_path / "a.gif")
    text = (tmp_path / TABLE).read_text()
    assert "chosen" in text
    assert text.count("\n| ") >= 10 + len(BLOCKS)


def test_max_drop_finds_the_fastest_that_loses_no_more(tmp_path: Path) -> None:
    found = _hunt(tmp_path, Made(), Goal(max_drop=0.03)).run()
    chosen = found.trials[found.chosen]
    assert chosen.drop <= 0.03
    assert chosen.seconds == min(one.seconds for one in found.trials if one.drop <= 0.03)
    assert chosen.seconds < 0.0075  # a fifth of all channels alike loses 0.026 and takes 8 ms
    assert "judged by the estimate" in found.sentence
    sure = _hunt(tmp_path, Made(), Goal(max_drop=0.03), sure=True).run()  # the same trials, judged more strictly
    assert sure.trials[sure.chosen].drop_high <= 0.03
    assert sure.trials[sure.chosen].seconds > chosen.seconds


def test_a_killed_search_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    goal = Goal(target_fps=150)
    whole = _hunt(tmp_path / "a", Made(), goal, trials=8).run()
    killed, again = Made(), Made()
    killed.die_at = 6
    with pytest.raises(KeyboardInterrupt):
        _hunt(tmp_path / "b", killed, goal, trials=8).run()
    resumed = _hunt(tmp_path / "b", again, goal, trials=8).run()
    assert len(again.made) == 2
    assert resumed.trials == whole.trials
    more = Made()
    assert len(_hunt(tmp_path / "b", more, goal, trials=9).run().trials) == 9
    assert len(more.made) == 1


def test_what_is_measured_decides(tmp_path: Path) -> None:
    """Networks that take a tenth longer than predicted are not chosen for their prediction."""
    found = _hunt(tmp_path, Made(here=True, slower=1.1), Goal(target_fps=150), trials=12).run()
    chosen = found.trials[found.chosen]
    assert chosen.measured is not None
    assert chosen.measured[2] <= 1 / 150
    assert "measured (95 % interval" in found.sentence
    assert found.trials[0].predicted == pytest.approx(0.011)  # and all predictions are corrected by what was timed
    assert not any("not the same" in note for note in found.table.notes)


def test_a_machine_that_changes_meanwhile_is_told(tmp_path: Path) -> None:
    found = _hunt(tmp_path, Made(here=True, slower=0.5), Goal(target_fps=150)).run()
    assert any("took 0.5 times as long at the end" in note for note in found.table.notes)


def test_the_predictions_are_corrected_by_what_was_timed(tmp_path: Path) -> None:
    made = Made()
    made.anchors = lambda space: [(0.01, 0.02), (0.005, 0.015)]  # type: ignore[method-assign]
    found = _hunt(tmp_path, made, Goal(target_fps=60)).run()
    by_number = {one.number: one for one in found.trials}
    assert by_number[0].predicted == pytest.approx(0.02)
    assert found.trials[found.chosen].predicted <= 1 / 60
    assert made.seconds(dict(found.trials[found.chosen].ratios)) < 0.01


def test_unreachable_goals_say_what_is_closest(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"2000 FPS cannot be reached on a-board.*1000 FPS are predicted, and 100 with none"
    ):
        _hunt(tmp_path / "a", Made(), Goal(target_fps=2000)).run()
    with pytest.raises(BudgetExceeded, match=r"None of 10 trials reached the goal.*the fastest is trial"):
        _hunt(tmp_path / "b", Made(here=True, slower=20), Goal(target_fps=150)).run()
    assert (tmp_path / "b" / TABLE).exists()
    with pytest.raises(BudgetExceeded, match=r"smallest loss of AP50 is 0\.0200"):
        _hunt(tmp_path / "c", Made(), Goal(max_drop=0.01), sure=True).run()


def test_a_network_that_is_fast_enough_is_left_alone(tmp_path: Path) -> None:
    found = _hunt(tmp_path, Made(), Goal(target_fps=90), trials=1).run()
    assert not any(found.pruning.ratios.values())


@pytest.mark.parametrize("numbers", [{}, {"target_fps": 30, "max_drop": 0.1}])
def test_a_goal_is_one(numbers: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="not both"):
        Goal(**numbers)


@pytest.mark.parametrize("numbers", [{"target_fps": 0}, {"target_fps": float("nan")}, {"max_drop": 1.0}])
def test_goals_out_of_range(numbers: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="no goal"):
        Goal(**numbers)


def test_options_that_find_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="trials 0"):
        SearchOptions(tmp_path, trials=0)
    with pytest.raises(UsageError, match="images 0"):
        SearchOptions(tmp_path, images=0)
    with pytest.raises(UsageError, match="up to 1"):
        Space(BLOCKS, most=1.0)
    with pytest.raises(UsageError, match="-1 images"):
        Recovery(images=-1)


def test_another_search_in_the_folder_is_refused(tmp_path: Path) -> None:
    space = Space(BLOCKS)
    Study(tmp_path / "trials.db", space, {"network": "a", "size": [64, 64]})
    with pytest.raises(UsageError, match="something else: other network, size"):
        Study(tmp_path / "trials.db", space, {"network": "b", "size": [32, 32]})
    with pytest.raises(UsageError, match="other blocks"):
        Study(tmp_path / "trials.db", Space(BLOCKS[:2]), {"network": "a", "size": [64, 64]})
    (tmp_path / "other.db").write_bytes(b"no database at all, but long enough to be read as one" * 20)
    with pytest.raises(UsageError, match="no trials of a search"):
        Study(tmp_path / "other.db", space, {})
    with sqlite3.connect(tmp_path / "foreign.db") as connection:
        connection.execute("create table studies (x integer)")
    with pytest.raises(UsageError, match="no trials of a search"):
        Study(tmp_path / "foreign.db", space, {})


# --- a real one ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector() -> Any:
    from edgedeploy.compress.detector import Detector
    from edgedeploy.compress.lineage import Lineage
    from edgedeploy.models.yolo import quietly

    torch.set_num_threads(1)
    with quietly():
        from ultralytics.nn.tasks import DetectionModel
    torch.manual_seed(0)
    network = DetectionModel("yolov8n.yaml", nc=4, verbose=False).eval()
    return Detector(network, ("a", "b", "c", "d"), (64, 64), Lineage("random", "0" * 64))


@pytest.fixture(scope="module")
def pictures(detector: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Images in which a network without training finds everything: its own detections are the labels."""
    from edgedeploy.compress.evaluation import exporting
    from edgedeploy.compress.staging import save_image
    from edgedeploy.tasks.dataset import DetectionSet, Sample
    from edgedeploy.tasks.detect import Detect

    folder, generator, samples = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0), []
    task = dataclasses.replace(Detect.yolov8(detector.labels, (64, 64)), confidence=1e-6, max_detections=3, iou=0.3)
    for number in range(6):
        image = generator.integers(0, 255, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        path = folder / f"{number}.png"
        save_image(path, image)
        prepared = task.prepare(image)
        with exporting(detector.network) as network:
            out = network(torch.from_numpy(prepared.tensors[0])).numpy()
        found = task.finish([out], prepared.context)
        area = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(axis=1).astype(np.float64)
        samples.append(Sample(path, (64, 64), found.boxes, found.classes, area, np.zeros(len(found), bool)))
    return DetectionSet("pictures", detector.labels, tuple(samples), "train")


def test_a_real_search_of_three_trials(detector: Any, pictures: Any, tmp_path: Path) -> None:
    from edgedeploy.compress.pruning.groups import groups
    from edgedeploy.compress.pruning.importance import importance
    from edgedeploy.compress.pruning.policy import choose
    from edgedeploy.compress.pruning.prune import prune
    from edgedeploy.compress.searching.search import search

    said: list[str] = []
    options = SearchOptions(
        tmp_path, trials=3, images=3, recovery=Recovery(2), follow=lambda what, share: said.append(f"{share:.2f}")
    )
    pruning = Pruning(device="raspberry-pi-5", round_to=0)
    before = {name: tensor.clone() for name, tensor in detector.network.state_dict().items()}
    found = search(detector, pictures, pruning, Goal(max_drop=0.9), options)
    after = detector.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(found.trials) == 3
    assert found.trials[0].ap50 > 0.1
    assert found.trials[0].drop == 0
    assert [one.ratios["model.9"] for one in found.trials] == [0.0, 0.1, 0.3]
    assert found.trials[1].ratios["model.0"] == 0  # a tenth of 16 channels, in eights, is none
    assert [one.predicted for one in found.trials] == sorted((one.predicted for one in found.trials), reverse=True)
    assert found.trials[2].params < found.trials[1].params < found.trials[0].params
    assert any("1.00" in line for line in said)
    assert found.pruning.round_to == 8
    assert set(found.pruning.ratios) == {group.name for group in groups(detector.network, pruning.keep)}
    members = groups(detector.network, pruning.keep)
    small = prune(detector.network, choose(members, importance(detector.network, members), found.pruning))
    assert sum(p.numel() for p in small.parameters()) == found.trials[found.chosen].params
    again = search(detector, pictures, pruning, Goal(target_fps=1), options)  # other goal, same trials
    assert again.trials[:3] == found.trials
    other = dataclasses.replace(options, recovery=Recovery(0))
    with pytest.raises(UsageError, match="other recovery"):
        search(detector, pictures, pruning, Goal(max_drop=0.9), other)


def test_a_narrow_network_keeps_a_channel_of_every_group(detector: Any, pictures: Any, tmp_path: Path) -> None:
    """One that was pruned before: of its 4 channels the largest ratio of a search would leave none."""
    from edgedeploy.compress.pruning.prune import prune_detector
    from edgedeploy.compress.searching.laboratory import Laboratory

    narrow, _ = prune_detector(detector, Pruning(ratio=0.75))
    options = SearchOptions(tmp_path, images=2)
    laboratory = Laboratory.of(narrow, pictures, Pruning(), options)
    assert min(group.width for group in laboratory.groups) == 4
    ratios = laboratory.pruning(Space(laboratory.blocks).uniform(0.9)).ratios
    assert {ratios[group.name] for group in laboratory.groups if group.width == 4} == {0.75}
    assert {ratios[group.name] for group in laboratory.groups if group.width >= 16} == {0.9}
    assert laboratory.seconds(Space(laboratory.blocks).uniform(0.9)) > 0


def test_a_network_that_finds_nothing_has_nothing_to_lose(detector: Any, pictures: Any, tmp_path: Path) -> None:
    from edgedeploy.compress.searching.search import search

    corner = {"boxes": np.array([[0, 0, 2, 2]], np.float32), "classes": np.zeros(1, np.int64), "area": np.ones(1)}
    far = [dataclasses.replace(one, **corner, crowd=np.zeros(1, bool)) for one in pictures.samples]
    nothing = dataclasses.replace(pictures, samples=tuple(far))
    options = SearchOptions(tmp_path, images=3)
    with pytest.raises(UsageError, match="finds nothing in the 3 images"):
        search(detector, nothing, Pruning(device="raspberry-pi-5"), Goal(max_drop=0.1), options)


def test_recalibration_changes_statistics_alone(detector: Any, pictures: Any) -> None:
    from edgedeploy.compress.searching.recalibrate import recalibrate

    network = recalibrate(detector, pictures, count=4, batch=2)
    old, new = detector.network.state_dict(), network.state_dict()
    changed = {name.rpartition(".")[2] for name in old if not torch.equal(old[name], new[name])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}
    assert not any(module.training for module in network.modules())
    assert network.model[0].bn.momentum == detector.network.model[0].bn.momentum
    # the mean over equal batches of a plain convolution is that over all images
    task_images = [torch.from_numpy(_prepared(detector, sample)) for sample in pictures.samples]
    picks = [task_images[i] for i in (0, 2, 3, 5)]
    out = detector.network.model[0].conv(torch.cat(picks)).detach()
    assert torch.allclose(network.model[0].bn.running_mean, out.mean(dim=(0, 2, 3)), atol=1e-5)
    with pytest.raises(UsageError, match="not on 0 of 6"):
        recalibrate(detector, pictures, count=0)


def _prepared(detector: Any, sample: Any) -> Any:
    from edgedeploy.tasks.detect import Detect
    from edgedeploy.tasks.image import read_image

    return Detect.yolov8(detector.labels, detector.size).prepare(read_image(sample.image)).tensors[0]


def test_networks_that_find_nothing_any_more_are_ranked_by_what_is_left_of_them(tmp_path: Path) -> None:
    class Dead(Made):
        def evaluate(self, ratios: Ratios) -> Outcome:
            made = super().evaluate(ratios)
            lost = any(ratios.values())
            return dataclasses.replace(made, ap50=0.0 if lost else 0.5, kept=1 - ratios["model.2"] / 3)

    found = _hunt(tmp_path, Dead(), Goal(target_fps=150), trials=12).run()
    assert found.trials[found.chosen].ratios["model.2"] == min(
        one.ratios["model.2"] for one in found.trials if one.predicted <= 1 / 150
    )
    assert "little to rank by" in found.sentence
