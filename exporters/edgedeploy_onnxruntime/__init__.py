"""ONNX Runtime: portable ONNX graphs in fp32, fp16 and int8 for CPUs."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from edgedeploy.capture import to_onnx
from edgedeploy.device import Device, this_machine
from edgedeploy.errors import Unavailable, UsageError, did_you_mean
from edgedeploy.exporter import Exporter, Job, Written
from edgedeploy.records import from_json, to_json

__all__ = ["OnnxRuntime"]

#: First ONNX Runtime that reads the ONNX IR version (1.18: IR 10).
MINIMUM = {8: "1.14", 9: "1.16", 10: "1.18", 11: "1.21", 12: "1.22", 13: "1.23"}
#: Opsets that torch writes (below 18 only for some models) and ONNX Runtime reads; its quantiser takes fewer.
MIN_OPSET, MAX_OPSET, QUANTIZER_OPSET = 16, 26, 20
#: Below so many calibration images the ranges are luck.
ENOUGH_IMAGES = 100


@dataclass(frozen=True)
class OnnxRuntime(Exporter):
    """Options of an export.

    Args:
        precision: ``fp32``, ``fp16`` (weights and arithmetic; inputs and outputs stay float32) or ``int8``.
        opset: ONNX opset; ONNX Runtime's quantiser takes up to 20.
        activations: ``uint8`` or ``int8``. What is fast is the CPU's business: x86 multiplies unsigned by signed.
        reduce_range: 7-bit weights, for x86 without VNNI, whose 8-bit products saturate.
        calibration: how ranges are taken: ``minmax``, ``entropy`` or ``percentile``.
        keep_float: module paths (or node names) to keep in float besides those that measuring finds.
        limit: how far (0 to 1) int8 may move the task's results on the calibration samples.
    """

    name: ClassVar[str] = "onnxruntime"
    runtime: ClassVar[str] = "onnxruntime"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8")
    opset: int = 18
    activations: Literal["uint8", "int8"] = "uint8"
    reduce_range: bool = False
    calibration: Literal["minmax", "entropy", "percentile"] = "minmax"
    keep_float: tuple[str, ...] = ()
    limit: float = 0.15

    def __post_init__(self) -> None:
        """Refuse an opset that cannot be written and a limit that is no distance."""
        super().__post_init__()
        most = QUANTIZER_OPSET if self.precision == "int8" else MAX_OPSET
        if not MIN_OPSET <= self.opset <= most:
            raise UsageError(f"opset {self.opset} cannot be written in {self.precision}: give {MIN_OPSET} to {most}.")
        if not 0 <= self.limit <= 1:
            raise UsageError(f"limit {self.limit} is no distance: give a number from 0 to 1.")

    @classmethod
    def for_device(cls, device: Device | None, precision: str, options: Mapping[str, Any]) -> OnnxRuntime:
        """See `Exporter.for_device`: activation type and weight range follow the instruction set."""
        fields = {f.name for f in dataclasses.fields(cls)} - {"precision"}
        for key in options:
            if key not in fields:
                raise UsageError(f"The onnxruntime exporter has no option '{key}'.{did_you_mean(key, fields)}")
        board = device or this_machine()
        defaults = {"activations": board.int8.activations, "reduce_range": board.int8.activations == "uint8"}
        defaults["reduce_range"] = defaults["reduce_range"] and board.int8.dot_product is False
        if isinstance(options.get("keep_float"), str):
            options = {**options, "keep_float": [options["keep_float"]]}
        values = {"precision": precision, **defaults, **options}
        return from_json(cls, to_json(values), "Options of the onnxruntime exporter")

    def write(self, job: Job) -> Written:
        """See `Exporter.write`."""
        files, decisions, notes, versions = {}, {}, [], []
        for name, graph in job.model.graphs.items():
            job.progress(f"capturing graph '{name}'")
            target = job.directory / f"{name}.onnx"
            to_onnx(graph, target, self.opset, job.model.task)
            if not isinstance(graph.network, Path):
                self._check_opset(target)
            if self.precision == "fp16":
                job.progress("converting to fp16")
                _halve(target)
            if self.precision == "int8":
                decided, said = self._quantize(job, name, target)
                decisions[name] = decided
                notes += said
            files[name] = target.name
            versions.append(_ir_version(target))
        minimum = next((MINIMUM[known] for known in sorted(MINIMUM) if known >= max(versions)), MINIMUM[max(MINIMUM)])
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

    def _quantize(self, job: Job, name: str, path: Path) -> tuple[dict[str, Any], list[str]]:
        """Replace the float graph at ``path`` by its int8 form; what was decided, and what the user should know."""
        try:
            from edgedeploy_onnxruntime.quantize import Quantizer, Scheme, working_directory
        except ImportError as error:
            raise Unavailable.extra("ONNX Runtime with its quantiser", "export") from error

        scheme = Scheme(self.activations, self.reduce_range, self.calibration, self.limit)
        with working_directory() as work:
            quantizer = Quantizer(path, job.model.graphs[name].signature, scheme, work)
            job.progress(f"taking ranges from {len(job.calibration)} samples")
            quantizer.calibrate(job.calibration)
            choice = quantizer.choose(job.task, job.calibration, self.keep_float, job.progress)
            quantizer.write(path, choice)
        decided = {
            "quantized_nodes": choice.quantized,
            "candidate_nodes": choice.candidates,
            "kept_in_float": list(choice.kept_modules),
            "distance": round(choice.found.chosen, 4),
            "distance_all_quantized": round(choice.found.everything, 4),
            "trials": choice.found.trials,
        }
        notes = []
        if len(job.calibration) < ENOUGH_IMAGES:
            notes.append(
                f"calibrated on {len(job.calibration)} samples; "
                f"give {ENOUGH_IMAGES} or more of the kind the device will see"
            )
        if choice.found.chosen > self.limit:
            notes.append(
                f"int8 moves the results on calibration samples by {choice.found.chosen:.2f}, over the limit of "
                f"{self.limit}: run 'edgedeploy compare' before you use it"
            )
        if (self.activations == "int8") == (platform.machine() in ("x86_64", "AMD64")):
            other = "int8" if self.activations == "int8" else "uint8"
            notes.append(
                f"{other} activations suit the target, not this machine: its speed here says nothing about there"
            )
        return decided, notes


def _halve(path: Path) -> None:
    """Weights and arithmetic in fp16; inputs and outputs stay float32, so that callers need not care."""
    import onnx

    try:
        from onnxconverter_common import float16
    except ImportError as error:
        raise Unavailable.extra("onnxconverter-common, which writes fp16 graphs,", "export") from error
    proto = onnx.load(path)
    halved = float16.convert_float_to_float16(proto, keep_io_types=True)
    onnx.save(halved, path)


def _ir_version(path: Path) -> int:
    import onnx

    return int(onnx.load(path, load_external_data=False).ir_version)
