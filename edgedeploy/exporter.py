"""Exporting: an `Exporter` writes the graphs of one backend; `export` does everything that is the same for all.

The common part: reference outputs in FP32 on real samples, the bundle and its manifest, running what was written and
recording how it agrees, and turning a vendor's exceptions into one sentence.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

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
from edgedeploy.device import Device
from edgedeploy.errors import EdgeDeployError, ExportFailed, UsageError
from edgedeploy.golden import COUNT, Pair, Sample, choose, record
from edgedeploy.model import InputShape, Model, Source
from edgedeploy.records import canonical, to_json
from edgedeploy.runtime import Session
from edgedeploy.tasks import from_contract
from edgedeploy.tasks.raw import Raw
from edgedeploy.tasks.task import Prepared, Task
from edgedeploy.tensors import Signature, random_input

Progress = Callable[[str], None]

#: FP32 must reproduce its reference: with a channel below this SNR (dB), or results further away, it is refused.
FP32_SNR, FP32_DISTANCE = 60.0, 0.05
#: Packages whose versions go into the manifest and decide whether an old artifact is still true.
TOOLS = ("edgedeploy", "numpy", "torch", "onnx", "onnxscript", "onnxruntime", "ultralytics")


@dataclass(frozen=True)
class Evidence:
    """Real inputs for an export: golden vectors come from them and, if ``calibration`` says so, quantisation ranges.

    ``samples`` may be lazy: only ``len`` and indexing are used. ``labels`` are the class names of the data set.
    ``stand_in`` says that the samples are images only for want of better: a model that takes no images gets tensors
    from a seed instead.
    """

    samples: Sequence[Sample]
    origin: str
    calibration: CalibrationRecord | None = None
    labels: tuple[str, ...] = ()
    stand_in: bool = False


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
    exporter, evidence = request.exporter, _evidence(request.evidence, model)
    if exporter.precision == "int8" and evidence.calibration is None:
        raise UsageError("int8 needs real images to calibrate on: give a data set with --calibrate data.yaml.")
    task: Task[Any] = from_contract(model.task) if model.task is not None else Raw()
    _check_graphs(model)
    runtime = plugins.find(plugins.RUNTIMES, exporter.runtime)
    runtime.preload()  # what is missing is said before the work, not after it
    say("running the FP32 reference")
    reference = reference_session(model)
    signature = model.graphs["main"].signature
    chosen = choose(task, reference, signature, evidence.samples)
    calibration = Prepares(task, evidence.samples) if evidence.calibration else ()
    with writing(directory, model.name) as temporary:
        (temporary / "graphs").mkdir()
        written = _write(exporter, Job(model, task, temporary / "graphs", reference, calibration, say))
        say("checking what was written")
        session = runtime().open(
            {name: temporary / "graphs" / file for name, file in written.files.items()}, written.signatures
        )
        golden = record(temporary, Pair(task, reference, session, written.signatures["main"]), chosen)
        session.close()
        _refuse_wrong(exporter, model, golden)
        manifest = _manifest(model, request, written, golden)
        seal(temporary, replace(manifest, golden_origin=evidence.origin, seconds=round(time.monotonic() - started, 3)))
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


def _evidence(evidence: Evidence, model: Model) -> Evidence:
    """The evidence, or tensors from a seed where images only stand in for samples and the model takes no images."""
    if not evidence.stand_in or model.task is not None or "main" not in model.graphs:
        return evidence
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
    """FP32 that is not the model is a miscompilation, whatever the converter said."""
    worst = min((a for g in golden for a in g.agreement), key=lambda a: a.worst_snr)
    if exporter.precision == "fp32" and worst.worst_snr < FP32_SNR:
        raise ExportFailed(
            f"{exporter.name} wrote an FP32 graph of {model.name} that does not reproduce it: output '{worst.output}' "
            f"has a channel with an SNR of {worst.worst_snr:.0f} dB (at least {FP32_SNR:.0f} dB expected)."
        )
    moved = max(g.distance for g in golden)
    if exporter.precision == "fp32" and moved > FP32_DISTANCE:
        raise ExportFailed(
            f"{exporter.name} wrote an FP32 graph of {model.name} that does not reproduce it: results move by "
            f"{moved:.2f} (0 is none, 1 is all; at most {FP32_DISTANCE} expected)."
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
        exporter=ExporterRecord(exporter.name, exporter.runtime, exporter.precision, options, dict(written.decisions)),
        tools=tool_versions(),
        calibration=request.evidence.calibration if exporter.precision == "int8" else None,
        golden=golden,
        golden_origin=request.evidence.origin,
        requires=written.requires,
        device=request.device.name if request.device else None,
        request=request.digest(model.source),
        seconds=0.0,
        notes=(*model.notes, *written.notes),
        files={},
    )
