"""A table of a compression as it could have come out, with every kind of row."""

from __future__ import annotations

from dataclasses import replace

from edgedeploy.accuracy import Accuracy, Difference, PairedDifference
from edgedeploy.report.compression.papers import paper
from edgedeploy.report.compression.records import CompressionTable, Rung, Speed, Timing
from edgedeploy.tasks.coco import ClassAccuracy, DetectionAccuracy

NETWORKS = (
    ("baseline", "baseline", 3.006e6, 2.02e9, 0.752),
    ("sparse", "sparse", 3.006e6, 2.02e9, 0.748),
    ("pruned", "prune", 1.061e6, 0.861e9, 0.012),
    ("fine-tuned", "finetune", 1.061e6, 0.861e9, 0.731),
    ("distilled", "distill", 1.061e6, 0.861e9, 0.742),
)
BUNDLES = (("baseline", "fp32", 0.752, 1.0), ("baseline", "int8", 0.744, 2.21), ("distilled", "fp32", 0.742, 1.91),
           ("distilled", "int8", 0.735, 3.35))  # fmt: skip


def accuracy(ap50: float) -> Accuracy:
    metric = DetectionAccuracy(
        ap50_95=ap50 * 0.6, ap50=ap50, ap75=ap50 * 0.55, small=ap50 * 0.5, medium=ap50 * 0.8, large=None,
        recall=ap50 * 0.8, classes=(ClassAccuracy("car", ap50 * 0.6, ap50, 900),), images=290, instances=2484,
        max_detections=300, ious=(0.5, 0.95), evaluator="faster-coco-eval 1.7.2", protocol="ultralytics",
        small50=ap50 * 0.9, medium50=ap50 * 1.05, large50=None,
    )  # fmt: skip
    return Accuracy(metric, "ab" * 32, "hit_uav", "val", "cd" * 32, (320, 320), 0.001, 0.7, "OpenCV 4.12")


def difference(value: float) -> PairedDifference:
    return PairedDifference(
        Difference(value * 0.6, value * 0.6 - 0.008, value * 0.6 + 0.007, 0.004, 290, 1000, 0.9, 0),
        Difference(value, value - 0.014, value + 0.012, 0.007, 290, 1000, 0.9, 0),
    )


def rungs() -> tuple[Rung, ...]:
    found: list[Rung] = []
    for name, stage, params, macs, ap50 in NETWORKS:
        rung = Rung(
            name, "PyTorch fp32", stage, f"{stage}.safetensors", "ef" * 32, int(params * 4), int(params), int(macs),
            (320, 320), "ultralytics", accuracy(ap50), run_by="PyTorch", untimed="timed as bundles",
        )  # fmt: skip
        if found:
            step = difference(ap50 - NETWORKS[len(found) - 1][4])
            before = {"previous": found[-1].name, "against_previous": step}
            rung = replace(rung, difference=difference(ap50 - 0.752), **before)  # type: ignore[arg-type]
        found.append(rung)
    networks = {rung.name: rung for rung in found}
    for name, precision, ap50, fast in BUNDLES:
        speed = [Speed(1, 0.031 / fast, 300, fast, fast * 0.97, fast * 1.02)]
        speed.append(Speed(2, 0.019 / fast, 400, fast * 0.9, fast * 0.8, fast))
        if fast == 1:
            speed = [replace(one, ratio=1.0, low=1.0, high=1.0) for one in speed]
        found.append(
            replace(
                networks[name], name=f"{name}, ONNX {precision}", form=f"ONNX Runtime {precision}", untimed="",
                file=f"bundles/{name}-{precision}/{name}.edge",
                bytes=networks[name].bytes // (4 if precision == "int8" else 1), against_previous=None,
                accuracy=accuracy(ap50), difference=difference(ap50 - 0.752), previous=name, speed=tuple(speed),
                run_by=f"onnxruntime 1.31.1, in {precision}",
            )
        )  # fmt: skip
    why = "not possible on this machine: There is no NVIDIA GPU here."
    gone = replace(
        networks["distilled"], name="distilled, TensorRT fp16", form="TensorRT fp16", accuracy=None, difference=None,
        against_previous=None, file="", sha256="", bytes=0, unmeasured=why, untimed=why, run_by="",
    )  # fmt: skip
    return (*found, gone)


def table() -> CompressionTable:
    device = "AMD EPYC, 2 logical cores, hypervisor"
    alone = "the network alone, without resizing the image and without suppression of duplicates"
    reference = "baseline, ONNX fp32"
    return CompressionTable(
        rungs=rungs(), data="hit_uav (val)", digest="cd" * 32, images=290, instances=2484, recipe="slim-prune-distill",
        created="2025-02-01T00:00:00+00:00",
        timings=tuple(Timing(n, reference, device, alone, 60.0, 0.9, foreign=0.31) for n in (1, 2)),
        settings={"name": "slim-prune-distill", "prune": {"ratio": 0.5, "keep": ["detect"]}},
        lineage=("from yolov8n.pt, sha256 f59b3d833e2f", "sparse (epochs 20, rate 0.01), seed 0, 3100 s: ap50 0.748"),
        environment={"cpu": "AMD EPYC", "cores": 2}, paper=(paper("yolov8_compression"),),
        pictures={"sparse.png": "Stage sparse."}, doubts=("3 boxes reach beyond their image and were clipped.",),
    )  # fmt: skip
