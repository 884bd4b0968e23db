"""Accuracy of a detector on a data set, and paired statistics of two."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.accuracy import (
    ENOUGH_IMAGES,
    Accuracy,
    Difference,
    PairedDifference,
    assess,
    detect_all,
    detector,
    equivalence,
    paired_difference,
)
from edgedeploy.errors import UsageError
from edgedeploy.records import from_json, to_json
from edgedeploy.tasks import Detect, Detections
from edgedeploy.tasks.matches import IOUS, Matches, average_precision
from edgedeploy.tasks.samples import DetectionSet, Sample
from edgedeploy.tensors import Array

LABELS = ("cat", "dog")
CLASSES = 4


def table(generator: np.random.Generator, images: int, quality: npt.NDArray[np.float64]) -> list[Matches]:
    """Matches of several models over the same objects, which are equally hard for all; ``quality`` is the models'."""
    number = generator.poisson(3, images)
    image = np.repeat(np.arange(images), number)
    kind = generator.integers(0, CLASSES, len(image))
    hard = generator.normal(0, 1, len(image))
    truths = np.zeros((CLASSES, images), np.int64)
    np.add.at(truths, (kind, image), 1)
    made = []
    for value in quality:
        margin = value - hard + generator.normal(0, 0.3, len(image))
        wrong = np.repeat(np.arange(images), generator.poisson(2, images))
        where = np.concatenate([image, wrong])
        classes = np.concatenate([kind, generator.integers(0, CLASSES, len(wrong))])
        scores = np.concatenate([margin, generator.normal(-1.5, 1, len(wrong))])
        overlap = 1 / (1 + np.exp(-margin - 0.5))
        right = np.zeros((len(IOUS), len(where)), np.bool_)
        right[:, : len(image)] = overlap >= np.array(IOUS)[:, None]
        order = np.lexsort((-scores, classes))
        names = tuple("abcdefgh"[:CLASSES])
        made.append(
            Matches(names, classes[order], scores[order], where[order], right[:, order], np.zeros_like(right), truths)
        )
    return made


def headline(matches: Matches) -> float:
    return float(np.nanmean(average_precision(matches, np.ones((matches.images, 1), np.int64))))


def test_the_estimate_is_the_difference_of_the_metrics() -> None:
    first, second = table(np.random.default_rng(0), 60, np.array([1.0, 0.5]))
    paired = paired_difference(first, second, replicates=200, seed=3)
    one = paired.ap50_95
    assert one.estimate == pytest.approx(headline(second) - headline(first))
    assert one.low < one.estimate < one.high < 0
    assert one.sd > 0
    assert (one.images, one.replicates, one.confidence, one.seed) == (60, 200, 0.9, 3)
    assert paired.ap50.estimate != one.estimate
    assert paired == paired_difference(first, second, replicates=200, seed=3)
    assert paired != paired_difference(first, second, replicates=200, seed=4)
    assert from_json(PairedDifference, json.loads(json.dumps(to_json(paired))), "x") == paired


def test_swapping_the_models_changes_the_sign() -> None:
    first, second = table(np.random.default_rng(1), 50, np.array([1.0, 0.8]))
    there, back = (paired_difference(*pair, replicates=100).ap50_95 for pair in ((first, second), (second, first)))
    assert (there.estimate, there.low, there.high) == pytest.approx((-back.estimate, -back.high, -back.low))


def test_the_same_results_differ_by_nothing() -> None:
    (one,) = table(np.random.default_rng(2), 50, np.array([1.0]))
    difference = paired_difference(one, one, replicates=100).ap50
    assert (difference.estimate, difference.low, difference.high, difference.sd) == (0, 0, 0, 0)
    assert equivalence(difference, 0.001).outcome == "pass"


def test_pairing_narrows_the_interval() -> None:
    first, second = table(np.random.default_rng(3), 80, np.array([1.0, 1.0]))
    (other,) = table(np.random.default_rng(4), 80, np.array([1.0]))
    unpaired = dataclasses.replace(other, truths=first.truths)
    assert paired_difference(first, second, 200).ap50_95.sd < 0.8 * paired_difference(first, unpaired, 200).ap50_95.sd


def test_progress_counts_replicates() -> None:
    (one,) = table(np.random.default_rng(5), 20, np.array([1.0]))
    seen: list[tuple[int, int]] = []
    paired_difference(one, one, replicates=250, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(100, 250), (200, 250), (250, 250)]


def test_what_cannot_be_compared_is_refused() -> None:
    first, second = (table(np.random.default_rng(seed), 20, np.array([1.0]))[0] for seed in (6, 7))
    with pytest.raises(UsageError, match="same data set"):
        paired_difference(first, second)
    nothing = dataclasses.replace(first, truths=np.zeros_like(first.truths))
    with pytest.raises(UsageError, match="no object"):
        paired_difference(nothing, nothing)
    with pytest.raises(UsageError, match="at least 100 replicates"):
        paired_difference(first, first, replicates=10)
    with pytest.raises(UsageError, match="confidence"):
        paired_difference(first, first, confidence=1.0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    population = table(np.random.default_rng(8), 4000, np.array([1.0, 0.8]))
    truth = headline(population[1]) - headline(population[0])
    generator = np.random.default_rng(9)
    covered = 0
    for _ in range(60):
        chosen = np.sort(generator.choice(4000, 100, replace=False))
        first, second = (part(matches, chosen) for matches in population)
        difference = paired_difference(first, second, replicates=100).ap50_95
        covered += difference.low <= truth <= difference.high
    assert 45 <= covered <= 60  # 54 expected at 90 %


def part(matches: Matches, chosen: npt.NDArray[np.int64]) -> Matches:
    place = np.full(matches.images, -1)
    place[chosen] = np.arange(len(chosen))
    keep = place[matches.image] >= 0
    return Matches(
        matches.labels,
        matches.classes[keep],
        matches.scores[keep],
        place[matches.image[keep]],
        matches.right[:, keep],
        matches.ignored[:, keep],
        matches.truths[:, chosen],
    )


def difference(estimate: float, low: float, high: float, sd: float = 0.01, images: int = 128) -> Difference:
    return Difference(estimate, low, high, sd, images, 1000, 0.9, 0)


@pytest.mark.parametrize(
    ("given_", "outcome"),
    [
        (difference(-0.001, -0.004, 0.002), "pass"),
        (difference(-0.05, -0.07, -0.03), "fail"),
        (difference(0.05, 0.03, 0.07), "fail"),
        (difference(-0.005, -0.015, 0.005), "not enough data"),
        (difference(-0.02, -0.03, -0.005), "not enough data"),
        (difference(0, -0.01, 0.005), "not enough data"),  # an end on the margin is not inside
        (difference(-0.001, -0.004, 0.002, images=ENOUGH_IMAGES - 1), "not enough data"),
        (difference(-0.05, -0.07, -0.03, images=ENOUGH_IMAGES - 1), "fail"),
    ],
)
def test_equivalence_within_a_point(given_: Difference, outcome: str) -> None:
    result = equivalence(given_, 0.01)
    assert result.outcome == outcome
    assert "margin 0.01" in result.sentence
    assert (len(result.doubts) == 1) == (given_.images < ENOUGH_IMAGES)
    assert (result.images_needed is not None) == (outcome == "not enough data")


def test_a_difference_says_its_direction() -> None:
    assert "better" in equivalence(difference(0.05, 0.03, 0.07), 0.01).sentence
    assert "worse" in equivalence(difference(-0.05, -0.07, -0.03), 0.01).sentence


def test_images_needed_follow_the_square_root() -> None:
    half = 1.6448536 * 0.01
    assert equivalence(difference(0, -half, half), 0.01).images_needed == 350  # 128 x 1.645^2 = 346.3, upwards
    # Nearer to the margin takes more, and beyond it as many as it takes to be sure of the opposite.
    assert equivalence(difference(0.005, 0.005 - half, 0.005 + half), 0.01).images_needed == 1400
    assert equivalence(difference(0.015, 0.015 - half, 0.015 + half), 0.01).images_needed == 1400
    hopeless = equivalence(difference(0.01, 0.01 - half, 0.01 + half), 0.01)
    assert hopeless.images_needed is None
    assert "no realistic number of images" in hopeless.sentence


finite = st.floats(-1, 1)


@given(finite, st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.5), st.integers(1, 10**6), st.floats(1e-6, 1))
def test_equivalence_always_answers(
    estimate: float, below: float, above: float, sd: float, images: int, margin: float
) -> None:
    result = equivalence(difference(estimate, estimate - below, estimate + above, sd, images), margin)
    if result.outcome == "pass":
        assert images >= ENOUGH_IMAGES
        assert abs(estimate) < margin
    if result.images_needed is not None:
        assert result.images_needed >= min(images + 1, ENOUGH_IMAGES)


@pytest.mark.parametrize("margin", [0, -0.01, float("nan"), float("inf")])
def test_a_margin_has_to_be_positive(margin: float) -> None:
    with pytest.raises(UsageError, match="positive number"):
        equivalence(difference(0, 0, 0), margin)


@pytest.fixture
def photos(tmp_path: Path) -> DetectionSet:
    """Three black images with one white box each: a dog, a cat, a dog."""
    image = pytest.importorskip("PIL.Image")
    samples = []
    for index, kind in enumerate((1, 0, 1)):
        pixels = np.zeros((40, 80, 3), np.uint8)
        box = np.array([[10 + 10 * index, 8, 40 + 10 * index, 32]], np.float32)
        pixels[8:32, int(box[0, 0]) : int(box[0, 2])] = 255
        path = tmp_path / f"{index}.png"
        image.fromarray(pixels).save(path)
        area = (box[:, 2:] - box[:, :2]).prod(axis=1).astype(np.float64)
        samples.append(Sample(path, (40, 80), box, np.array([kind]), area, np.zeros(1, np.bool_)))
    return DetectionSet("photos", LABELS, tuple(samples), "val")


def find_white(tensors: tuple[Array, ...]) -> list[Array]:
    """A detector that works: what is white is a dog (class 0 of its own labels), in the layout of `end2end`."""
    rows, columns = np.nonzero(tensors[0][0, 0] > 0.9)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    return [np.array([[[*box, 0.9, 0]]], np.float32)]


def test_a_detector_is_assessed_on_a_data_set(photos: DetectionSet) -> None:
    pytest.importorskip("faster_coco_eval")
    task = Detect(("dog", "bird", "cat"), (80, 80), head="end2end")
    seen: list[tuple[int, int]] = []
    result = assess(task, find_white, photos, "f" * 64, progress=lambda done, total: seen.append((done, total)))
    accuracy = result.accuracy
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert [one.ap50 for one in accuracy.metric.classes] == [
        0,
        pytest.approx((51 + 50 * 2 / 3) / 101),
    ]  # right, wrong, right
    assert (accuracy.model, accuracy.data, accuracy.split, accuracy.size) == ("f" * 64, "photos", "val", (80, 80))
    assert accuracy.data_digest == photos.digest()
    assert (accuracy.confidence, accuracy.iou, accuracy.doubts) == (0.001, 0.7, ())
    assert from_json(Accuracy, json.loads(json.dumps(to_json(accuracy))), "x") == accuracy
    assert headline(result.matches) == pytest.approx(accuracy.metric.ap50_95)
    assert [one.classes.tolist() for one in result.detections] == [[1], [1], [1]]


def test_a_broken_graph_is_doubted(photos: DetectionSet) -> None:
    pytest.importorskip("faster_coco_eval")
    task = Detect(LABELS, (80, 80), head="end2end")
    broken = dataclasses.replace(task, nms="graph")
    accuracy = assess(broken, lambda _: [np.full((1, 2, 6), np.nan, np.float32)], photos, "").accuracy
    assert accuracy.doubts == (
        "The graph suppresses duplicates itself: its own thresholds are in force, not those recorded here.",
        "In 3 of 3 images 6 candidates were NaN or infinite and dropped.",
        "Nothing was found in any of 3 images.",
    )


def test_classes_have_to_match(photos: DetectionSet) -> None:
    with pytest.raises(UsageError, match="Wrong number of classes between data and model"):
        assess(Detect(("dog",), (80, 80), head="end2end"), find_white, photos, "")


def test_an_image_that_changed_is_refused(photos: DetectionSet) -> None:
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (10, 10)).save(photos.samples[1].image)
    nothing = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
    with pytest.raises(UsageError, match=r"1\.png is 10x10, but its annotations are for 80x40"):
        detect_all(lambda _: nothing, photos)


def test_a_detector_is_prepare_call_and_finish() -> None:
    task = Detect(LABELS, (80, 80), head="end2end")
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[10:20, 30:60] = 255
    assert detector(task, find_white)(pixels).boxes.tolist() == [[30, 10, 60, 20]]
