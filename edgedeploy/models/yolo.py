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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch

from edgedeploy.errors import EdgeDeployError, Unavailable, Untrusted, UsageError
from edgedeploy.model import InputShape, Model, Source, pickled_names
from edgedeploy.models.detection_graph import detection_graph, divisible
from edgedeploy.tasks import contract_of
from edgedeploy.tasks.detect import Detect

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
#: What fused layers are pickled with: their ``forward`` is a bound method.
_FUSED = "__builtin__.getattr"
#: Where names of older releases have gone: old name -> (module, attribute) today.
_RENAMED = {
    "ultralytics.nn.modules.block.Silence": ("torch.nn", "Identity"),
    "ultralytics.nn.tasks.YOLOv10DetectionModel": ("ultralytics.nn.tasks", "DetectionModel"),
}


class Trained(NamedTuple):
    """What a checkpoint holds: the network not fused, class names in order, (height, width) that it was trained at.

    ``checkpoint`` is the whole dictionary of the file.
    """

    network: Any
    labels: tuple[str, ...]
    size: tuple[int, int]
    checkpoint: Mapping[str, Any]


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
    network, labels, size, _ = unfused(path)
    with intact(path):
        size, strides = shape.size or size, tuple(int(s) for s in network.model[-1].stride)
        divisible(path, size, strides)
        network = deployable(network, shape)
        end_to_end = bool(getattr(network.model[-1], "end2end", False))
        task = Detect(labels, size, strides=strides, head="end2end" if end_to_end else "yolov8")
        graph = detection_graph(network, task, shape)
    return Model(source.name, {"main": graph}, source, contract_of(task))


def unfused(path: Path) -> Trained:
    """The detection network in an Ultralytics checkpoint as it was trained, in float32 and eval mode.

    Raises:
        Untrusted: the file names a class that no detection network needs.
        UsageError: damaged, or not a detection model.
        Unavailable: ultralytics is not installed.
    """
    checkpoint = _read(path)
    with intact(path):
        network = _network(path, checkpoint)
        labels = tuple(str(network.names[i]) for i in sorted(network.names))
        return Trained(network, labels, _trained_size(checkpoint), checkpoint)


def deployable(network: Any, shape: InputShape) -> Any:
    """A ``DetectionModel`` as it is exported: BatchNorm folded, one output, anchors that follow a dynamic size.

    The network itself is changed.
    """
    head = network.model[-1]
    if getattr(head, "one2one_cv2", None) is not None:
        head.end2end = True  # fusing drops the other branch; which one is the default has changed between releases
    network = network.eval().fuse(verbose=False)
    head.export, head.dynamic = True, "size" in shape.dynamic
    return network.requires_grad_(False)


@contextmanager
def intact(path: Path) -> Iterator[None]:
    """Whatever fails in here fails because the network in the file at ``path`` is not what it says it is.

    Raises:
        UsageError: says so, in place of whatever was raised that is no `EdgeDeployError`.
    """
    try:
        yield
    except EdgeDeployError:
        raise
    except Exception as error:  # a network filled with the wrong things fails in as many ways as it has layers
        raise UsageError(f"{path} is damaged: its network does not run ({_line(error)}). Copy it again.") from error


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
    """The network of a checkpoint, its shells turned back into the real classes, in float32."""
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
    return detector


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
    if foreign == [_FUSED]:
        return Untrusted(
            f"{path} names {_FUSED}, as a network does that was saved after it was fused (its batch normalisation "
            "folded into the convolutions); nothing of it was run. Give the checkpoint from before fusing."
        )
    return Untrusted(
        f"{path} names {', '.join(foreign[:3])}, which no detection network needs; nothing of it was run. If you trust "
        "its author, load it in their code and save it again with Ultralytics, or give a factory module:function."
    )


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
