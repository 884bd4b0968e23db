"""How accurate a model is on a data set, and how sure one can be that two are equally accurate.

Two results over the same images are compared *paired*: images are drawn with replacement, both are evaluated on the
same draw, and the spread of the difference over many draws is its uncertainty (bootstrap; Efron and Tibshirani 1993).
Whether the difference is smaller than a margin is decided by two one-sided tests (Schuirmann 1987).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import UsageError
from edgedeploy.tasks.coco import DetectionAccuracy, evaluate
from edgedeploy.tasks.detect import Detect, Detections
from edgedeploy.tasks.image import engine, read_image
from edgedeploy.tasks.matches import Matches, average_precision, check, match_table
from edgedeploy.tasks.protocol import ULTRALYTICS, Protocol, counted
from edgedeploy.tasks.samples import DetectionSet, match_labels
from edgedeploy.tasks.slices import sliced
from edgedeploy.tensors import Array

Progress = Callable[[int, int], None]

#: With fewer images than this the spread of resampled data says little about that of new data.
ENOUGH_IMAGES = 30

#: More labelled images than this nobody will collect to decide one comparison.
_REALISTIC = 100_000


@dataclass(frozen=True)
class Accuracy:
    """A metric and what it depends on: ``model`` and ``data_digest`` are sha256, ``size`` is (height, width)."""

    metric: DetectionAccuracy
    model: str
    data: str
    split: str
    data_digest: str
    size: tuple[int, int]
    confidence: float
    iou: float
    images_by: str
    doubts: tuple[str, ...] = ()
    schema: int = 1


@dataclass(frozen=True, eq=False)
class Assessment:
    """An `Accuracy` with the results behind it, in the data set's classes."""

    accuracy: Accuracy
    detections: tuple[Detections, ...]
    matches: Matches


@dataclass(frozen=True)
class Difference:
    """A metric of the candidate minus that of the reference, over the same images.

    ``low`` and ``high`` bound the percentile interval of ``confidence``; ``sd`` is the bootstrap's standard error.
    """

    estimate: float
    low: float
    high: float
    sd: float
    images: int
    replicates: int
    confidence: float
    seed: int


@dataclass(frozen=True)
class PairedDifference:
    """The differences of both headline metrics, from the same draws."""

    ap50_95: Difference
    ap50: Difference


@dataclass(frozen=True)
class Equivalence:
    """Whether two models are equally accurate within ``margin``, and how many images in all would tell, if known."""

    outcome: Literal["pass", "fail", "not enough data"]
    margin: float
    images_needed: int | None
    sentence: str
    doubts: tuple[str, ...] = ()


def detector(task: Detect, call: Callable[[tuple[Array, ...]], Sequence[Array]]) -> Callable[[Array], Detections]:
    """From an image (uint8 RGB) to detections: ``call`` takes the graph's inputs and gives its outputs, in order."""

    def detect(image: Array) -> Detections:
        prepared = task.prepare(image)
        return task.finish(call(prepared.tensors), prepared.context)

    return detect


def detect_all(
    predict: Callable[[Array], Detections], data: DetectionSet, progress: Progress | None = None
) -> list[Detections]:
    """The detections in every image of a data set.

    Raises:
        UsageError: an image cannot be read, or is no longer of the size that its annotations are for.
    """
    results = []
    for done, sample in enumerate(data.samples, start=1):
        image = read_image(sample.image)
        if image.shape[:2] != sample.size:
            raise UsageError(
                f"{sample.image} is {image.shape[1]}x{image.shape[0]}, but its annotations are for "
                f"{sample.size[1]}x{sample.size[0]}."
            )
        results.append(predict(image))
        if progress is not None:
            progress(done, len(data))
    return results


def assess(
    task: Detect,
    call: Callable[[tuple[Array, ...]], Sequence[Array]],
    data: DetectionSet,
    model: str,
    protocol: Protocol = ULTRALYTICS,
    progress: Progress | None = None,
) -> Assessment:
    """The accuracy of a detector on a data set.

    Args:
        task: the model's contract; its thresholds are replaced by those of `Detect.for_evaluation`.
        call: runs the graph: inputs in order to outputs in order.
        data: what it is measured on; classes are matched by name.
        model: sha256 of what ``call`` runs.
        protocol: the rules under which is counted; recorded with the numbers.
        progress: called with images done and images in all.

    Raises:
        UsageError: model and data set have different classes, or an image cannot be read.
        Unavailable: no evaluator is installed.
    """
    mapping = match_labels(task.labels, data.labels)
    task = task.for_evaluation(protocol.max_detections)
    predict = detector(task, call)
    if protocol.slices is not None:
        predict = sliced(predict, protocol.slices, protocol.max_detections)
    found = tuple(one.relabel(mapping) for one in detect_all(predict, data, progress))
    return judge(task, data, found, model, protocol)


def judge(
    task: Detect, data: DetectionSet, found: tuple[Detections, ...], model: str, protocol: Protocol = ULTRALYTICS
) -> Assessment:
    """The accuracy that detections mean: one result per sample, in the data set's classes.

    Args:
        task: the contract under which they were found, with the thresholds that were in force.
        data: what they were found in.
        found: one per sample.
        model: sha256 of what found them.
        protocol: the rules under which is counted.

    Raises:
        UsageError: the results do not fit the data set.
        Unavailable: no evaluator is installed.
    """
    check(data, found)
    objects, results = counted(protocol, data, found)
    metric = evaluate(objects, results, protocol.max_detections)
    accuracy = Accuracy(
        metric=dataclasses.replace(metric, protocol=protocol.name, ignored=protocol.ignored),
        model=model,
        data=data.name,
        split=data.split,
        data_digest=data.digest(),
        size=task.size,
        confidence=task.confidence,
        iou=task.iou,
        images_by=engine(),
        doubts=(*_doubts(task, data, found), *_missing(protocol, data)),
    )
    return Assessment(accuracy, found, match_table(objects, results, protocol.max_detections))


def _missing(protocol: Protocol, data: DetectionSet) -> tuple[str, ...]:
    if not protocol.ignored or any(len(sample.ignored) for sample in data.samples):
        return ()
    return (f"The protocol {protocol.name} honours ignored regions, but {data.name} has none: was it converted?",)


def _doubts(task: Detect, data: DetectionSet, found: Sequence[Detections]) -> tuple[str, ...]:
    said = list(data.faults)
    if task.nms == "graph":
        said.append("The graph suppresses duplicates itself: its own thresholds are in force, not those recorded here.")
    broken = [one.nonfinite for one in found if one.nonfinite]
    if broken:
        said.append(
            f"In {len(broken)} of {len(found)} images {sum(broken)} candidates were NaN or infinite and dropped."
        )
    if not any(len(one) for one in found):
        said.append(f"Nothing was found in any of {len(found)} images.")
    return tuple(said)


def paired_difference(
    reference: Matches,
    candidate: Matches,
    replicates: int = 1000,
    confidence: float = 0.9,
    seed: int = 0,
    progress: Progress | None = None,
) -> PairedDifference:
    """How much the candidate's AP differs from the reference's, with an interval from a bootstrap over images.

    Every replicate is exact: it is the AP of the data set with its images repeated as often as they were drawn, and a
    class of which no object was drawn does not enter its mean.

    Args:
        reference: matches of the one model.
        candidate: matches of the other, over the same data set.
        replicates: draws; more of them steady the ends of the interval, but do not narrow it.
        confidence: of the interval, between 0 and 1.
        seed: of the draws, and recorded.
        progress: called with replicates done and replicates in all.

    Raises:
        UsageError: the two are not over the same objects, or a number is out of range.
    """
    if reference.labels != candidate.labels or not np.array_equal(reference.truths, candidate.truths):
        raise UsageError("Only results over the same data set can be compared: classes, images or objects differ.")
    if not reference.truths.any():
        raise UsageError("There is no object in these images, so that there is no difference to measure.")
    if replicates < 100 or not 0 < confidence < 1:
        raise UsageError(
            f"A bootstrap takes at least 100 replicates and a confidence between 0 and 1, not {replicates} and "
            f"{confidence}."
        )
    generator = np.random.default_rng(seed)
    images = reference.images
    once = np.ones((images, 1), np.int64)
    whole = _headline(candidate, once) - _headline(reference, once)
    draws = []
    for start in range(0, replicates, 100):
        number = min(100, replicates - start)
        weights = generator.multinomial(images, np.full(images, 1 / images), size=number).T
        draws.append(_headline(candidate, weights) - _headline(reference, weights))
        if progress is not None:
            progress(start + number, replicates)
    drawn = np.concatenate(draws, axis=1)
    drawn = drawn[:, np.isfinite(drawn).all(axis=0)]  # a draw of images without any object says nothing
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    differences = []
    for estimate, values in zip(whole[:, 0], drawn, strict=True):
        low, high = np.quantile(values, tails)
        differences.append(
            Difference(
                float(estimate),
                float(low),
                float(high),
                float(values.std(ddof=1)),
                images,
                replicates,
                confidence,
                seed,
            )
        )
    return PairedDifference(*differences)


def _headline(matches: Matches, weights: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """AP50-95 and AP50 (2, r) under weights (images, r)."""
    table = average_precision(matches, weights)
    there = np.isfinite(table[:, 0])
    number = there.sum(axis=0)
    both = np.stack([table.mean(axis=1), table[:, 0]])
    return np.where(number > 0, np.where(there, both, 0).sum(axis=1) / np.maximum(number, 1), np.nan)


def equivalence(difference: Difference, margin: float, of: str = "images") -> Equivalence:
    """Whether a difference is smaller than ``margin`` either way.

    Pass: the whole interval lies inside (-margin, +margin), which for a 90 % interval is two one-sided tests at 5 %.
    Fail: the whole interval lies outside. Otherwise the data do not decide, and about how many images would is
    computed from the standard error, which falls with the square root of their number.

    Args:
        difference: from `paired_difference`.
        margin: the largest difference that does not matter, in the metric's unit (0.01 is one point of AP).
        of: what the difference is over, in the plural.

    Raises:
        UsageError: the margin is not a positive number.
    """
    if not (math.isfinite(margin) and margin > 0):
        raise UsageError(f"The margin of an equivalence test has to be a positive number, not {margin}.")
    few = difference.images < ENOUGH_IMAGES
    doubts = _few(difference, of) if few else ()
    measured = (
        f"difference {difference.estimate:+.4f}, {difference.confidence:.0%} interval {difference.low:+.4f} to "
        f"{difference.high:+.4f} over {difference.images} {of}, margin {margin:g}"
    )
    if difference.low > margin or difference.high < -margin:
        way = "better" if difference.low > margin else "worse"
        return Equivalence("fail", margin, None, f"Not equivalent, {way} by more than the margin: {measured}.", doubts)
    if -margin < difference.low and difference.high < margin:
        if few:
            said = f"Too few {of} to call it equivalent: {measured}. Take at least {ENOUGH_IMAGES}."
            return Equivalence("not enough data", margin, ENOUGH_IMAGES, said, doubts)
        return Equivalence("pass", margin, None, f"Equivalent: {measured}.", doubts)
    needed = _images_needed(difference, margin)
    if needed is None:
        advice = f"the difference is so close to the margin that no realistic number of {of} decides"
    else:
        advice = f"about {needed} {of} in all would decide if the difference stays as it is"
    return Equivalence("not enough data", margin, needed, f"Not decided: {measured}; {advice}.", doubts)


def _few(difference: Difference, of: str) -> tuple[str, ...]:
    return (
        f"Only {difference.images} {of}: with fewer than {ENOUGH_IMAGES} a bootstrap interval is not to be trusted.",
    )


def _images_needed(difference: Difference, margin: float) -> int | None:
    """Images with which the interval around the same estimate would not cross the margin; ``None`` if too many."""
    distance = abs(margin - abs(difference.estimate))
    reach = max(
        NormalDist().inv_cdf((1 + difference.confidence) / 2) * difference.sd,
        difference.estimate - difference.low,
        difference.high - difference.estimate,
    )
    if distance * math.sqrt(_REALISTIC) <= reach * math.sqrt(difference.images):
        return None
    needed = math.ceil(difference.images * (reach / distance) ** 2)
    return max(_rounded(needed), difference.images + 1, ENOUGH_IMAGES)


def _rounded(number: int) -> int:
    """Two significant digits, upwards: more would claim a precision that is not there."""
    unit = int(10 ** max(0, len(str(number)) - 2))
    return -(-number // unit) * unit
