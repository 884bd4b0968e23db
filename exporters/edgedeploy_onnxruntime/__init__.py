"""ONNX Runtime: portable ONNX graphs in fp32, fp16 and int8, or with weights in int8, for CPUs."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from edgedeploy.capture import to_onnx
from edgedeploy.device import Device, this_machine
from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.exporter import Exporter, Job, Step, Written

if TYPE_CHECKING:
    from edgedeploy.precision.half import HalfLowering
    from edgedeploy.precision.qdq import QdqLowering
    from edgedeploy.precision.weights import WeightLowering

__all__ = ["OnnxRuntime"]

#: First ONNX Runtime that reads the ONNX IR version (1.18: IR 10).
MINIMUM = {8: "1.14", 9: "1.16", 10: "1.18", 11: "1.21", 12: "1.22", 13: "1.23"}
#: First ONNX Runtime that multiplies int8 weights without unpacking them on x86 and Arm alike.
MULTIPLIES_WEIGHTS = "1.23"
#: Opsets that torch writes (below 18 only for some models) and ONNX Runtime reads; its quantiser takes fewer.
MIN_OPSET, MAX_OPSET, QUANTIZER_OPSET = 16, 26, 20


@dataclass(frozen=True)
class OnnxRuntime(Exporter):
    """Options of an export, besides those of every `Exporter`.

    ``int8-weights`` needs no calibration: weights are int8, everything else stays in float. A graph with state gets
    the same where int8 was asked for, because ranges are not taken over a stream, and errors in a state come back.

    Args:
        opset: ONNX opset; ONNX Runtime's quantiser takes up to 20.
        activations: ``uint8`` or ``int8``. What is fast is the CPU's business: x86 multiplies unsigned by signed.
        reduce_range: 7-bit weights, for x86 without VNNI, whose 8-bit products saturate.
        calibration: how ranges are taken: ``minmax``, ``entropy`` or ``percentile``.
    """

    name: ClassVar[str] = "onnxruntime"
    runtime: ClassVar[str] = "onnxruntime"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8-weights", "int8")
    opset: int = 18
    activations: Literal["uint8", "int8"] = "uint8"
    reduce_range: bool = False
    calibration: Literal["minmax", "entropy", "percentile"] = "minmax"

    def __post_init__(self) -> None:
        """Refuse an opset that cannot be written."""
        super().__post_init__()
        most = QUANTIZER_OPSET if self.precision == "int8" else MAX_OPSET
        if not MIN_OPSET <= self.opset <= most:
            raise UsageError(f"opset {self.opset} cannot be written in {self.precision}: give {MIN_OPSET} to {most}.")

    @classmethod
    def defaults(cls, device: Device | None, precision: str) -> Mapping[str, Any]:
        """See `Exporter.defaults`: activation type and weight range follow the instruction set."""
        int8 = (device or this_machine()).int8
        return {
            "activations": int8.activations,
            "reduce_range": int8.activations == "uint8" and int8.dot_product is False,
        }

    def write(self, job: Job) -> Written:
        """See `Exporter.write`."""
        files, decisions, notes, versions = {}, {}, [], []
        for name, graph in job.model.graphs.items():
            job.progress(f"capturing graph '{name}'")
            target = job.directory / f"{name}.onnx"
            to_onnx(graph, target, self.opset, job.model.task)
            if not isinstance(graph.network, Path):
                self._check_opset(target)
            if self.precision != "fp32":
                decided, said = self._lower(job, name, target)
                decisions[name] = decided
                notes += said
            files[name] = target.name
            versions.append(_ir_version(target))
        minimum = next((MINIMUM[known] for known in sorted(MINIMUM) if known >= max(versions)), MINIMUM[max(MINIMUM)])
        if any("MatMulNBits" in _operators(job.directory / file) for file in files.values()):
            minimum = max(minimum, MULTIPLIES_WEIGHTS, key=lambda version: tuple(map(int, version.split("."))))
        signatures = {name: graph.signature for name, graph in job.model.graphs.items()}
        return Written(files, signatures, (f"onnxruntime>={minimum}",), decisions, tuple(notes))

    def _check_opset(self, path: Path) -> None:
        """Torch converts to an older opset where it can, and says nothing where it cannot."""
        import onnx

        found = {o.domain: o.version for o in onnx.load(path, load_external_data=False).opset_import}.get("")
        if found != self.opset:
            raise UsageError(
                f"torch cannot write this model in opset {self.opset}, only in {found}: add opset={found}."
            )

    def steps(self, job: Job, decisions: Mapping[str, Any]) -> Iterator[Step]:
        """See `Exporter.steps`: the graph in the low precision, made again; in fp32 that is the float ONNX itself."""
        if self.precision == "fp32":
            return
        self._precision()
        from edgedeploy.precision.choice import working_directory

        with working_directory() as work:
            source = work / "main.onnx"
            to_onnx(job.model.graphs["main"], source, self.opset, job.model.task)
            lowering = self._lowering(job, "main", source, work)
            lowered = frozenset(lowering.units) - frozenset(decisions["main"]["kept_in_float"])
            yield Step(f"{self.precision} ONNX", lowering.open(lowered))

    def _lower(self, job: Job, name: str, path: Path) -> tuple[dict[str, Any], list[str]]:
        """Replace the float graph at ``path`` by its low-precision form; what was decided, and what to know of it."""
        self._precision()
        from edgedeploy.precision.choice import choose, few_samples, weights_note, working_directory

        with working_directory() as work:
            lowering = self._lowering(job, name, path, work)
            choice = choose(lowering, job, name, self)
            lowering.write(path, choice.lowered)
        notes = choice.notes(self.precision)
        if self.precision == "int8" and self._weights_only(job, name):
            notes.append(weights_note(name))
        elif self.precision == "int8":
            notes += few_samples(job)
            if (self.activations == "int8") == (platform.machine() in ("x86_64", "AMD64")):
                notes.append(
                    f"{self.activations} activations suit the target, not this machine: its speed here says nothing "
                    "about there"
                )
        return choice.record(), notes

    def _weights_only(self, job: Job, name: str) -> bool:
        """Whether only the weights of a graph are lowered."""
        stateful = bool(job.model.graphs[name].signature.state)
        return self.precision == "int8-weights" or (self.precision == "int8" and stateful)

    def _lowering(self, job: Job, name: str, path: Path, work: Path) -> QdqLowering | HalfLowering | WeightLowering:
        """What lowers the float graph at ``path``, with its ranges taken."""
        from edgedeploy.precision.choice import ReadySamples
        from edgedeploy.precision.half import HalfLowering
        from edgedeploy.precision.qdq import QdqLowering, Scheme
        from edgedeploy.precision.weights import WeightLowering

        signature = job.model.graphs[name].signature
        if self.precision == "fp16":
            return HalfLowering(path, signature, work, ReadySamples(job, name))
        if self._weights_only(job, name):
            return WeightLowering(path, signature, "products", work)
        scheme = Scheme(self.activations, reduce_range=self.reduce_range, method=self.calibration)
        lowering = QdqLowering(path, signature, scheme, work)
        job.progress(f"taking ranges from {len(job.calibration)} samples")
        lowering.calibrate(job.calibration)
        return lowering

    @staticmethod
    def _precision() -> None:
        """Refuse early where what lowers graphs is not installed."""
        try:
            import edgedeploy.precision.half
            import edgedeploy.precision.qdq  # noqa: F401
        except ImportError as error:
            raise Unavailable.extra("ONNX Runtime with its quantiser", "export") from error


def _operators(path: Path) -> frozenset[str]:
    import onnx

    return frozenset(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


def _ir_version(path: Path) -> int:
    import onnx

    return int(onnx.load(path, load_external_data=False).ir_version)
