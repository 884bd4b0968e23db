"""A stream through a model: sound goes in piece by piece, answers come out as soon as there are any.

A `Stream` joins what the host does (a task's `Feed`) and what the graph does (a `Session`, which carries the state).
It can be stopped: `Stream.save` gives all that the next step depends on, and `Stream.resume` goes on from there to the
bit, in this process or in another.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

from edgedeploy.archive import open_artifact
from edgedeploy.artifact import Artifact
from edgedeploy.errors import Incompatible, Unavailable, UsageError
from edgedeploy.opening import open_artifact_here
from edgedeploy.records import canonical
from edgedeploy.runtime import Carrying, Session
from edgedeploy.tasks import from_contract
from edgedeploy.tasks.raw import Raw
from edgedeploy.tasks.task import STREAM, Feed, Task
from edgedeploy.tensors import Array, Signature

Result = TypeVar("Result")

#: Bytes of a saved state at most: those of the largest networks that stream are a thousandth of it.
LIMIT = 64 << 20
SCHEMA = 1

_RECORD, _GRAPH, _FEED = "record", "graph/", "feed/"


@runtime_checkable
class Resumable(Feed, Protocol):
    """A feed that can go on elsewhere."""

    def state(self) -> dict[str, Array]:
        """What later steps still need of what was pushed; copies."""
        ...

    def restore(self, state: Mapping[str, Array]) -> None:
        """Go on from a `state`.

        Raises:
            UsageError: it is not one of a feed like this; nothing is changed then.
        """
        ...


@dataclass(frozen=True)
class Identity:
    """Whose state it is: the bundle's name, and a digest of what decides the answers."""

    name: str = ""
    digest: str = ""

    @classmethod
    def of(cls, artifact: Artifact, graph: str = STREAM) -> Identity:
        """Of a graph of a bundle: its files and the task. When it was exported does not count, nor its other graphs."""
        files = {name: record.sha256 for name, record in artifact.members(graph).items()}
        content = canonical([graph, files, artifact.manifest.task])
        return cls(artifact.manifest.name, hashlib.sha256(content).hexdigest())


@dataclass(frozen=True, eq=False)
class StreamState:
    """All that the next step of a stream depends on.

    Args:
        identity: of the bundle that it belongs to, and to no other.
        graph: the state of the session, by the names of `StateSpec.input`.
        feed: the state of the host's side, see `Resumable`.
        context: JSON values of whoever drives the stream.
    """

    identity: Identity
    graph: Mapping[str, Array]
    feed: Mapping[str, Array]
    context: Mapping[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write one .npz file, whole or not at all; what was there is replaced."""
        record = {"schema": SCHEMA, "name": self.identity.name, "digest": self.identity.digest, "context": self.context}
        arrays: dict[str, Array] = {_RECORD: np.frombuffer(canonical(record), np.uint8)}
        for prefix, tensors in ((_GRAPH, self.graph), (_FEED, self.feed)):
            arrays |= {prefix + name: tensor for name, tensor in tensors.items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]  # the names are ours
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(buffer.getbuffer())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: Path) -> StreamState:
        """The state in a file that `write` made. Nothing is unpickled, and every byte that counts is checked.

        Raises:
            UsageError: it is missing, damaged, or something else.
            Incompatible: a newer edgedeploy wrote it.
        """
        arrays = _arrays(path)
        try:
            record = json.loads(arrays.pop(_RECORD).tobytes())
            schema, context = int(record["schema"]), dict(record["context"])
            identity = Identity(str(record["name"]), str(record["digest"]))
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise UsageError(f"{path} is not the saved state of a stream.") from error
        if schema > SCHEMA:
            raise Incompatible(f"{path} was saved by a newer edgedeploy. Upgrade with: pip install -U edgedeploy")
        for name, array in arrays.items():
            if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
                raise UsageError(f"{path} is damaged: {name} holds what is no number. Start the stream again.")
        graph, feed = ({n.removeprefix(p): a for n, a in arrays.items() if n.startswith(p)} for p in (_GRAPH, _FEED))
        return cls(identity, graph, feed, context)


def _arrays(path: Path) -> dict[str, Array]:
    """Every array of an uncompressed .npz file."""
    try:
        if path.is_file() and path.stat().st_size > LIMIT:
            raise UsageError(f"{path} is {path.stat().st_size} bytes, and no saved state has more than {LIMIT}.")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: it is to be the saved state of a stream.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(raw):
                    raise ValueError("a member is not as it was written")
                content = io.BytesIO(archive.read(info))  # whole, so that its checksum is verified
                arrays[info.filename.removesuffix(".npy")] = np.lib.format.read_array(content, allow_pickle=False)
    except (
        zipfile.BadZipFile,
        OSError,
        EOFError,
        ValueError,
        KeyError,
        RuntimeError,
        MemoryError,
        struct.error,
    ) as error:
        raise UsageError(f"{path} is not the saved state of a stream, or is damaged ({error}).") from error
    return arrays


class Stream(Generic[Result]):
    """One stream through a session; the session is the stream's own from here on.

    Args:
        task: what makes steps of pieces, and results of outputs.
        session: opened, with a graph that takes steps.
        signature: of that graph.
        graph: its name.
        identity: of the bundle, for `save`; without one a state fits only streams without one.

    Raises:
        UsageError: the task takes samples one by one, and no stream.
        Unavailable: what the features need is not installed.
    """

    def __init__(
        self,
        task: Task[Result],
        session: Session,
        signature: Signature,
        graph: str = STREAM,
        identity: Identity | None = None,
    ) -> None:
        self.task, self.session, self.identity = task, session, identity or Identity()
        self._graph = graph
        self._inputs = [spec.name for spec in signature.inputs]
        self._outputs = [spec.name for spec in signature.outputs]
        self._feed = task.feed()
        self._ended = False
        session.reset()

    def push(self, piece: Array) -> list[Result]:
        """The answers that the next piece brings, oldest first: one for each step after which something is known.

        Raises:
            UsageError: the piece is not of the kind that the task takes, or the stream has ended.
            RunFailed: the runtime gave up; `reset` before the next stream.
        """
        self._check_open("take more")
        return self._run(self._feed.push(piece))

    def finish(self) -> list[Result]:
        """The answers that were still waiting for what comes next, now that nothing does.

        Raises:
            UsageError: the stream has ended already, or was too short for any answer.
            RunFailed: the runtime gave up.
        """
        self._check_open("end again")
        self._ended = True
        return self._run(self._feed.finish())

    def reset(self) -> None:
        """Forget all: the next piece is the first of another stream."""
        self._feed.reset()
        self.session.reset()
        self._ended = False

    def save(self, context: Mapping[str, Any] | None = None) -> StreamState:
        """What `resume` goes on from; the stream itself goes on as if nothing had been.

        Args:
            context: JSON values to keep with it.

        Raises:
            UsageError: the stream has ended.
            Unavailable: this backend keeps its state to itself.
        """
        self._check_open("be gone on with")
        session, feed = self._carriers(self._feed)
        return StreamState(self.identity, session.state(), feed.state(), dict(context or {}))

    def resume(self, state: StreamState) -> None:
        """Go on where ``state`` was saved, whatever was pushed here before.

        Raises:
            Incompatible: it is the state of another bundle.
            UsageError: it does not fit; the stream is then as it was.
            Unavailable: this backend keeps its state to itself.
        """
        if state.identity.digest != self.identity.digest:
            names = [f"'{i.name}' ({i.digest[:12] or 'no digest'})" for i in (state.identity, self.identity)]
            raise Incompatible(
                f"The saved state belongs to the bundle {names[0]}, and this is {names[1]}: "
                "go on with the one that it was saved with, or start the stream again."
            )
        session, feed = self._carriers(self.task.feed())
        feed.restore(state.feed)
        session.restore(state.graph)
        self._feed, self._ended = feed, False

    def close(self) -> None:
        """Close the session."""
        self.session.close()

    def _run(self, steps: Sequence[tuple[Array, ...]]) -> list[Result]:
        answers = []
        for tensors in steps:
            outputs = self.session.run(dict(zip(self._inputs, tensors, strict=True)), self._graph)
            answer = self.task.heard([outputs[name] for name in self._outputs])
            if answer is not None:
                answers.append(answer)
        return answers

    def _check_open(self, what: str) -> None:
        if self._ended:
            raise UsageError(f"The stream has ended and cannot {what}: reset it, and the next piece begins another.")

    def _carriers(self, feed: Feed) -> tuple[Carrying, Resumable]:
        if not isinstance(self.session, Carrying):
            runtime = self.session.facts.get("runtime", "this backend")
            raise Unavailable(
                f"{runtime} keeps the state of a stream to itself, and it cannot be saved or gone on with."
            )
        if not isinstance(feed, Resumable):
            raise Unavailable(f"A stream for the task '{self.task.kind}' cannot be saved.")
        return self.session, feed


def open_stream(bundle: str | Path, threads: int | None = None) -> Stream[Any]:
    """A stream through the bundle at ``bundle``, on this machine.

    Args:
        bundle: a NAME.edge folder or archive that was exported with its step graph.
        threads: inside one step; ``None`` leaves it to the runtime.

    Raises:
        UsageError: no bundle, one whose task takes no stream, or one without a step graph.
        Untrusted, Incompatible, Unavailable, RunFailed: see `open_artifact` and `open_artifact_here`.
    """
    artifact = open_artifact(bundle)
    contract = artifact.manifest.task
    task: Task[Any] = Raw() if contract is None else from_contract(contract)
    task.feed()  # refuses a task that takes no stream, before anything is loaded
    if STREAM not in artifact.signatures:
        raise UsageError(f"{bundle} has no graph '{STREAM}' that takes sound as it comes: export it with --streaming.")
    session = open_artifact_here(artifact, threads)
    return Stream(task, session, artifact.signatures[STREAM], identity=Identity.of(artifact))
