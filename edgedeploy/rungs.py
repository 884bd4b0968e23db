"""The forms that a model takes on its way to an artifact, each ready to run here on the same samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from edgedeploy import plugins
from edgedeploy.artifact import Artifact, OutputAgreement
from edgedeploy.capture import EagerSession, to_onnx, to_program
from edgedeploy.errors import EdgeDeployError, Incompatible, RunFailed, Unavailable, UsageError
from edgedeploy.exporter import FP32_SNR, Evidence, Exporter, Job, Prepares, Progress
from edgedeploy.model import Model
from edgedeploy.opening import Opener
from edgedeploy.records import from_json
from edgedeploy.runtime import Session
from edgedeploy.tasks import from_contract
from edgedeploy.tasks.raw import Raw
from edgedeploy.tasks.task import Task
from edgedeploy.tensors import Signature

#: Opset of the float graph where the exporter does not say.
OPSET = 18
#: The forms that every model takes.
PROGRAM, ONNX = "exported program", "ONNX"
Kind = Literal["exact", "lowered"]
State = Literal["held", "broke", "skipped"]


@dataclass(frozen=True)
class Rung:
    """How one form did. ``agreement`` holds the worst over all samples, ``distance`` the mean (0 to 1).

    Args:
        name: of the form.
        state: whether it held.
        by: who computed it.
        agreement: per output, with the FP32 reference.
        distance: how far the task's results moved.
        nonfinite: output values that are NaN or infinite where the reference is not.
        swapped: which outputs or channels agree in another place, if that explains the rest.
        seen: why it broke or was skipped.
    """

    name: str
    state: State
    by: str = ""
    agreement: tuple[OutputAgreement, ...] = ()
    distance: float | None = None
    nonfinite: int = 0
    swapped: str = ""
    seen: str = ""

    @property
    def worst(self) -> OutputAgreement | None:
        """The output with the worst channel."""
        return min(self.agreement, key=lambda one: one.worst_snr, default=None)

    @property
    def lossy(self) -> bool:
        """Whether it has lost precision; an exporter of int8 may begin with a form in FP32."""
        return self.worst is not None and self.worst.worst_snr < FP32_SNR


@dataclass(frozen=True)
class Form:
    """One form: a name, whether it may lose precision, and how to open it, also with its modules shown.

    ``by`` is who computes it, where its session does not say it best.
    """

    name: str
    kind: Kind
    task: Task[Any]
    signature: Signature
    open: Callable[[], Session]
    tapped: Callable[[], Session] | None = None
    by: str = ""


@dataclass(frozen=True)
class Missing:
    """A form that cannot be made or run here, and why; ``broken`` where it should have been possible."""

    name: str
    reason: str
    broken: bool = False


@dataclass(frozen=True)
class Subject:
    """A checkpoint and the artifact made of it, with the samples that every form runs on."""

    model: Model
    artifact: Artifact
    evidence: Evidence
    threads: int | None = None

    @classmethod
    def of(cls, model: Model, artifact: Artifact, evidence: Evidence | None, threads: int | None) -> Subject:
        """The golden samples of the artifact stand in where there is no evidence; a head given at export counts."""
        manifest = artifact.manifest
        if model.task is None and manifest.task is not None:
            model = replace(model, task=manifest.task)
        if evidence is None:
            samples = [artifact.sample(golden) for golden in manifest.golden if golden.graph == "main"]
            evidence = Evidence(samples, f"{len(samples)} golden samples ({manifest.golden_origin})")
        return cls(model, artifact, evidence, threads)

    @property
    def task(self) -> Task[Any]:
        """The checkpoint's task."""
        return _task(self.model.task)

    @property
    def artifact_task(self) -> Task[Any]:
        """The artifact's task, which may differ."""
        return _task(self.artifact.manifest.task)

    @property
    def precision(self) -> str:
        """That of the artifact."""
        return self.artifact.manifest.exporter.precision

    def exporter(self) -> Exporter:
        """The exporter that wrote the artifact, with its options.

        Raises:
            Unavailable: it is not installed here.
            UsageError: it has other options here.
        """
        record = self.artifact.manifest.exporter
        cls = plugins.find(plugins.EXPORTERS, record.name)
        made: Exporter = from_json(cls, dict(record.options), f"Options of the {record.name} exporter")
        return made


def _task(contract: Mapping[str, Any] | None) -> Task[Any]:
    return Raw() if contract is None else from_contract(contract)


def forms(subject: Subject, reference: Session, work: Path, say: Progress) -> Iterator[Form | Missing]:
    """All forms between the model as it is and the artifact, which comes last; each can be opened until the next."""
    yield _program(subject, say)
    yield _onnx(subject, work, say)
    yield from _steps(subject, reference, work, say)
    yield _artifact(subject)


def _program(subject: Subject, say: Progress) -> Form | Missing:
    name, graph = PROGRAM, subject.model.graphs["main"]
    if isinstance(graph.network, Path):
        return Missing(name, "the model is an ONNX file")
    say("capturing the exported program")
    try:
        program = to_program(graph)
    except Exception as error:  # as many kinds as there are ways to write a network
        return Missing(name, _why(error))
    model = replace(subject.model, graphs={"main": replace(graph, network=program)})
    session = EagerSession(model)
    by = f"torch.export {session.facts['version']}"
    return Form(name, "exact", subject.task, graph.signature, lambda: session, by=by)


def _onnx(subject: Subject, work: Path, say: Progress) -> Form | Missing:
    name, graph = ONNX, subject.model.graphs["main"]
    target = work / "main.onnx"
    say("capturing ONNX")
    opset = subject.artifact.manifest.exporter.options.get("opset")
    try:
        to_onnx(graph, target, opset if isinstance(opset, int) else OPSET, subject.model.task)
    except Exception as error:  # see above
        return Missing(name, _why(error))
    opener, files, signatures = (
        Opener("onnxruntime", None, subject.threads),
        {"main": target},
        {"main": graph.signature},
    )
    return Form(
        name,
        "exact",
        subject.task,
        graph.signature,
        lambda: opener.open(files, signatures),
        lambda: opener.open(files, signatures, tapped=True),
    )


def _steps(subject: Subject, reference: Session, work: Path, say: Progress) -> Iterator[Form | Missing]:
    """The exporter's own; ranges are taken from the samples that everything runs on."""
    kind: Kind = "exact" if subject.precision == "fp32" else "lowered"
    samples = Prepares(subject.task, subject.evidence.samples)
    folder = work / "steps"
    folder.mkdir()
    job = Job(subject.model, subject.task, folder, reference, samples, say)
    signature = subject.model.graphs["main"].signature
    try:
        for step in subject.exporter().steps(job, subject.artifact.manifest.exporter.decisions):
            name = f"{step.name}, exporter's" if step.name in (PROGRAM, ONNX) else step.name
            yield Form(name, kind, subject.task, signature, lambda session=step.session: session)  # type: ignore[misc]
    except Exception as error:  # whatever a vendor's converter raises
        yield Missing(f"{subject.precision} again", _why(error))


def _artifact(subject: Subject) -> Form | Missing:
    artifact, kind = subject.artifact, "exact" if subject.precision == "fp32" else "lowered"
    opener = Opener.of(artifact, subject.threads)
    try:
        opener.open(artifact.files, artifact.signatures).close()
    except (Unavailable, UsageError) as error:  # not installed here, or not known at all
        return Missing("artifact", str(error))
    except (Incompatible, RunFailed) as error:
        return Missing("artifact", str(error), broken=True)
    return Form(
        "artifact",
        "exact" if kind == "exact" else "lowered",
        subject.artifact_task,
        artifact.signatures["main"],
        lambda: opener.open(artifact.files, artifact.signatures),
        lambda: opener.open(artifact.files, artifact.signatures, tapped=True),
    )


def _why(error: Exception) -> str:
    if isinstance(error, EdgeDeployError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no words"]
    return f"{type(error).__name__}: {lines[0][:200]}"
