"""What int8 costs and what it buys, against the fp32 artifact of the same checkpoint.

    python -m benchmarks.int8 CHECKPOINT --data VAL.json --calibrate TRAIN.json

Accuracy is AP50-95 on the same images with a paired 90 % interval (bootstrap over images). Speed is the session alone,
without pre- and postprocessing, over tensors of real images, both artifacts in turn in one process.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.end_to_end import over
from benchmarks.record import (
    Row,
    Timing,
    caller,
    dataset,
    detection_task,
    exported,
    finish,
    in_turn,
    parser,
    pixels,
    timed,
)
from edgedeploy.accuracy import Assessment, assess, equivalence, paired_difference
from edgedeploy.artifact import Artifact
from edgedeploy.tasks.dataset import DetectionSet
from edgedeploy.tensors import Array

PRECISIONS = ("fp32", "int8")
MARGIN = 0.015


def accuracy(artifact: Artifact, data: DetectionSet) -> Assessment:
    """The artifact over a data set."""
    call = caller(artifact)
    result = assess(detection_task(artifact), call, data, artifact.digest)
    call.session.close()
    return result


def speed(artifacts: dict[str, Artifact], tensors: list[Array], threads: int, duration: float) -> Timing:
    """Both sessions in turn, over the same tensors in the same order."""
    callers = {name: caller(artifact, threads) for name, artifact in artifacts.items()}
    calls = {name: over(tensors, lambda tensor, call=call: call((tensor,))) for name, call in callers.items()}  # type: ignore[misc]
    timing = in_turn(f"{threads} threads" if threads > 1 else "1 thread", calls, duration)
    for call in callers.values():
        call.session.close()
    return timing


def main() -> int:
    """Print accuracy, speed and size."""
    arguments = timed(parser(__doc__), 60.0, 16).parse_args()
    data = dataset(arguments.data)
    with tempfile.TemporaryDirectory() as folder:
        artifacts = {
            precision: exported(arguments.checkpoint, precision, arguments.calibrate, arguments.size, Path(folder))
            for precision in PRECISIONS
        }
        sides = {precision: accuracy(artifact, data) for precision, artifact in artifacts.items()}
        task = detection_task(artifacts["fp32"])
        tensors = [task.prepare(image).tensors[0] for image in pixels(data, arguments.images)]
        timings = [speed(artifacts, tensors, threads, arguments.duration) for threads in arguments.threads]
    difference = paired_difference(sides["fp32"].matches, sides["int8"].matches).ap50_95
    test = equivalence(difference, MARGIN)
    sizes = {precision: artifact.model_size for precision, artifact in artifacts.items()}
    rows = [
        *(Row(f"AP50-95, {name}", side.accuracy.metric.ap50_95 or 0.0, "AP") for name, side in sides.items()),
        Row("int8 - fp32", difference.estimate, "AP", "at least", -MARGIN, difference.low, difference.high),
    ]
    for timing in timings:
        ratio, low, high = timing.ratio("fp32", "int8")
        rows.append(Row(f"times as fast, {timing.name}", ratio, "", "at least", 1.6, low, high))
        rows += [Row(f"  {name}, {timing.name}", timing.median(name), "s") for name in PRECISIONS]
    rows.append(Row("file, int8 / fp32", sizes["int8"] / sizes["fp32"], "", "at most", 0.35))
    rows += [Row(f"  file, {name}", float(size), "B") for name, size in sizes.items()]
    print(test.sentence)
    return finish(
        arguments,
        rows,
        timings,
        {f"artifact {name}": artifact.digest for name, artifact in artifacts.items()},
        {
            "equivalence": test,
            "images": len(data),
            "calibration": artifacts["int8"].manifest.calibration,
            "options": artifacts["int8"].manifest.exporter.options,
            "decisions": artifacts["int8"].manifest.exporter.decisions,
        },
        _open_questions(len(data)),
    )


def _open_questions(images: int) -> list[str]:
    return [
        f"the difference on more than these {images} images: the interval says how far it may lie from the estimate",
        "speed on Arm, or on x86 without the instructions listed under 'isa': other kernels run there",
    ]


if __name__ == "__main__":
    sys.exit(main())
