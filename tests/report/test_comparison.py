"""A comparison as rows: differences have their sign, intervals stand where there are some, gaps are dashes."""

from __future__ import annotations

from dataclasses import replace

from edgedeploy.accuracy import Accuracy, Difference, Equivalence, PairedDifference
from edgedeploy.artifact import OutputAgreement
from edgedeploy.comparison import ChangedImage, Comparison
from edgedeploy.model import Source
from edgedeploy.report.comparison import class_rows, fact_rows, metric_rows
from edgedeploy.tasks.coco import ClassAccuracy, DetectionAccuracy


def accuracy(ap: float | None, *classes: tuple[str, float | None]) -> Accuracy:
    metric = DetectionAccuracy(
        ap50_95=ap,
        ap50=0.9,
        ap75=0.7,
        small=0.4,
        medium=None,
        large=None,
        recall=0.6,
        classes=tuple(ClassAccuracy(label, value, value, 7) for label, value in classes),
        images=40,
        instances=321,
        max_detections=300,
        ious=(0.5, 0.75),
        evaluator="an evaluator 1.2",
    )
    return Accuracy(metric, "m" * 64, "scenes", "val", "d" * 64, (320, 480), 0.001, 0.7, "opencv 5")


def comparison(reference: Accuracy, candidate: Accuracy) -> Comparison:
    difference = Difference(-0.0125, -0.02, 0.004, 0.006, 40, 1000, 0.9, 0)
    return Comparison(
        schema=1,
        checkpoint=Source("net.pt", "ultralytics", "c" * 64),
        artifact="net.edge",
        artifact_digest="a" * 64,
        run_by="onnxruntime 1.0, in int8 and fp32",
        reference=reference,
        candidate=candidate,
        difference=PairedDifference(difference, replace(difference, estimate=0.0, low=-0.001, high=0.0)),
        equivalence=Equivalence("not enough data", 0.01, 90, "Not decided."),
        agreement=(OutputAgreement("detections", 48.2, 22.9, 10.44), OutputAgreement("extra", 200.0, 200.0, 0.0)),
        changed=(ChangedImage("a.png", 0.5, 3, 1),),
        doubts=(),
    )


def test_metrics_stand_side_by_side_with_their_difference() -> None:
    rows = metric_rows(comparison(accuracy(0.5125), accuracy(0.5)))
    assert rows[0] == ("AP50-95", "0.5125", "0.5000", "-0.0125  (90%: -0.0200 to +0.0040)")
    assert rows[1] == ("AP50", "0.9000", "0.9000", "+0.0000  (90%: -0.0010 to +0.0000)")
    assert rows[2] == ("AP75", "0.7000", "0.7000", "+0.0000")
    assert rows[4] == ("AP medium", "-", "-", "-")
    assert [row[0] for row in rows] == ["AP50-95", "AP50", "AP75", "AP small", "AP medium", "AP large", "AR"]


def test_a_metric_that_one_side_lacks_has_no_difference() -> None:
    rows = metric_rows(comparison(accuracy(None), accuracy(0.5)))
    assert rows[0] == ("AP50-95", "-", "0.5000", "-")


def test_facts_are_of_everything_that_the_numbers_depend_on() -> None:
    rows = dict(fact_rows(comparison(accuracy(0.5), accuracy(0.4))))
    assert rows["checkpoint"] == "net.pt (sha256 cccccccccccc)"
    assert rows["artifact"] == "net.edge (aaaaaaaaaaaa)"
    assert rows["data"] == "scenes, 40 images, 321 objects (sha256 dddddddddddd)"
    assert rows["evaluator"] == "an evaluator 1.2, at most 300 detections per image"
    assert rows["input"] == "320x480, confidence 0.001, IoU 0.7, resized by opencv 5"
    assert rows["output 'detections'"] == "SNR 48 dB (worst channel 23 dB), largest error 10.4"
    assert rows["output 'extra'"] == "SNR 200 dB (worst channel 200 dB), largest error 0"


def test_only_classes_that_fell_are_shown_and_the_worst_first() -> None:
    before = accuracy(0.5, ("car", 0.5), ("van", 0.9), ("bus", 0.4), ("tram", None), ("bike", 0.3))
    after = accuracy(0.5, ("car", 0.45), ("van", 0.7), ("bus", 0.6), ("tram", None), ("bike", 0.3))
    compared = comparison(before, after)
    assert class_rows(compared, 5) == [
        ("van (7)", "0.9000", "0.7000", "-0.2000"),
        ("car (7)", "0.5000", "0.4500", "-0.0500"),
    ]
    assert len(class_rows(compared, 1)) == 1
    assert class_rows(comparison(before, before), 5) == []
