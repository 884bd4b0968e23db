"""From a bundle to a `Target`: the loader that `BenchOptions` names where it is told no other. Runs in the worker."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy import plugins
from edgedeploy.archive import open_artifact
from edgedeploy.artifact import Artifact
from edgedeploy.bench.frames import frames_of
from edgedeploy.bench.target import Job, Target, split
from edgedeploy.errors import UsageError, did_you_mean
from edgedeploy.records import canonical
from edgedeploy.runtime import Runtime
from edgedeploy.tasks import STREAM, Detect, Keywords, Raw, Task, audio, from_contract, image
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
    graph = graph_of(artifact, job.graph)
    signature = artifact.signatures[graph]
    _check_batch(manifest.name, signature, split(job, signature, manifest.name)[0])
    backend = job.backend or manifest.exporter.runtime
    runtime = _runtime(backend, job)
    task = _task(artifact, job)
    return Target(
        name=manifest.name,
        digest=digest_of(artifact),
        backend=backend,
        model_size=size_of(artifact, graph),
        signature=signature,
        task=task,
        samples=_golden(artifact, graph) if job.samples is None else samples_in(Path(job.samples), task),
        load_runtime=lambda: _import(runtime),
        open=lambda: runtime.open({graph: artifact.files[graph]}, {graph: signature}),
        image_engine=image.engine() if isinstance(task, Detect) else None,
        profile=lambda inputs, graph: runtime.profile(artifact.files, artifact.signatures, inputs, graph),
        graph=graph,
        frames=frames_of(task, graph),
    )


def graph_of(artifact: Artifact, asked: str | None) -> str:
    """The graph of the bundle to run: the one that is ``asked`` for, else that of streams where there is one.

    Raises:
        UsageError: there is no such graph.
    """
    known = artifact.signatures
    graph = asked or (STREAM if STREAM in known else "main")
    if graph not in known:
        raise UsageError(f"{artifact.manifest.name} has no graph '{graph}'.{did_you_mean(graph, known)}")
    return graph


def size_of(artifact: Artifact, graph: str) -> int:
    """Bytes on disk of what a session of ``graph`` loads: its file or folder, and weights that lie beside it."""
    if len(artifact.signatures) == 1:
        return artifact.model_size
    file = artifact.manifest.graphs[graph].file
    own = (f"{file}/", f"{file.rpartition('.')[0]}.")
    return sum(record.size for name, record in artifact.manifest.files.items() if name == file or name.startswith(own))


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


def _golden(artifact: Artifact, graph: str) -> tuple[Any, ...]:
    return tuple(artifact.sample(golden) for golden in artifact.manifest.golden if golden.graph == graph)


def samples_in(path: Path, task: Task[Any]) -> tuple[Any, ...]:
    """The samples in a file or folder, as ``task`` takes them: `SAMPLES` of those of its kind at most.

    Raises:
        UsageError: one cannot be read, or is not as the task takes it.
    """
    suffixes, read = _reader(task)
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes) if path.is_dir() else [path]
    picks = np.unique(np.linspace(0, len(files) - 1, min(SAMPLES, len(files))).astype(int)) if files else ()
    return tuple(read(files[i]) for i in picks)


def _reader(task: Task[Any]) -> tuple[tuple[str, ...], Callable[[Path], Any]]:
    """Suffixes of the files that the samples of ``task`` come in, and what reads one."""
    if isinstance(task, Raw):
        return (".npy",), _array
    if isinstance(task, Keywords):
        rate = task.features.sample_rate
        return audio.SUFFIXES, lambda file: audio.read_audio(file, rate)
    return image.SUFFIXES, image.read_image


def _array(file: Path) -> Any:
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{file} is not a readable array ({error}).") from error


def digest_of(artifact: Artifact) -> str:
    """Of what decides the result and the time: graph files and task contract. When it was exported does not count."""
    graphs = {n: record.sha256 for n, record in artifact.manifest.files.items() if n.startswith("graphs/")}
    return hashlib.sha256(canonical([graphs, artifact.manifest.task])).hexdigest()
