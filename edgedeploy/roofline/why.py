"""The front door: profile a bundle on this machine, count its graph, look up the peaks, say why it is not faster."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from edgedeploy.archive import open_artifact
from edgedeploy.artifact import Artifact
from edgedeploy.bench.profile import Answer
from edgedeploy.bench.remote.transport import Local, Transport
from edgedeploy.bench.spawn import Call, converse
from edgedeploy.bench.target import Job, Option
from edgedeploy.cost import GraphCost, graph_cost
from edgedeploy.device import Device
from edgedeploy.errors import EdgeDeployError, UsageError
from edgedeploy.roofline.causes import Cause, Subject, causes
from edgedeploy.roofline.join import Roofline, join
from edgedeploy.roofline.roofs import Roofs

T = TypeVar("T")

#: Seconds that each measurement of the quick probe repeats itself.
QUICK = 1.0


@dataclass(frozen=True)
class WhyOptions:
    """How to profile.

    Args:
        threads: threads inside one call; ``None`` is the runtime's default.
        graph: name of the graph.
        batch: samples in a pass.
        backend: runtime by name; ``None`` leaves it to the bundle.
        options: of the runtime.
        size: height and width; ``None`` is what the bundle says.
        samples: folder or file with real samples; ``None`` takes those of the bundle.
        silence: seconds without a sign of life after which the worker is killed.
        loader: see `edgedeploy.bench.run.BenchOptions`.
    """

    threads: int | None = None
    graph: str = "main"
    batch: int = 1
    backend: str | None = None
    options: Mapping[str, Option] | None = None
    size: tuple[int, int] | None = None
    samples: str | None = None
    silence: float = 300.0
    loader: str = "edgedeploy.bench.bundle:load"


@dataclass(frozen=True)
class Why:
    """A pass of a bundle, explained: who ran it, the roofline, and the causes, longest first."""

    name: str
    backend: str
    version: str
    precision: str
    threads: str | int | float
    batch: int
    roofline: Roofline
    causes: tuple[Cause, ...]


def why(
    path: str,
    options: WhyOptions | None = None,
    device: Device | None = None,
    say: Callable[[str], None] = print,
    way: Transport | None = None,
) -> Why:
    """Explain a pass of the bundle at ``path``, on this machine or at the end of ``way``.

    Args:
        path: the bundle.
        options: how to run it.
        device: what runs it, with its peaks. Where ``None``, they are measured there, quickly, at the same number of
            threads.
        say: told what is going on.
        way: to another device; this machine where ``None``.

    Raises:
        Unavailable: its runtime is not here, or has no profiler.
        UsageError: ``device`` is of another architecture than this machine.
        EdgeDeployError: the bundle cannot be opened or run.
    """
    options = options or WhyOptions()
    artifact = open_artifact(path)
    if way is None and device is not None and platform.machine() not in (device.arch, ""):
        raise UsageError(
            f"{device.name} is {device.arch} and this machine {platform.machine()}: what is timed here says nothing of "
            "it. Run why there (--on), or leave --device out."
        )
    asked = _Asked(options, say, way or Local())
    answer = asked.ask(_job(path, asked), "edgedeploy.bench.profile", Answer)
    roofs = _roofs(device, asked, answer)
    cost, notes = _count(artifact, options, answer)
    roofline = join(cost, answer.profile, roofs, answer.seconds, notes)
    subject = _subject(artifact, options, answer)
    return Why(
        name=answer.name,
        backend=answer.backend,
        version=answer.version,
        precision=artifact.manifest.exporter.precision,
        threads=answer.facts.get("threads", options.threads or "default"),
        batch=options.batch,
        roofline=roofline,
        causes=causes(roofline, subject),
    )


@dataclass(frozen=True)
class _Asked:
    """What was asked for, and where it is answered."""

    options: WhyOptions
    say: Callable[[str], None]
    way: Transport

    def ask(self, job: Job, module: str, answer: type[T]) -> T:
        """What a worker says to ``job``."""
        return converse(Call(job, module, answer), self.options.silence, lambda phase, _: self.say(phase), self.way)[0]


def _job(path: str, asked: _Asked) -> Job:
    options = asked.options
    return Job(
        loader=options.loader,
        path=asked.way.deliver(path),
        backend=options.backend,
        options=options.options or {},
        threads=options.threads,
        graph=options.graph,
        batch=options.batch,
        size=options.size,
        samples=None if options.samples is None else asked.way.deliver(options.samples),
    )


def _roofs(device: Device | None, asked: _Asked, answer: Answer) -> Roofs:
    said = answer.facts.get("threads")
    threads = asked.options.threads or (said if isinstance(said, int) else None)
    if device is None:
        measured = asked.ask(Job("", "", threads=threads, duration=QUICK), "edgedeploy.bench.peaks", Device)
        threads = threads or (measured.cpu.usable.value if measured.cpu.usable else None) or 1
        on = f"{threads} thread{'s' if threads > 1 else ''}"
        note = f"Peaks were measured just now, {QUICK:g} s each, with {on}, as the graph ran."
        return Roofs.of(measured, _unit(None, answer), (note, *measured.notes))
    cores = device.cpu.usable.value if device.cpu.usable else device.cpu.cores
    threads = threads or cores
    unit = _unit(device, answer)
    if unit == "cpu" and cores is not None and cores != threads:
        note = f"Peaks are those of all {cores} cores of {device.name}; the graph ran with {threads} threads."
        return Roofs.of(device, unit, (note,))
    return Roofs.of(device, unit, (f"Peaks are those of the profile {device.name}.",))


def _unit(device: Device | None, answer: Answer) -> str:
    """The device's unit that runs most: an accelerator where nodes say so."""
    times: dict[str, float] = {}
    for node in answer.profile.nodes:
        kind = next((k for k in ("gpu", "npu", "dla") if k in node.unit.lower()), "cpu")
        times[kind] = times.get(kind, 0.0) + node.seconds
    wanted = max(times, key=lambda kind: times[kind], default="cpu")
    return next((a.name for a in (device.accelerators if device else ()) if a.kind == wanted), "cpu")


def _count(artifact: Artifact, options: WhyOptions, answer: Answer) -> tuple[GraphCost | None, tuple[str, ...]]:
    """The costs of the graph, or why they cannot be counted."""
    file = artifact.files[options.graph]
    try:
        return graph_cost(file, answer.inputs if file.suffix == ".onnx" else None, options.batch), ()
    except EdgeDeployError as error:
        return None, (str(error),)


def _subject(artifact: Artifact, options: WhyOptions, answer: Answer) -> Subject:
    decided: Mapping[str, Any] = artifact.manifest.exporter.decisions.get(options.graph) or {}
    kept = decided.get("kept_in_float") if isinstance(decided, Mapping) else None
    return Subject(
        precision=artifact.manifest.exporter.precision,
        kept_in_float=tuple(map(str, kept or ())),
        batch=options.batch,
        facts=answer.facts,
    )
