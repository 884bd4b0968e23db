"""A stand-in for an Android device: speaks the adb protocol over TCP, so that the real client can talk to it.

It runs commands with ``sh`` in a folder of its own: ``/data/local/tmp`` is a folder in that, and so are the programs
that only Android has (``getprop``, ``dumpsys``, ``logcat``). Protocol: packages/modules/adb/protocol.txt, SYNC.TXT and
shell_protocol.h of the Android Open Source Project.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import select
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CNXN, AUTH, OPEN = (int.from_bytes(name, "little") for name in (b"CNXN", b"AUTH", b"OPEN"))
OKAY, CLSE, WRTE = (int.from_bytes(name, "little") for name in (b"OKAY", b"CLSE", b"WRTE"))
LARGEST = 1 << 16
BANNER = b"device::ro.product.name=standin;ro.product.model=Stand-in;ro.product.device=standin;features=shell_v2,cmd\0"
TMP = "/data/local/tmp"


class StandIn:
    """One device. Its switches may be turned while it runs.

    ``authorised``: whether it trusts the computer. ``room``: bytes that can still be pushed (``None``: any).
    ``damage``: flip a byte of what arrives. ``pushed``: names that arrived. ``ran``: the commands. ``unplug()``: closes
    the way.
    """

    def __init__(self, folder: Path, properties: dict[str, str], texts: dict[str, str] | None = None) -> None:
        self.folder, self.tmp = folder, folder / "data" / "local" / "tmp"
        self.tmp.mkdir(parents=True)
        self.authorised, self.damage = True, False
        self.room: int | None = None
        self.pushed: list[str] = []
        self.ran: list[str] = []
        self._tools(properties, texts or {})
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._connections: list[_Connection] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def left(self) -> list[str]:
        """What is in the temporary folder, except for finished deliveries."""
        found = sorted(p.relative_to(self.tmp).as_posix() for p in self.tmp.rglob("*"))
        return [name for name in found if not re.fullmatch(r"edgedeploy(/[0-9a-f]{32}(/.+)?)?", name)]

    def unplug(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
        self._listener.close()
        self.unplug()

    def set(self, tool: str, text: str) -> None:
        """What ``dumpsys thermalservice`` (or another tool and its first argument) prints from now on."""
        (self.folder / "texts" / tool).write_text(text)

    def _tools(self, properties: dict[str, str], texts: dict[str, str]) -> None:
        (self.folder / "bin").mkdir()
        (self.folder / "texts").mkdir()
        said = "".join(f"[{key}]: [{value}]\n" for key, value in properties.items())
        for name, text in {"getprop": said, **texts}.items():
            self.set(name, text)
        for tool in ("getprop", "dumpsys", "logcat"):
            path = self.folder / "bin" / tool
            argument = "" if tool == "getprop" else ".$1" if tool == "dumpsys" else ""
            path.write_text(f'#!/bin/sh\ncat "{self.folder}/texts/{tool}{argument}" 2>/dev/null\n')
            path.chmod(0o755)

    def here(self, text: str) -> str:
        return text.replace(TMP, str(self.tmp))

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                connection = _Connection(self, sock)
                self._connections.append(connection)
                threading.Thread(target=connection.serve, daemon=True).start()


class _Connection:
    """The way to one host. Every stream has a thread that answers, and a pipe that what the host writes goes into."""

    def __init__(self, device: StandIn, sock: socket.socket) -> None:
        self.device, self._sock, self._lock = device, sock, threading.Lock()
        self._streams: dict[int, _Stream] = {}
        self._numbers = iter(range(1, 1 << 30))

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        header = struct.pack("<6I", command, first, second, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF)
        with self._lock, contextlib.suppress(OSError):
            self._sock.sendall(header + data)

    def serve(self) -> None:
        with contextlib.suppress(OSError, struct.error):
            while True:
                command, first, second, length, _, _ = struct.unpack("<6I", self._read(24))
                self._handle(command, first, second, self._read(length))
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        for stream in list(self._streams.values()):
            stream.end()

    def forget(self, number: int) -> None:
        self._streams.pop(number, None)

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._sock.recv(count - len(data))
            if not more:
                raise OSError
            data += more
        return data

    def _handle(self, command: int, first: int, second: int, data: bytes) -> None:
        if command in (CNXN, AUTH):
            if self.device.authorised:
                self.send(CNXN, 0x01000001, LARGEST, BANNER)
            else:
                self.send(AUTH, 1, 0, os.urandom(20))
        elif command == OPEN:
            number = next(self._numbers)
            stream = self._streams[number] = _Stream(self, number, first)
            self.send(OKAY, number, first)
            service = data.rstrip(b"\0").decode()
            threading.Thread(target=_serve, args=(stream, service), daemon=True).start()
        elif second in self._streams:
            stream = self._streams[second]
            if command == WRTE:
                stream.put(data)
                self.send(OKAY, second, first)
            elif command == OKAY:
                stream.acknowledged.release()
            elif command == CLSE:
                stream.end()


class _Stream:
    """One stream: `read` what the host wrote, `write` to it, each write acknowledged before the next."""

    def __init__(self, connection: _Connection, number: int, host: int) -> None:
        self.connection, self._number, self._host = connection, number, host
        self.acknowledged, self.ended = threading.Semaphore(0), threading.Event()
        self.incoming, self._into = os.pipe()

    def put(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._into, data) :]

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = os.read(self.incoming, count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def write(self, data: bytes) -> None:
        for at in range(0, len(data), LARGEST):
            self.connection.send(WRTE, self._number, self._host, data[at : at + LARGEST])
            while not self.acknowledged.acquire(timeout=0.1):
                if self.ended.is_set():
                    raise EOFError

    def end(self) -> None:
        if not self.ended.is_set():
            self.ended.set()
            os.close(self._into)

    def close(self) -> None:
        self.connection.send(CLSE, self._number, self._host)
        self.connection.forget(self._number)
        self.end()
        os.close(self.incoming)


def _serve(stream: _Stream, service: str) -> None:
    kind, _, rest = service.partition(":")
    try:
        if kind == "sync":
            _sync(stream)
        elif kind.split(",")[0] == "shell":
            _shell(stream, rest)
    except (EOFError, OSError):
        pass
    finally:
        stream.close()


# --- shell, version 2 ----------------------------------------------------------------------------------------------


def _shell(stream: _Stream, command: str) -> None:
    """Packets: a byte (0 stdin, 1 stdout, 2 stderr, 3 exit, 4 close stdin), a length, data."""
    device = stream.connection.device
    device.ran.append(command)
    child = subprocess.Popen(
        ["sh", "-c", device.here(command)],
        cwd=device.folder,
        env={**os.environ, "PATH": f"{device.folder / 'bin'}:{os.environ['PATH']}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdin
    assert child.stdout
    assert child.stderr
    threads = [threading.Thread(target=_feed, args=(stream, child), daemon=True)]
    threads[0].start()
    names = {child.stdout.fileno(): 1, child.stderr.fileno(): 2}
    back = str(device.tmp).encode()
    while names:
        for descriptor in select.select(list(names), [], [])[0]:
            chunk = os.read(descriptor, LARGEST // 2)
            if not chunk:
                del names[descriptor]
            else:
                chunk = chunk.replace(back, TMP.encode())
                with contextlib.suppress(EOFError):  # the host is gone: the command goes on until it sees that
                    stream.write(struct.pack("<BI", names[descriptor], len(chunk)) + chunk)
    status = child.wait()
    stream.write(struct.pack("<BIB", 3, 1, status & 0xFF if status >= 0 else 128 - status))


def _feed(stream: _Stream, child: subprocess.Popen[bytes]) -> None:
    assert child.stdin
    with contextlib.suppress(EOFError, OSError):
        while True:
            kind, length = struct.unpack("<BI", stream.read(5))
            data = stream.read(length)
            if kind == 4:
                break
            if kind == 0:
                child.stdin.write(data)
                child.stdin.flush()
    with contextlib.suppress(OSError):
        child.stdin.close()


# --- files ---------------------------------------------------------------------------------------------------------


def _sync(stream: _Stream) -> None:
    device = stream.connection.device
    services: dict[bytes, Callable[[_Stream, StandIn, str], None]] = {b"STAT": _stat, b"SEND": _send, b"RECV": _recv}
    while True:
        name, length = struct.unpack("<4sI", stream.read(8))
        argument = stream.read(length).decode()
        if name == b"QUIT":
            return
        services[name](stream, device, argument)


def _stat(stream: _Stream, device: StandIn, path: str) -> None:
    try:
        found = Path(device.here(path)).stat()
        stream.write(struct.pack("<4s3I", b"STAT", found.st_mode, found.st_size, int(found.st_mtime)))
    except OSError:
        stream.write(struct.pack("<4s3I", b"STAT", 0, 0, 0))


def _chunks(stream: _Stream) -> Iterator[bytes]:
    while True:
        name, length = struct.unpack("<4sI", stream.read(8))
        if name == b"DONE":
            return
        yield stream.read(length)


def _send(stream: _Stream, device: StandIn, argument: str) -> None:
    path, _, mode = argument.rpartition(",")
    file = Path(device.here(path))
    reason = b""
    try:
        with file.open("wb") as out:
            for chunk in _chunks(stream):
                if device.room is not None:
                    device.room -= len(chunk)
                if device.room is not None and device.room < 0:
                    reason = b"write failed: No space left on device"
                if not reason:
                    out.write(bytes([chunk[0] ^ 1]) + chunk[1:] if device.damage else chunk)
    except FileNotFoundError:
        for _ in _chunks(stream):
            pass
        reason = b"couldn't create file: No such file or directory"
    if reason:
        stream.write(struct.pack("<4sI", b"FAIL", len(reason)) + reason)
        return
    file.chmod(int(mode) & 0o777)
    device.pushed.append(file.name)
    stream.write(struct.pack("<4sI", b"OKAY", 0))


def _recv(stream: _Stream, device: StandIn, path: str) -> None:
    try:
        data = Path(device.here(path)).read_bytes()
    except OSError as error:
        reason = str(error.strerror).encode()
        stream.write(struct.pack("<4sI", b"FAIL", len(reason)) + reason)
        return
    for at in range(0, len(data), 1 << 15):
        chunk = data[at : at + (1 << 15)]
        stream.write(struct.pack("<4sI", b"DATA", len(chunk)) + chunk)
    stream.write(struct.pack("<4sI", b"DONE", 0))


# --- a server of its own -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def private_server(home: Path) -> Iterator[dict[str, str]]:
    """The variables of an adb server of our own, which is ended with this; keys are made in ``home``."""
    adb = shutil.which("adb")
    assert adb
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = {"ANDROID_ADB_SERVER_PORT": str(port), "HOME": str(home), "ADB_MDNS_AUTO_CONNECT": "0"}
    try:
        yield variables
    finally:
        subprocess.run([adb, "kill-server"], env={**os.environ, **variables}, capture_output=True, timeout=30)


@contextlib.contextmanager
def plugged_in(folder: Path, properties: dict[str, str] | None = None) -> Iterator[StandIn]:
    """A stand-in of this machine's processor, in ``folder``."""
    folder.mkdir(parents=True)
    device = StandIn(folder, {**PROPERTIES, **(properties or {})}, TEXTS)
    try:
        yield device
    finally:
        device.close()


def gone(marker: str, seconds: float = 5.0) -> bool:
    """Whether no process has ``marker`` in its command line any more, within ``seconds``."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        lines = (path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if _readable(path))
        if not any(marker.encode() in line for line in lines):
            return True
        time.sleep(0.05)
    return False


def _readable(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:
        return False


ABI = {"x86_64": "x86_64", "aarch64": "arm64-v8a"}.get(platform.machine(), "unknown")
PROPERTIES = {
    "ro.product.manufacturer": "Maker",
    "ro.product.model": "Stand-in 9",
    "ro.product.cpu.abi": ABI,
    "ro.product.cpu.abilist": f"{ABI},armeabi",
    "ro.soc.manufacturer": "Chips",
    "ro.soc.model": "C-1",
    "ro.build.version.release": "14",
    "ro.build.id": "AP1A",
    "ro.serialno": "standin",
}
TEXTS = {
    "dumpsys.thermalservice": (
        "IsStatusOverride: false\nThermal Status: 0\nCached temperatures:\n"
        "\tTemperature{mValue=30.0, mType=0, mName=CPU0, mStatus=0}\nHAL Ready: true\n"
        "Current temperatures from HAL:\n"
        "\tTemperature{mValue=41.5, mType=0, mName=CPU0, mStatus=0}\n"
        "\tTemperature{mValue=33.2, mType=3, mName=VIRTUAL-SKIN, mStatus=0}\n"
    ),
    "dumpsys.battery": (
        "Current Battery Service state:\n  AC powered: false\n  USB powered: true\n  Wireless powered: false\n"
        "  level: 85\n  scale: 100\n  temperature: 312\n  technology: Li-ion\n"
    ),
    "dumpsys.power": "POWER MANAGER (dumpsys power)\n  mWakefulness=Asleep\n  mIsPowered=true\n",
    "logcat": "",
}
