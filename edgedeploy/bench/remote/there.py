"""The far end of ssh (`edgedeploy.bench.remote.ssh`): it crosses as text and runs there with the standard library.

One process serves one request, a JSON line on standard input, and answers in JSON lines as a worker does. It ends when
its input does, or when nothing came for as long as the request's ``lease`` says: then nobody is left at the other end.

- ``look``: what is there (`facts`).
- ``hold``: the same, and the lock of the device, for as long as the input lasts.
- ``receive``: files of a parcel, checked by their digests, put in place in one step.
- ``work``: a worker in a process group of its own; all of the group ends with it, with the input, or with this process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

#: Seconds that a parcel which nobody asked for is kept, and that a worker is given to end.
KEPT, GRACE = 30 * 86400.0, 5.0
#: Processors that run each other's programs, as ``e_machine`` of ELF says them.
FAMILIES = {3: "x86", 62: "x86", 40: "arm", 183: "arm", 243: "riscv"}
#: What a machine is to an interpreter of 32 bits.
_NARROW = {"x86_64": "i686", "aarch64": "armv7l"}


class Refused(Exception):
    """Ends the request; ``kind`` is the class of `edgedeploy.errors` that it becomes at the other end."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Wire:
    """Standard input. `chunk` gives what comes, and nothing at its end or after ``lease`` seconds of silence."""

    def __init__(self, descriptor: int = 0) -> None:
        self.descriptor, self.lease, self._held = descriptor, 60.0, b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(descriptor, selectors.EVENT_READ)

    def chunk(self, most: int = 1 << 16) -> bytes:
        """Up to ``most`` bytes."""
        found, self._held = self._held[:most], self._held[most:]
        if not found and self._selector.select(self.lease):
            found = os.read(self.descriptor, most)
        return found

    def line(self) -> bytes:
        """The next line with its end, or what there was of it."""
        found = b""
        while b"\n" not in found:
            more = self.chunk()
            if not more:
                return found
            found += more
        line, self._held = found[: found.index(b"\n") + 1], found[found.index(b"\n") + 1 :] + self._held
        return line


def tell(event: str, **fields: Any) -> None:
    """Send an event."""
    _write(json.dumps({"event": event, **fields}).encode() + b"\n")


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


# --- what is there -------------------------------------------------------------------------------------------------


def facts(distributions: Sequence[str] = ()) -> dict[str, Any]:
    """Of the interpreter and the machine; versions of those of ``distributions`` that are installed."""
    place = folder()
    existing = next(path for path in (place, *place.parents) if path.exists())
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "managed": sys.prefix == sys.base_prefix and Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists(),
        "machine": platform.machine() if sys.maxsize > 1 << 32 else _NARROW.get(platform.machine(), platform.machine()),
        "system": platform.platform(terse=True),
        "emulated": emulated(),
        "cache": str(place),
        "free": shutil.disk_usage(existing).free,
        "numpy": importlib.util.find_spec("numpy") is not None,
        "distributions": {name: found for name in distributions if (found := _version(name)) is not None},
    }


def folder() -> Path:
    """Where parcels are kept: ``edgedeploy/carried`` in the user's cache (``XDG_CACHE_HOME``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgedeploy" / "carried"


def emulated(root: Path = Path("/"), machine: str | None = None) -> bool:
    """Whether instructions are translated for this process, as qemu-user does it.

    Emulators answer for the processor in ``uname`` and ``/proc/cpuinfo``, and for ``/proc/self/exe``. The same link of
    a thread is the kernel's own: the program that really runs is then one for another processor.
    """
    wanted = _family(platform.machine() if machine is None else machine)
    try:
        with (root / f"proc/self/task/{os.getpid()}/exe").open("rb") as program:
            header = program.read(20)
    except OSError:
        return False
    if wanted is None or header[:4] != b"\x7fELF" or len(header) < 20:
        return False
    (number,) = struct.unpack("<H" if header[5] == 1 else ">H", header[18:20])
    return number in FAMILIES and FAMILIES[number] != wanted


def _family(machine: str) -> str | None:
    names = {"x86": r"x86_64|amd64|i\d86", "arm": "arm|aarch64", "riscv": "riscv"}
    return next((family for family, name in names.items() if re.match(name, machine, re.IGNORECASE)), None)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def look(request: Mapping[str, Any], wire: Wire) -> None:
    """See `facts`."""
    tell("facts", facts=facts(request["distributions"]))


# --- the lock ------------------------------------------------------------------------------------------------------


def lock_path() -> Path:
    """One file for the whole machine, whoever measures on it; ``EDGEDEPLOY_LOCK`` names another one."""
    told = os.environ.get("EDGEDEPLOY_LOCK")
    shared = Path("/run/lock") if os.access("/run/lock", os.W_OK) else Path(tempfile.gettempdir())
    return Path(told) if told else shared / "edgedeploy.lock"


def _lock(path: Path, wait: float, alive: Callable[[], object], kind: int = fcntl.LOCK_EX) -> int | None:
    """A descriptor that holds the lock, or ``None`` where another process holds it for longer than ``wait`` seconds."""
    deadline = time.monotonic() + wait
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except PermissionError:  # another user's, in a folder where only its owner may create it anew
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, 0o666)
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
        alive()
        time.sleep(min(0.2, max(0.0, deadline - time.monotonic())))


def hold(request: Mapping[str, Any], wire: Wire) -> None:
    """Hold the device until the input ends. What killed runs have left half-written is removed."""
    look(request, wire)
    path = lock_path()

    def alive() -> None:
        if select(wire) and not wire.chunk():
            sys.exit(0)

    descriptor = _lock(path, request["wait"], alive)
    if descriptor is None:
        who, since = _holder(path)
        waited = f" It was waited for {request['wait']:g} s." if request["wait"] else ""
        raise Refused("Unavailable", f"is in use by {who} since {since}; measure when that has ended.{waited}")
    workers = _lock(_busy(), GRACE, alive)  # of the one who held it before: they should have ended with it
    if workers is None:
        raise Refused("Unavailable", "still runs an earlier worker that does not end; look at it there.")
    os.close(workers)
    holder = {"who": request["who"], "since": time.strftime("%Y-%m-%d %H:%M:%S %Z")}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)
    with contextlib.suppress(OSError):
        for left in folder().glob(".*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
    tell("held")
    while wire.chunk():
        pass
    os.ftruncate(descriptor, 0)


def _holder(path: Path) -> tuple[str, str]:
    """Who holds the lock, and since when; everybody may write that file, and what is no answer in it counts as none."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        told = json.loads(path.read_text("utf-8")) if path.stat().st_size < 4096 else None
        if isinstance(told, dict) and {"who", "since"} <= told.keys():
            who, since = ("".join(filter(str.isprintable, str(told[key])))[:100] for key in ("who", "since"))
            return who, since
    return "somebody", "an unknown time"


def _busy() -> Path:
    """What workers share a lock of, for as long as they live."""
    return lock_path().with_suffix(".busy")


def select(wire: Wire) -> bool:
    """Whether something came, or the end."""
    with selectors.DefaultSelector() as selector:
        selector.register(wire.descriptor, selectors.EVENT_READ)
        return bool(selector.select(0))


# --- parcels -------------------------------------------------------------------------------------------------------


def parcel_digest(files: Sequence[Sequence[Any]]) -> str:
    """sha256 that identifies a parcel, over the name, size in bytes and sha256 of each of its files."""
    return hashlib.sha256(json.dumps([list(file) for file in files], separators=(",", ":")).encode()).hexdigest()


def receive(request: Mapping[str, Any], wire: Wire) -> None:
    """Write the files that follow on the input, whole and as announced, or nothing."""
    files, digest, place = request["files"], request["digest"], folder()
    with contextlib.suppress(OSError):
        os.utime(place / digest)  # it is here, and used
        tell("received")
        return
    inside = all(".." not in PurePosixPath(name).parts and name[:1] != "/" for name, *_ in files)
    if parcel_digest(files) != digest or not inside:
        raise Refused("RunFailed", "got a damaged list of files; nothing was kept. Run it again.")
    needed = sum(size for _, size, _ in files)
    try:
        place.mkdir(parents=True, exist_ok=True)
        _make_room(place, needed)
        temporary = Path(tempfile.mkdtemp(prefix=f".{digest[:12]}.", suffix=".tmp", dir=place))
    except OSError as error:
        raise _storage(place, needed, error) from error
    tell("ready")
    try:
        for name, size, sha256 in files:
            _receive_file(temporary / name, size, sha256, wire)
        os.sync()  # a board that loses its power keeps no empty files under a name that says they are whole
        temporary.chmod(0o755)
        if not (place / digest).exists():
            temporary.rename(place / digest)
    except OSError as error:
        raise _storage(place, needed, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    tell("received")


def _receive_file(path: Path, size: int, sha256: str, wire: Wire) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    left, hashed = size, hashlib.sha256()
    with path.open("wb") as sink:
        while left:
            data = wire.chunk(min(left, 1 << 20))
            if not data:
                raise Refused("RunFailed", f"was sent only a part of {path.name}; nothing was kept. Run it again.")
            left -= len(data)
            hashed.update(data)
            sink.write(data)
    if hashed.hexdigest() != sha256:
        raise Refused("RunFailed", f"got {path.name} damaged on the way (sha256); nothing was kept. Run it again.")


def _make_room(place: Path, needed: int) -> None:
    """Remove parcels that were not used for long, and where room is short, all of them, least recently used first."""
    parcels = sorted((path for path in place.iterdir() if path.name[:1] != "."), key=lambda path: path.stat().st_mtime)
    for path in parcels:
        old = time.time() - path.stat().st_mtime
        short = shutil.disk_usage(place).free < needed and old > 3600
        if old > KEPT or short:
            shutil.rmtree(path, ignore_errors=True)


def _storage(place: Path, needed: int, error: OSError) -> Refused:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(place).free
            return Refused(
                "RunFailed",
                f"has no room for {needed} bytes in {place} ({free} are free: {error.strerror}); nothing was kept. "
                "Free some space there.",
            )
    return Refused("RunFailed", f"cannot write {place}: {error.strerror}; nothing was kept.")


# --- work ----------------------------------------------------------------------------------------------------------


def work(request: Mapping[str, Any], wire: Wire) -> None:
    """Run a worker: its job is the next line of the input, and it gets the later ones, too.

    Empty lines are for nobody: they say that there is still somebody at the other end.
    """
    while (job := wire.line()) == b"\n":
        pass
    if not job.endswith(b"\n"):
        return
    busy = _lock(_busy(), GRACE, lambda: None, fcntl.LOCK_SH)
    if busy is None:
        raise Refused("Unavailable", "is being taken by somebody else; measure when that has ended.")
    with _scratch() as scratch, _woken() as wake:
        before, began = oom_kills(), time.monotonic()
        worker = subprocess.Popen(
            [_interpreter(request["python"]), "-P", "-m", request["module"]],
            env=_environment(str(folder() / request["core"]), scratch),
            cwd=scratch,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            pass_fds=(busy,),  # as long as it lives, nobody else measures here
            preexec_fn=_die_with_parent,
        )
        try:
            pump = threading.Thread(target=_pump, args=(worker, began), daemon=True)
            pump.start()
            _hand(worker, job)
            if not _watch(worker, wire, wake):
                return
            _end(worker)
            pump.join(GRACE)
            kills = oom_kills()
            memory = before is not None and kills is not None and kills > before
            tell("end", status=worker.returncode, out_of_memory=memory)
        finally:
            _end(worker)


def oom_kills() -> int | None:
    """Processes that the kernel has killed for want of memory since it started."""
    try:
        lines = Path("/proc/vmstat").read_text("utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    """A working and temporary directory of the worker, which goes with everything that is left in it."""
    path = tempfile.mkdtemp(prefix=".work.", suffix=".tmp", dir=folder())
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _woken() -> Iterator[int]:
    """A descriptor that becomes readable when a child has ended; being told to end ends the block."""

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, leave)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(-1)


def _watch(worker: subprocess.Popen[bytes], wire: Wire, wake: int) -> bool:
    """Wait for the end of the worker; ``False`` where the other end has gone before. Sleeps, so as not to disturb."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(wake, selectors.EVENT_READ)
        selector.register(wire.descriptor, selectors.EVENT_READ)
        deadline = time.monotonic() + wire.lease
        while worker.poll() is None:
            ready = {key.fd for key, _ in selector.select(max(0.0, deadline - time.monotonic()))}
            if wake in ready:
                os.read(wake, 4096)
            if wire.descriptor in ready:
                more = wire.chunk()
                if not more:
                    return False
                *lines, rest = (rest + more).split(b"\n")
                for line in filter(None, lines):
                    _hand(worker, line + b"\n")
                deadline = time.monotonic() + wire.lease
            if time.monotonic() >= deadline:
                return False
    return True


def _hand(worker: subprocess.Popen[bytes], line: bytes) -> None:
    """Give the worker a line; where it has ended, that is told elsewhere."""
    assert worker.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        worker.stdin.write(line)
        worker.stdin.flush()


def _pump(worker: subprocess.Popen[bytes], began: float) -> None:
    """Hand on what the worker tells; add how long it took to start, which cannot be seen from the other end."""
    assert worker.stdout is not None
    ready: float | None = None
    told = False
    with contextlib.suppress(OSError):
        while chunk := os.read(worker.stdout.fileno(), 1 << 16):
            if ready is None and b'"event"' in chunk:
                ready = time.monotonic() - began
            _write(chunk)
            if ready is not None and not told and chunk.endswith(b"\n"):
                tell("start", seconds=ready)
                told = True


def _end(worker: subprocess.Popen[bytes]) -> None:
    """End the worker with everything that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        worker.wait(GRACE)


def _die_with_parent() -> None:
    """In the worker: end when this process is killed, however deep in a vendor's library it is then (Linux)."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _interpreter(told: str | None) -> str:
    """The one that runs this, by the name that it was started by: a wrapper may be around it."""
    path = None if told is None else shutil.which(Path(told).expanduser())
    return path or sys.executable


def _environment(core: str, scratch: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (core, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "TMPDIR": scratch}


def main() -> None:
    """Serve the request."""
    verbs: dict[str, Callable[[Mapping[str, Any], Wire], None]] = {
        "look": look,
        "hold": hold,
        "receive": receive,
        "work": work,
    }
    wire = Wire()
    with contextlib.suppress(BrokenPipeError):
        _write(b"\n")  # ends whatever a start-up file has printed
        try:
            request = json.loads(wire.line())
            wire.lease = request["lease"]
            verbs[request["verb"]](request, wire)
        except Refused as refused:
            tell("error", kind=refused.kind, message=str(refused))
        except BrokenPipeError:
            raise
        except OSError as error:
            tell("error", kind="RunFailed", message=f"cannot serve: {error}.")


if __name__ == "__main__":
    main()
