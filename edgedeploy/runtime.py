"""What runs an artifact: a `Runtime` opens it, and the `Session` that comes back answers calls.

A runtime module imports numpy and its vendor's library and nothing heavier: it is what runs on the device.
"""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.tensors import Array, Signature

Outputs = dict[str, Array]


@dataclass(frozen=True)
class NodeTime:
    """What one node of a graph took in one pass, as the runtime's own profiler says.

    Args:
        name: of the node as the runtime runs it; fused nodes have names of their own.
        kind: its operator as the runtime calls it, such as ``Conv`` or ``QLinearConv``.
        seconds: median over the profiled passes, the node's own time.
        unit: what ran it: ``cpu``, ``gpu``, ``npu``, or an execution provider's name.
        covers: names of the nodes of the stored graph that it stands for, or of their outputs, where the runtime tells.
        dtype: what it computes in (``fp32``, ``int8``); empty where the runtime does not tell.
        bytes: that it reads and writes, weights included; ``None`` where the runtime does not tell.
    """

    name: str
    kind: str
    seconds: float
    unit: str = "cpu"
    covers: tuple[str, ...] = ()
    dtype: str = ""
    bytes: int | None = None


@dataclass(frozen=True)
class Profile:
    """Nodes in the order they ran, and the median of a whole pass, both taken with the profiler on; seconds.

    ``source`` says whose profiler it was, and what its times are rounded to. ``outside`` is the median of what a pass
    took in no node: the runtime's own work, and the profiler's.
    """

    nodes: tuple[NodeTime, ...]
    seconds: float
    passes: int
    source: str
    outside: float = 0.0

    @classmethod
    def of(cls, nodes: Sequence[NodeTime], durations: Sequence[float], inside: Sequence[float], source: str) -> Profile:
        """A profile of the ``nodes``, of passes that took ``durations``, and of them in nodes ``inside``."""
        left = [max(0.0, whole - part) for whole, part in zip(durations, inside, strict=True)]
        return cls(tuple(nodes), statistics.median(durations), len(durations), source, statistics.median(left))


#: A profile is of at least so many passes, after others that are not counted, and of no more once they took so long.
PROFILED_PASSES, UNCOUNTED_PASSES, PROFILED_SECONDS = 5, 2, 2.0


def timed_passes(run: Callable[[], object]) -> list[float]:
    """Seconds of each pass of ``run`` that a profile is made of; `UNCOUNTED_PASSES` came before them."""
    for _ in range(UNCOUNTED_PASSES):
        run()
    durations: list[float] = []
    began = now = time.perf_counter()
    while len(durations) < PROFILED_PASSES or (now - began < PROFILED_SECONDS and len(durations) < 50):
        run()
        before, now = now, time.perf_counter()
        durations.append(now - before)
    return durations


#: Before the module's path, in the outputs of a session that shows what is inside.
TAP = "tap:"


def inputs_of(signature: Signature, tensors: Sequence[Array]) -> dict[str, Array]:
    """Prepared batch-1 tensors under the names of a graph's inputs, repeated to the batch that it is fixed to."""
    named = {}
    for spec, tensor in zip(signature.inputs, tensors, strict=True):
        batch = spec.shape[0] if spec.shape else 1
        short = isinstance(batch, int) and batch > 1 and tensor.shape[0] == 1
        named[spec.name] = np.repeat(tensor, int(batch), axis=0) if short else tensor
    return named


class Session(Protocol):
    """An opened artifact. Synchronous: when `run` returns, the outputs are there. Not a timer."""

    @property
    def facts(self) -> Mapping[str, str | int | float]:
        """What is really in force: part of every record.

        ``runtime``, ``version`` and ``threads``; ``computes_in``, the precision that is really used, as far as the
        runtime can say; ``emulated`` where this is not the device but something that computes as it does.
        """
        ...

    def run(self, inputs: Mapping[str, Array], graph: str = "main") -> Outputs:
        """All outputs of ``graph`` by name. State is carried by the session and is not among them.

        Raises:
            UsageError: an input is missing, unknown, or of another dtype or shape than the graph takes.
            RunFailed: the vendor's runtime gave up.
        """
        ...

    def reset(self) -> None:
        """Put all state back to its start (zeros)."""
        ...

    def close(self) -> None:
        """Free what the session holds; it cannot be used afterwards."""
        ...


@runtime_checkable
class Carrying(Session, Protocol):
    """A session whose state can be taken out and put back: a stream goes on later, or elsewhere."""

    def state(self) -> dict[str, Array]:
        """The state of every graph as it is now, by the names of `StateSpec.input`; copies."""
        ...

    def restore(self, state: Mapping[str, Array]) -> None:
        """Go on from ``state``.

        Raises:
            UsageError: a tensor is missing, unknown, or of another dtype or shape; nothing is changed then.
        """
        ...


def alone(signatures: Mapping[str, Signature]) -> tuple[str, ...]:
    """Names of the graphs with state, none of which another graph has: only that can stay where the graph left it."""
    owners = Counter(spec.input for signature in signatures.values() for spec in signature.state)
    return tuple(
        name
        for name, signature in signatures.items()
        if signature.state and all(owners[spec.input] == 1 for spec in signature.state)
    )


def check_state(signatures: Iterable[Signature], state: Mapping[str, Array]) -> None:
    """Refuse ``state`` that is not that of graphs with these signatures; for `Carrying.restore`.

    Raises:
        UsageError: a tensor is missing, unknown, or of another dtype or shape.
    """
    specs = {spec.input: spec for signature in signatures for spec in signature.state}
    unknown = [name for name in state if name not in specs]
    missing = [name for name in specs if name not in state]
    if unknown or missing:
        wrong = f"'{unknown[0]}' is no state of it" if unknown else f"'{missing[0]}' is missing"
        raise UsageError(f"This is not the state of this model: {wrong}; it carries {', '.join(specs) or 'none'}.")
    for name, spec in specs.items():
        array = state[name]
        if array.shape != spec.shape or array.dtype != np.dtype(spec.dtype):
            raise UsageError(
                f"State '{name}' is {spec.dtype} {list(spec.shape)}, and what was given {array.dtype} "
                f"{list(array.shape)}: it is of another model."
            )


@dataclass(frozen=True)
class Runtime(ABC):
    """How to open artifacts of one backend; the fields are its options."""

    name: ClassVar[str]
    #: Threads used inside one call; ``None`` leaves it to the vendor's default.
    threads: int | None = None

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """The vendor library's version.

        Raises:
            Unavailable: the library is not here; the message has the line that installs it.
        """

    @classmethod
    def preload(cls) -> None:
        """Import the vendor's library, so that its time and memory are told from the model's.

        Raises:
            Unavailable: the library is not here.
        """
        cls.version()

    @abstractmethod
    def open(self, files: Mapping[str, Path], signatures: Mapping[str, Signature]) -> Session:
        """Load the graph files of one artifact; both mappings are by graph name.

        Raises:
            Unavailable: the library, or a unit that the options ask for, is not here.
            Incompatible: the files are of another version than this runtime takes.
            RunFailed: the vendor's runtime refused them.
        """

    def open_tapped(self, files: Mapping[str, Path], signatures: Mapping[str, Signature]) -> Session:
        """Like `open`, and every run also gives the outputs of modules inside: float32, named `TAP` + module path.

        Raises:
            Unavailable: this backend does not show what is inside.
        """
        raise Unavailable(f"{self.name} does not show the tensors inside a graph.")

    def profile(
        self, files: Mapping[str, Path], signatures: Mapping[str, Signature], inputs: Mapping[str, Array], graph: str
    ) -> Profile:
        """Where the time of a pass of ``graph`` goes, node by node, on ``inputs``.

        Raises:
            Unavailable: this backend has no profiler that can be read.
        """
        raise Unavailable(f"{self.name} has no profiler that tells the time of each node.")
