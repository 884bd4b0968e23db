"""A `Comparison` as rows of text. Pure functions of the record."""

from __future__ import annotations

from collections.abc import Callable

from edgedeploy.accuracy import Accuracy, Difference
from edgedeploy.comparison import Comparison
from edgedeploy.tasks.coco import DetectionAccuracy

_METRICS: tuple[tuple[str, Callable[[Accuracy], float | None]], ...] = (
    ("AP50-95", lambda a: a.metric.ap50_95),
    ("AP50", lambda a: a.metric.ap50),
    ("AP75", lambda a: a.metric.ap75),
    ("AP small", lambda a: a.metric.small),
    ("AP medium", lambda a: a.metric.medium),
    ("AP large", lambda a: a.metric.large),
    ("AR", lambda a: a.metric.recall),
)


def metric_rows(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """Metric, FP32, artifact, difference with its interval where there is one."""
    intervals = {"AP50-95": comparison.difference.ap50_95, "AP50": comparison.difference.ap50}
    rows = []
    for name, value in _METRICS:
        reference, candidate = value(comparison.reference), value(comparison.candidate)
        rows.append(
            (name, _number(reference), _number(candidate), _difference(reference, candidate, intervals.get(name)))
        )
    return rows


def fact_rows(comparison: Comparison) -> list[tuple[str, str]]:
    """What the numbers depend on, and how the raw outputs agree."""
    one = comparison.candidate
    data = f"{one.data}, {one.metric.images} images, {one.metric.instances} objects (sha256 {one.data_digest[:12]})"
    rows = [
        ("checkpoint", f"{comparison.checkpoint.reference} (sha256 {comparison.checkpoint.sha256[:12]})"),
        ("artifact", f"{comparison.artifact} ({comparison.artifact_digest[:12]})"),
        ("run by", comparison.run_by),
        ("data", data),
        ("evaluator", _evaluator(one.metric)),
        (
            "input",
            f"{one.size[0]}x{one.size[1]}, confidence {one.confidence}, IoU {one.iou}, resized by {one.images_by}",
        ),
    ]
    rows += [
        (
            f"output '{agreed.output}'",
            f"SNR {agreed.snr:.0f} dB (worst channel {agreed.worst_snr:.0f} dB), largest error {agreed.max_abs:.3g}",
        )
        for agreed in comparison.agreement
    ]
    return rows


def _evaluator(metric: DetectionAccuracy) -> str:
    protocol = f", protocol {metric.protocol}" if metric.protocol else ""
    return f"{metric.evaluator}{protocol}, at most {metric.max_detections} detections per image"


def class_rows(comparison: Comparison, most: int) -> list[tuple[str, str, str, str]]:
    """The classes whose AP50-95 fell most: name with its number of objects, FP32, artifact, difference."""
    pairs = []
    for one, other in zip(comparison.reference.metric.classes, comparison.candidate.metric.classes, strict=True):
        if one.ap50_95 is not None and other.ap50_95 is not None:
            pairs.append((other.ap50_95 - one.ap50_95, one, other))
    pairs.sort(key=lambda pair: pair[0])
    return [
        (f"{one.label} ({one.instances})", _number(one.ap50_95), _number(other.ap50_95), f"{change:+.4f}")
        for change, one, other in pairs[:most]
        if change < 0
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _difference(reference: float | None, candidate: float | None, interval: Difference | None) -> str:
    if reference is None or candidate is None:
        return "-"
    text = f"{candidate - reference:+.4f}"
    if interval is None:
        return text
    return f"{text}  ({interval.confidence:.0%}: {interval.low:+.4f} to {interval.high:+.4f})"
