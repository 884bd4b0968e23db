"""Is the accuracy right: our AP against pycocotools on the same detections, and the artifact against the checkpoint.

    python -m benchmarks.evaluator CHECKPOINT --data VAL.json --calibrate TRAIN.json

pycocotools gets the annotation file itself and the detections with the file's own image and category ids, so that what
our reader makes of the file is judged together with our evaluator.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import Row, dataset, exported, finish, parser
from edgedeploy.comparison import compare
from edgedeploy.tasks.coco import DetectionAccuracy
from edgedeploy.tasks.dataset import DetectionSet
from edgedeploy.tasks.detect import Detections
from edgedeploy.tasks.matches import average_precision, match_table


def judged_by_pycocotools(
    annotations: Path, data: DetectionSet, found: tuple[Detections, ...], max_detections: int
) -> tuple[float, float]:
    """AP50-95 and AP50 of detections, one per sample of ``data``, in pycocotools' reading of the annotation file."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise SystemExit("pycocotools is not installed: pip install pycocotools") from None
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        identities = {Path(image["file_name"]).name: identity for identity, image in truth.imgs.items()}
        categories = {category["name"]: category["id"] for category in truth.cats.values()}
        results: list[dict[str, Any]] = []
        for sample, one in zip(data.samples, found, strict=True):
            for (left, top, right, bottom), score, kind in zip(one.boxes, one.scores, one.classes, strict=True):
                results.append(
                    {
                        "image_id": identities[sample.image.name],
                        "category_id": categories[data.labels[int(kind)]],
                        "bbox": [float(left), float(top), float(right - left), float(bottom - top)],
                        "score": float(score),
                    }
                )
        run = COCOeval(truth, truth.loadRes(results), "bbox")
        run.params.maxDets = [1, 10, max_detections]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][..., 0, -1]
    return tuple(float(part[part > -1].mean()) for part in (precision, precision[0]))  # type: ignore[return-value]


def of_matches(data: DetectionSet, found: tuple[Detections, ...], max_detections: int) -> float:
    """AP50-95 from the table of matches, on which paired intervals are computed."""
    matches = match_table(data, found, max_detections)
    each = average_precision(matches, np.ones((len(data), 1), np.int64))
    return float(np.nanmean(each))


def main() -> int:
    """Print a row per difference."""
    arguments = parser(__doc__).parse_args()
    if arguments.data.suffix != ".json":
        raise SystemExit("pycocotools reads COCO .json files only: give --data one.")
    data = dataset(arguments.data)
    with tempfile.TemporaryDirectory() as folder:
        artifact = exported(arguments.checkpoint, "fp32", arguments.calibrate, arguments.size, Path(folder))
        compared = compare(str(arguments.checkpoint), artifact.path, data)
    comparison = compared.comparison
    eager, graph = comparison.reference.metric, comparison.candidate.metric
    limit = eager.max_detections
    theirs, theirs50 = judged_by_pycocotools(arguments.data, data, compared.reference, limit)
    table = of_matches(data, compared.reference, limit)
    ours, ours50, onnx = _known(eager), _known(eager, "ap50"), _known(graph)
    rows = [
        Row("AP50-95, checkpoint in eager PyTorch, our evaluator", ours, "AP"),
        Row("AP50-95, the same detections, pycocotools", theirs, "AP"),
        Row("|difference|", abs(ours - theirs), "AP", "at most", 0.005),
        Row("AP50, our evaluator", ours50, "AP"),
        Row("AP50, pycocotools", theirs50, "AP"),
        Row("|difference| of AP50", abs(ours50 - theirs50), "AP", "at most", 0.005),
        Row("|difference| of our table of matches to pycocotools", abs(table - theirs), "AP", "at most", 0.005),
        Row("AP50-95, fp32 artifact in ONNX Runtime", onnx, "AP"),
        Row("|difference| to the checkpoint", abs(onnx - ours), "AP", "at most", 0.001),
    ]
    details = {
        "evaluator": eager.evaluator,
        "images": eager.images,
        "instances": eager.instances,
        "max_detections": limit,
        "difference": comparison.difference.ap50_95,
        "doubts": comparison.doubts,
    }
    return finish(
        arguments,
        rows,
        details=details,
        open_questions=[
            "how the model does on the whole of COCO val2017: the value is that of these "
            f"{eager.images} images, and only differences on the same images are compared",
            "crowd regions, unless the annotation file has some",
        ],
    )


def _known(metric: DetectionAccuracy, key: str = "ap50_95") -> float:
    value = getattr(metric, key)
    if value is None:
        raise SystemExit("There is no object in these images.")
    return float(value)


if __name__ == "__main__":
    sys.exit(main())
