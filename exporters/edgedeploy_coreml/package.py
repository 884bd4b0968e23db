"""The .mlpackage on disk: writing it so that it is the same twice, and reading it without surprises."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedeploy.errors import Incompatible, RunFailed
from edgedeploy_coreml.vendor import SPECIFICATION, coremltools, quiet

SUFFIX = ".mlpackage"
MANIFEST = "Manifest.json"
#: Keys of the metadata that this project writes, which Xcode shows too.
TASK, SOURCE, MODULES, PIXELS = "edgedeploy.task", "edgedeploy.source", "edgedeploy.modules", "edgedeploy.pixels"
#: Metadata of Core ML Tools that would differ from run to run.
_DATE = "com.github.apple.coremltools.conversion_date"
_FORMAT = "1.0.0"


@dataclass(frozen=True)
class About:
    """What Xcode shows of a model: a sentence, a version, further facts, and what inputs and outputs are."""

    summary: str
    version: str
    facts: Mapping[str, str]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def save(model: Any, path: Path, about: About) -> None:
    """Write a ``coremltools`` model to ``path``, a directory, which is replaced."""
    model.short_description, model.version = about.summary, about.version
    user = model.user_defined_metadata
    user.pop(_DATE, None)
    user.update(about.facts)
    for names, described in ((model.input_description, about.inputs), (model.output_description, about.outputs)):
        for name, words in described.items():
            names[name] = words
    if path.exists():
        shutil.rmtree(path)
    with quiet():
        model.save(str(path))
    _make_repeatable(path)


def _make_repeatable(path: Path) -> None:
    """Core ML Tools draws random identifiers, and leaves a file that quotes the user's source code."""
    for left in path.glob("executorch_debug_handle_mapping.json"):
        left.unlink()
    manifest = json.loads((path / MANIFEST).read_text("utf-8"))
    items = sorted(manifest["itemInfoEntries"].items(), key=lambda item: item[1]["path"])
    fresh = {old: str(uuid.uuid5(uuid.NAMESPACE_URL, item["path"])) for old, item in items}
    manifest["itemInfoEntries"] = {fresh[old]: item for old, item in items}
    manifest["rootModelIdentifier"] = fresh[manifest["rootModelIdentifier"]]
    (path / MANIFEST).write_text(json.dumps(manifest, indent=4) + "\n", "utf-8")
    for file in path.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
    root = path / "Data" / manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    spec = coremltools().proto.Model_pb2.Model()
    spec.ParseFromString(root.read_bytes())
    root.write_bytes(spec.SerializeToString(deterministic=True))


@dataclass(frozen=True)
class Package:
    """A package that was read: the model specification (protobuf) and the folder of its weights."""

    path: Path
    spec: Any
    weights: Path

    @property
    def facts(self) -> Mapping[str, str]:
        """The metadata that the author or exporter left."""
        return dict(self.spec.description.metadata.userDefined)

    def program(self) -> Any:
        """The MIL program, with its weights.

        Raises:
            RunFailed: it holds something that Core ML Tools cannot read.
        """
        from coremltools.converters.mil.frontend.milproto import load

        with quiet():
            try:
                return load.load(self.spec, self.spec.specificationVersion, str(self.weights))
            except Exception as error:  # asserts, KeyError, RuntimeError of the C++ reader
                line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                raise RunFailed(
                    f"{self.path} is damaged: its program cannot be read ({line}). Export it again."
                ) from error


def read(path: Path) -> Package:
    """The package at ``path``.

    Raises:
        RunFailed: not a package, or a file of it is missing or damaged.
        Incompatible: of a newer specification than Core ML Tools here knows, or no ML program.
    """
    manifest = _manifest(path)
    items = {key: item.get("path", "") for key, item in manifest["itemInfoEntries"].items()}
    for name in items.values():
        _inside(path, name)
    root = items.get(manifest.get("rootModelIdentifier"))
    if root is None:
        raise RunFailed(f"{path} is damaged: {MANIFEST} does not say which file is the model. Export or copy it again.")
    spec = coremltools().proto.Model_pb2.Model()
    model = path / "Data" / root
    try:
        spec.ParseFromString(model.read_bytes())
    except Exception as error:  # protobuf's own, and OSError for a directory
        raise RunFailed(f"{path} is damaged: {model.name} cannot be read. Export or copy it again.") from error
    _check_version(path, spec)
    weights = model.parent / "weights"
    for name in sorted({file.rpartition("/")[2] for file in _blobs(spec)}):
        if not (weights / name).is_file():
            raise RunFailed(f"{path} is damaged: weights/{name} is missing. Export or copy it again.")
    return Package(path, spec, weights)


def _manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        what = "a file" if path.exists() else "not there"
        raise RunFailed(f"{path} is {what}: a Core ML package is a directory NAME{SUFFIX}.")
    try:
        manifest = json.loads((path / MANIFEST).read_text("utf-8"))
        entries = manifest["itemInfoEntries"]
        records = isinstance(entries, dict) and all(isinstance(item, dict) for item in entries.values())
        if not records or not isinstance(manifest["rootModelIdentifier"], str):
            raise TypeError("its entries are no records")
    except FileNotFoundError:
        raise RunFailed(
            f"{path} is no complete Core ML package: it has no {MANIFEST}. Export or copy it again."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFailed(f"{path} is damaged: {MANIFEST} cannot be read ({error}). Export or copy it again.") from error
    if manifest.get("fileFormatVersion") != _FORMAT:
        found = manifest.get("fileFormatVersion")
        raise Incompatible(
            f"{path} is a package of format {found}; known is {_FORMAT}. Upgrade Core ML Tools, or export again."
        )
    return dict(manifest)


def _inside(path: Path, name: object) -> None:
    if not isinstance(name, str) or not name or name.startswith("/") or ".." in Path(name).parts:
        raise RunFailed(f"{path} is damaged: {MANIFEST} lists {name!r}, which is outside the package. Export it again.")
    if not (path / "Data" / name).exists():
        raise RunFailed(f"{path} is damaged: Data/{name} is missing. Export or copy it again.")


def _check_version(path: Path, spec: Any) -> None:
    newest = max(SPECIFICATION.values())
    if spec.specificationVersion > newest:
        raise Incompatible(
            f"{path} is of Core ML specification {spec.specificationVersion}, and the newest known here is {newest}. "
            "Upgrade with: pip install -U coremltools"
        )
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        raise Incompatible(f"{path} holds a model of type {kind or 'unknown'}, not an ML program. Export it again.")


def _blobs(spec: Any) -> Iterator[str]:
    """The weight files that the program of a specification refers to."""
    stack: list[Any] = [spec.mlProgram]
    while stack:
        message = stack.pop()
        if message.DESCRIPTOR.name == "BlobFileValue":
            yield message.fileName
            continue
        for field, value in message.ListFields():
            if field.type != field.TYPE_MESSAGE:
                continue
            if field.message_type.GetOptions().map_entry:
                if field.message_type.fields_by_name["value"].type == field.TYPE_MESSAGE:
                    stack.extend(value.values())
            elif field.is_repeated:
                stack.extend(value)
            else:
                stack.append(value)
