"""Ways to a device: how a bundle gets there, and a worker is started there; what it says is the same everywhere."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import Protocol

from edgedeploy import errors, inherit
from edgedeploy.errors import EdgeDeployError, RunFailed, UsageError, did_you_mean


class Broken(RunFailed):
    """The way to the device broke. What ran there is lost and gone; it can be run again after `Transport.restore`."""


_SCHEMES = ("adb", "local", "ssh")


def kind_of(name: object) -> type[EdgeDeployError]:
    """The error of ours that the other end has named; `RunFailed` where it is none."""
    kind = getattr(errors, str(name), None)
    return kind if isinstance(kind, type) and issubclass(kind, EdgeDeployError) else RunFailed


class Transport(Protocol):
    """A way to one device. The worker protocol (see `edgedeploy.bench.worker`) runs over the pipes of `start`."""

    @property
    def on(self) -> str:
        """The way as people write it: ``local``, ``ssh://user@host:port``."""
        ...

    def deliver(self, path: str) -> str:
        """The path of a bundle (or of samples) over there; it travels only if what is there has another digest.

        Raises:
            Unavailable, RunFailed: the device cannot be reached, or has no room; nothing half-written is left there.
        """
        ...

    def start(self, module: str) -> subprocess.Popen[bytes]:
        """``python -m module`` over there, with three pipes, in a process group of its own."""
        ...

    def explain(self, status: int | None, words: str) -> EdgeDeployError | None:
        """What the end of a started process means, where it was the way that failed and not the worker.

        Args:
            status: its exit status; ``None`` where it was silent for too long.
            words: the last that it wrote for people.
        """
        ...

    def locate(self, message: str) -> str:
        """What somebody over there has to say, so that it is understood here: where, and what to do there."""
        ...

    def restore(self, reason: Broken) -> None:
        """Make the way usable again after ``reason``.

        Raises:
            Broken, Unavailable: it cannot be, or has been too often.
        """
        ...

    def close(self) -> None:
        """Leave nothing running over there; a second call does nothing."""
        ...


def way_to(text: str) -> Transport:
    """The way that ``text`` describes, to be closed in the end; nothing is connected yet.

    Args:
        text: ``local``, or ``ssh://[user@]host[:port]``; see `edgedeploy.bench.remote.ssh.Address` for what may follow.

    Raises:
        UsageError: it describes none.
    """
    scheme, separator, _ = text.partition("://")
    if text == Local.on:
        return Local()
    if separator and scheme == "ssh":
        from edgedeploy.bench.remote.address import Address
        from edgedeploy.bench.remote.ssh import Ssh

        return Ssh(Address.parse(text))
    if separator and scheme == "adb":  # no Python runs there: `edgedeploy.bench.phone` has its runners
        raise UsageError(f"{text} has no Python that a worker could run in; phones run the runner of their profile.")
    raise UsageError(f"'{text}' is no way to a device: write local or ssh://user@host.{did_you_mean(scheme, _SCHEMES)}")


class Local:
    """Here: the machine that this process runs on."""

    on = "local"

    def deliver(self, path: str) -> str:
        """As it is."""
        return path

    def start(self, module: str) -> subprocess.Popen[bytes]:
        """A child of this process."""
        return subprocess.Popen(
            [sys.executable, "-P", "-m", module],  # -P: files of the working directory are no modules
            env=inherit.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a group of its own: it can be ended with everything that it has started
        )

    def explain(self, status: int | None, words: str) -> EdgeDeployError | None:
        """Nothing lies between here and here."""
        return None

    def locate(self, message: str) -> str:
        """As it is."""
        return message

    def restore(self, reason: Broken) -> None:
        """Never asked for."""
        raise reason

    def close(self) -> None:
        """Workers end with their job."""


def end(process: subprocess.Popen[bytes]) -> None:
    """Make sure that a process which `Transport.start` made is gone, with all that it started here; close its pipes."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
