"""What one image costs outside the network: reading, preparing, finishing; medians on one thread.

    python benchmarks/prepost.py FOLDER [--size 640] [--images 64] [--repeat 5]

The graph's output is made up, because its content matters and its origin does not: a YOLOv8 head of 80 classes with
background scores near zero and ten objects, each seen by a dozen anchors.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar
from unittest import mock

import numpy as np

from edgedeploy.tasks import image
from edgedeploy.tasks.detect import Detect

T = TypeVar("T")


def main() -> None:
    """Measure with what is installed, and again with numpy alone where OpenCV is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="searched for images, folders in it too")
    parser.add_argument("--size", type=int, default=640, help="height and width of the input")
    parser.add_argument("--images", type=int, default=64, help="how many to take")
    parser.add_argument("--repeat", type=int, default=5, help="passes over them")
    options = parser.parse_args()
    paths = sorted(p for p in options.folder.rglob("*") if p.suffix.lower() in image.SUFFIXES)[: options.images]
    if not paths:
        raise SystemExit(f"{options.folder} has no images.")
    task = Detect.yolov8([str(i) for i in range(80)], (options.size, options.size))
    print(f"{platform.machine()}, {len(paths)} images, {options.repeat} passes, input {options.size}x{options.size}")
    opencv = image._opencv()
    if opencv is not None:
        opencv.setNumThreads(1)
        report(task, paths, options.repeat)
    with mock.patch.object(image, "_opencv", return_value=None):
        report(task, paths, options.repeat)


def report(task: Detect, paths: Sequence[Path], repeat: int) -> None:
    """One line per stage, in milliseconds."""
    seconds: dict[str, list[float]] = {}

    def timed(stage: str, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = work()
        seconds.setdefault(stage, []).append(time.perf_counter() - start)
        return result

    outputs = made_up_output(task, np.random.default_rng(0))
    evaluation = task.for_evaluation()
    for _ in range(repeat):
        for path in paths:
            pixels = timed("read_image", lambda path=path: image.read_image(path))  # type: ignore[misc]
            prepared = timed("prepare", lambda pixels=pixels: task.prepare(pixels))  # type: ignore[misc]
            context = prepared.context
            timed("finish at confidence 0.25", lambda context=context: task.finish([outputs], context))  # type: ignore[misc]
            timed("finish for evaluation", lambda context=context: evaluation.finish([outputs], context))  # type: ignore[misc]
    print(f"\n{image.engine()}")
    for stage, samples in seconds.items():
        print(f"  {stage:28s} {median(samples) * 1e3:8.3f} ms")
    both = [a + b for a, b in zip(seconds["prepare"], seconds["finish at confidence 0.25"], strict=True)]
    print(f"  {'prepare + finish at 0.25':28s} {median(both) * 1e3:8.3f} ms")


def made_up_output(task: Detect, generator: np.random.Generator) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """(1, 84, anchors) with ten objects."""
    anchors = sum((task.size[0] // stride) * (task.size[1] // stride) for stride in task.strides)
    output = np.empty((1, 4 + len(task.labels), anchors), np.float32)
    output[0, :2] = generator.uniform(0, min(task.size), (2, anchors))
    output[0, 2:4] = generator.uniform(10, 200, (2, anchors))
    output[0, 4:] = 1 / (1 + np.exp(generator.normal(12, 1.8, (len(task.labels), anchors))))
    for _ in range(10):
        seen = generator.choice(anchors, 12, replace=False)
        output[0, :4, seen] = generator.uniform(100, 300, 4) + generator.normal(0, 3, (12, 4))
        output[0, 4 + generator.integers(len(task.labels)), seen] = generator.uniform(0.2, 0.95, 12)
    return output


if __name__ == "__main__":
    main()
