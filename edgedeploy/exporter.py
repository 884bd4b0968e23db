"""Exporting: an `Exporter` writes the graphs of one backend; `export` does everything that is the same for all.

The common part: reference outputs in FP32 on real samples, the bundle and its manifest, running what was written and
recording how it agrees, and turning a vendor's exceptions into one sentence.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Self

from edgedeploy.accuracy import assess
from edgedeploy.artifact import (
    SCHEMA,
    Artifact,
    CalibrationRecord,
    ExporterRecord,
    Golden,
    GraphRecord,
    Manifest,
    seal,
    writing,
)
from edgedeploy.capture import reference_session
from edgedeploy.device import Device
from edgedeploy.errors import EdgeDeployError, ExportFailed, UsageError, did_you_mean
from edgedeploy.golden import COUNT, Caller, Pair, Sample, choose, record
from edgedeploy.model import InputShape, Model, Source
from edgedeploy.opening import Opener, described
from edgedeploy.records import canonical, from_json, to_json
from edgedeploy.runtime import Session
from edgedeploy.tasks import from_contract
from edgedeploy.tasks.detect import Detect
from edgedeploy.tasks.keywords import Keywords, stand_ins
from edgedeploy.tasks.raw import Raw
from edgedeploy.tasks.samples import DetectionSet
from edgedeploy.tasks.task import Prepared, Task
from edgedeploy.tensors import Signature, random_input

Progress = Callable[[str], None]

#: FP32 must reproduce its reference: with a channel below this SNR (dB), or results further away, it is refused.
FP32_SNR, FP32_DISTANCE = 60.0, 0.05
#: Packages whose versions go into the manifest and decide whether an old artifact is still true.
TOOLS = (
    *("edgedeploy", "numpy", "torch", "onnx", "onnxscript", "onnxruntime", "ultralytics"),
    *("coremltools", "executorch", "onnxruntime-qnn", "openvino", "tensorrt", "tensorrt-rtx-cu13", "torchao"),
)
#: Below so many calibration samples the ranges are luck.
ENOUGH_SAMPLES = 100


@dataclass(frozen=True)
class Evidence:
    """Real inputs for an export: golden vectors come from them and, if ``calibration`` says so, quantisation ranges.

    ``samples`` may be lazy: only ``len`` and indexing are used. ``labels`` are the class names of the data set, and
    ``labelled`` is the set itself, if it has annotations, so that a loss of AP can be measured.
    ``stand_in`` says that the samples are images only for want of better: a model that takes no images gets synthetic
    sound, or tensors from a seed, instead.
    """

    samples: Sequence[Sample]
    origin: str
    calibration: CalibrationRecord | None = None
    labels: tuple[str, ...] = ()
    stand_in: bool = False
    labelled: DetectionSet | None = None


@dataclass(frozen=True)
class Request:
    """Everything that was asked for. Two equal requests of the same source give the same artifact."""

    exporter: Exporter
    evidence: Evidence
    shape: InputShape = field(default_factory=InputShape)
    device: Device | None = None
    head: str | None = None

    def digest(self, source: Source) -> str:
        """sha256 over the request, the source's sha256 and the versions of the tools."""
        plain = {
            "source": [source.format, source.sha256],
            "exporter": [self.exporter.name, to_json(self.exporter)],
            "evidence": [self.evidence.origin, to_json(self.evidence.calibration)],
            "shape": to_json(self.shape),
            "device": self.device.name if self.device else None,
            "head": self.head,
            "tools": tool_versions(),
        }
        return hashlib.sha256(canonical(plain)).hexdigest()


@dataclass(frozen=True)
class Job:
    """One call of `Exporter.write`: the model, its task, where to write, and the prepared calibration samples.

    ``score`` gives the task metric (AP50-95) of a session over the labelled calibration images; ``None`` where there
    are no labels. ``samples`` are the calibration samples as they are, for graphs that take them otherwise than
    ``main`` does.
    """

    model: Model
    task: Task[Any]
    directory: Path
    reference: Session
    calibration: Sequence[Prepared]
    progress: Progress
    score: Callable[[Session], float] | None = None
    samples: Sequence[Sample] = ()


@dataclass(frozen=True)
class Written:
    """What an exporter wrote.

    Args:
        files: below ``job.directory`` by graph: file names, or that of a directory for a format that is one.
        signatures: what each graph takes and gives.
        requires: what the artifact needs, see `edgedeploy.device.unmet`.
        decisions: what the exporter decided by itself, by graph.
        notes: what the user should know.
        unchecked: why nothing on this machine can run what was written; empty where something can.
    """

    files: Mapping[str, str]
    signatures: Mapping[str, Signature]
    requires: tuple[str, ...]
    decisions: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unchecked: str = ""


@dataclass(frozen=True)
class Step:
    """A form that the main graph takes on its way from float to the artifact, ready to run here."""

    name: str
    session: Session


@dataclass(frozen=True)
class Exporter(ABC):
    """How to write artifacts of one backend; the fields are its options.

    ``rehearsal`` names a runtime that runs the same files where the artifact's own cannot, as ONNX Runtime does those
    that TensorRT builds its engine from: it says how the numbers fare, not what the device makes of them.

    Args:
        precision: one of ``precisions``.
        keep_float: module paths (or node names) to keep in float besides those that measuring finds.
        limit: how far (0 to 1) a lower precision may move the task's results on the calibration samples; by precision
            where ``None``.
        max_drop: how much of the task metric it may cost on the labelled calibration images; instead of ``limit``.
    """

    name: ClassVar[str]
    runtime: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    rehearsal: ClassVar[str | None] = None
    precision: str = "fp32"
    keep_float: tuple[str, ...] = ()
    limit: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        if self.precision not in self.precisions:
            raise UsageError(f"{self.name} has no precision '{self.precision}'. Known: {', '.join(self.precisions)}.")
        if self.limit is not None and not 0 <= self.limit <= 1:
            raise UsageError(f"limit {self.limit} is no distance: give a number from 0 to 1.")
        if self.max_drop is not None and not 0 < self.max_drop <= 1:
            raise UsageError(
                f"max_drop {self.max_drop} is no loss of AP: give a number over 0, up to 1, such as 0.005."
            )

    @classmethod
    def defaults(cls, device: Device | None, precision: str) -> Mapping[str, Any]:
        """Options that suit ``device`` (this machine where ``None``) in ``precision``, where the user gives none."""
        return {}

    @classmethod
    def for_device(cls, device: Device | None, precision: str, options: Mapping[str, Any]) -> Self:
        """The exporter with the `defaults` for ``device``, then ``options``.

        Raises:
            UsageError: an option that this exporter does not have, or a value that it cannot take.
        """
        fields = {f.name: f for f in dataclasses.fields(cls) if f.name != "precision"}
        for key in options:
            if key not in fields:
                raise UsageError(f"The {cls.name} exporter has no option '{key}'.{did_you_mean(key, fields)}")
        listed = {
            k: [v] if fields[k].type == "tuple[str, ...]" and isinstance(v, str) else v for k, v in options.items()
        }
        values = {**cls.defaults(device, precision), **listed, "precision": precision}
        return from_json(cls, to_json(values), f"Options of the {cls.name} exporter")

    @abstractmethod
    def write(self, job: Job) -> Written:
        """Write every graph of ``job.model`` below ``job.directory``. Any exception of the vendor may pass."""

    def steps(self, job: Job, decisions: Mapping[str, Any]) -> Iterator[Step]:
        """The forms between the float model and the artifact, made again as ``decisions`` says, without a search."""
        yield from ()


def export(model: Model, request: Request, directory: Path, progress: Progress | None = None) -> Artifact:
    """Write ``directory/NAME.edge`` and return it, opened.

    Raises:
        UsageError: the precision needs calibration and there is none, or the samples are not what the task takes.
        ExportFailed: the vendor's converter refused, or what it wrote does not reproduce the model.
        Unavailable: something the backend needs is not installed.
    """
    started = time.monotonic()
    say = progress or (lambda _: None)
    exporter, evidence = request.exporter, _evidence(request.evidence, model)
    task: Task[Any] = from_contract(model.task) if model.task is not None else Raw()
    _check_evidence(exporter, evidence, task)
    _check_graphs(model)
    opener = Opener(exporter.runtime, exporter.rehearsal)
    opener.preload()  # what is missing is said before the work, not after it
    say("running the FP32 reference")
    reference = reference_session(model)
    signature = model.graphs["main"].signature
    chosen = choose(task, reference, signature, evidence.samples)
    calibration = Prepares(task, evidence.samples)
    with writing(directory, model.name) as temporary:
        (temporary / "graphs").mkdir()
        score = scorer(evidence, task, signature)
        job = Job(model, task, temporary / "graphs", reference, calibration, say, score, evidence.samples)
        written = _write(exporter, job)
        say("checking what was written")
        session = _open(opener, temporary / "graphs", written)
        golden = record(temporary, Pair(task, reference, session, written.signatures), chosen)
        by = written.unchecked
        if session is not None:
            by = described(session)
            session.close()
            _refuse_wrong(exporter, model, golden)
        manifest = replace(_manifest(model, request, written, golden), golden_origin=evidence.origin, golden_by=by)
        seal(temporary, replace(manifest, seconds=round(time.monotonic() - started, 3)))
    return Artifact.open(directory / f"{model.name}.edge")


def _check_evidence(exporter: Exporter, evidence: Evidence, task: Task[Any]) -> None:
    if exporter.max_drop is not None and isinstance(task, Keywords):
        raise UsageError("max_drop is a loss of AP, which only detectors have: for keywords give limit instead.")
    if exporter.max_drop is not None and evidence.labelled is None:
        raise UsageError("A largest loss of AP needs labelled images to measure it on: give --calibrate data.yaml.")
    if exporter.precision == "int8" and evidence.calibration is None:
        real, given = ("images", "a data set with --calibrate data.yaml")
        if isinstance(task, Keywords):
            real, given = ("clips", "a folder of them with --calibrate")
        raise UsageError(f"int8 needs real {real} to calibrate on: give {given}.")


def _open(opener: Opener, directory: Path, written: Written) -> Session | None:
    if written.unchecked:
        return None
    return opener.open({name: directory / file for name, file in written.files.items()}, written.signatures)


def scorer(evidence: Evidence, task: Task[Any], signature: Signature) -> Callable[[Session], float] | None:
    """The AP50-95 of a session over the labelled images of ``evidence``, for who asks for at most so much loss."""
    data = evidence.labelled
    if data is None or not isinstance(task, Detect):
        return None

    def score(session: Session) -> float:
        return assess(task, Caller(session, signature), data, model="").accuracy.metric.ap50_95 or 0.0

    return score


def tool_versions() -> dict[str, str]:
    """Versions of the packages that shape an artifact, as installed; none is imported."""
    found = {}
    for name in TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class Prepares(Sequence[Prepared]):
    """Samples as the task prepares them, made when asked for: a thousand images need not fit into memory."""

    def __init__(self, task: Task[Any], samples: Sequence[Sample]) -> None:
        self._task, self._samples = task, samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._task.prepare(self._samples[index])


def _evidence(evidence: Evidence, model: Model) -> Evidence:
    """The evidence, or other stand-ins where images only stand in for samples and the model takes no images."""
    if not evidence.stand_in or "main" not in model.graphs:
        return evidence
    if model.task is not None:
        task: Task[Any] = from_contract(model.task)
        if not isinstance(task, Keywords):
            return evidence
        return replace(evidence, samples=stand_ins(task), origin=f"{COUNT} synthetic sounds")
    specs = model.graphs["main"].signature.inputs
    sizes = {name: 1 for spec in specs for name in spec.shape if isinstance(name, str)}
    samples = [
        tuple(random_input(spec, sizes, seed=COUNT * i + seed) for i, spec in enumerate(specs)) for seed in range(COUNT)
    ]
    return replace(evidence, samples=samples, origin=f"{COUNT} random inputs")


def _check_graphs(model: Model) -> None:
    if "main" not in model.graphs:
        raise UsageError(f"{model.name} has graphs {', '.join(model.graphs)}; one of them must be called 'main'.")
    signature = model.graphs["main"].signature
    if not signature.inputs or not signature.outputs:
        raise UsageError(f"{model.name} has {len(signature.inputs)} inputs and {len(signature.outputs)} outputs.")
    for spec in (*signature.inputs, *signature.outputs):
        if not spec.shape:
            raise UsageError(f"{model.name}: '{spec.name}' is a single number; give it a batch dimension.")
    batch = signature.inputs[0].shape[0]
    if isinstance(batch, int) and batch < 1:
        raise UsageError(f"{model.name}: a batch of {batch} is no batch.")


def _write(exporter: Exporter, job: Job) -> Written:
    try:
        return exporter.write(job)
    except (EdgeDeployError, OSError, MemoryError):
        raise
    except Exception as error:
        raise ExportFailed(f"{exporter.name} could not export {job.model.name}: {_root(error)}") from error


def _root(error: BaseException) -> str:
    """The first line of what went wrong in the beginning; converters wrap it in advice, some of it in colour."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = next((line for line in str(error).splitlines() if line.strip()), "")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", line).strip()
    return f"{type(error).__name__}: {plain[:300]}"


def _refuse_wrong(exporter: Exporter, model: Model, golden: Sequence[Golden]) -> None:
    """FP32 that is not the model is a miscompilation, whatever the converter said; so it is in every graph."""
    if exporter.precision != "fp32":
        return
    for one in golden:
        graph = "graph" if one.graph == "main" else f"graph '{one.graph}'"
        wrong = f"{exporter.name} wrote an FP32 {graph} of {model.name} that does not reproduce it:"
        worst = min(one.agreement, key=lambda a: a.worst_snr)
        if worst.worst_snr < FP32_SNR:
            raise ExportFailed(
                f"{wrong} output '{worst.output}' has a channel with an SNR of {worst.worst_snr:.0f} dB (at least "
                f"{FP32_SNR:.0f} dB expected)."
            )
        if (one.distance or 0.0) > FP32_DISTANCE:
            raise ExportFailed(
                f"{wrong} results move by {one.distance:.2f} (0 is none, 1 is all; at most {FP32_DISTANCE} expected)."
            )


def _manifest(model: Model, request: Request, written: Written, golden: tuple[Golden, ...]) -> Manifest:
    exporter = request.exporter
    options = to_json(exporter)
    return Manifest(
        schema=SCHEMA,
        name=model.name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        source=model.source,
        task=model.task,
        graphs={name: GraphRecord(f"graphs/{file}", written.signatures[name]) for name, file in written.files.items()},
        exporter=ExporterRecord(
            exporter.name,
            exporter.runtime,
            exporter.rehearsal,
            exporter.precision,
            options,
            dict(written.decisions),
        ),
        tools=tool_versions(),
        calibration=request.evidence.calibration if exporter.precision == "int8" else None,
        golden=golden,
        golden_origin=request.evidence.origin,
        golden_by="",
        requires=written.requires,
        device=request.device.name if request.device else None,
        request=request.digest(model.source),
        seconds=0.0,
        notes=(*model.notes, *written.notes),
        files={},
    )
