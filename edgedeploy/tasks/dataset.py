"""The front door to detection data sets."""

from __future__ import annotations

from pathlib import Path

from edgedeploy.errors import UsageError
from edgedeploy.tasks.coco_files import read_coco
from edgedeploy.tasks.samples import DetectionSet, Sample, match_labels
from edgedeploy.tasks.visdrone_files import is_visdrone, read_visdrone
from edgedeploy.tasks.yolo_files import read_yolo

__all__ = ["DetectionSet", "Sample", "match_labels", "read_coco", "read_detection_set", "read_visdrone", "read_yolo"]


def read_detection_set(path: str | Path, split: str = "val") -> DetectionSet:
    """The data set behind a path; ``split`` says which part of it.

    Known are a data.yaml, a COCO .json (which is one part), and a folder of VisDrone: one part (with images/ and
    annotations/), or the folder with all of them.

    Raises:
        UsageError: missing, of another kind, or not usable; see `read_yolo`, `read_coco` and `read_visdrone`.
    """
    path = Path(path)
    if is_visdrone(path):
        return read_visdrone(path, split)
    if path.is_dir():
        raise UsageError(f"{path} is a folder. Give its data.yaml, or the .json file with its COCO annotations.")
    if not path.is_file():
        raise UsageError(
            f"{path} does not exist. A data set is a data.yaml, a COCO .json file, or a folder as of VisDrone."
        )
    if path.suffix.lower() in (".yaml", ".yml"):
        return read_yolo(path, split)
    if path.suffix.lower() == ".json":
        return read_coco(path)
    raise UsageError(f"{path} is no data set: known are a data.yaml and a COCO .json file.")
