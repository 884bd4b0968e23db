"""The artifact: a directory ``NAME.edge/`` that knows what it is, where it came from and what it needs.

::

    NAME.edge/
      artifact.json     the manifest: everything in `Manifest`, with a digest over itself
      graphs/           one file per graph, in the backend's format
      golden/           real samples and the FP32 reference outputs for them (.npy)

Every file is listed in the manifest with size and sha256. A bundle is written under a temporary name and renamed, so
there is never half of one; it is opened only when every byte is as listed. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from edgedeploy.errors import EdgeDeployError, Incompatible, Untrusted, UsageError
from edgedeploy.model import Source, file_digest
from edgedeploy.records import canonical, from_json, read_json, to_json
from edgedeploy.tensors import Array, Signature

SCHEMA = 2
SUFFIX = ".edge"
MANIFEST = "artifact.json"


@dataclass(frozen=True)
class FileRecord:
    """One file of the bundle: size in bytes, sha256 in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True)
class GraphRecord:
    """One graph: its file in the bundle (a directory for a format that is one) and what it takes and gives."""

    file: str
    signature: Signature


@dataclass(frozen=True)
class Fingerprint:
    """A tensor in a few numbers, enough to notice that preprocessing differs: not a digest, since resizing
    libraries differ by a grey level.
    """

    shape: tuple[int, ...]
    mean: float
    sd: float
    probes: tuple[float, ...]


@dataclass(frozen=True)
class OutputAgreement:
    """How one output agreed with its FP32 reference: SNR in dB over all values and of the worst channel."""

    output: str
    snr: float
    worst_snr: float
    max_abs: float


@dataclass(frozen=True)
class Golden:
    """One golden vector: sample files, what preprocessing made of them, FP32 outputs, and the agreement at export.

    Where nothing could run what was written, ``agreement`` is empty and ``distance`` is ``None``.
    """

    graph: str
    sample: tuple[str, ...]
    prepared: tuple[Fingerprint, ...]
    outputs: Mapping[str, str]
    agreement: tuple[OutputAgreement, ...]
    distance: float | None


@dataclass(frozen=True)
class CalibrationRecord:
    """The images that quantisation ranges were taken from."""

    name: str
    count: int
    sha256: str
    classes_seen: int | None = None
    classes: int | None = None


@dataclass(frozen=True)
class ExporterRecord:
    """Who wrote the graphs: entry-point name, precision, every option, and what the exporter decided by itself.

    ``rehearsal`` is a runtime that runs the same files where ``runtime`` does not.
    """

    name: str
    runtime: str
    rehearsal: str | None
    precision: str
    options: Mapping[str, Any]
    decisions: Mapping[str, Any]


@dataclass(frozen=True)
class Manifest:
    """What ``artifact.json`` holds. ``digest`` is the sha256 of all the rest, and so of the bundle."""

    schema: int
    name: str
    created: str
    source: Source
    task: Mapping[str, Any] | None
    graphs: Mapping[str, GraphRecord]
    exporter: ExporterRecord
    tools: Mapping[str, str]
    calibration: CalibrationRecord | None
    golden: tuple[Golden, ...]
    golden_origin: str
    golden_by: str
    requires: tuple[str, ...]
    device: str | None
    request: str
    seconds: float
    notes: tuple[str, ...]
    files: Mapping[str, FileRecord]
    digest: str = ""

    def sealed(self) -> Manifest:
        """The same manifest with its digest filled in."""
        return dataclasses.replace(self, digest=self._digest())

    def intact(self) -> bool:
        """Whether the digest is that of the rest."""
        return self.digest == self._digest()

    def _digest(self) -> str:
        plain = to_json(self)
        del plain["digest"]
        return hashlib.sha256(canonical(plain)).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """An opened bundle: every file was there, of the listed size and digest, when it was opened."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Artifact:
        """The bundle at ``path``.

        Raises:
            UsageError: not a bundle, or damaged (which file, and how).
            Untrusted: it points outside itself.
            Incompatible: written by a newer edgedeploy.
        """
        path = Path(path)
        manifest = _read_manifest(path)
        for name, record in manifest.files.items():
            _check_file(path, name, record)
        _check_unlisted(path, manifest)
        return cls(path, manifest)

    @property
    def digest(self) -> str:
        """sha256 that identifies the bundle."""
        return self.manifest.digest

    @property
    def files(self) -> dict[str, Path]:
        """Graph files by graph name."""
        return {name: self.path / graph.file for name, graph in self.manifest.graphs.items()}

    @property
    def signatures(self) -> dict[str, Signature]:
        """Signatures by graph name."""
        return {name: graph.signature for name, graph in self.manifest.graphs.items()}

    @property
    def model_size(self) -> int:
        """Bytes of the graph files: what the model costs on disk, without golden vectors."""
        return sum(record.size for name, record in self.manifest.files.items() if name.startswith("graphs/"))

    def members(self, graph: str) -> dict[str, FileRecord]:
        """The files that a graph consists of, by name in the bundle: one, or all of its directory."""
        file = self.manifest.graphs[graph].file
        return {n: r for n, r in self.manifest.files.items() if n == file or n.startswith(f"{file}/")}

    def array(self, name: str) -> Array:
        """A .npy file of the bundle.

        Raises:
            UsageError: not an array of plain numbers.
        """
        try:
            loaded: Array = np.load(self.path / name, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise UsageError(f"{self.path / name} is not a readable array ({error}).") from error
        return loaded

    def sample(self, golden: Golden) -> Array | tuple[Array, ...]:
        """The raw sample of a golden vector, as its task takes it: one array, or a tuple of them."""
        arrays = tuple(self.array(name) for name in golden.sample)
        return arrays[0] if len(arrays) == 1 else arrays


def _read_manifest(path: Path) -> Manifest:
    if path.is_symlink() or not path.is_dir():
        what = "a symbolic link" if path.is_symlink() else "not a bundle" if path.exists() else "not there"
        raise UsageError(f"{path} is {what}: expected a directory NAME{SUFFIX} made by 'edgedeploy export'.")
    if not (path / MANIFEST).is_file() or (path / MANIFEST).is_symlink():
        raise UsageError(f"{path} is not a complete bundle: it has no {MANIFEST}. Export or copy it again.")
    try:
        data = read_json(path / MANIFEST)
    except UsageError as error:
        raise UsageError(f"{path} is damaged: {error} Export or copy it again.") from error
    if isinstance(data, dict) and isinstance(data.get("schema"), int) and data["schema"] > SCHEMA:
        raise Incompatible(
            f"{path} was written by a newer edgedeploy (schema {data['schema']}, this one reads {SCHEMA}). "
            "Upgrade with: pip install -U edgedeploy"
        )
    if isinstance(data, dict) and isinstance(data.get("schema"), int) and data["schema"] < SCHEMA:
        raise Incompatible(
            f"{path} was written by an older edgedeploy (schema {data['schema']}, this one reads {SCHEMA}). "
            "Export it again."
        )
    try:
        manifest = from_json(Manifest, data, str(path / MANIFEST))
        intact = manifest.intact()
    except (UsageError, ValueError) as error:
        raise UsageError(f"{path} is damaged: {error} Export or copy it again.") from error
    if not intact:
        raise UsageError(f"{path} is damaged: {MANIFEST} was changed after it was written. Export or copy it again.")
    listed = {*manifest.files, *(str(p) for name in manifest.files for p in PurePosixPath(name).parents)}
    used = {g.file for g in manifest.graphs.values()} | {
        name for golden in manifest.golden for name in (*golden.sample, *golden.outputs.values())
    }
    if not manifest.graphs or used - listed:
        missing = ", ".join(sorted(used - listed)) or "graphs"
        raise UsageError(f"{path} is damaged: {MANIFEST} does not list {missing}. Export or copy it again.")
    return manifest


def safe_member(name: str) -> bool:
    """Whether ``name`` is a plain relative path below the bundle."""
    pure = PurePosixPath(name)
    plain = bool(name) and "\\" not in name and ":" not in name and "\0" not in name
    return plain and not pure.is_absolute() and ".." not in pure.parts and pure.as_posix() == name


def _check_file(path: Path, name: str, record: FileRecord) -> None:
    if not safe_member(name):
        raise Untrusted(f"{path} lists the file {name!r}, which is outside the bundle. Do not use it.")
    file = path / name
    for part in (file, *file.parents):
        if part == path:
            break
        if part.is_symlink():
            raise Untrusted(f"{path} holds a symbolic link ({name}); a bundle never does. Do not use it.")
    if not file.is_file():
        raise UsageError(f"{path} is damaged: {name} is missing. Export or copy it again.")
    size = file.stat().st_size
    if size != record.size:
        raise UsageError(f"{path} is damaged: {name} has {size} bytes, not {record.size}. Export or copy it again.")
    if file_digest(file) != record.sha256:
        raise UsageError(f"{path} is damaged: {name} is not what was written (sha256). Export or copy it again.")


def _check_unlisted(path: Path, manifest: Manifest) -> None:
    for folder, folders, files in os.walk(path):
        for entry in (*folders, *files):
            here = Path(folder) / entry
            name = here.relative_to(path).as_posix()
            if here.is_symlink():
                raise Untrusted(f"{path} holds a symbolic link ({name}); a bundle never does. Do not use it.")
            if entry in files and name not in manifest.files and name != MANIFEST:
                raise UsageError(f"{path} holds {name}, which {MANIFEST} does not list. Remove it, or export again.")


@contextlib.contextmanager
def writing(directory: Path, name: str) -> Iterator[Path]:
    """A temporary directory that becomes ``directory/NAME.edge`` when the block ends well, and vanishes when not.

    A bundle that was there is replaced only then. What earlier, killed runs left behind is removed.

    Raises:
        UsageError: ``directory`` cannot be written.
        EdgeDeployError: the disk is full.
    """
    target = directory / f"{name}{SUFFIX}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _sweep(directory, name)
        temporary = Path(tempfile.mkdtemp(prefix=f".{name}{SUFFIX}.{os.getpid()}.", suffix=".tmp", dir=directory))
    except OSError as error:
        raise UsageError(f"{directory} cannot be written: {error.strerror}.") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        replace_directory(temporary, target)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise EdgeDeployError(f"{directory} is full; nothing was written. Free some space and run it again.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_directory(new: Path, target: Path) -> None:
    """Put ``new`` in the place of ``target``; directories cannot be swapped in one step, so the old one steps aside."""
    if target.exists():
        aside = new.with_name(new.name.removesuffix(".tmp") + ".old.tmp")
        target.rename(aside)
        try:
            new.rename(target)
        except OSError:
            aside.rename(target)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    else:
        new.rename(target)


def _sweep(directory: Path, name: str) -> None:
    """Remove temporary directories of processes that are gone; bring back a bundle that was stepped aside."""
    target = directory / f"{name}{SUFFIX}"
    for left in directory.glob(f".{name}{SUFFIX}.*.tmp"):
        process = left.name.removeprefix(f".{name}{SUFFIX}.").partition(".")[0]
        if process.isdigit() and Path(f"/proc/{process}").exists() and int(process) != os.getpid():
            continue
        if left.name.endswith(".old.tmp") and not target.exists():
            left.rename(target)
        else:
            shutil.rmtree(left, ignore_errors=True)


def seal(directory: Path, manifest: Manifest) -> Manifest:
    """Hash every file below ``directory``, write ``artifact.json`` there, and return the finished manifest."""
    files = {
        path.relative_to(directory).as_posix(): FileRecord(path.stat().st_size, file_digest(path))
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    sealed = dataclasses.replace(manifest, files=files).sealed()
    with (directory / MANIFEST).open("wb") as stream:
        stream.write(canonical(to_json(sealed)) + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    return sealed
