"""A device over ssh, with the system's OpenSSH client: the user's keys, configuration and jump hosts, and no passwords.

Nothing has to be installed there but Python, numpy, and the runtime that is measured. What serves a request there
(`edgedeploy.bench.remote.there`) crosses as text; requests share one connection. What users decide is in their
``~/.ssh/config``. The command over there is the interpreter's path and a program that is always the same; all else
crosses as JSON.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from edgedeploy.bench.remote import there
from edgedeploy.bench.remote.address import Address
from edgedeploy.bench.remote.carry import Parcel, core, pack
from edgedeploy.bench.remote.ssh_words import last_line, refusal, requirements
from edgedeploy.bench.remote.transport import Broken, end, kind_of
from edgedeploy.errors import EdgeDeployError, RunFailed, Unavailable, UsageError
from edgedeploy.records import from_json

#: Seconds between two signs of life to what runs there, and without one until it ends there.
BEAT, LEASE = 5.0, 30.0
#: Seconds that what runs there has to end by itself.
GRACE = 3.0
#: Seconds until something is heard from what runs there, the way included; and bytes of one event at most.
PATIENCE, LONGEST = 120.0, 1 << 20
#: Where the socket of a connection is. Short: its path may have about a hundred characters.
SOCKETS = "/tmp"
#: What the other end tells of by itself; a worker tells more.
EVENTS = ("facts", "held", "ready", "received", "error")
#: Nobody is there to answer questions, and a dead line is noticed.
_OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "ClearAllForwardings": "yes",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "ControlPersist": "no",
}
#: Runs the program that follows on the input; any shell and any Python can read it. No quote, dollar or "!" in it.
_BOOT = (
    'import os,sys;sys.path=[p for p in sys.path if p];b=b"";'
    'sys.version_info<(3,11)and sys.exit("edgedeploy found Python "+sys.version.split()[0]);'
    'exec("while len(b)<{size}:b+=os.read(0,{size}-len(b))or sys.exit(9)");exec(b)'
)
_FOUND = re.compile(r"edgedeploy found Python (\S+)")
_EXTRA, _HERE = re.compile(r"pip install 'edgedeploy\[([\w-]+)\]'"), re.compile(r"\bhere\b")


@dataclass(frozen=True)
class Findings:
    """What was found at the other end.

    Args:
        python: version of the interpreter; ``executable`` is its path.
        managed: whether the system forbids to install packages for it.
        machine: architecture as ``uname -m`` says it.
        system: operating system and release.
        emulated: whether its processor is an emulator.
        cache: where parcels are kept; ``free`` the bytes left there.
        numpy: whether it has numpy.
        distributions: versions of the packages that were asked for, where installed.
    """

    python: str
    executable: str
    managed: bool
    machine: str
    system: str
    emulated: bool
    cache: str
    free: int
    numpy: bool
    distributions: Mapping[str, str]


@dataclass(eq=False)
class _Line:
    """An open connection: the process that holds it and the device, what was found, what is known to be there."""

    keeper: subprocess.Popen[bytes]
    found: Findings
    socket: str
    have: set[str] = field(default_factory=set)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def beat(self) -> None:
        """Tell what runs there that somebody is here, until the line is dropped."""
        while not self.ended.wait(BEAT):
            for process in (self.keeper, *self.running):
                with contextlib.suppress(OSError, ValueError):  # it has ended, and its pipe was closed
                    assert process.stdin is not None
                    process.stdin.write(b"\n")
                    process.stdin.flush()


class Ssh:
    """See `Transport`. Connects when that is first needed, and holds the device from then on until it is closed.

    Args:
        address: where.
        retries: how often, over all, a broken connection is made again.
        pause: seconds before the first of them; each further one waits twice as long.
    """

    def __init__(self, address: Address, retries: int = 3, pause: float = 2.0) -> None:
        self.address, self._left, self._pause = address, retries, pause
        self._line: _Line | None = None
        self._met = False

    @property
    def on(self) -> str:
        """The address, without its settings."""
        return str(self.address)

    def look(self, distributions: Iterable[str] = ()) -> Findings:
        """What is there, without holding it.

        Raises:
            Unavailable: the device cannot be reached, or has no Python that can be used.
        """
        return self._findings(self._ask({"verb": "look", "distributions": list(distributions)}, "facts"))

    def deliver(self, path: str) -> str:
        """See `Transport.deliver`."""
        parcel = pack(path)
        line = self._open()
        self._send(line, parcel)
        return f"{line.found.cache}/{parcel.digest}/{parcel.top}"

    def start(self, module: str) -> subprocess.Popen[bytes]:
        """See `Transport.start`. What runs there ends with this process and with the connection."""
        line = self._open()
        request = {"verb": "work", "module": module, "core": core().digest, "python": self.address.python}
        process = self._call(request, subprocess.PIPE, line.socket)
        line.running = [one for one in line.running if one.poll() is None] + [process]
        return process

    def explain(self, status: int | None, words: str) -> EdgeDeployError | None:
        """See `Transport.explain`."""
        if status is None:
            return None
        if status == 0:
            return Broken(f"The worker on {self.on} was ended: nothing was heard from here for {LEASE:g} s.")
        return self._refused(status, words)

    def locate(self, message: str) -> str:
        """See `Transport.locate`."""
        found = None if self._line is None else self._line.found
        python = self.address.python or "python3" if found is None else found.executable
        managed = found is not None and found.managed
        message = _EXTRA.sub(lambda match: install_line(requirements(match[1]), python, managed), message)
        return f"{self.on}: {_HERE.sub('there', message)}"

    def restore(self, reason: Broken) -> None:
        """See `Transport.restore`."""
        tries = 0
        while self._left > 0:
            self._left, tries = self._left - 1, tries + 1
            self.close()
            time.sleep(self._pause)
            self._pause *= 2
            try:
                self._open()
            except Broken as again:
                reason = again
            else:
                return
        raise Broken(f"{reason} It was tried {tries} times to connect again." if tries else str(reason)) from reason

    def close(self) -> None:
        """See `Transport.close`."""
        line, self._line = self._line, None
        if line is None:
            return
        line.ended.set()
        for process in line.running:
            end(process)
        assert line.keeper.stdin is not None
        with contextlib.suppress(OSError):
            line.keeper.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            line.keeper.wait(GRACE)
        end(line.keeper)
        shutil.rmtree(Path(line.socket).parent, ignore_errors=True)

    def _open(self) -> _Line:
        """The connection; where there is none, it is made: the device is held then, and has this edgedeploy."""
        if self._line is not None and self._line.keeper.poll() is None:
            return self._line
        self.close()
        folder = tempfile.mkdtemp(prefix="ed", dir=SOCKETS if os.access(SOCKETS, os.W_OK) else None)
        who = f"{_user()} from {socket.gethostname()}"
        request = {"verb": "hold", "distributions": [], "who": who, "wait": self.address.wait}
        with contextlib.ExitStack() as undo, tempfile.TemporaryFile() as words:
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            keeper = self._call(request, words, f"{folder}/s", master=True)
            undo.callback(end, keeper)
            found = self._findings(self._events(keeper, words, "held"))
            if not found.numpy:
                line = install_line(["numpy"], found.executable, found.managed)
                raise Unavailable(f"{self.on} has no numpy for {found.executable}. Install it there with: {line}")
            undo.pop_all()
        self._line, self._met = _Line(keeper, found, f"{folder}/s"), True
        threading.Thread(target=self._line.beat, daemon=True).start()
        self._send(self._line, core())
        return self._line

    def _findings(self, events: Iterable[dict[str, Any]]) -> Findings:
        facts = [event.get("facts") for event in events if event["event"] == "facts"]
        try:
            return from_json(Findings, facts[-1] if facts else None, "facts")
        except UsageError as error:
            raise RunFailed(f"What {self.on} says of itself cannot be read: {error}") from error

    def _send(self, line: _Line, parcel: Parcel) -> None:
        """Have ``parcel`` there."""
        if parcel.digest not in line.have:
            self._ask({"verb": "receive", "digest": parcel.digest, "files": parcel.files}, "received", parcel)
            line.have.add(parcel.digest)

    def _ask(self, request: Mapping[str, Any], last: str, parcel: Parcel | None = None) -> list[dict[str, Any]]:
        """The events that answer ``request``; ``last`` is the one that it ends well with.

        A ``parcel`` is sent where the other end says that it is ready for it.
        """
        events = []
        with tempfile.TemporaryFile() as words:
            process = self._call(request, words, None if self._line is None else self._line.socket)
            try:
                for event in self._events(process, words, last):
                    events.append(event)
                    if event["event"] == "ready" and parcel is not None:
                        threading.Thread(target=_feed, args=(process, parcel), daemon=True).start()
            finally:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE)
                end(process)
        return events

    def _call(
        self, request: Mapping[str, Any], stderr: int | IO[bytes], socket: str | None, master: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start a request over there; where ``master``, the ones that come later go through its connection."""
        options = _OPTIONS | {"ControlMaster": "yes" if master else "no", "ControlPath": socket or "none"}
        settings = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        program = _program()
        boot = f"exec {self.address.interpreter} -c '{_BOOT.format(size=len(program))}'"
        try:
            process = subprocess.Popen(
                ["ssh", "-T", *settings, *self.address.arguments, boot],
                env={**os.environ, "LC_ALL": "C"},  # its words are read
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise Unavailable(
                f"{self.on} cannot be reached: there is no ssh here. Install it with: apt install openssh-client"
            ) from None
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its end will tell
            process.stdin.write(program + json.dumps({**request, "lease": LEASE}).encode() + b"\n")
            process.stdin.flush()
        return process

    def _events(self, process: subprocess.Popen[bytes], words: IO[bytes], last: str) -> Iterator[dict[str, Any]]:
        """What the other end tells, up to the event ``last``.

        Raises:
            EdgeDeployError: it refused, ended before, or told nothing for too long; files may then take their time.
        """
        assert process.stdout is not None
        limit, late = PATIENCE + self.address.wait, threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(min(limit, threading.TIMEOUT_MAX), give_up)
        timer.daemon = True
        timer.start()
        try:
            for text in iter(functools.partial(process.stdout.readline, LONGEST), b""):
                event = _event(text)
                if event is None:
                    continue
                if event["event"] == "error":
                    raise kind_of(event.get("kind"))(f"{self.on} {event.get('message')}")
                if event["event"] == "ready":
                    timer.cancel()
                yield event
                if event["event"] == last:
                    return
        finally:
            timer.cancel()
        status = process.wait()
        if late.is_set():
            by_hand = self.address.by_hand
            raise Unavailable(f"{self.on} said nothing for {limit:g} s: look what keeps it, with: ssh {by_hand}")
        words.seek(0)
        raise self._refused(status, words.read().decode("utf-8", "replace"))

    def _refused(self, status: int, words: str) -> EdgeDeployError:
        """What the end of ssh with ``status`` means: 255 is its own, others are those of what ran there."""
        python = self.address.python or "python3"
        how = "Install Python 3.11 or newer there, or name one in the address: ?python=~/venv/bin/python"
        older = _FOUND.search(words)
        if status == 255 and self._met:
            return Broken(f"The connection to {self.on} broke: it {refusal(words, self.address)}")
        if status == 255:
            return Unavailable(f"{self.on} {refusal(words, self.address)}")
        if older is not None:
            return Unavailable(f"{self.on} has only Python {older[1]} as {python}. {how}")
        if status in (126, 127):
            return Unavailable(f"{self.on} has no {python} that can be run. {how}")
        said = last_line(words)
        return RunFailed(f"The other end of {self.on} ended with status {status}{f': {said}' if said else '.'}")


@functools.cache
def _program() -> bytes:
    return Path(there.__file__).read_bytes()


def _event(text: bytes) -> dict[str, Any] | None:
    """The event that a line is; else it is what a start-up file there has printed."""
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and event.get("event") in EVENTS else None


def install_line(packages: Sequence[str], python: str, managed: bool) -> str:
    """What installs ``packages`` for the interpreter ``python`` of a device; ``managed``: its system forbids that."""
    words, python = " ".join(map(shlex.quote, packages)), shlex.quote(python)
    if not managed:
        return f"{python} -m pip install {words}"
    new = "~/edgedeploy"  # with what the system has, such as the bindings of a board's own runtime
    more = "" if "numpy" in packages else "numpy "
    return (
        f"{python} -m venv --system-site-packages {new} && {new}/bin/pip install {more}{words}; "
        f"then add ?python={new}/bin/python to the address"
    )


def _user() -> str:
    """Who is here; in a container, a number may be nobody."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _feed(process: subprocess.Popen[bytes], parcel: Parcel) -> None:
    """Send the files, and no more: where one cannot be read, the other end tells what it misses."""
    assert process.stdin is not None
    with contextlib.suppress(OSError, ValueError), process.stdin:
        for chunk in parcel.stream():
            process.stdin.write(chunk)
