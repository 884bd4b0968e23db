"""Ways to a device: how a bundle gets there, and a worker is started there; what it says is the same everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from edgedeploy import errors
from edgedeploy.errors import EdgeDeployError


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

    def close(self) -> None:
        """Leave nothing running over there; a second call does nothing."""
        ...


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
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a group of its own: it can be ended with everything that it has started
        )

    def explain(self, status: int | None, words: str) -> EdgeDeployError | None:
        """Nothing lies between here and here."""
        return None

    def close(self) -> None:
        """Workers end with their job."""


def _environment() -> dict[str, str]:
    """Ours, with the folder that this edgedeploy was imported from in front: the worker has to run the same one."""
    root = str(Path(errors.__file__).resolve().parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
