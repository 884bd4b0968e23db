"""One graph of a model on its way to a package: captured, lowered, its weights compressed, described."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgedeploy.capture import to_program
from edgedeploy.errors import ExportFailed, Unavailable
from edgedeploy.exporter import Job, Step
from edgedeploy.golden import Ready, streams
from edgedeploy.model import Graph
from edgedeploy.precision.carried import recurrent
from edgedeploy.precision.choice import LIMITS, ReadySamples, choose, few_samples, weights_note
from edgedeploy.precision.loops import loop_free
from edgedeploy.tasks import Detect
from edgedeploy.tensors import TensorSpec
from edgedeploy_coreml.convert import Captured, Target, capture, convert, taps, units
from edgedeploy_coreml.lowering import HalfLowering, WeightLowering, in_memory
from edgedeploy_coreml.package import MODULES, PIXELS, SOURCE, TASK, About
from edgedeploy_coreml.state import plain_name
from edgedeploy_coreml.vendor import quiet

if TYPE_CHECKING:
    from edgedeploy.precision.pt2e import Pt2eLowering
    from edgedeploy_coreml import CoreML


@dataclass(frozen=True)
class Made:
    """A converted model and what it was made of, what was decided on the way, and what the user should know of it."""

    model: Any
    decided: Mapping[str, Any]
    notes: tuple[str, ...]
    captured: Captured
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
        if not (self.name == "main" or streams(self.job.task, self.name)):
            return self._unseen()
        kinds = {"fp32": self._float, "fp16": self._half, "int8": self._int8, "int8-weights": self._rest}
        made = kinds[self.exporter.precision]()
        decided = {"target": self.target.minimum, **made.decided}
        made = dataclasses.replace(made, decided=decided, notes=(*made.notes, *self._of_state(made.captured)))
        return made if self.exporter.stored == "float" else self._compressed(made)

    def _unseen(self) -> Made:
        """In fp32, because there are no samples of the graph that could say what a lower precision does to it."""
        made, notes = self._float(), tuple[str, ...]()
        if self.exporter.precision != "fp32":
            notes = (f"graph '{self.name}' is in fp32: samples to choose by are of graph 'main'",)
        decided = {"target": self.target.minimum, **made.decided}
        return dataclasses.replace(made, decided=decided, notes=(*notes, *self._of_state(made.captured)))

    def _of_state(self, captured: Captured) -> tuple[str, ...]:
        """What the user should know of how state is kept."""
        state = self.graph.signature.state
        if not state:
            return ()
        split = [spec.input for spec in state if spec.input in captured.whole]
        if len(split) == len(state):
            return ("Core ML has state in fp16 only: each is kept as two parts, which together are as exact as fp32",)
        alone = f"; {', '.join(split)}, which add up, as two parts that together are as exact as fp32" if split else ""
        return (f"Core ML has state in fp16 only, and it is kept so{alone}",)

    def steps(self, decided: Mapping[str, Any]) -> Iterator[Step]:
        """The forms between the float model and the package, without a search."""
        exact = self.exporter.precision == "fp32" or self.exporter.rest == "fp32"
        captured, plain = capture(self.graph, whole=exact), Target(self.target.minimum)
        whole = convert(captured, plain)
        yield Step("ML program in fp32", in_memory(whole._mil_program, captured))
        kept = frozenset(decided.get("kept_in_float", ()))
        if not exact and self.exporter.stored != "float":
            half = frozenset(units(captured, whole._mil_program)) - kept
            model = convert(captured, plain, half.__contains__)
            yield Step("ML program in fp16", in_memory(model._mil_program, captured))
        if self.exporter.precision == "int8":
            lowering = self._calibrated()
            yield Step("program in int8 (PT2E)", lowering.open(frozenset(lowering.units) - kept))

    def _float(self) -> Made:
        captured = capture(self.graph, whole=True)
        model = convert(captured, self.target)
        return Made(model, {}, (), captured, taps(captured, model._mil_program))

    def _half(self) -> Made:
        captured = capture(self.graph)
        lowering = HalfLowering(captured, self.target, self._samples())
        choice = choose(lowering, self.job, self.name, dataclasses.replace(self.exporter, precision="fp16"))
        model = lowering.model(choice.lowered, self.target)
        notes = (
            *choice.notes("fp16"),
            "fp16 was checked with every result rounded to fp16; GPU and Neural Engine may overflow inside a layer",
        )
        return Made(model, choice.record(), notes, captured, taps(captured, model._mil_program))

    def _rest(self) -> Made:
        """What int8 weights leave as it is."""
        made = self._float() if self.exporter.rest == "fp32" else self._half()
        said = (weights_note(self.name),) if self.graph.signature.state else ()
        return dataclasses.replace(made, notes=(*made.notes, *said))

    def _samples(self) -> Sequence[Ready]:
        return ReadySamples(self.job, self.name)

    def _int8(self) -> Made:
        lowering = self._calibrated()
        choice = choose(lowering, self.job, self.name, self.exporter)
        captured = capture(dataclasses.replace(self.graph, network=lowering.convert(choice.lowered)))
        decided, notes = choice.record(), [*choice.notes("int8"), *few_samples(self.job)]
        if self.exporter.rest == "fp32":
            model = convert(captured, self.target)
        else:
            half = HalfLowering(captured, self.target, self._samples())
            model = half.model(frozenset(half.units) - half.wide, self.target)
            decided["kept_in_fp32"] = [unit for unit in half.units if unit in half.wide]
        return Made(model, decided, tuple(notes), captured, taps(captured, model._mil_program))

    def _calibrated(self) -> Pt2eLowering:
        try:
            from edgedeploy.precision.pt2e import Pt2eLowering
            from edgedeploy_coreml.quantizer import CoreMLQuantizer
        except ImportError as error:
            raise Unavailable.extra("torchao, which quantises exported programs,", "coreml") from error
        exporter = self.exporter
        with quiet():
            _, program = loop_free(self.graph)
            lowering = Pt2eLowering(program, self.graph.signature, lambda: CoreMLQuantizer(exporter.activations))
        self.job.progress(f"taking ranges from {len(self.job.calibration)} samples")
        lowering.calibrate(self.job.calibration)
        return lowering

    def _compressed(self, made: Made) -> Made:
        exporter = self.exporter
        lowering = WeightLowering(made.captured, made.model, exporter.stored, self._recurrent())
        if not lowering.units:
            note = f"no weights were worth storing in {exporter.stored}: all tensors are small"
            return dataclasses.replace(made, notes=(*made.notes, note))
        # One without weights is no mistake here: all are known to be there.
        keep = tuple(k for k in exporter.keep_float if any(f"{unit}.".startswith(f"{k}.") for unit in lowering.units))
        limit = LIMITS["int8"] if exporter.limit is None else exporter.limit
        try:
            choice = choose(lowering, self.job, self.name, dataclasses.replace(exporter, keep_float=keep, limit=limit))
        except ExportFailed as error:
            raise ExportFailed(f"With weights in {exporter.stored}: {error}") from error
        return dataclasses.replace(
            made,
            model=lowering.model(choice.lowered),
            decided={**made.decided, "weights": choice.record()},
            notes=(*made.notes, *choice.notes(f"{exporter.stored} weights")),
        )

    def _recurrent(self) -> frozenset[str]:
        """The units with weights of linear recurrences, which stay in float."""
        if not self.graph.signature.state:
            return frozenset()
        with quiet():
            return recurrent(to_program(self.graph), self.graph.signature)

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
