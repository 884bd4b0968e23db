"""One graph of a model on its way to a package: captured, lowered, its weights compressed, described."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgedeploy.capture import to_program
from edgedeploy.errors import ExportFailed, Unavailable
from edgedeploy.exporter import Job, Step
from edgedeploy.model import Graph
from edgedeploy.precision.choice import LIMITS, choose, few_samples
from edgedeploy.tasks import Detect
from edgedeploy.tensors import TensorSpec
from edgedeploy_coreml.convert import Target, capture, convert, plain_name, taps, units
from edgedeploy_coreml.lowering import HalfLowering, WeightLowering, in_memory
from edgedeploy_coreml.package import MODULES, PIXELS, SOURCE, TASK, About
from edgedeploy_coreml.vendor import quiet

if TYPE_CHECKING:
    from edgedeploy.precision.pt2e import Pt2eLowering
    from edgedeploy_coreml import CoreML


@dataclass(frozen=True)
class Made:
    """A converted model, what was decided on the way, and what the user should know of it."""

    model: Any
    decided: Mapping[str, Any]
    notes: tuple[str, ...]
    taps: Mapping[str, str]


@dataclass(frozen=True)
class Build:
    """What is to be made of one graph."""

    exporter: CoreML
    job: Job
    name: str
    graph: Graph
    target: Target

    def make(self) -> Made:
        """The graph in the precision, and with the weights, that the exporter asks for."""
        stateful = ("Core ML keeps state in fp16, whatever it computes in",) if self.graph.signature.state else ()
        made = {"fp32": self._float, "fp16": self._half, "int8": self._int8}[self.exporter.precision]()
        decided = {"target": self.target.minimum, **made.decided}
        made = dataclasses.replace(made, decided=decided, notes=(*made.notes, *stateful))
        return made if self.exporter.weights == "float" else self._compressed(made)

    def steps(self, decided: Mapping[str, Any]) -> Iterator[Step]:
        """The forms between the float model and the package, without a search."""
        captured, plain = capture(self.graph), Target(self.target.minimum)
        whole = convert(captured, plain)
        yield Step("ML program in fp32", in_memory(whole._mil_program, captured))
        kept = frozenset(decided.get("kept_in_float", ()))
        if self.exporter.precision == "fp16" and self.exporter.weights != "float":
            half = frozenset(units(captured, whole._mil_program)) - kept
            model = convert(captured, plain, half.__contains__)
            yield Step("ML program in fp16", in_memory(model._mil_program, captured))
        if self.exporter.precision == "int8":
            lowering = self._calibrated()
            yield Step("program in int8 (PT2E)", lowering.open(frozenset(lowering.units) - kept))

    def _float(self) -> Made:
        captured = capture(self.graph)
        model = convert(captured, self.target)
        return Made(model, {}, (), taps(captured, model._mil_program))

    def _half(self) -> Made:
        captured = capture(self.graph)
        lowering = HalfLowering(captured, self.target, self.job.calibration)
        choice = choose(lowering, self.job, self.name, self.exporter)
        model = lowering.model(choice.lowered, self.target)
        notes = (
            *choice.notes("fp16"),
            "fp16 was checked with every result rounded to fp16; GPU and Neural Engine may overflow inside a layer",
        )
        return Made(model, choice.record(), notes, taps(captured, model._mil_program))

    def _int8(self) -> Made:
        lowering = self._calibrated()
        choice = choose(lowering, self.job, self.name, self.exporter)
        captured = capture(dataclasses.replace(self.graph, network=lowering.convert(choice.lowered)))
        decided, notes = choice.record(), [*choice.notes("int8"), *few_samples(self.job)]
        if self.exporter.rest == "fp32":
            model = convert(captured, self.target)
        else:
            half = HalfLowering(captured, self.target, self.job.calibration)
            model = half.model(frozenset(half.units) - half.wide, self.target)
            decided["kept_in_fp32"] = [unit for unit in half.units if unit in half.wide]
        return Made(model, decided, tuple(notes), taps(captured, model._mil_program))

    def _calibrated(self) -> Pt2eLowering:
        try:
            from edgedeploy.precision.pt2e import Pt2eLowering
            from edgedeploy_coreml.quantizer import CoreMLQuantizer
        except ImportError as error:
            raise Unavailable.extra("torchao, which quantises exported programs,", "coreml") from error
        exporter = self.exporter
        with quiet():
            program = to_program(self.graph)
            lowering = Pt2eLowering(program, self.graph.signature, lambda: CoreMLQuantizer(exporter.activations))
        self.job.progress(f"taking ranges from {len(self.job.calibration)} samples")
        lowering.calibrate(self.job.calibration)
        return lowering

    def _compressed(self, made: Made) -> Made:
        exporter = self.exporter
        lowering = WeightLowering(capture(self.graph), made.model, exporter.weights)
        if not lowering.units:
            note = f"no weights were worth storing in {exporter.weights}: all tensors are small"
            return dataclasses.replace(made, notes=(*made.notes, note))
        keep = exporter.keep_float
        if exporter.precision == "fp16":  # these are known to be there; one without weights is no mistake here
            keep = tuple(k for k in keep if any((unit + ".").startswith(k + ".") for unit in lowering.units))
        limit = LIMITS["int8"] if exporter.limit is None else exporter.limit
        try:
            choice = choose(lowering, self.job, self.name, dataclasses.replace(exporter, keep_float=keep, limit=limit))
        except ExportFailed as error:
            raise ExportFailed(f"With weights in {exporter.weights}: {error}") from error
        return dataclasses.replace(
            made,
            model=lowering.model(choice.lowered),
            decided={**made.decided, "weights": choice.record()},
            notes=(*made.notes, *choice.notes(f"{exporter.weights} weights")),
        )

    def about(self, made: Made) -> About:
        """What goes into the package besides the program."""
        source, task, signature = self.job.model.source, self.job.model.task, self.graph.signature
        facts = {
            SOURCE: f"sha256:{source.sha256}",
            MODULES: json.dumps(made.taps, separators=(",", ":")),
        }
        if task is not None:
            facts[TASK] = json.dumps(task, sort_keys=True)
        if (pixels := self.target.pixels) is not None:
            facts[PIXELS] = json.dumps({"scale": pixels.scale, "bias": pixels.bias, "color": pixels.color})
        if labels := getattr(self.job.task, "labels", ()):
            facts["classes"] = ",".join(label.replace(",", " ") for label in labels)
        graph = "" if self.name == "main" else f", graph {self.name}"
        return About(
            summary=f"{self.job.model.name}{graph} in {self.exporter.precision}, exported by edgedeploy",
            version=source.sha256[:12],
            facts=facts,
            inputs={plain_name(s.name): self._words(s, i == 0) for i, s in enumerate(signature.inputs)},
            outputs={plain_name(s.name): _shape(s) for s in signature.outputs},
        )

    def _words(self, spec: TensorSpec, first: bool) -> str:
        """What an input is; an image by its task's contract."""
        task = self.job.task
        if not first or self.name != "main" or not isinstance(task, Detect):
            return _shape(spec)
        fitted = "letterboxed to" if task.resize == "letterbox" else "stretched to"
        image = (
            f"{task.color} image, {fitted} {task.size[1]} x {task.size[0]} ({task.align}, border of grey {task.pad})"
        )
        if self.target.pixels is not None:
            return image
        return f"{_shape(spec)}: {image}, (pixel - {list(task.mean)}) / {list(task.std)}"


def _shape(spec: TensorSpec) -> str:
    return f"{spec.dtype} [{', '.join(map(str, spec.shape))}]"
