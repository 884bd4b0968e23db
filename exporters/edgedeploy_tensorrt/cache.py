"""Built engines, kept on the device: one folder each, whole or not there at all.

A build takes minutes and belongs to one graph, plan, TensorRT, GPU and power mode; these are its key. It is made in a
folder of another name, which is renamed when everything in it is on the disk: a process that is killed leaves a folder
that nobody takes for an engine, and the next build clears it away. A lock, which the system takes back from a process
that dies, keeps two processes from building the same at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.records import canonical, from_json, read_json, to_json

ENGINE, RECORD, LOG, TIMINGS = "engine", "engine.json", "build.log", "timings"


@dataclass(frozen=True)
class Key:
    """What an engine belongs to. If any of it differs, it is another engine.

    Args:
        graph: sha256 of the ONNX file; ``plan`` that of its build plan.
        library: TensorRT, by flavour and version.
        gpu: its name; ``sm`` its compute capability times ten; ``mode`` its power setting.
    """

    graph: str
    plan: str
    library: str
    gpu: str
    sm: int
    mode: str

    @property
    def digest(self) -> str:
        """The folder's name."""
        return hashlib.sha256(canonical(to_json(self))).hexdigest()[:32]


@dataclass(frozen=True)
class Record:
    """What is known of a built engine.

    Args:
        key: what it belongs to.
        size: bytes of the engine; ``sha256`` its digest.
        seconds: how long the build took.
        fallen_back: nodes that the plan wanted on the DLA and that cannot run there.
    """

    schema: Literal[1]
    key: Key
    size: int
    sha256: str
    seconds: float
    fallen_back: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """An engine: its bytes, its record, where it lies, and whether it was built just now."""

    data: bytes
    record: Record
    path: Path
    fresh: bool = False


@dataclass(frozen=True)
class Made:
    """What a build gives to be kept."""

    engine: bytes
    log: tuple[str, ...]
    seconds: float
    fallen_back: tuple[str, ...] = ()


def default_root() -> Path:
    """``EDGEDEPLOY_CACHE``, else ``edgedeploy/engines`` in the user's cache directory (``XDG_CACHE_HOME``)."""
    named = os.environ.get("EDGEDEPLOY_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or ""
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "edgedeploy" / "engines"


@dataclass(frozen=True)
class Cache:
    """The engines below ``root``."""

    root: Path

    def find(self, key: Key) -> Entry | None:
        """The engine of ``key``, if there is a whole one: complete, and unchanged since it was built."""
        folder = self.root / key.digest
        try:
            record = from_json(Record, read_json(folder / RECORD, 1 << 20), str(folder / RECORD))
            data = (folder / ENGINE).read_bytes()
        except (UsageError, OSError):
            return None
        if record.key != key or len(data) != record.size or hashlib.sha256(data).hexdigest() != record.sha256:
            return None
        return Entry(data, record, folder / ENGINE)

    def get(self, key: Key, make: Callable[[], Made], say: Callable[[str], None]) -> Entry:
        """The engine of ``key``, built by ``make`` if it is not there; one process builds while others wait for it.

        Raises:
            Unavailable: the folder cannot be written to.
            Exception: whatever ``make`` raises; then nothing is kept.
        """
        found = self.find(key)
        if found is not None:
            return found
        with self._locked(key, say):
            found = self.find(key)  # another process may have built it while this one waited
            if found is not None:
                return found
            say("building the engine; this takes minutes, once")
            self._keep(key, make())
        kept = self.find(key)
        if kept is None:
            raise Unavailable(f"The engine was built, and cannot be read back from {self.root}. Is the disk full?")
        return replace(kept, fresh=True)

    def timings(self, library: str, sm: int) -> bytes:
        """Timings of layers kept from earlier builds with this TensorRT on this kind of GPU; nothing at first."""
        try:
            return self._timings(library, sm).read_bytes()
        except OSError:
            return b""

    def keep_timings(self, library: str, sm: int, data: bytes) -> None:
        """Replace them, in one step."""
        path = self._timings(library, sm)
        temporary = path.with_name(f"{path.name}.partial-{os.getpid()}")
        _write(temporary, data)
        temporary.replace(path)

    def _timings(self, library: str, sm: int) -> Path:
        return self.root / f"{TIMINGS}-{library.replace(' ', '-')}-sm{sm}"

    def _keep(self, key: Key, made: Made) -> None:
        folder = self.root / key.digest
        temporary = self.root / f"{key.digest}.partial-{os.getpid()}"
        temporary.mkdir()
        digest = hashlib.sha256(made.engine).hexdigest()
        record = Record(1, key, len(made.engine), digest, round(made.seconds, 3), made.fallen_back)
        _write(temporary / ENGINE, made.engine)
        _write(temporary / LOG, "".join(f"{line}\n" for line in made.log).encode("utf-8", "replace"))
        _write(temporary / RECORD, json.dumps(to_json(record), indent=1).encode())
        shutil.rmtree(folder, ignore_errors=True)  # damaged, or `find` had taken it
        temporary.rename(folder)

    @contextmanager
    def _locked(self, key: Key, say: Callable[[str], None]) -> Iterator[None]:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = (self.root / f"{key.digest}.lock").open("w")
        except OSError as error:
            raise Unavailable(
                f"Engines cannot be kept in {self.root}: {error.strerror}. Name a folder in EDGEDEPLOY_CACHE."
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                say("waiting for another process that builds the same engine")
                fcntl.flock(lock, fcntl.LOCK_EX)
            for left in self.root.glob(f"{key.digest}.partial-*"):  # of builds that were killed
                shutil.rmtree(left, ignore_errors=True)
            yield


def _write(path: Path, data: bytes) -> None:
    """To the disk, not only to the system's memory: a rename must not arrive there before the content does."""
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
