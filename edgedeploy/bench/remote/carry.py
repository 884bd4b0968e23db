"""What travels to a device: a bundle, samples, and edgedeploy itself, each as a parcel that a digest identifies."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edgedeploy import plugins
from edgedeploy.artifact import MANIFEST
from edgedeploy.bench.bundle import SAMPLES
from edgedeploy.bench.remote.there import parcel_digest
from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.model import file_digest
from edgedeploy.tasks import audio, image

#: Parts of the package that no worker needs: what makes bundles, and what talks to people.
AT_HOME = {"cli", "compress", "demo", "devices", "models", "precision", "recognition", "report", "train"}
#: Suffixes of the files that samples come in, by kind.
SAMPLES_OF = (image.SUFFIXES, audio.SUFFIXES, (".npy",))
#: Files of a plug-in that are not for another machine, or are made again there.
NOT_CARRIED = {".so", ".pyd", ".dylib", ".dll", ".a", ".pyc", ".pyo"}


@dataclass(frozen=True)
class Item:
    """One file: its name in the parcel, bytes, sha256, and the file here or what it consists of."""

    name: str
    size: int
    sha256: str
    source: Path | bytes

    def open(self) -> BinaryIO:
        """A stream of its bytes."""
        return io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source.open("rb")


@dataclass(frozen=True)
class Parcel:
    """Files that travel together; ``top`` is the one, or the folder of all of them, that they are named by there."""

    top: str
    items: tuple[Item, ...]

    @property
    def files(self) -> list[list[str | int]]:
        """Name, size in bytes and sha256 of each file, in the order of `stream`."""
        return [[item.name, item.size, item.sha256] for item in self.items]

    @property
    def digest(self) -> str:
        """sha256 over `files`."""
        return parcel_digest(self.files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(item.size for item in self.items)

    def stream(self) -> Iterator[bytes]:
        """The bytes of all files, one after the other."""
        for item in self.items:
            with item.open() as source:
                while chunk := source.read(1 << 20):
                    yield chunk


def pack(path: str | Path) -> Parcel:
    """A bundle as it is, a single file, or a folder of samples: the few of them that a worker takes.

    Raises:
        UsageError: there is nothing at ``path``.
    """
    path = Path(path)
    if path.is_file():
        return Parcel(path.name, (_item(path.name, path),))
    if not path.is_dir():
        raise UsageError(f"{path} is not there: there is nothing to carry to the device.")
    top = path.resolve().name or "samples"
    found = sorted(file for file in path.rglob("*") if file.is_file())
    if not (path / MANIFEST).is_file():
        found = sorted({file for kind in SAMPLES_OF for file in _spread(found, kind)})
    if not found:
        raise UsageError(f"{path} has no samples in it: neither images nor sound nor .npy files.")
    return Parcel(top, tuple(_item(f"{top}/{file.relative_to(path).as_posix()}", file) for file in found))


def _spread(files: list[Path], suffixes: tuple[str, ...]) -> list[Path]:
    """The files that the loader there would pick of all: of a thousand photographs only these have to travel."""
    fitting = [file for file in files if file.suffix.lower() in suffixes]
    picks = np.unique(np.linspace(0, len(fitting) - 1, min(SAMPLES, len(fitting))).astype(int)) if fitting else ()
    return [fitting[i] for i in picks]


@functools.cache
def core() -> Parcel:
    """The edgedeploy that runs here, without what a device does not need, and every plug-in that brings a runtime.

    Beside the packages lies the metadata that `importlib.metadata` finds them by, so that what is carried is found as
    what is installed, and goes before it.

    Raises:
        Unavailable: a plug-in's package cannot be found here.
    """
    package = Path(plugins.__file__).parent
    sources = [file for file in package.rglob("*.py") if file.relative_to(package).parts[0] not in AT_HOME]
    items = [_read(f"edgedeploy/{file.relative_to(package).as_posix()}", file) for file in sorted(sources)]
    points: dict[str, list[EntryPoint]] = {}
    distributions: dict[str, Distribution] = {}
    for point in sorted(entry_points(group=plugins.RUNTIMES), key=lambda point: point.name):
        if point.dist is not None:
            points.setdefault(point.dist.name, []).append(point)
            distributions[point.dist.name] = point.dist
    for name, distribution in distributions.items():
        items += _metadata(distribution, points[name])
        for top in sorted({point.module.partition(".")[0] for point in points[name]} - {"edgedeploy"}):
            items += _package(top)
    return Parcel("", tuple({item.name: item for item in items}.values()))


def _metadata(distribution: Distribution, points: list[EntryPoint]) -> list[Item]:
    name = f"{distribution.name.replace('-', '_')}-{distribution.version}.dist-info"
    about = f"Metadata-Version: 2.1\nName: {distribution.name}\nVersion: {distribution.version}\n"
    lines = [f"[{plugins.RUNTIMES}]", *(f"{point.name} = {point.value}" for point in points)]
    return [
        _made(f"{name}/METADATA", about.encode()),
        _made(f"{name}/entry_points.txt", "".join(f"{line}\n" for line in lines).encode()),
    ]


def _package(top: str) -> list[Item]:
    """The files of a top-level package or module, without importing it."""
    spec = importlib.util.find_spec(top)
    if spec is None:
        raise Unavailable(f"The plug-in package '{top}' is declared here and cannot be found. Install it again.")
    if spec.submodule_search_locations is None:
        return [_read(f"{top}.py", Path(spec.origin or ""))]
    items = []
    for folder in map(Path, spec.submodule_search_locations):
        files = sorted(f for f in folder.rglob("*") if f.is_file() and f.suffix not in NOT_CARRIED)
        items += [_read(f"{top}/{file.relative_to(folder).as_posix()}", file) for file in files]
    return items


def _item(name: str, path: Path) -> Item:
    return Item(name, path.stat().st_size, file_digest(path), path)


def _read(name: str, path: Path) -> Item:
    """In memory: a file that is edited before it is sent would not be what its digest says."""
    return _made(name, path.read_bytes())


def _made(name: str, content: bytes) -> Item:
    return Item(name, len(content), hashlib.sha256(content).hexdigest(), content)
