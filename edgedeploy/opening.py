"""Opening what was exported on this machine: with its own runtime, or, where that is not here, in rehearsal.

An engine for a Jetson runs on a Jetson. The typed graph that it is built from runs everywhere, and computes nearly the
same: a rehearsal. Whoever gets a session of one can tell by its facts, and the harness does not time it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgedeploy import plugins
from edgedeploy.artifact import Artifact
from edgedeploy.errors import Unavailable
from edgedeploy.runtime import Carrying, Outputs, Runtime, Session
from edgedeploy.tensors import Array, Signature


@dataclass(frozen=True)
class Opener:
    """How the files of one artifact are opened: its ``runtime`` and its ``rehearsal``, both by entry-point name."""

    runtime: str
    rehearsal: str | None = None
    threads: int | None = None

    @classmethod
    def of(cls, artifact: Artifact, threads: int | None = None) -> Opener:
        """The opener of a bundle."""
        return cls(artifact.manifest.exporter.runtime, artifact.manifest.exporter.rehearsal, threads)

    def preload(self) -> None:
        """Import what will run the files.

        Raises:
            Unavailable: neither the runtime nor a rehearsal is here.
        """
        try:
            self._find(self.runtime).preload()
        except Unavailable:
            if self.rehearsal is None:
                raise
            self._find(self.rehearsal).preload()

    def open(self, files: Mapping[str, Path], signatures: Mapping[str, Signature], tapped: bool = False) -> Session:
        """A session of the artifact's own runtime, else of its rehearsal.

        Args:
            files: graph files by graph name.
            signatures: of the graphs.
            tapped: with the outputs of modules, see `Runtime.open_tapped`.

        Raises:
            Unavailable: neither is here.
            Incompatible, RunFailed: see `Runtime.open`.
        """
        try:
            return self._open(self.runtime, files, signatures, tapped)
        except Unavailable as error:
            if self.rehearsal is None:
                raise
            return Rehearsal(self._open(self.rehearsal, files, signatures, tapped), self.runtime, str(error))

    def _open(self, name: str, files: Mapping[str, Path], signatures: Mapping[str, Signature], tapped: bool) -> Session:
        runtime = self._find(name)(threads=self.threads)
        return runtime.open_tapped(files, signatures) if tapped else runtime.open(files, signatures)

    @staticmethod
    def _find(name: str) -> type[Runtime]:
        found: type[Runtime] = plugins.find(plugins.RUNTIMES, name)
        return found


class Rehearsal:
    """A session that stands in for another runtime's; its facts say so, and why."""

    def __init__(self, session: Session, runtime: str, reason: str) -> None:
        self._session = session
        stands_in = f"{session.facts['runtime']} on the files that {runtime} is built from"
        self._facts = {**session.facts, "emulated": stands_in, "reason": reason}

    @property
    def facts(self) -> Mapping[str, str | int | float]:
        """Those of the session that runs, and ``emulated``: whom it stands in for."""
        return self._facts

    def run(self, inputs: Mapping[str, Array], graph: str = "main") -> Outputs:
        """See `Session.run`."""
        return self._session.run(inputs, graph)

    def reset(self) -> None:
        """See `Session.reset`."""
        self._session.reset()

    def state(self) -> dict[str, Array]:
        """See `Carrying.state`."""
        return self._carrying().state()

    def restore(self, state: Mapping[str, Array]) -> None:
        """See `Carrying.restore`."""
        self._carrying().restore(state)

    def _carrying(self) -> Carrying:
        if not isinstance(self._session, Carrying):
            raise Unavailable(f"{self._session.facts['runtime']} keeps its state to itself.")
        return self._session

    def close(self) -> None:
        """See `Session.close`."""
        self._session.close()


def open_artifact_here(artifact: Artifact, threads: int | None = None) -> Session:
    """A session of a bundle on this machine, in rehearsal where its own runtime is not here.

    Raises:
        Unavailable, Incompatible, RunFailed: see `Opener.open`.
    """
    return Opener.of(artifact, threads).open(artifact.files, artifact.signatures)


def described(session: Session) -> str:
    """Who computes, in words: the runtime and its version, or what it is emulated by."""
    facts = session.facts
    return str(facts.get("emulated") or f"{facts['runtime']} {facts['version']}")
