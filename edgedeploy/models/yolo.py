"""Ultralytics detection checkpoints (YOLOv8 and newer, n to x), read without running what a stranger pickled.

The network's classes come from the optional package ``ultralytics`` (AGPL-3.0). The file itself is read by torch's
restricted unpickler with an allow-list: the layers of a detection network and plain containers. Nothing on the list can
be *called* by the file; layers are only filled with the tensors and numbers that the file holds.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import torch

from edgedeploy.errors import EdgeDeployError, Unavailable, Untrusted, UsageError
from edgedeploy.model import Graph, InputShape, Model, Source, pickled_names
from edgedeploy.tasks import contract_of
from edgedeploy.tasks.detect import Detect
from edgedeploy.tensors import Signature, TensorSpec

#: Modules of ultralytics that define the layers of detection networks.
_LAYERS = ("block", "conv", "head", "transformer", "activation", "utils")
#: Layers that reach outside by being built, even empty.
_EXCLUDED = {"TorchVision"}
#: What importing ultralytics replaces, and what is put back.
_REPLACED = (("torch", "save"), ("PIL.Image", "open"), ("cv2", "imread"), ("cv2", "imwrite"), ("cv2", "imshow"))
#: Names that torch itself has given up; making a shell of one warns.
_OLD = {"Container", "NLLLoss2d"}
#: What torch's restricted unpickler takes by itself: tensors and plain containers.
_PLAIN = re.compile(
    r"torch (?:\w+Storage|Size|Tensor|device|bool|half|double|u?int\d+|b?float\d+|complex\d+)"
    r"|torch\._utils _rebuild_\w+|torch\._tensor _rebuild_\w+|torch\.(?:nn\.parameter Parameter|storage \w+Storage)"
    r"|collections (?:OrderedDict|Counter)|(?:__builtin__|builtins) (?:set|frozenset|bytearray|complex)|_codecs encode"
)
#: Where names of older releases have gone: old name -> (module, attribute) today.
_RENAMED = {
    "ultralytics.nn.modules.block.Silence": ("torch.nn", "Identity"),
    "ultralytics.nn.tasks.YOLOv10DetectionModel": ("ultralytics.nn.tasks", "DetectionModel"),
}


def load(source: Source, shape: InputShape) -> Model:
    """The detection network in an Ultralytics checkpoint, BatchNorm folded, in eval mode.

    Its single output is (batch, 4 + classes, anchors): centre x, y, width, height in input pixels, class probabilities;
    or (batch, detections, 6) where the network was trained to do without NMS.

    Raises:
        Untrusted: the file names a class that no detection network needs.
        UsageError: damaged, not a detection model, or an image size that its strides do not divide.
        Unavailable: ultralytics is not installed.
    """
    path = Path(source.reference)
    checkpoint = _read(path)
    try:
        return _model(path, source, shape, checkpoint)
    except EdgeDeployError:
        raise
    except Exception as error:  # a network filled with the wrong things fails in as many ways as it has layers
        raise UsageError(f"{path} is damaged: its network does not run ({_line(error)}). Copy it again.") from error


def _model(path: Path, source: Source, shape: InputShape, checkpoint: dict[str, Any]) -> Model:
    network = _network(path, checkpoint)
    head = network.model[-1]
    strides = tuple(int(s) for s in head.stride)
    size = shape.size or _trained_size(checkpoint)
    if any(side % max(strides) or side <= 0 for side in size):
        raise UsageError(f"{path}: the image size {size[0]}x{size[1]} is not a multiple of {max(strides)}.")
    head.export, head.dynamic = True, "size" in shape.dynamic
    network.requires_grad_(False)
    with torch.no_grad():
        output = network(torch.zeros(1, 3, *size))
    labels = tuple(str(network.names[i]) for i in sorted(network.names))
    end_to_end = bool(getattr(head, "end2end", False))
    task = Detect(labels, size, strides=strides, head="end2end" if end_to_end else "yolov8")
    batch: int | str = "batch" if "batch" in shape.dynamic else shape.batch
    sides: tuple[int | str, int | str] = ("height", "width") if "size" in shape.dynamic else size
    anchors: int | str = "anchors" if "size" in shape.dynamic and not end_to_end else output.shape[2]
    signature = Signature(
        inputs=(TensorSpec("images", "float32", (batch, 3, *sides)),),
        outputs=(TensorSpec("detections", "float32", (batch, output.shape[1], anchors)),),
    )
    return Model(source.name, {"main": Graph(network, signature, max(strides))}, source, contract_of(task))


def _read(path: Path) -> dict[str, Any]:
    try:
        with quietly():
            allowed: list[Any] = list(_allowed())
    except ImportError as error:
        raise Unavailable.extra(f"ultralytics, which defines the network in {path.name},", "ultralytics") from error
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Untrusted as error:
        raise Untrusted(f"{path}: {error}") from error
    except pickle.UnpicklingError as error:
        raise _refused(path, allowed) from error
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise UsageError(f"{path} is damaged or truncated ({_line(error)}). Copy or download it again.") from error
    if not isinstance(checkpoint, dict):
        raise UsageError(f"{path} holds no checkpoint dictionary. Save it with Ultralytics' trainer.")
    return checkpoint


@contextmanager
def quietly() -> Iterator[None]:
    """Import ultralytics without what it does to everybody else in the process.

    It greets, on standard output too, where results go; replaces functions of torch, Pillow and OpenCV by its own, one
    of which installs packages; and sets the OpenMP threads of every child process.
    """
    if "ultralytics" in sys.modules:  # the user's own import: as they had it
        yield
        return
    modules = {name: importlib.import_module(name) for name in ("torch", "PIL.Image", "cv2") if find_spec(name)}
    before = [(modules[m], name, getattr(modules[m], name)) for m, name in _REPLACED if m in modules]
    threads, environment = (modules["cv2"].getNumThreads() if "cv2" in modules else None), dict(os.environ)
    os.environ.setdefault("YOLO_VERBOSE", "false")
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        for module, name, function in before:
            setattr(module, name, function)
        if threads is not None:
            modules["cv2"].setNumThreads(threads)
        for name in set(os.environ) - set(environment):
            del os.environ[name]


def _network(path: Path, checkpoint: dict[str, Any]) -> Any:
    """The network of a checkpoint, its shells turned back into the real classes, fused, in float32."""
    tasks = importlib.import_module("ultralytics.nn.tasks")
    network: Any = checkpoint.get("ema") or checkpoint.get("model")
    if not isinstance(network, torch.nn.Module):
        raise UsageError(f"{path} holds no network (only {', '.join(map(str, checkpoint))[:80]}), so it cannot be run.")
    for module in network.modules():
        if getattr(type(module), "edgedeploy_shell", False):
            module.__class__ = type(module).__mro__[1]
    if type(network) is not tasks.DetectionModel:
        raise UsageError(f"{path} is a {type(network).__name__}, not a detection model. Give a detection checkpoint.")
    detector: Any = network.float().eval()
    head = detector.model[-1]
    if not hasattr(head, "stride") or not hasattr(head, "nc") or not isinstance(detector.names, dict):
        raise UsageError(f"{path}: its last layer, {type(head).__name__}, is not a detection head.")
    if getattr(head, "one2one_cv2", None) is not None:
        head.end2end = True  # fusing drops the other branch; which one is the default has changed between releases
    return detector.fuse(verbose=False)


def _trained_size(checkpoint: dict[str, Any]) -> tuple[int, int]:
    size = (checkpoint.get("train_args") or {}).get("imgsz", 640)
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[-1]))


def _refuse_call(self: object, *_: object, **__: object) -> NoReturn:
    raise Untrusted(f"the file calls {type(self).__name__}(...), which no checkpoint needs. Do not use it.")


def _shell(cls: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """``cls`` without a constructor: a pickle can make an empty one and fill it, and cannot run its code."""
    return type(
        cls.__name__, (cls,), {"__init__": _refuse_call, "edgedeploy_shell": True, "__module__": cls.__module__}
    )


def _classes() -> Iterator[tuple[type, str]]:
    """Layer classes with the names that a file calls them by."""
    tasks = importlib.import_module("ultralytics.nn.tasks")
    yield tasks.DetectionModel, "ultralytics.nn.tasks.DetectionModel"
    for name in ("SegmentationModel", "PoseModel", "OBBModel", "ClassificationModel"):
        if hasattr(tasks, name):  # read, to say what it is; refused afterwards
            yield getattr(tasks, name), f"ultralytics.nn.tasks.{name}"
    for layer in _LAYERS:
        try:
            module = importlib.import_module(f"ultralytics.nn.modules.{layer}")
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("ultralytics.nn"):
                raise
            continue  # not in this release
        for name, cls in inspect.getmembers(module, inspect.isclass):
            if issubclass(cls, torch.nn.Module) and name not in _EXCLUDED and cls.__module__ == module.__name__:
                yield cls, f"{module.__name__}.{name}"
    for name, cls in inspect.getmembers(torch.nn, inspect.isclass):
        if issubclass(cls, torch.nn.Module) and cls.__module__.startswith("torch.nn.modules.") and name not in _OLD:
            yield cls, f"{cls.__module__}.{name}"
    for old, (module_name, attribute) in _RENAMED.items():
        yield getattr(importlib.import_module(module_name), attribute), old


def _allowed() -> Iterator[tuple[Any, str]]:
    """Everything that a detection checkpoint may name, as torch wants it: (object, dotted name)."""
    shells: dict[type, type] = {}
    for cls, name in _classes():
        yield shells.setdefault(cls, _shell(cls)), name
    namespace = importlib.import_module("ultralytics.utils").IterableSimpleNamespace
    yield namespace, "ultralytics.utils.IterableSimpleNamespace"
    yield namespace, "ultralytics.yolo.utils.IterableSimpleNamespace"
    for builtin in (set, frozenset, slice):
        yield builtin, f"builtins.{builtin.__name__}"


def _refused(path: Path, allowed: list[Any]) -> EdgeDeployError:
    """The sentence for a pickle that was refused: what it names beyond the allow-list."""
    known = {name for _, name in allowed}
    foreign = sorted(
        name.replace(" ", ".")
        for name in pickled_names(path)
        if name.replace(" ", ".") not in known and _PLAIN.fullmatch(name) is None
    )
    if not foreign:
        return UsageError(f"{path} is damaged: its pickle cannot be read. Copy or download it again.")
    return Untrusted(
        f"{path} names {', '.join(foreign[:3])}, which no detection network needs; nothing of it was run. If you trust "
        "its author, load it in their code and save it again with Ultralytics, or give a factory module:function."
    )


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
