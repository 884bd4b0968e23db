"""Golden vectors: a few real samples that travel with an artifact, with the FP32 outputs that belong to them.

A graph that takes a sample whole is called once. The graph `STREAM` is called once per step of the sample, from the
state at the start; what it gives at every step, stacked on axis 0, is its output for the sample.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.artifact import Golden, OutputAgreement
from edgedeploy.compare import agreement, fingerprint
from edgedeploy.errors import UsageError
from edgedeploy.runtime import Outputs, Session, inputs_of
from edgedeploy.tasks.task import STREAM, Task
from edgedeploy.tensors import Array, Signature

Sample = Array | tuple[Array, ...]

#: Vectors per artifact, chosen among this many samples as those in which most is found.
COUNT, AMONG = 2, 16
#: More found than this is no better a sample, only a fuller one.
PLENTY = 50


@dataclass(frozen=True)
class Pair:
    """Two sessions on the same graphs, the FP32 reference and what was exported, and the task that reads them.

    ``exported`` is ``None`` where nothing here can run it. ``signatures`` are by graph.
    """

    task: Task[Any]
    reference: Session
    exported: Session | None
    signatures: Mapping[str, Signature]


@dataclass(frozen=True)
class Ready:
    """A sample as one graph takes it: one call, or one per step of a stream.

    Args:
        task: that prepared it, and reads the outputs.
        graph: name of the graph.
        signature: of the graph.
        calls: per call, one array per input in graph order, batch 1.
        context: what `Task.finish` needs back.
    """

    task: Task[Any]
    graph: str
    signature: Signature
    calls: tuple[tuple[Array, ...], ...]
    context: Any = None

    @classmethod
    def of(cls, task: Task[Any], graph: str, signature: Signature, sample: Sample) -> Ready:
        """A sample, prepared for a graph.

        Raises:
            UsageError: it is not of the kind that the task takes, or too short for one step.
        """
        if not streams(task, graph):
            prepared = task.prepare(sample)  # type: ignore[arg-type]
            return cls(task, graph, signature, (prepared.tensors,), prepared.context)
        feed = task.feed()
        calls = (*feed.push(sample[0] if isinstance(sample, tuple) else sample), *feed.finish())
        if not calls:
            raise UsageError(f"A sample is too short for one step of the graph '{graph}'.")
        return cls(task, graph, signature, calls)

    @property
    def tensors(self) -> tuple[Array, ...]:
        """What goes in, one array per input: of all calls, stacked on axis 0."""
        return tuple(np.concatenate(arrays) for arrays in zip(*self.calls, strict=True))

    def run(self, session: Session, graph: str | None = None) -> Outputs:
        """The outputs for the sample, from the state at the start, in graph order; of all calls, stacked on axis 0.

        ``graph`` is what the session calls the graph, where that is another name.

        Raises:
            UsageError, RunFailed: see `Session.run`.
        """
        session.reset()
        found = []
        for tensors in self.calls:
            outputs = session.run(inputs_of(self.signature, tensors), graph or self.graph)
            found.append(first_row(outputs, self.signature))
        return {spec.name: np.concatenate([one[spec.name] for one in found]) for spec in self.signature.outputs}

    def result(self, outputs: Outputs) -> Any:
        """The task's result of these outputs: that after the last step of a stream, ``None`` if nothing was heard."""
        values = [outputs[spec.name] for spec in self.signature.outputs]
        if streams(self.task, self.graph):
            return self.task.heard([value[-1:] for value in values])
        return self.task.finish(values, self.context)

    def distance(self, wanted: Outputs, got: Outputs) -> float:
        """How far the result of ``got`` is from that of ``wanted``, 0 to 1."""
        first, second = self.result(wanted), self.result(got)
        if first is None or second is None:
            return 0.0 if first is second else 1.0
        return self.task.distance(first, second)


def streams(task: Task[Any], graph: str) -> bool:
    """Whether ``graph`` is the one that takes the task's samples step by step."""
    return graph == STREAM and type(task).feed is not Task.feed


def run_stream(session: Session, signature: Signature, task: Task[Any], sample: Sample, graph: str = STREAM) -> Outputs:
    """What a graph gives for a sample at every step, each output stacked on axis 0: (steps, ...).

    Raises:
        UsageError: the sample is not of the kind that the task takes, or too short for one step.
        RunFailed: see `Session.run`.
    """
    return Ready.of(task, graph, signature, sample).run(session)


@dataclass(frozen=True)
class Caller:
    """A session as a function from the graph's inputs, in order, to its outputs, in order; batch 1 on either side."""

    session: Session
    signature: Signature

    def __call__(self, tensors: tuple[Array, ...]) -> list[Array]:
        """The outputs for one prepared sample, from the state at the start."""
        self.session.reset()
        return list(first_row(self.session.run(inputs_of(self.signature, tensors)), self.signature).values())


def choose(task: Task[Any], reference: Session, signature: Signature, samples: Sequence[Sample]) -> list[Sample]:
    """The samples in which the reference finds most: agreement on an empty image would prove nothing.

    Raises:
        UsageError: there is no sample.
    """
    if not len(samples):
        raise UsageError("An export needs at least one real sample for its golden vectors.")
    among = [samples[i] for i in range(min(AMONG, len(samples)))]
    found = []
    for sample in among:
        prepared = task.prepare(sample)  # type: ignore[arg-type]
        reference.reset()
        outputs = first_row(reference.run(inputs_of(signature, prepared.tensors)), signature)
        found.append(len(getattr(task.finish(list(outputs.values()), prepared.context), "scores", ())))
    order = sorted(range(len(among)), key=lambda i: (-min(found[i], PLENTY), i))
    return [among[i] for i in order[:COUNT]]


def record(root: Path, pair: Pair, samples: Sequence[Sample]) -> tuple[Golden, ...]:
    """Write the samples and their reference outputs below ``root``/golden, and how the exported graphs agree.

    The graph ``main`` comes first, then `STREAM` on the same samples, where there is one and the task has a feed.
    """
    files = [_save_sample(root, f"golden/{i}", sample) for i, sample in enumerate(samples)]
    graphs = ["main", *(name for name in pair.signatures if streams(pair.task, name))]
    return tuple(
        _record(root, names, pair, Ready.of(pair.task, graph, pair.signatures[graph], sample))
        for graph in graphs
        for names, sample in zip(files, samples, strict=True)
    )


def first_row(outputs: Outputs, signature: Signature) -> Outputs:
    """The outputs for the first sample of a batch, in the order of the graph."""
    return {spec.name: outputs[spec.name][:1] for spec in signature.outputs}


def _save_sample(root: Path, folder: str, sample: Sample) -> tuple[str, ...]:
    (root / folder).mkdir(parents=True)
    arrays = sample if isinstance(sample, tuple) else (sample,)
    names = tuple(f"{folder}/sample_{i}.npy" for i in range(len(arrays)))
    for name, array in zip(names, arrays, strict=True):
        _save(root / name, array)
    return names


def _record(root: Path, sample: tuple[str, ...], pair: Pair, ready: Ready) -> Golden:
    folder = f"{Path(sample[0]).parent.as_posix()}{'' if ready.graph == 'main' else f'/{ready.graph}'}"
    (root / folder).mkdir(exist_ok=True)
    wanted = ready.run(pair.reference)
    got = None if pair.exported is None else ready.run(pair.exported)
    files = {name: f"{folder}/{name}.npy" for name in wanted}
    for name, values in wanted.items():
        _save(root / files[name], values)
    agreed: tuple[OutputAgreement, ...] = ()
    if got is not None:
        agreed = agreement(pair.task.comparable(wanted), pair.task.comparable(got))
    return Golden(
        graph=ready.graph,
        sample=sample,
        prepared=tuple(fingerprint(tensor) for tensor in ready.tensors),
        outputs=files,
        agreement=agreed,
        distance=None if got is None else ready.distance(wanted, got),
    )


def _save(path: Path, array: Array) -> None:
    """Write a .npy file; by way of memory, because numpy does not say that it is the disk that is full."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    path.write_bytes(buffer.getbuffer())
