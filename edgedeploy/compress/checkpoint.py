"""Detectors on disk: one .safetensors file without pickle, and for other people's tools a .pt as Ultralytics writes it.

A network is read by building it anew, of the classes of the release that is installed, and giving it the weights of the
file. So nothing but weights comes from a file, and whatever was read can be written.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from edgedeploy.compress.detector import Detector
from edgedeploy.compress.lineage import Lineage
from edgedeploy.errors import UsageError
from edgedeploy.model import Source, file_digest, identify
from edgedeploy.models import native, pruned_yolo, yolo
from edgedeploy.records import from_json, to_json
from edgedeploy.tasks import contract_of
from edgedeploy.tasks.detect import Detect

#: Where a .pt keeps what this project adds, as JSON text.
_KEY = "edgedeploy"

_OTHER = {
    "onnx": "is an ONNX file, whose network cannot be trained or pruned any more",
    "pt2": "is an exported program, whose network cannot be trained or pruned any more",
    "factory": "is a factory, and no file",
}


def read(path: str | Path) -> Detector:
    """The detector in an Ultralytics .pt or in a .safetensors file that `write` made; pruned ones, too.

    The lineage of a file that no stage wrote is its name and sha256, without steps.

    Raises:
        Untrusted: the file names a class that no detection network needs.
        UsageError: missing or damaged, not a YOLOv8 or YOLO11 detector, or batch normalisation is folded.
        Unavailable: ultralytics is not installed.
    """
    source = identify(path)
    if source.format in _OTHER:
        raise UsageError(f"{path} {_OTHER[source.format]}. Give the .pt that Ultralytics' training saved.")
    return _read_native(source) if source.format == "native" else _read_ultralytics(source)


def write(path: str | Path, detector: Detector) -> str:
    """Write ``detector`` as one .safetensors file, never half, and return its sha256.

    Its header holds JSON: architecture ``yolo``, options (rows, widths, names), task and lineage.

    Raises:
        UsageError: the network is no YOLOv8 or YOLO11 detector, or the file cannot be written.
    """
    path = Path(path)
    with _about(path):
        options = pruned_yolo.describe(detector.network, detector.labels)
        network = _rebuilt(detector.network, options)
    strides = tuple(int(s) for s in network.model[-1].stride)
    record = {
        "architecture": "yolo",
        "options": options,
        "task": contract_of(Detect(detector.labels, detector.size, strides=strides)),
        "lineage": _plain(detector.lineage),
    }
    with _writing(path):
        native.save(path, network, record)
        return file_digest(path)


def write_ultralytics(path: str | Path, detector: Detector) -> None:
    """Write ``detector`` as a .pt in float32 that ``ultralytics.YOLO`` opens: to predict, validate and export.

    Its classes are Ultralytics' own. Ultralytics' trainer would build a pruned network anew at full width; of such a
    network the rows are therefore made unusable, so that it stops with a sentence (see `pruned_yolo.guarded`).

    Raises:
        UsageError: the network is no YOLOv8 or YOLO11 detector, or the file cannot be written.
    """
    path = Path(path)
    with _about(path):
        options = pruned_yolo.describe(detector.network, detector.labels)
        network = _rebuilt(detector.network, options)
    if options["widths"]:
        network.yaml = pruned_yolo.guarded(network.yaml)
    height, width = detector.size
    network.args = {**vars(network.args), "imgsz": height if height == width else [height, width]}
    checkpoint = {
        "version": importlib.import_module("ultralytics").__version__,
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
        "epoch": -1,
        "best_fitness": None,
        "model": network.requires_grad_(False),
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": dict(network.args),
        _KEY: json.dumps({"schema": 1, "lineage": _plain(detector.lineage)}, sort_keys=True),
    }
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with _writing(path), temporary.open("wb") as stream:
            torch.save(checkpoint, stream)  # a stream: the name of a path would go into the file
        with _writing(path):
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_native(source: Source) -> Detector:
    path = Path(source.reference)
    record, network, task = native.read(path)
    if record["architecture"] != "yolo":
        raise UsageError(
            f"{path} holds a network of the architecture '{record['architecture']}', not a YOLOv8 or YOLO11 detector."
        )
    return Detector(network, task.labels, task.size, _lineage(source, record))


def _read_ultralytics(source: Source) -> Detector:
    path = Path(source.reference)
    network, labels, size, checkpoint = yolo.unfused(path)
    if any(not hasattr(layer, "bn") for layer in network.modules() if type(layer).__name__ in ("Conv", "DWConv")):
        raise UsageError(
            f"{path} is fused: its batch normalisation is folded into the convolutions, and it cannot be trained or "
            "pruned any more. Give the checkpoint from before fusing."
        )
    with yolo.intact(path), _about(path):
        network = _rebuilt(network, pruned_yolo.describe(network, labels))
    text = checkpoint.get(_KEY)
    try:
        record = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: its lineage is not JSON ({error}).") from error
    return Detector(network, labels, size, _lineage(source, record))


def _rebuilt(network: Any, options: Mapping[str, Any]) -> Any:
    """A network of its own, built of ``options``, with the weights of ``network``, in float32 on the CPU.

    Raises:
        UsageError: it does not compute the same: something was changed that is neither a width nor a weight.
    """
    again = pruned_yolo.build(**deepcopy(dict(options)))
    weights = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    weights = {n: t.to(torch.float32 if t.is_floating_point() else t.dtype, copy=True) for n, t in weights.items()}
    try:
        again.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise UsageError(f"its weights are not those of its layers ({' '.join(str(error).split())[:160]}).") from error
    if not _same(network.eval(), again):
        raise UsageError(
            "it computes something else than the layers of its yaml do (another activation, stride or connection), so "
            "it is no YOLOv8 or YOLO11 detector."
        )
    return again


def _same(network: Any, other: Any) -> bool:
    """Whether both give the same feature maps and detections, but for the rounding of another order of additions."""
    side = 2 * int(max(other.stride))
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    pairs = zip(_outputs(network, image), _outputs(other, image), strict=True)
    return all(a.shape == b.shape and bool((a - b).abs().max() <= 1e-4 * a.abs().max()) for a, b in pairs)


def _outputs(network: Any, image: torch.Tensor) -> list[torch.Tensor]:
    """What enters the head, and its detections; NaN and infinities as numbers."""
    entered: list[torch.Tensor] = []
    hook = network.model[-1].register_forward_pre_hook(lambda _, inputs: entered.extend(inputs[0]))
    try:
        with torch.no_grad():
            detections = network(image)[0]
    finally:
        hook.remove()
    return [tensor.nan_to_num(0.0, 1e30, -1e30) for tensor in (*entered, detections)]


def _lineage(source: Source, record: object) -> Lineage:
    """The lineage in a record; where there is none, the file itself is where the network comes from."""
    if not isinstance(record, Mapping):
        raise UsageError(f"{source.reference}: lineage: expected a mapping, found {type(record).__name__}.")
    if record.get("lineage") is None:
        return Lineage(Path(source.reference).name, source.sha256)
    return from_json(Lineage, record["lineage"], f"{source.reference}: lineage")


def _plain(lineage: Lineage) -> Any:
    """Plain JSON values of a lineage that can be read again."""
    values = json.loads(json.dumps(to_json(lineage)))
    from_json(Lineage, values, "lineage")
    return values


@contextmanager
def _about(path: Path) -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{path} is no YOLOv8 or YOLO11 detector that can be compressed: {error}") from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path} cannot be written ({' '.join(str(error).split())[:160]}).") from error
