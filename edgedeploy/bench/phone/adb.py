"""An Android device over adb: found, locked, files brought there once by digest, and commands that end with their way.

The client is the system's own ``adb`` (with its keys, its server and ``ANDROID_ADB_SERVER_PORT``). What is brought
lies in `ROOT` there, one folder per content: ``<digest>/NAME``. A folder is written under another name, checked there
and renamed. A program there lives as long as its standard input: when the cable goes, it is killed by the device.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import selectors
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgedeploy.errors import EdgeDeployError, RunFailed, Unavailable, UsageError
from edgedeploy.model import file_digest
from edgedeploy.records import canonical
from edgedeploy.units import show

#: Where files are kept on a device: a folder that the shell's user may write and run programs in.
ROOT = "/data/local/tmp/edgedeploy"
SCHEME = "adb://"
#: Seconds that a short command may take, that a MiB may take to travel, and that a killed program may take to end.
SHORT, PER_MIB, ENDING = 60.0, 2.0, 10.0
#: Bytes that a program may print; one that never ends would fill the memory here.
LOUDEST = 1 << 28
#: What follows a command's output: without it, the way has broken.
_END = "edgedeploy-status:"

#: States of ``adb devices``, and what to do about each.
_STATES = {
    "unauthorized": "does not trust this computer yet: unlock it, confirm 'Allow USB debugging', and try again",
    "authorizing": "has not yet said whether it trusts this computer: confirm 'Allow USB debugging' and try again",
    "connecting": "is still connecting: try again in a moment",
    "offline": "is offline, adb gets no answer from it: plug it in again, or run 'adb reconnect offline'",
    "no permissions": "may not be opened by this user: add the udev rule of its maker, or the user to 'plugdev'",
    "recovery": "is in recovery mode: start Android on it",
    "sideload": "is in sideload mode: start Android on it",
    "bootloader": "is in its bootloader: start Android on it",
}


@dataclass(frozen=True)
class Said:
    """What a command on the device ended with, and all that it printed (standard error included)."""

    status: int
    text: str


@dataclass(frozen=True)
class AdbDevice:
    """One device that adb reaches. ``on`` is how people write it: ``adb://SERIAL`` or ``adb://HOST:PORT``."""

    serial: str

    @classmethod
    def find(cls, on: str) -> AdbDevice:
        """The device of ``adb://SERIAL``, ``adb://HOST:PORT``, or the only one of ``adb://``.

        Raises:
            UsageError: ``on`` is not written so.
            Unavailable: adb is missing, or there is no such device, or several, or it cannot be used now.
        """
        if not on.startswith(SCHEME) or re.search(r"[\s'\"]", on):
            raise UsageError(f"'{on}' is no device over adb: write adb://SERIAL, adb://HOST:PORT, or adb:// alone.")
        serial = on.removeprefix(SCHEME).rstrip("/")
        if re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:]+):\d+", serial):
            if _devices().get(serial) == "offline":  # a way that broke: adb would call it connected already
                _client(["disconnect", serial], SHORT)
            _connect(serial)
        return cls(_choose(serial, _devices()))

    @property
    def on(self) -> str:
        """As people write it."""
        return SCHEME + self.serial

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While this lasts, nobody else on this computer measures on the device; leftovers of a crash are removed.

        Raises:
            Unavailable: somebody else does, or there is no place for the lock.
        """
        import fcntl

        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgedeploy" / "locks"
        name = hashlib.sha256(self.serial.encode()).hexdigest()[:16]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / f"adb-{name}.lock").open("w")
        except OSError as error:
            raise Unavailable(
                f"{folder} cannot be written ({error.strerror}): set XDG_CACHE_HOME to what can."
            ) from None
        with file as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Unavailable(f"Another process measures on {self.on} now: wait until it is done.") from None
            self.shell(f"mkdir -p {ROOT} && cd {ROOT} && rm -rf ./*.part ./run-*")
            yield

    def shell(self, command: str, limit: float = SHORT) -> Said:
        """What a short command ends with, within ``limit`` seconds.

        Raises:
            RunFailed: the device went away, or the command did not end.
        """
        return self.run(command, "", limit)

    def run(self, command: str, after: str, limit: float, tick: Callable[[float], None] = lambda seconds: None) -> Said:
        """Run ``command`` there, which is killed with everything of it when the way breaks or this is interrupted.

        Args:
            command: for ``sh``; a program in it is to be started with ``exec``.
            after: run afterwards whatever became of it, also when it was killed; ``$r`` is its process.
            limit: seconds after which it is killed.
            tick: told the seconds since the start, about every second.

        Raises:
            RunFailed: the device went away, or ``command`` took longer than ``limit``, or printed without end.
        """
        began = time.monotonic()
        child = subprocess.Popen(
            [_adb(), "-s", self.serial, "shell", _guarded(command, after)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # an interrupt is for us: we end it in order
        )
        heard = bytearray()
        try:
            if not _listen(child, heard, began + limit, lambda: tick(time.monotonic() - began)):
                loud = len(heard) > LOUDEST
                what = f"printed more than {show(LOUDEST, 'B')}" if loud else f"took longer than {limit:.0f} s"
                raise RunFailed(f"What was started on {self.on} {what} and was killed there.")
        finally:
            _let_go(child, heard)
        text, mark, status = heard.decode("utf-8", "replace").replace("\r\n", "\n").rpartition(_END)
        if not mark or not re.fullmatch(r"\d{1,3}\s*", status, re.ASCII):
            raise self._broken(heard.decode("utf-8", "replace"))
        return Said(int(status), text)

    def deliver(self, files: Mapping[str, Path], executable: bool = False) -> str:
        """The folder there that has ``files`` by name; it travels only where none of this content is there.

        Raises:
            Unavailable: there is no room.
            RunFailed: the device went away, or what arrived is not what was sent.
        """
        digests = {name: file_digest(path) for name, path in sorted(files.items())}
        folder = f"{ROOT}/{hashlib.sha256(canonical([digests, executable])).hexdigest()[:32]}"
        if self._holds(folder, digests):
            return folder
        part = f"{folder}.{secrets.token_hex(4)}.part"
        try:
            self._made(self.shell(f"rm -rf {folder} && mkdir -p {part}"), "make a folder")
            for name, path in files.items():
                self._push(path, f"{part}/{name}")
            if not self._holds(part, digests):
                raise RunFailed(f"What arrived on {self.on} is not what was sent: check the cable, and try again.")
            mode = f"chmod 755 {part}/* && " if executable else ""
            self._made(self.shell(f"{mode}mv {part} {folder}"), "rename a folder")
        except BaseException:
            with contextlib.suppress(EdgeDeployError):  # where it is away, the next one there removes it
                self.shell(f"rm -rf {part}", ENDING)
            raise
        return folder

    def _holds(self, folder: str, digests: Mapping[str, str]) -> bool:
        names = " ".join(shlex.quote(name) for name in digests)
        said = self.shell(f"cd {folder} 2>/dev/null && sha256sum {names}", SHORT * 2)
        if said.status == 127:
            raise Unavailable(f"{self.on} has no sha256sum, which Android has from version 6 on: it is too old.")
        return re.findall(r"^\\?([0-9a-f]{64})\b", said.text, re.MULTILINE) == list(digests.values())

    def _push(self, path: Path, there: str) -> None:
        size = path.stat().st_size
        said = _client(["-s", self.serial, "push", str(path.absolute()), there], SHORT + PER_MIB * size / 2**20)
        if said.status == 0:
            return
        if re.search(r"no space left|not enough space|disk quota", said.text, re.IGNORECASE):
            raise Unavailable(
                f"{self.on} has no room for {path.name} ({show(size, 'B')}) in {ROOT}: make room there and try again."
            )
        raise self._broken(said.text)

    def _made(self, said: Said, what: str) -> None:
        if said.status == 0:
            return
        words = _last(said.text)
        if "No space left" in said.text:
            raise Unavailable(f"{self.on} has no room in {ROOT}: make room there and try again.")
        raise RunFailed(f"{self.on} could not {what} in {ROOT}: {words}.")

    def _broken(self, words: str) -> RunFailed:
        last = _last(words)
        state = _devices().get(self.serial, "gone")
        why = "it is connected again" if state == "device" else f"adb calls it {state} now"
        return RunFailed(f"The way to {self.on} broke ({last}; {why}): plug it in again, and start again.")


# --- the client ----------------------------------------------------------------------------------------------------


def _adb() -> str:
    found = shutil.which("adb")
    if found is None:
        raise Unavailable(
            "adb is not installed here. Install it with: apt-get install adb (or Android's platform tools)"
        )
    return found


def _client(arguments: list[str], limit: float) -> Said:
    """What the client says, its own failures included.

    Raises:
        Unavailable: it did not end.
    """
    try:
        done = subprocess.run(
            [_adb(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"adb {arguments[0]} said nothing for {limit:.0f} s: run 'adb kill-server'.") from None
    return Said(done.returncode, done.stdout.decode("utf-8", "replace"))


def _devices() -> dict[str, str]:
    """State by serial, of every device that adb sees."""
    said = _client(["devices"], SHORT)
    if said.status != 0:
        raise Unavailable(f"adb does not work here ({_last(said.text)}): try 'adb kill-server' and 'adb devices'.")
    lines = said.text.partition("List of devices attached")[2].splitlines()
    found = (re.match(r"(\S+)\s+(no permissions|\S+)", line) for line in lines)
    return {one[1]: one[2] for one in found if one}


def _connect(address: str) -> None:
    said = _client(["connect", address], SHORT)
    if "connected to" in said.text and "failed" not in said.text and "cannot" not in said.text:
        return
    if "failed to authenticate" in said.text:
        raise _unusable(address, "unauthorized")
    raise Unavailable(f"adb cannot reach {SCHEME}{address} ({_last(said.text)}): is debugging over the network on?")


def _choose(serial: str, devices: Mapping[str, str]) -> str:
    if serial and serial not in devices:
        there = f"adb sees {', '.join(sorted(devices))}" if devices else "adb sees no device"
        raise Unavailable(f"There is no device '{serial}': {there}. Plug it in and allow USB debugging on it.")
    if not devices:
        raise Unavailable("adb sees no device: plug one in and allow USB debugging, or write adb://HOST:PORT.")
    ready = sorted(name for name, state in devices.items() if state == "device")
    if not serial and len(ready) > 1:
        raise Unavailable(f"adb sees {len(ready)} devices: say which, as in {' or '.join(SCHEME + n for n in ready)}.")
    chosen = serial or (ready or sorted(devices))[0]
    if devices[chosen] != "device":
        raise _unusable(chosen, devices[chosen])
    return chosen


def _unusable(serial: str, state: str) -> Unavailable:
    return Unavailable(f"The device {serial} {_STATES.get(state, f'is in the state {state!r}: start Android on it')}.")


def _guarded(command: str, after: str) -> str:
    """``command`` as the shell there is to run it: killed when standard input ends, its status told at the end.

    The watcher reads from the way's standard input, of which nothing ever comes but its end. Hang-ups are ignored, so
    that ``after`` is run also when nobody listens any more.
    """
    return (
        f"exec 2>&1; trap '' HUP PIPE; exec 3<&0; (\n{command}\n) </dev/null 3<&- & r=$!; "
        "( read -r x <&3; kill -9 $r ) >/dev/null 2>&1 & w=$!; exec 3<&-; "
        f"wait $r 2>/dev/null; s=$?; kill $w 2>/dev/null; {after or ':'}\n echo; echo {_END}$s"
    )


def _listen(child: subprocess.Popen[bytes], heard: bytearray, deadline: float, tick: Callable[[], None]) -> bool:
    """Gather what it prints until it ends; false where that is after ``deadline``, or more than `LOUDEST`."""
    assert child.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while time.monotonic() < deadline and len(heard) <= LOUDEST:
            if selector.select(max(0.0, min(1.0, deadline - time.monotonic()))):
                chunk = os.read(child.stdout.fileno(), 1 << 16)
                if not chunk:
                    return True
                heard += chunk
            tick()
    return False


def _let_go(child: subprocess.Popen[bytes], heard: bytearray) -> None:
    """Close its standard input, which ends what runs there, wait for that, and end the client."""
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(OSError):
        child.stdin.close()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            _listen(child, heard, time.monotonic() + ENDING, lambda: None)
            child.wait(timeout=1)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def _last(text: str) -> str:
    """The last line of what was said, without its prefix."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and _END not in line]
    return lines[-1].removeprefix("adb: ").removeprefix("error: ").rstrip(".") if lines else "it said nothing"
