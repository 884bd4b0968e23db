"""Golden vectors: a few real samples that travel with an artifact, with the FP32 outputs that belong to them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.artifact import Golden, OutputAgreement
from edgedeploy.compare import agreement, fingerprint
from edgedeploy.errors import UsageError
from edgedeploy.runtime import Outputs, Session, inputs_of
from edgedeploy.tasks.task import Task
from edgedeploy.tensors import Array, Signature

Sample = Array | tuple[Array, ...]

#: Vectors per artifact, chosen among this many samples as those in which most is found.
COUNT, AMONG = 2, 16
#: More found than this is no better a sample, only a fuller one.
PLENTY = 50


@dataclass(frozen=True)
class Pair:
    """Two sessions on the same graph, the FP32 reference and what was exported, and the task that reads them.

    ``exported`` is ``None`` where nothing here can run it.
    """

    task: Task[Any]
    reference: Session
    exported: Session | None
    signature: Signature


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
    """Write the samples and their reference outputs below ``root``/golden, and how the exported graph agrees."""
    return tuple(_record(root, f"golden/{i}", pair, sample) for i, sample in enumerate(samples))


def first_row(outputs: Outputs, signature: Signature) -> Outputs:
    """The outputs for the first sample of a batch, in the order of the graph."""
    return {spec.name: outputs[spec.name][:1] for spec in signature.outputs}


def _record(root: Path, folder: str, pair: Pair, sample: Sample) -> Golden:
    (root / folder).mkdir(parents=True)
    arrays = sample if isinstance(sample, tuple) else (sample,)
    names = tuple(f"{folder}/sample_{i}.npy" for i in range(len(arrays)))
    for name, array in zip(names, arrays, strict=True):
        _save(root / name, array)
    prepared = pair.task.prepare(sample)  # type: ignore[arg-type]
    inputs = inputs_of(pair.signature, prepared.tensors)
    for session in filter(None, (pair.reference, pair.exported)):
        session.reset()
    wanted = first_row(pair.reference.run(inputs), pair.signature)
    got = None if pair.exported is None else first_row(pair.exported.run(inputs), pair.signature)
    files = {name: f"{folder}/{name}.npy" for name in wanted}
    for name, values in wanted.items():
        _save(root / files[name], values)
    agreed: tuple[OutputAgreement, ...] = ()
    moved = None
    if got is not None:
        finished = [pair.task.finish(list(outputs.values()), prepared.context) for outputs in (wanted, got)]
        agreed = agreement(pair.task.comparable(wanted), pair.task.comparable(got))
        moved = pair.task.distance(finished[0], finished[1])
    return Golden(
        graph="main",
        sample=names,
        prepared=tuple(fingerprint(tensor) for tensor in prepared.tensors),
        outputs=files,
        agreement=agreed,
        distance=moved,
    )


def _save(path: Path, array: Array) -> None:
    """Write a .npy file; by way of memory, because numpy does not say that it is the disk that is full."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    path.write_bytes(buffer.getbuffer())
