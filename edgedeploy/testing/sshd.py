"""A real sshd as a device for tests: on a free port of 127.0.0.1, with keys, configuration and a cache of its own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgedeploy.bench.remote.address import Address
from edgedeploy.errors import Unavailable

NEEDED = ("sshd", "ssh", "ssh-keygen")


def find(program: str) -> str | None:
    """Also where servers are kept."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@dataclass
class Sshd:
    """The server: what it keeps is below ``root``, and ``python`` is the device's interpreter."""

    root: Path
    port: int
    python: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def cache(self) -> Path:
        """Where parcels are kept there."""
        return self.root / "there" / "cache" / "edgedeploy" / "carried"

    @property
    def lock(self) -> Path:
        """The lock of the device."""
        return self.root / "there" / "lock"

    def address(self, python: str | None = None, wait: float = 0.0) -> Address:
        """Of the device."""
        return Address("127.0.0.1", pwd.getpwuid(os.getuid()).pw_name, self.port, python or self.python, wait)

    def configure(self, **variables: str) -> None:
        """Write its configuration; ``variables`` are in the environment of what it starts."""
        root = self.root
        ours = {"XDG_CACHE_HOME": f"{root}/there/cache", "EDGEDEPLOY_LOCK": str(self.lock), "DEVICE": str(root)}
        settings = " ".join(
            f'"{name}={value}"' for name, value in {**ours, "OMP_NUM_THREADS": "1", **variables}.items()
        )
        (root / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {root}/host\nPidFile {root}/pid\n"
            f"AuthorizedKeysFile {root}/authorized_keys\nPermitRootLogin prohibit-password\nStrictModes no\n"
            f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nSetEnv {settings}\n"
        )

    def start(self) -> None:
        """Listen."""
        log = (self.root / "sshd.log").open("ab")
        command = [find("sshd") or "sshd", "-D", "-e", "-f", str(self.root / "sshd_config")]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                if probe.recv(4) == b"SSH-":
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        text = (self.root / "sshd.log").read_text("utf-8", "replace")
        self.stop()
        raise Unavailable(f"sshd cannot run here: {text.strip()[-300:]}")

    def kill(self) -> None:
        """End it as a crash does: the listener, and the processes of its connections."""
        assert self.process is not None
        for pid in (self.process.pid, *servers_of(self.process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """End it if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.kill()


def servers_of(listener: int) -> list[int]:
    """The sshd processes that serve connections of ``listener``."""
    found = []
    for pid in descendants(listener):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().startswith("sshd"):
                found.append(pid)
    return found


def descendants(parent: int) -> list[int]:
    """Children of a process, and theirs."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                after_name = (path / "stat").read_text().rpartition(")")[2].split()
                if int(after_name[1]) == parent:
                    found += [int(path.name), *descendants(int(path.name))]
    return found


def marked(mark: str) -> list[str]:
    """Command lines of the processes that have ``mark`` in their environment, this one and dead ones left out."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark.encode() in (path / "environ").read_bytes():
                    found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
    return found


def free_port() -> int:
    """One that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def serve(root: Path, python: str) -> Iterator[Sshd]:
    """A server with everything of its own below ``root``; ``root/bin`` has an ssh that is configured for it.

    Raises:
        Unavailable: there is no sshd, or it cannot run here.
    """
    missing = [name for name in NEEDED if find(name) is None]
    if missing:
        raise Unavailable(f"{', '.join(missing)}: not here. Install with: apt install openssh-server openssh-client")
    root.chmod(0o700)
    for name in ("there", "bin"):
        (root / name).mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / name)], check=True)
    shutil.copy(root / "user.pub", root / "authorized_keys")
    sshd = Sshd(root, free_port(), python)
    sshd.configure()
    host = (root / "host.pub").read_text().split()
    (root / "known").write_text(f"[127.0.0.1]:{sshd.port} {host[0]} {host[1]}\n")
    (root / "config").write_text(
        f"UserKnownHostsFile {root}/known\nGlobalKnownHostsFile /dev/null\nIdentityFile {root}/user\n"
        "IdentitiesOnly yes\nIdentityAgent none\n"
    )
    client = root / "bin" / "ssh"  # as if its configuration were the user's own
    client.write_text(f'#!/bin/sh\nexec {find("ssh")} -F {root}/config "$@"\n')
    client.chmod(0o755)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    sshd.start()
    try:
        yield sshd
    finally:
        sshd.stop()
