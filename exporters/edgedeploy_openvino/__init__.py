"""OpenVINO: IR graphs in fp32, fp16 and int8, or with weights in int8, for Intel CPUs, GPUs and NPUs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from edgedeploy import plugins
from edgedeploy.capture import module_path, to_onnx
from edgedeploy.device import Device, this_machine
from edgedeploy.errors import ExportFailed, Unavailable, UsageError
from edgedeploy.exporter import Exporter, Job, Step, Written
from edgedeploy_openvino.modules import module_outputs
from edgedeploy_openvino.runtime import PRECISION_INFO, TAPS_INFO, OpenVINORuntime, openvino

if TYPE_CHECKING:
    from edgedeploy.precision.placement import InputLowering
    from edgedeploy.precision.weights import WeightLowering
    from edgedeploy.runtime import Session
    from edgedeploy.tensors import Signature

__all__ = ["OpenVINO"]

#: First OpenVINO that has an operation set (its documentation, Available Operation Sets); later: what wrote it.
FIRST = {12: "2023.1", 13: "2023.2", 14: "2024.0", 15: "2024.5"}
#: First one that was seen to run what is written here: 2023.0 stops at a quantised convolution.
OLDEST = {"fp32": "2023.0", "fp16": "2023.0", "int8-weights": "2023.3", "int8": "2023.3"}
MIN_OPSET, MAX_OPSET = 16, 20


@dataclass(frozen=True)
class OpenVINO(Exporter):
    """Options of an export, besides those of every `Exporter`.

    In fp16 weights are stored in 16 bits, as long as they fit; what is computed in is for the device and the runtime's
    options to say. ``int8-weights`` needs no calibration: weights are int8, everything else stays in float, and a graph
    with state gets the same where int8 was asked for.

    Args:
        opset: of the ONNX graph that OpenVINO converts.
        activations: ``uint8`` or ``int8``. x86 multiplies unsigned by signed.
        reduce_range: 7-bit weights, for x86 without VNNI, whose 8-bit products saturate.
        calibration: how ranges are taken: ``minmax``, ``entropy`` or ``percentile``.
    """

    name: ClassVar[str] = "openvino"
    runtime: ClassVar[str] = "openvino"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8-weights", "int8")
    opset: int = 18
    activations: Literal["uint8", "int8"] = "uint8"
    reduce_range: bool = False
    calibration: Literal["minmax", "entropy", "percentile"] = "minmax"

    def __post_init__(self) -> None:
        """Refuse an opset that the quantiser or the converter does not take."""
        super().__post_init__()
        if not MIN_OPSET <= self.opset <= MAX_OPSET:
            raise UsageError(f"opset {self.opset} cannot be written: give {MIN_OPSET} to {MAX_OPSET}.")
        if self.precision == "fp16" and (self.keep_float or self.max_drop is not None):
            raise UsageError(
                "In fp16 OpenVINO stores weights in 16 bits where they fit, and computes as the device is told to: "
                "keep_float and max_drop mean nothing to it."
            )

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
        from edgedeploy.precision.choice import working_directory

        files, decisions, notes, needed = {}, {}, [], OLDEST[self.precision]
        for name, graph in job.model.graphs.items():
            with working_directory() as work:
                source, target = work / "float.onnx", job.directory / f"{name}.xml"
                job.progress(f"capturing graph '{name}'")
                to_onnx(graph, source, self.opset, job.model.task)
                precision = self._precision(graph.signature)
                if precision in ("int8", "int8-weights"):
                    decisions[name], said = self._lower(job, name, source, work)
                    notes += said
                job.progress(f"converting graph '{name}'")
                _convert(source, target, precision, module_outputs(source))
            files[name] = target.name
            needed = max(needed, _written_for(target), key=_numbers)
        signatures = {name: graph.signature for name, graph in job.model.graphs.items()}
        return Written(files, signatures, (f"openvino>={needed}",), decisions, tuple(notes))

    def steps(self, job: Job, decisions: Mapping[str, Any]) -> Iterator[Step]:
        """See `Exporter.steps`: in int8 the quantised ONNX graph, run by ONNX Runtime."""
        if self.precision not in ("int8", "int8-weights"):
            return
        graph = job.model.graphs["main"]
        source, quantised = job.directory / "float.onnx", job.directory / "int8.onnx"
        to_onnx(graph, source, self.opset, job.model.task)
        lowering = self._lowering(job, "main", source, job.directory)
        lowering.write(quantised, frozenset(lowering.units) - set(decisions["main"]["kept_in_float"]))
        runtime = plugins.find(plugins.RUNTIMES, "onnxruntime")()
        yield Step(f"ONNX {self.precision}", runtime.open({"main": quantised}, {"main": graph.signature}))

    def _lower(self, job: Job, name: str, source: Path, work: Path) -> tuple[dict[str, Any], list[str]]:
        """Replace the float graph ``source`` by one with integers; what was decided, and what to know of it."""
        from edgedeploy.precision.choice import choose, few_samples, weights_note

        signature = job.model.graphs[name].signature
        lowering = self._lowering(job, name, source, work)
        choice = choose(_Trials(lowering, signature, work, self._precision(signature)), job, name, self)
        lowering.write(source, choice.lowered)
        notes = choice.notes(self.precision)
        if self.precision == "int8":
            notes += [weights_note(name)] if signature.state else few_samples(job)
        return choice.record(), notes

    def _precision(self, signature: Signature) -> str:
        """Of one graph: int8 of one with state is that of its weights."""
        return "int8-weights" if self.precision == "int8" and signature.state else self.precision

    def _lowering(self, job: Job, name: str, source: Path, work: Path) -> InputLowering | WeightLowering:
        try:
            from edgedeploy.precision.placement import InputLowering
            from edgedeploy.precision.qdq import Scheme
            from edgedeploy.precision.weights import WeightLowering
        except ImportError as error:
            raise Unavailable.extra("ONNX Runtime with its quantiser", "export") from error
        signature = job.model.graphs[name].signature
        if self._precision(signature) == "int8-weights":
            return WeightLowering(source, signature, "dequantize", work)
        scheme = Scheme(self.activations, reduce_range=self.reduce_range, method=self.calibration, bias=False)
        lowering = InputLowering(source, signature, scheme, work)
        job.progress(f"taking ranges from {len(job.calibration)} samples")
        lowering.calibrate(job.calibration)
        return lowering


class _Trials:
    """The quantised graph as OpenVINO computes it; see `edgedeploy.precision.choice.Lowering`."""

    def __init__(
        self, lowering: InputLowering | WeightLowering, signature: Signature, work: Path, precision: str
    ) -> None:
        self._lowering, self._signature, self._precision = lowering, signature, precision
        self._source, self._target = work / "openvino-trial.onnx", work / "openvino-trial.xml"

    @property
    def units(self) -> list[str]:
        return self._lowering.units

    def open(self, lowered: frozenset[str]) -> Session:
        self._lowering.write(self._source, lowered)
        _convert(self._source, self._target, self._precision, {})
        return OpenVINORuntime().open({"main": self._target}, {"main": self._signature})

    def settle(self, kept: frozenset[str]) -> frozenset[str]:
        return self._lowering.settle(kept)


def _convert(source: Path, target: Path, precision: str, modules: Mapping[str, str]) -> None:
    """Write the ONNX file ``source`` as IR, ``target`` and the weights beside it; ``modules`` travels with it.

    Raises:
        ExportFailed: OpenVINO has no such operation; says which, and in which module.
    """
    ov = openvino()
    try:
        model = ov.convert_model(source)
    except Exception as error:  # several kinds, of the frontend and of Python
        raise _refused(source, error) from error
    model.set_rt_info(precision, list(PRECISION_INFO))
    model.set_rt_info(json.dumps(modules, sort_keys=True), list(TAPS_INFO))
    ov.save_model(model, target, compress_to_fp16=precision == "fp16")


def _refused(source: Path, error: Exception) -> ExportFailed:
    """OpenVINO names kinds of operations, or a node by its first output: say where in the PyTorch model that is."""
    import onnx

    text = str(error)
    nodes = onnx.load(source, load_external_data=False).graph.node
    found = re.search(r"No conversion rule found for operations: (.+)", text)
    if found is not None:
        kinds = [kind.strip() for kind in found[1].split(",")]
        named = [re.sub(r"-\d+$", "", kind).rpartition(".")[2] for kind in kinds]
        places = list(dict.fromkeys(module_path(node) for node in nodes if node.op_type in named))
        return ExportFailed(
            f"OpenVINO has no operation for {', '.join(sorted(named))} of ONNX, in {_list(places)}. "
            "Write that part of the model with other operations, or export with another backend."
        )
    failed = re.search(r"ONNX node '<Node\((\w+)\): ([^>]+)>'", text)
    place = next((module_path(n) for n in nodes if failed and failed[2] in n.output), None)
    reason = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("--")]
    reason = [r for r in reason if not re.match(r"Check |FrontEnd API|Summary|Exception from|.*Conversion failed", r)]
    where = f" in {place} ({cast('re.Match[str]', failed)[1]} of ONNX)" if place else ""
    return ExportFailed(f"OpenVINO cannot convert the graph{where}: {(reason or [text.strip()])[-1][:300]}")


def _list(places: list[str]) -> str:
    return ", ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")


def _written_for(path: Path) -> str:
    """The first version of OpenVINO that has the operations of an IR."""
    latest = max(int(number) for number in re.findall(r'version="opset(\d+)"', path.read_text("utf-8")))
    if latest < min(FIRST):
        return OLDEST["fp32"]
    return FIRST.get(latest) or ".".join(OpenVINORuntime.version().split(".")[:2])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
