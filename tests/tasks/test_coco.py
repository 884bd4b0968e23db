"""COCO's metric, and our own match tables against it."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.records import from_json, to_json
from edgedeploy.tasks.coco import DetectionAccuracy, evaluate, match_table
from edgedeploy.tasks.dataset import DetectionSet, Sample, read_detection_set
from edgedeploy.tasks.detect import Detections
from edgedeploy.tasks.matches import average_precision

pytest.importorskip("faster_coco_eval")
pycocotools = pytest.importorskip("pycocotools")


def made_up(seed: int, images: int = 12, classes: int = 4, crowds: float = 0.1) -> DetectionSet:
    """Random truth in round numbers, so that overlaps exactly at a threshold occur; the last class is empty."""
    generator = np.random.default_rng(seed)
    samples = []
    for index in range(images):
        n = int(generator.integers(0, 8))
        corner = generator.integers(0, 150, (n, 2))
        boxes = np.concatenate([corner, corner + generator.integers(1, 12, (n, 2)) * 10], axis=1).astype(np.float32)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).astype(np.float64)
        kinds = generator.integers(0, classes - 1, n)
        samples.append(Sample(Path(f"{index}.png"), (300, 300), boxes, kinds, area, generator.random(n) < crowds))
    return DetectionSet("made up", tuple("abcdefgh"[:classes]), tuple(samples), "val")


def around(data: DetectionSet, seed: int, steps: int = 20) -> list[Detections]:
    """Detections near the truth, double ones, wrong ones, and equal scores."""
    generator = np.random.default_rng(seed)
    results = []
    for sample in data.samples:
        twice = np.repeat(np.arange(len(sample.boxes)), generator.integers(0, 3, len(sample.boxes)))
        boxes = sample.boxes[twice] + generator.integers(-2, 3, (len(twice), 4)) * 5
        kinds = sample.classes[twice]
        wrong = int(generator.integers(0, 5))
        corner = generator.integers(0, 200, (wrong, 2))
        boxes = np.concatenate([boxes, np.concatenate([corner, corner + 30], axis=1)])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        kinds = np.concatenate([kinds, generator.integers(0, len(data.labels), wrong)])
        scores = (generator.integers(1, steps + 1, len(boxes)) / steps).astype(np.float32)
        order = np.argsort(-scores, kind="stable")
        results.append(Detections(boxes[order].astype(np.float32), scores[order], kinds[order]))
    return results


def own(
    data: DetectionSet, found: list[Detections], limit: int = 300
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return average_precision(match_table(data, found, limit), np.ones((len(data), 1), np.int64))[..., 0]


@given(st.integers(0, 2**32 - 1), st.sampled_from([300, 100, 2, 1]))
@settings(deadline=None, max_examples=60)
def test_own_average_precision_is_the_librarys(seed: int, limit: int) -> None:
    data = made_up(seed)
    found = around(data, seed + 1)
    metric, table = evaluate(data, found, limit), own(data, found, limit)
    for index, one in enumerate(metric.classes):
        assert one.instances == sum(int((~s.crowd & (s.classes == index)).sum()) for s in data.samples)
        if one.instances == 0:
            assert one.ap50_95 is None
            assert np.isnan(table[index]).all()
        else:
            assert table[index].mean() == pytest.approx(one.ap50_95, abs=1e-9)
            assert table[index, 0] == pytest.approx(one.ap50, abs=1e-9)
    if data.instances:
        assert np.nanmean(table) == pytest.approx(metric.ap50_95, abs=1e-9)
        assert np.nanmean(table[:, 5]) == pytest.approx(metric.ap75, abs=1e-9)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_both_evaluators_agree(seed: int) -> None:
    data = made_up(seed)
    found = around(data, seed + 1)
    fast = to_json(evaluate(data, found))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "faster_coco_eval", None)
        slow = to_json(evaluate(data, found))
    assert fast.pop("evaluator").startswith("faster-coco-eval ")
    assert slow.pop("evaluator").startswith("pycocotools ")
    for key in ("ap50_95", "ap50", "ap75", "small", "medium", "large", "recall"):
        assert fast[key] == pytest.approx(slow[key], abs=1e-9)
    assert fast["classes"] == [pytest.approx(one, abs=1e-9) for one in slow["classes"]]


def test_no_evaluator_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    data = made_up(0)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(Unavailable, match=r"edgedeploy\[accuracy\]"):
        evaluate(data, around(data, 0))


def test_the_truth_itself_scores_one_and_nothing_scores_zero() -> None:
    data = made_up(3, crowds=0)
    right = [Detections(s.boxes, np.ones(len(s.boxes), np.float32), s.classes) for s in data.samples]
    metric = evaluate(data, right)
    assert [metric.ap50_95, metric.ap50, metric.recall] == pytest.approx([1, 1, 1])
    empty = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
    metric = evaluate(data, [empty] * len(data))
    assert (metric.ap50_95, metric.ap50, metric.recall) == (0, 0, 0)
    assert (own(data, [empty] * len(data))[:3] == 0).all()


def test_a_size_without_objects_is_none() -> None:
    box, kind, area = np.array([[0, 0, 200, 200]], np.float32), np.array([0]), np.array([4e4])
    sample = Sample(Path("a.png"), (300, 300), box, kind, area, np.array([False]))
    data = DetectionSet("one", ("a", "b"), (sample,), "val")
    metric = evaluate(data, [Detections(sample.boxes, np.array([0.5], np.float32), sample.classes)])
    assert (metric.small, metric.medium) == (None, None)
    assert metric.large == pytest.approx(1)
    assert [one.ap50 for one in metric.classes] == [pytest.approx(1), None]


def test_the_record_survives_json() -> None:
    data = made_up(5)
    metric = evaluate(data, around(data, 6), 100)
    assert from_json(DetectionAccuracy, json.loads(json.dumps(to_json(metric), allow_nan=False)), "x") == metric
    assert (metric.images, metric.instances, metric.max_detections, metric.ious[0]) == (12, data.instances, 100, 0.5)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    data = made_up(5)
    evaluate(data, around(data, 6))
    assert capfd.readouterr() == ("", "")


def test_results_that_do_not_belong_are_refused() -> None:
    data = made_up(1)
    found = around(data, 1)
    with pytest.raises(UsageError, match="results for 11 images, but made up has 12"):
        evaluate(data, found[1:])
    with pytest.raises(UsageError, match="no images"):
        evaluate(data.subset([]), [])
    with pytest.raises(UsageError, match="class 9 was found"):
        match_table(data, [Detections(np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.array([9]))] * 12)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_a_weight_of_two_is_an_image_twice(seed: int) -> None:
    generator = np.random.default_rng(seed)
    data = made_up(seed, images=6)
    found = around(data, seed + 1, steps=10**7)  # equal scores in one image have no order of their own
    weights = generator.integers(0, 4, (6, 3))
    table = average_precision(match_table(data, found), weights)
    for column in range(3):
        chosen = np.repeat(np.arange(6), weights[:, column])
        if len(chosen):
            again = own(data.subset(chosen), [found[i] for i in chosen])
            assert table[..., column] == pytest.approx(again, abs=1e-12, nan_ok=True)


def test_real_truth_equals_pycocotools_on_the_original_file(shared: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    path = shared / "data/coco_val128/annotations/instances_val128.json"
    data = read_detection_set(path)
    found = around(data, 0, steps=1000)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        identities = sorted(truth.getCatIds())
        names = {image["file_name"]: image["id"] for image in truth.dataset["images"]}
        rows = [
            [names[sample.image.name], *box[:2], *(box[2:] - box[:2]), score, identities[kind]]
            for sample, one in zip(data.samples, found, strict=True)
            for box, score, kind in zip(one.boxes.astype(float), one.scores.astype(float), one.classes, strict=True)
        ]
        run = COCOeval(truth, truth.loadRes(np.array(rows)), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    metric = evaluate(data, found, 100)
    for ours, theirs in zip(
        (metric.ap50_95, metric.ap50, metric.ap75, metric.small, metric.medium, metric.large),
        run.stats[:6],
        strict=True,
    ):
        assert ours == pytest.approx(theirs, abs=1e-6)
    assert metric.recall == pytest.approx(run.stats[8], abs=1e-6)
    assert np.nanmean(own(data, found, 100)) == pytest.approx(run.stats[0], abs=1e-6)
    assert 0.05 < run.stats[0] < 0.95
