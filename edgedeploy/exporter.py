"""Exporting: an `Exporter` writes the graphs of one backend; `export` does everything that is the same for all.

The common part: reference outputs in FP32 on real samples, the bundle and its manifest, running what was written and
recording how it agrees, and turning a vendor's exceptions into one sentence.
"""

from __future__ import annotations

import datetime
import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgedeploy import plugins
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
from edgedeploy.compare import agreement, fingerprint
from edgedeploy.device import Device
from edgedeploy.errors import EdgeDeployError, ExportFailed, UsageError
from edgedeploy.model import InputShape, Model, Source
from edgedeploy.records import canonical, to_json
from edgedeploy.runtime import Session
from edgedeploy.tasks import from_contract
from edgedeploy.tasks.raw import Raw
from edgedeploy.tasks.task import Prepared, Task
from edgedeploy.tensors import Array, Signature

Sample = Array | tuple[Array, ...]
Progress = Callable[[str], None]

#: FP32 must reproduce its reference: below this SNR (dB) the export is refused as wrong.
FP32_SNR = 60.0
#: Golden vectors per graph, chosen among this many samples as those in which most is found.
GOLDEN, GOLDEN_AMONG = 2, 16
#: Packages whose versions go into the manifest and decide whether an old artifact is still true.
TOOLS = ("edgedeploy", "numpy", "torch", "onnx", "onnxscript", "onnxruntime", "ultralytics")


@dataclass(frozen=True)
class Evidence:
    """Real inputs for an export: golden vectors come from them and, if ``calibration`` says so, quantisation ranges.

    ``samples`` may be lazy: only ``len`` and indexing are used. ``labels`` are the class names of the data set.
    """

    samples: Sequence[Sample]
    origin: str
    calibration: CalibrationRecord | None = None
    labels: tuple[str, ...] = ()


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
    """One call of `Exporter.write`: the model, its task, where to write, and the prepared calibration samples."""

    model: Model
    task: Task[Any]
    directory: Path
    reference: Session
    calibration: Sequence[Prepared]
    progress: Progress


@dataclass(frozen=True)
class Written:
    """What an exporter wrote: file names below ``job.directory`` by graph; what the artifact needs and should say."""

    files: Mapping[str, str]
    signatures: Mapping[str, Signature]
    requires: tuple[str, ...]
    decisions: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exporter(ABC):
    """How to write artifacts of one backend; the fields are its options."""

    name: ClassVar[str]
    runtime: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.precision not in self.precisions:
            raise UsageError(f"{self.name} has no precision '{self.precision}'. Known: {', '.join(self.precisions)}.")

    @classmethod
    @abstractmethod
    def for_device(cls, device: Device | None, precision: str, options: Mapping[str, Any]) -> Exporter:
        """The exporter with the defaults that suit ``device`` (this machine where ``None``), then ``options``.

        Raises:
            UsageError: an option that this exporter does not have.
        """

    @abstractmethod
    def write(self, job: Job) -> Written:
        """Write every graph of ``job.model`` below ``job.directory``. Any exception of the vendor may pass."""


def export(model: Model, request: Request, directory: Path, progress: Progress | None = None) -> Artifact:
    """Write ``directory/NAME.edge`` and return it, opened.

    Raises:
        UsageError: the precision needs calibration and there is none, or the samples are not what the task takes.
        ExportFailed: the vendor's converter refused, or what it wrote does not reproduce the model.
        Unavailable: something the backend needs is not installed.
    """
    started = time.monotonic()
    say = progress or (lambda _: None)
    exporter, evidence = request.exporter, request.evidence
    if exporter.precision == "int8" and evidence.calibration is None:
        raise UsageError("int8 needs real images to calibrate on: give a data set with --calibrate data.yaml.")
    task: Task[Any] = from_contract(model.task) if model.task is not None else Raw()
    _check_graphs(model)
    say("running the FP32 reference")
    reference = reference_session(model)
    chosen = _golden_samples(task, reference, model, evidence.samples)
    calibration = Prepares(task, evidence.samples) if evidence.calibration else ()
    with writing(directory, model.name) as temporary:
        (temporary / "graphs").mkdir()
        written = _write(exporter, Job(model, task, temporary / "graphs", reference, calibration, say))
        say("checking what was written")
        session = plugins.find(plugins.RUNTIMES, exporter.runtime)().open(
            {name: temporary / "graphs" / file for name, file in written.files.items()}, written.signatures
        )
        golden = tuple(
            _golden(temporary, f"golden/{i}", _Rung(task, reference, session, signature), sample)
            for signature in [written.signatures["main"]]
            for i, sample in enumerate(chosen)
        )
        session.close()
        _refuse_wrong(exporter, model, golden)
        manifest = _manifest(model, request, written, golden, time.monotonic() - started)
        seal(temporary, manifest)
    return Artifact.open(directory / f"{model.name}.edge")


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


def feeds(signature: Signature, prepared: Prepared) -> dict[str, Array]:
    """Prepared tensors under the names of the graph's inputs."""
    return {spec.name: tensor for spec, tensor in zip(signature.inputs, prepared.tensors, strict=True)}


@dataclass(frozen=True)
class _Rung:
    task: Task[Any]
    reference: Session
    session: Session
    signature: Signature


def _check_graphs(model: Model) -> None:
    if "main" not in model.graphs:
        raise UsageError(f"{model.name} has graphs {', '.join(model.graphs)}; one of them must be called 'main'.")
    batch = model.graphs["main"].signature.inputs[0].shape[0]
    if isinstance(batch, int) and batch < 1:
        raise UsageError(f"{model.name}: a batch of {batch} is no batch.")


def batched(signature: Signature, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Batch-1 inputs repeated to the batch that a graph of fixed batch takes."""
    repeated = {}
    for spec in signature.inputs:
        array, batch = inputs[spec.name], spec.shape[0] if spec.shape else 1
        short = isinstance(batch, int) and batch > 1 and array.shape[0] == 1
        repeated[spec.name] = np.repeat(array, int(batch), axis=0) if short else array
    return repeated


def _golden_samples(task: Task[Any], reference: Session, model: Model, samples: Sequence[Sample]) -> list[Sample]:
    """The samples in which the reference finds most: agreement on an empty image would prove nothing."""
    if not len(samples):
        raise UsageError("an export needs at least one real sample for its golden vectors.")
    signature = model.graphs["main"].signature
    among = [samples[i] for i in range(min(GOLDEN_AMONG, len(samples)))]
    found = []
    for sample in among:
        prepared = task.prepare(sample)  # type: ignore[arg-type]
        outputs = reference.run(batched(signature, feeds(signature, prepared)))
        result = task.finish([outputs[s.name][:1] for s in signature.outputs], prepared.context)
        found.append(len(getattr(result, "scores", ())))
    order = sorted(range(len(among)), key=lambda i: (-min(found[i], 50), i))
    return [among[i] for i in order[:GOLDEN]]


def _write(exporter: Exporter, job: Job) -> Written:
    try:
        return exporter.write(job)
    except (EdgeDeployError, OSError, MemoryError):
        raise
    except Exception as error:
        line = (str(error).strip().splitlines() or [""])[0][:300]
        raise ExportFailed(
            f"{exporter.name} could not export {job.model.name}: {type(error).__name__}: {line}"
        ) from error


def _golden(root: Path, folder: str, rung: _Rung, sample: Sample) -> Golden:
    (root / folder).mkdir(parents=True)
    arrays = sample if isinstance(sample, tuple) else (sample,)
    names = tuple(f"{folder}/sample_{i}.npy" for i in range(len(arrays)))
    for name, array in zip(names, arrays, strict=True):
        np.save(root / name, array, allow_pickle=False)
    prepared = rung.task.prepare(sample)  # type: ignore[arg-type]
    inputs = batched(rung.signature, feeds(rung.signature, prepared))
    wanted = {name: values[:1] for name, values in rung.reference.run(inputs).items()}
    got = {name: values[:1] for name, values in rung.session.run(inputs).items()}
    files = {name: f"{folder}/{name}.npy" for name in wanted}
    for name, values in wanted.items():
        np.save(root / files[name], np.ascontiguousarray(values), allow_pickle=False)
    order = [spec.name for spec in rung.signature.outputs]
    finished = [rung.task.finish([outputs[n] for n in order], prepared.context) for outputs in (wanted, got)]
    return Golden(
        graph="main",
        sample=names,
        prepared=tuple(fingerprint(tensor) for tensor in prepared.tensors),
        outputs=files,
        agreement=agreement(wanted, got),
        distance=rung.task.distance(finished[0], finished[1]),
    )


def _refuse_wrong(exporter: Exporter, model: Model, golden: Sequence[Golden]) -> None:
    """FP32 that is not the model is a miscompilation, whatever the converter said."""
    worst = min((a for g in golden for a in g.agreement), key=lambda a: a.snr)
    if exporter.precision == "fp32" and worst.snr < FP32_SNR:
        raise ExportFailed(
            f"{exporter.name} wrote an FP32 graph of {model.name} that does not reproduce it: output '{worst.output}' "
            f"has an SNR of {worst.snr:.0f} dB against the reference (at least {FP32_SNR:.0f} dB expected)."
        )


def _manifest(model: Model, request: Request, written: Written, golden: tuple[Golden, ...], seconds: float) -> Manifest:
    exporter = request.exporter
    options = to_json(exporter)
    return Manifest(
        schema=SCHEMA,
        name=model.name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        source=model.source,
        task=model.task,
        graphs={name: GraphRecord(f"graphs/{file}", written.signatures[name]) for name, file in written.files.items()},
        exporter=ExporterRecord(exporter.name, exporter.runtime, exporter.precision, options, dict(written.decisions)),
        tools=tool_versions(),
        calibration=request.evidence.calibration,
        golden=golden,
        golden_origin=request.evidence.origin,
        requires=written.requires,
        device=request.device.name if request.device else None,
        request=request.digest(model.source),
        seconds=round(seconds, 3),
        notes=(*model.notes, *written.notes),
        files={},
    )
