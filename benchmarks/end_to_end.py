"""What a user pays beyond the network: an image in and boxes out, against the bare graph, one image at a time.

    python -m benchmarks.end_to_end CHECKPOINT --data VAL.json --calibrate TRAIN.json

*End to end* is preprocessing, the artifact's session and postprocessing, from a decoded image to boxes in its pixels.
*Bare* is `onnxruntime.InferenceSession.run` of the same file with the same session options, fed with the tensors of the
same images, prepared beforehand. Both take turns in one process.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import onnxruntime

from benchmarks.record import (
    Row,
    Timing,
    caller,
    dataset,
    detection_task,
    exported,
    finish,
    in_turn,
    limit_opencv,
    parser,
    pixels,
    timed,
)
from edgedeploy.accuracy import detector
from edgedeploy.artifact import Artifact
from edgedeploy.tensors import Array


def bare_session(path: Path, threads: int) -> Any:
    """ONNX Runtime as its own documentation opens a file, with a number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def measure(artifact: Artifact, images: list[Array], threads: int, duration: float) -> Timing:
    """Both ways in turn, over the same images in the same order."""
    limit_opencv(threads)
    task = detection_task(artifact)
    call = caller(artifact, threads)
    detect = detector(task, call)
    bare = bare_session(artifact.files["main"], threads)
    name = call.signature.inputs[0].name
    tensors = [task.prepare(image).tensors[0] for image in images]
    calls = {
        "end to end": over(images, detect),
        "bare": over(tensors, lambda tensor: bare.run(None, {name: tensor})),
    }
    timing = in_turn(f"{threads} threads" if threads > 1 else "1 thread", calls, duration)
    call.session.close()
    return timing


Item = TypeVar("Item")


def over(items: list[Item], call: Callable[[Item], object]) -> Callable[[], object]:
    """A call without arguments, that takes the next item each time."""
    turn: Iterator[Item] = itertools.cycle(items)
    return lambda: call(next(turn))


def main() -> int:
    """Print a row per number of threads."""
    arguments = timed(parser(__doc__), 60.0, 32).parse_args()
    images = pixels(dataset(arguments.data), arguments.images)
    rows, timings = [], []
    with tempfile.TemporaryDirectory() as folder:
        artifact = exported(arguments.checkpoint, "fp32", arguments.calibrate, arguments.size, Path(folder))
        for threads in arguments.threads:
            timing = measure(artifact, images, threads, arguments.duration)
            share, low, high = timing.ratio("bare", "end to end")
            rows += [
                Row(f"bare / end to end, {timing.name}", share, "", "at least", 0.8, low, high),
                Row(f"  end to end, {timing.name}", timing.median("end to end"), "s"),
                Row(f"  bare, {timing.name}", timing.median("bare"), "s"),
            ]
            timings.append(timing)
        inputs = {"artifact": artifact.digest}
    return finish(
        arguments,
        rows,
        timings,
        inputs,
        {"images": len(images)},
        [
            "reading and decoding of image files, which is outside on both sides",
            "other sizes of images: resizing costs more for larger ones",
            "devices on which the processor is slower relative to the network's accelerator",
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
