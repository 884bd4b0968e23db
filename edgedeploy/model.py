"""What is to be deployed: a `Model` of one or several graphs, and where it came from.

`identify` looks at a file without running anything in it; `load` hands it to the reader of that format. A file's
sha256 goes with everything that is later said about the model.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import pickletools
import re
import stat
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from edgedeploy import plugins
from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.tasks.task import STREAM
from edgedeploy.tensors import Signature

Format = Literal["ultralytics", "native", "onnx", "pt2", "factory"]


@dataclass(frozen=True)
class Source:
    """Where a model came from. ``reference`` is what the user named, ``sha256`` that of the file behind it."""

    reference: str
    format: str
    sha256: str

    @property
    def name(self) -> str:
        """The model's name: the file's stem, or the factory function's name."""
        return self.reference.rpartition(":")[2] if self.format == "factory" else Path(self.reference).stem


@dataclass(frozen=True)
class InputShape:
    """What the user asks of the input: image ``size`` (height, width), ``batch``, and which of them stay dynamic.

    ``streaming`` asks for the graph that takes a stream step by step besides the one that takes it whole.
    """

    batch: int = 1
    size: tuple[int, int] | None = None
    dynamic: tuple[Literal["batch", "size"], ...] = ()
    streaming: bool = False


@dataclass(frozen=True)
class Graph:
    """One graph: a ``torch.nn.Module`` in eval mode, an ``ExportedProgram``, or the path of an ONNX file.

    A network with state (``signature.state``) takes it after its inputs and gives the new one after its outputs.
    A dynamic image height and width are multiples of ``stride``. ``rebuilt`` makes a ``torch.nn.Module`` of an ONNX
    file, for backends that start from PyTorch.
    """

    network: Any
    signature: Signature
    stride: int = 1
    rebuilt: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Model:
    """A trained model; ``task`` is its task contract (see `edgedeploy.tasks`), ``None`` where nothing is known."""

    name: str
    graphs: Mapping[str, Graph]
    source: Source
    task: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = field(default=())


def load(reference: str | Path, shape: InputShape | None = None) -> Model:
    """The model in a checkpoint, .onnx or .pt2 file, or made by a factory ``module:function``.

    Args:
        reference: a path, or ``module:function`` naming a callable that returns a `Model` or a ``torch.nn.Module``
            with an ``example_inputs`` attribute (a tuple of tensors).
        shape: image size, batch and dynamic dimensions; the checkpoint's own where ``None``.

    Raises:
        UsageError: missing, damaged, or not a model.
        Untrusted: the file wants to build objects that no checkpoint of its format needs.
        Unavailable: reading this format needs an extra that is not installed.
    """
    source = identify(reference)
    try:
        reader = plugins.find(plugins.CHECKPOINTS, source.format)
    except Unavailable as error:
        extra = "ultralytics" if source.format == "ultralytics" else "export"
        raise Unavailable.extra(f"What reads '{reference}' ({error.__cause__ or error})", extra) from error
    wanted = shape or InputShape()
    model = cast(Model, reader(source, wanted))
    if wanted.streaming and STREAM not in model.graphs:
        raise UsageError(
            f"'{reference}' has no form that runs step by step: leave the request for a streaming graph out."
        )
    return model


def identify(reference: str | Path) -> Source:
    """The format and sha256 of a model file; runs nothing in it and imports no framework.

    Raises:
        UsageError: missing, damaged, or of no format that can be deployed.
    """
    path = Path(reference)
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        if re.fullmatch(r"[\w.]+:\w+", str(reference)):
            return Source(str(reference), "factory", _factory_digest(str(reference)))
        raise UsageError(f"{str(path)[:200]} does not exist.") from error
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path} is {'a directory' if path.is_dir() else 'a device'}, not a model file.")
    if status.st_size == 0:
        raise UsageError(f"{path} is empty. Copy or download it again.")
    try:
        return Source(str(reference), _format(path), file_digest(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error


def file_digest(path: Path) -> str:
    """sha256 of a file, as hexadecimal text."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def pickled_names(path: Path) -> set[str]:
    """The globals ("module name") that the pickle inside a torch zip file names, read without running it.

    Raises:
        UsageError: the zip or the pickle is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [n for n in archive.namelist() if n.endswith("/data.pkl") or n == "data.pkl"]
            if not members:
                return set()
            if archive.getinfo(members[0]).file_size > 256 << 20:
                raise UsageError(f"{path}: its pickle is larger than 256 MiB, which no checkpoint of a network is.")
            return _globals(archive.read(members[0]))
    except UsageError:
        raise
    except Exception as error:  # zipfile and pickletools raise a dozen kinds for a damaged file
        raise UsageError(f"{path} is damaged or truncated ({error}). Copy or download it again.") from error


def _globals(data: bytes) -> set[str]:
    """Names of GLOBAL, INST and STACK_GLOBAL; for that, the last two strings pushed or recalled from the memo."""
    found: set[str] = set()
    strings: list[str] = []
    memo: dict[int, str] = {}
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("GLOBAL", "INST"):
            found.add(str(argument))
        elif opcode.name == "STACK_GLOBAL":
            found.add(" ".join(strings[-2:]))
        elif opcode.name in ("BINPUT", "LONG_BINPUT", "PUT") and strings:
            memo[cast(int, argument)] = strings[-1]
        elif opcode.name == "MEMOIZE" and strings:
            memo[len(memo)] = strings[-1]
        elif opcode.name in ("BINGET", "LONG_BINGET", "GET"):
            strings.append(memo.get(cast(int, argument), "?"))
        elif isinstance(argument, str):
            strings.append(argument)
    return found


def _format(path: Path) -> Format:
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return "onnx"
    if suffix == ".safetensors":
        return "native"
    if suffix == ".pt2":
        return "pt2"
    with path.open("rb") as stream:
        magic = stream.read(4)
    if magic[:2] == b"PK":
        names = pickled_names(path)
        if any(name.startswith("ultralytics.") for name in names):
            return "ultralytics"
        raise UsageError(
            f"{path} is a torch file, but not an Ultralytics checkpoint. "
            "Give a factory module:function that builds the network and loads these weights."
        )
    if suffix in (".pt", ".pth") or magic[:1] == b"\x80":
        raise UsageError(f"{path} is damaged, truncated or a bare pickle, not a checkpoint. Copy or download it again.")
    raise UsageError(f"{path} is no model file: known are .pt (Ultralytics), .safetensors, .onnx and .pt2.")


def _factory_digest(reference: str) -> str:
    module = reference.partition(":")[0]
    try:
        spec = importlib.util.find_spec(module)
    except ImportError as error:
        raise Unavailable(f"'{reference}': the module cannot be imported: {error}.") from error
    except (ValueError, AttributeError) as error:
        raise UsageError(f"'{reference}' is no module:function ({error}).") from error
    if spec is None or spec.origin is None:
        raise UsageError(
            f"'{reference}' is neither a file nor an importable module:function. Is its folder in PYTHONPATH?"
        )
    return file_digest(Path(spec.origin)) if Path(spec.origin).is_file() else hashlib.sha256(b"").hexdigest()


def safetensors_metadata(path: Path) -> Mapping[str, Any]:
    """The ``edgedeploy`` record in the header of a .safetensors file (architecture, options, task), not the weights.

    Raises:
        UsageError: not a safetensors file, or one that this project did not write.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= 16 << 20:
                raise ValueError(f"header of {length} bytes")
            record = json.loads(json.loads(stream.read(length))["__metadata__"]["edgedeploy"])
        if not isinstance(record, dict) or record.get("schema") != 1:
            raise ValueError("schema is not 1")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{path} is not a checkpoint of this project ({type(error).__name__}: {error}). For bare weights, give a "
            "factory module:function that builds the network and loads them."
        ) from error
    return cast("Mapping[str, Any]", record)
