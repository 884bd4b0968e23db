"""The front door to detection data sets."""

from __future__ import annotations

from pathlib import Path

from edgedeploy.errors import UsageError
from edgedeploy.tasks.coco_files import read_coco
from edgedeploy.tasks.samples import DetectionSet, Sample, match_labels
from edgedeploy.tasks.yolo_files import read_yolo

__all__ = ["DetectionSet", "Sample", "match_labels", "read_coco", "read_detection_set", "read_yolo"]


def read_detection_set(path: str | Path, split: str = "val") -> DetectionSet:
    """The data set behind a file: a data.yaml (``split`` says which part), or a COCO .json (which is one part).

    Raises:
        UsageError: missing, of another kind, or not usable; see `read_yolo` and `read_coco`.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path} is a folder. Give its data.yaml, or the .json file with its COCO annotations.")
    if not path.is_file():
        raise UsageError(f"{path} does not exist. A data set is a data.yaml or a COCO .json file.")
    if path.suffix.lower() in (".yaml", ".yml"):
        return read_yolo(path, split)
    if path.suffix.lower() == ".json":
        return read_coco(path)
    raise UsageError(f"{path} is no data set: known are a data.yaml and a COCO .json file.")
