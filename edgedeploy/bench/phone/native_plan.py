"""Which native runner measures a bundle, and what it is told: decided before a device is touched."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgedeploy.artifact import Artifact
from edgedeploy.bench.bundle import digest_of, graph_of, size_of
from edgedeploy.bench.frames import frames_of
from edgedeploy.bench.measurement import Conditions
from edgedeploy.bench.phone.native_output import KNOWN, described
from edgedeploy.bench.run import BenchOptions
from edgedeploy.device import Device
from edgedeploy.errors import UsageError, did_you_mean
from edgedeploy.parts import GIVEN, Runner, places
from edgedeploy.tasks import STREAM, from_contract
from edgedeploy.tensors import Signature


@dataclass(frozen=True)
class NativeRunner:
    """A runner and where its program is.

    Args:
        runner: what it is, with its command and how it is read.
        path: the program here, or a folder that has it (by the runner's name) and the libraries it needs; ``None``:
            it is on the device already.
        cool_down: seconds that each start waits at most until the device's thermal status is *none*; 0 does not wait.
    """

    runner: Runner
    path: Path | None
    cool_down: float = 0.0

    @classmethod
    def choose(cls, asked: str | None, runtime: str, profile: Device, cool_down: float = 0.0) -> NativeRunner:
        """The runner for ``runtime`` that is ``asked`` for as ``NAME``, ``PATH`` or ``NAME=PATH``.

        A path alone names the runner that its last part is called like. Without any, it is the profile's first for the
        runtime.

        Raises:
            UsageError: there is none, it is for another runtime, or its program is not given.
        """
        known = {**KNOWN, **{runner.name: runner for runner in profile.runners}}
        fitting = [runner for runner in (*profile.runners, *KNOWN.values()) if runner.runtime == runtime]
        name, _, path = (asked or "").rpartition("=")
        if not name and asked and (asked in known or "/" not in asked):
            name, path = asked, ""
        name = name or (Path(path).name if path else fitting[0].name if fitting else "")
        if name not in known:
            raise UsageError(
                f"There is no native runner '{name}' for {runtime}.{did_you_mean(name, [r.name for r in fitting])} "
                "Write --runner NAME=PATH, or describe it in the device's profile."
            )
        runner = known[name]
        if runner.runtime != runtime:
            raise UsageError(f"{name} runs {runner.runtime}, and the bundle is for {runtime}: choose another runner.")
        if not path and runner.path == GIVEN:
            raise UsageError(f"The program of {name} is not on the device: build it, and write --runner {name}=PATH.")
        if path and not Path(path).exists():
            raise UsageError(f"There is no program at {path}: build {name}, and give its path.")
        return cls(described(runner), Path(path) if path else None, cool_down)


@dataclass(frozen=True)
class Work:
    """What the runner is told, but for paths and the number of passes, and the conditions that this makes."""

    places: Mapping[str, str | None]
    conditions: Conditions


def plan(artifact: Artifact, options: BenchOptions, runner: Runner) -> Work:
    """What ``runner`` has to be told for ``options``.

    Raises:
        UsageError: it cannot do that.
    """
    manifest, what = artifact.manifest, runner.name
    if manifest.exporter.runtime != runner.runtime or options.backend not in (None, runner.runtime):
        wanted = options.backend or manifest.exporter.runtime
        raise UsageError(f"{what} runs {runner.runtime}, and {manifest.name} is to run on {wanted}.")
    graph = graph_of(artifact, options.graph)
    refused = {
        "samples": (options.samples is not None, f"{what} makes its inputs by itself"),
        "scenario": (options.scenario.name != "single-stream", f"{what} runs one pass after the other"),
        "precision": (options.precision is not None, f"{what} does as many passes as it was told beforehand"),
        "option": (bool(options.options), f"{what} takes none; write a command of your own in the device's profile"),
    }
    for name, (wrong, why) in refused.items():
        if wrong:
            raise UsageError(f"--{name} does not go with a native runner: {why}. Leave it out.")
    named = places(runner.command, what)
    if options.threads is not None and "threads" not in named:
        raise UsageError(f"--threads does not go with {what}: its command has no {{threads}}. Leave it out.")
    signature = artifact.signatures[graph]
    dims = _dims(artifact, options, signature)
    if dims and not {"dims", "shapes"} & named:
        raise UsageError(
            f"{what} cannot be told a size for '{next(iter(dims))}', which {manifest.name} leaves open: "
            "export it with fixed shapes."
        )
    inputs = {spec.name: spec.resolve(dims) for spec in signature.inputs}
    method = _method(artifact, graph)
    if method is not None and "method" not in named:
        raise UsageError(
            f"{what} cannot be told which of the graphs in one file to run: its command has no {{method}}."
        )
    told: dict[str, str | None] = {
        "threads": None if options.threads is None else str(options.threads),
        "method": None if method is None else shlex.quote(method),
        "dims": " ".join(f"-f {shlex.quote(f'{name}:{size}')}" for name, size in dims.items()) or None,
        "shapes": ",".join("x".join(map(str, shape)) for shape in inputs.values()) if dims else None,
    }
    conditions = Conditions(
        name=manifest.name,
        digest=digest_of(artifact),
        model_size=size_of(artifact, graph),
        backend=runner.runtime,
        options={},
        threads=options.threads,
        graph=graph,
        batch=options.batch,
        inputs=inputs,
        sample_count=1,
        sample_shape=max(inputs.values(), key=math.prod, default=()),
        includes=("compute",),
        duration=options.duration,
        frames=frames_of(from_contract(manifest.task), graph) if graph == STREAM and manifest.task else None,
    )
    return Work(told, conditions)


def _dims(artifact: Artifact, options: BenchOptions, signature: Signature) -> dict[str, int]:
    """The size of each dynamic dimension.

    Raises:
        UsageError: one is not known, or a fixed one is another than what is asked for.
    """
    specs, name = signature.inputs, artifact.manifest.name
    fixed = {spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], int)}
    if fixed and fixed != {options.batch}:
        takes = ", ".join(map(str, sorted(fixed)))
        raise UsageError(f"{name} takes batches of {takes} only, not of {options.batch}. Export it for another batch.")
    names = dict.fromkeys(d for spec in specs for d in spec.shape if isinstance(d, str))
    first = {spec.shape[0] for spec in specs if spec.shape}
    task = artifact.manifest.task or {}
    height, width = options.size or task.get("size") or (None, None)
    if options.size is not None and not {"height", "width"} <= set(names):
        raise UsageError(f"{name} has a fixed size, and cannot run at {options.size[0]}x{options.size[1]}.")
    known = {"height": height, "width": width}
    sizes = {d: known.get(d) or (options.batch if d in first else None) for d in names}
    unknown = [d for d, size in sizes.items() if size is None]
    if unknown:
        raise UsageError(f"{name} leaves '{unknown[0]}' open, and nothing says its size: export it with fixed shapes.")
    return {d: size for d, size in sizes.items() if size is not None}


def _method(artifact: Artifact, graph: str) -> str | None:
    """The name of the graph's method in its file, where the file has several; ``None`` where it is the first."""
    decided = artifact.manifest.exporter.decisions.get(graph)
    methods = decided.get("methods") if isinstance(decided, Mapping) else None
    if isinstance(methods, (list, tuple)) and len(methods) > 1:
        raise UsageError(
            f"Graph '{graph}' of {artifact.manifest.name} has one method per batch size: export it with a fixed batch."
        )
    file = artifact.manifest.graphs[graph].file
    sharing = [record for record in artifact.manifest.graphs.values() if record.file == file]
    if len(sharing) == 1:
        return None
    return str(methods[0]) if isinstance(methods, (list, tuple)) and methods else graph
