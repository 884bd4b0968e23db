"""Bundles as one file: ``NAME.edge.zip``, packed and unpacked without trusting what is inside."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path

from edgedeploy.artifact import SUFFIX, Artifact, replace_directory, safe_member
from edgedeploy.errors import Untrusted, UsageError
from edgedeploy.model import file_digest
from edgedeploy.units import show

#: Limits for archives from strangers: entries, bytes unpacked, and unpacked over packed size.
MAX_ENTRIES = 10_000
MAX_BYTES = 8 << 30
MAX_RATIO = 200


def pack(artifact: Artifact, target: Path) -> Path:
    """Write ``artifact`` to the zip file ``target``; the same bundle gives the same bytes."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(p for p in artifact.path.rglob("*") if p.is_file()):
                name = f"{artifact.manifest.name}{SUFFIX}/{path.relative_to(artifact.path).as_posix()}"
                info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                info.external_attr = 0o644 << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                with path.open("rb") as source, archive.open(info, "w", force_zip64=True) as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def unpack(archive: Path, directory: Path) -> Artifact:
    """The bundle in ``archive``, unpacked below ``directory`` and checked.

    Raises:
        Untrusted: paths that escape, links, or far more bytes than an archive of this size can honestly hold.
        UsageError: damaged, truncated, or no bundle.
    """
    if not zipfile.is_zipfile(archive) and archive.suffix != ".zip":
        raise UsageError(f"{archive} is no bundle: give the NAME{SUFFIX} that 'edgedeploy export' makes, or its .zip.")
    try:
        with zipfile.ZipFile(archive) as opened:
            name = _check(archive, opened.infolist())
            directory.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{name}.{os.getpid()}.", suffix=".tmp", dir=directory))
            try:
                for info in opened.infolist():
                    _extract(opened, info, temporary)
                Artifact.open(temporary / name)
                replace_directory(temporary / name, directory / name)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UsageError(f"{archive} is damaged, truncated or no zip file ({error}). Copy it again.") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # what zipfile makes of an offset before the beginning of the file
            raise
        raise UsageError(f"{archive} is damaged: its offsets make no sense. Copy it again.") from error
    return Artifact.open(directory / name)


def open_artifact(path: str | Path) -> Artifact:
    """The artifact at ``path``: a bundle directory, or an archive, which is unpacked once into the user's cache.

    Raises:
        UsageError, Untrusted, Incompatible: as `Artifact.open` and `unpack`.
    """
    path = Path(path)
    if not path.is_file():
        return Artifact.open(path)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgedeploy" / "bundles"
    place = cache / file_digest(path)[:16]
    known = sorted(place.glob(f"*{SUFFIX}"))
    return Artifact.open(known[0]) if known else unpack(path, place)


def _check(archive: Path, entries: list[zipfile.ZipInfo]) -> str:
    """The bundle's directory name, after looking at every entry."""
    total = sum(info.file_size for info in entries)
    packed = sum(info.compress_size for info in entries)
    if len(entries) > MAX_ENTRIES or total > MAX_BYTES or total > MAX_RATIO * max(packed, 1 << 10):
        raise Untrusted(
            f"{archive} would unpack to {len(entries)} files and {show(total, 'B')} from {show(packed, 'B')}: "
            "that is no bundle. Do not use it."
        )
    for info in entries:
        if stat.S_ISLNK(info.external_attr >> 16) or not safe_member(info.filename.removesuffix("/")):
            raise Untrusted(f"{archive} holds {info.filename!r}, a link or a path that leaves it. Do not use it.")
    tops = {info.filename.partition("/")[0] for info in entries}
    if len(tops) != 1 or not (top := tops.pop()).endswith(SUFFIX):
        raise UsageError(f"{archive} is not a packed bundle: expected one folder NAME{SUFFIX} in it.")
    return top


def _extract(opened: zipfile.ZipFile, info: zipfile.ZipInfo, directory: Path) -> None:
    target = directory / info.filename
    if info.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    left = info.file_size  # never write more than was declared, whatever the stream holds
    with opened.open(info) as source, target.open("wb") as sink:
        while chunk := source.read(min(1 << 20, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise Untrusted(f"{info.filename} is larger than its archive says. Do not use it.")
            sink.write(chunk)
