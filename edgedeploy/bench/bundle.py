"""From a bundle to a `Target`: the loader that `BenchOptions` names where it is told no other. Runs in the worker."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy import plugins
from edgedeploy.archive import open_artifact
from edgedeploy.artifact import Artifact
from edgedeploy.bench.target import Job, Target, split
from edgedeploy.errors import UsageError, did_you_mean
from edgedeploy.records import canonical
from edgedeploy.runtime import Runtime
from edgedeploy.tasks import Raw, Task, from_contract
from edgedeploy.tasks.image import SUFFIXES, engine, read_image
from edgedeploy.tensors import Signature

#: Samples taken from a folder at most, evenly spread over it: all of them are held in memory, decoded.
SAMPLES = 16


def load(job: Job) -> Target:
    """The bundle of ``job``, opened and checked, with nothing of its runtime imported yet.

    Raises:
        UsageError, Untrusted, Incompatible: the bundle cannot be used; see `open_artifact`.
        UsageError: it has no such graph, or cannot take the batch, size, options or samples.
        Unavailable: the runtime's plug-in cannot be imported.
    """
    artifact = open_artifact(job.path)
    manifest = artifact.manifest
    if job.graph not in artifact.signatures:
        raise UsageError(f"{manifest.name} has no graph '{job.graph}'.{did_you_mean(job.graph, artifact.signatures)}")
    signature = artifact.signatures[job.graph]
    _check_batch(manifest.name, signature, split(job, signature, manifest.name)[0])
    backend = job.backend or manifest.exporter.runtime
    runtime = _runtime(backend, job)
    task = _task(artifact, job)
    return Target(
        name=manifest.name,
        digest=digest_of(artifact),
        backend=backend,
        model_size=artifact.model_size,
        signature=signature,
        task=task,
        samples=_samples(artifact, job, task),
        load_runtime=lambda: _import(runtime),
        open=lambda: runtime.open(artifact.files, artifact.signatures),
        image_engine=None if isinstance(task, Raw) else engine(),
        profile=lambda inputs, graph: runtime.profile(artifact.files, artifact.signatures, inputs, graph),
    )


def _runtime(backend: str, job: Job) -> Runtime:
    kind = plugins.find(plugins.RUNTIMES, backend)
    known = [f.name for f in dataclasses.fields(kind) if f.name != "threads"]
    for name in job.options:
        if name not in known:
            raise UsageError(f"The runtime '{backend}' has no option '{name}'.{did_you_mean(name, known)}")
    runtime: Runtime = kind(threads=job.threads, **job.options)
    return runtime


def _import(runtime: Runtime) -> str:
    runtime.preload()
    return runtime.version()


def _task(artifact: Artifact, job: Job) -> Task[Any]:
    contract = artifact.manifest.task
    task: Task[Any] = Raw() if contract is None else from_contract(contract)
    if job.size is None:
        return task
    if "size" not in {f.name for f in dataclasses.fields(task)}:
        raise UsageError(f"{artifact.manifest.name} does not take images, and cannot run at another size.")
    return dataclasses.replace(task, size=job.size)  # type: ignore[call-arg]  # some tasks have it


def _check_batch(name: str, signature: Signature, batch: int) -> None:
    fixed = {spec.shape[0] for spec in signature.inputs if spec.shape and isinstance(spec.shape[0], int)}
    if fixed and fixed != {batch}:
        takes = ", ".join(map(str, sorted(fixed)))
        raise UsageError(f"{name} takes batches of {takes} only, not of {batch}. Export it for another batch.")


def _samples(artifact: Artifact, job: Job, task: Task[Any]) -> tuple[Any, ...]:
    if job.samples is None:
        return tuple(artifact.sample(golden) for golden in artifact.manifest.golden if golden.graph == job.graph)
    path, suffixes = Path(job.samples), (".npy",) if isinstance(task, Raw) else SUFFIXES
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes) if path.is_dir() else [path]
    picks = np.unique(np.linspace(0, len(files) - 1, min(SAMPLES, len(files))).astype(int)) if files else ()
    chosen = [files[i] for i in picks]
    if isinstance(task, Raw):
        return tuple(_array(file) for file in chosen)
    return tuple(read_image(file) for file in chosen)


def _array(file: Path) -> Any:
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{file} is not a readable array ({error}).") from error


def digest_of(artifact: Artifact) -> str:
    """Of what decides the result and the time: graph files and task contract. When it was exported does not count."""
    graphs = {n: record.sha256 for n, record in artifact.manifest.files.items() if n.startswith("graphs/")}
    return hashlib.sha256(canonical([graphs, artifact.manifest.task])).hexdigest()
