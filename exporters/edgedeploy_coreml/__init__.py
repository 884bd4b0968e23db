"""Core ML: ML programs for iPhones, iPads and Macs in fp32, fp16 and int8, with weights in few bits where asked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from edgedeploy.device import Device
from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.exporter import Exporter, Job, Step, Written
from edgedeploy.model import Graph
from edgedeploy.tasks import Detect
from edgedeploy.tensors import Signature
from edgedeploy_coreml.package import SUFFIX, save
from edgedeploy_coreml.vendor import MACOS, SPECIFICATION, coremltools

if TYPE_CHECKING:
    from edgedeploy_coreml.build import Build
    from edgedeploy_coreml.convert import Pixels
    from edgedeploy_coreml.lowering import Weights

__all__ = ["CoreML"]

#: What is written for where neither the user nor the device says which iOS there is.
DEFAULT = "iOS17"


@dataclass(frozen=True)
class CoreML(Exporter):
    """Options of an export.

    Args:
        precision: ``fp32``, ``fp16`` (inputs and outputs stay float32), ``int8`` (weights and activations; only the
            weights of a graph with state) or ``int8-weights`` (a scale per output channel; no calibration).
        target: the first iOS that has to run it (with the macOS of the same autumn); by the device, else `DEFAULT`, or
            what the graph needs.
        weights: in precision fp16, how weights are stored: ``int8`` with a scale per output channel, ``int4``
            with one per block of input channels (from iOS 18), ``palette8``, ``palette6`` or ``palette4`` as indices
            into a table per tensor.
        image_input: the first input is an image (an app hands over a pixel buffer) and the graph scales it itself.
        rest: in precision int8 and int8-weights, what everything else is computed in.
        activations: in precision int8, ``affine`` (all steps for what occurs) or ``symmetric`` (zero in the middle).
    """

    name: ClassVar[str] = "coreml"
    runtime: ClassVar[str] = "coreml"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8-weights", "int8")
    target: Literal["iOS16", "iOS17", "iOS18", "iOS26"] | None = None
    weights: Literal["float", "int8", "int4", "palette8", "palette6", "palette4"] = "float"
    image_input: bool = False
    rest: Literal["fp16", "fp32"] = "fp16"
    activations: Literal["affine", "symmetric"] = "affine"

    def __post_init__(self) -> None:
        """Refuse what the target cannot run."""
        super().__post_init__()
        if self.weights != "float" and self.precision != "fp16":
            raise UsageError(f"Weights in {self.weights} go with precision fp16, not with {self.precision}.")
        if self.target is not None:
            self._minimum(stateful=False)

    @property
    def stored(self) -> Weights:
        """How weights are stored."""
        return "int8" if self.precision == "int8-weights" else self.weights

    @classmethod
    def defaults(cls, device: Device | None, precision: str) -> Mapping[str, Any]:
        """The newest target that the device's system runs, where its profile says which it is."""
        found = re.search(r"\b(iOS|macOS) (\d+)", device.os) if device is not None else None
        if found is None:
            return {}
        year = int(found[2]) + (3 if found[1] == "macOS" and int(found[2]) < 26 else 0)
        older = [name for name in SPECIFICATION if int(name.removeprefix("iOS")) <= year]
        return {"target": older[-1]} if older else {}

    def write(self, job: Job) -> Written:
        """See `Exporter.write`."""
        files, decisions, version = {}, {}, 0
        notes: list[str] = []
        for name, graph in job.model.graphs.items():
            job.progress(f"capturing graph '{name}'")
            build = self._build(job, name, graph)
            made = build.make()
            path = job.directory / f"{name}{SUFFIX}"
            save(made.model, path, build.about(made))
            files[name] = path.name
            decisions[name] = dict(made.decided)
            notes += made.notes
            version = max(version, int(made.model.get_spec().specificationVersion))
        signatures = {name: graph.signature for name, graph in job.model.graphs.items()}
        system = next(name for name, number in SPECIFICATION.items() if number >= version)
        notes.append(f"runs on {system.replace('S', 'S ')}, {MACOS[system]} and newer")
        return Written(files, signatures, (f"coreml>={version}",), decisions, tuple(dict.fromkeys(notes)))

    def steps(self, job: Job, decisions: Mapping[str, Any]) -> Iterator[Step]:
        """See `Exporter.steps`: the ML program in fp32, then with float weights, or in int8 as PyTorch runs it."""
        yield from self._build(job, "main", job.model.graphs["main"]).steps(decisions["main"])

    def _build(self, job: Job, name: str, graph: Graph) -> Build:
        coremltools()
        try:
            from edgedeploy_coreml.build import Build
            from edgedeploy_coreml.convert import Target
        except ImportError as error:
            raise Unavailable.extra("torch, from which Core ML programs are converted,", "coreml") from error
        stateful = bool(graph.signature.state)
        pixels = self._pixels(job, graph.signature) if name == "main" else None
        one = replace(self, precision="int8-weights") if self.precision == "int8" and stateful else self
        return Build(one, job, name, graph, Target(self._minimum(stateful), pixels))

    def _minimum(self, stateful: bool) -> str:
        """The first iOS that has what the options, and state, need.

        Raises:
            UsageError: the target that was asked for is older.
        """
        needs = {
            "weights in int4": self.weights == "int4",
            "state that is carried from call to call": stateful,
        }
        least = "iOS18" if any(needs.values()) else "iOS17" if self.precision == "int8" else "iOS16"
        if self.target is None:
            return max(least, DEFAULT, key=lambda name: SPECIFICATION[name])
        if SPECIFICATION[self.target] < SPECIFICATION[least]:
            what = next((what for what, needed in needs.items() if needed), "activations in int8")
            raise UsageError(f"Core ML has {what} from {least} on, not in {self.target}: add target={least}.")
        return self.target

    def _pixels(self, job: Job, signature: Signature) -> Pixels | None:
        """The image input by the task's contract, where asked for.

        Raises:
            UsageError: the contract has no image, or scales its channels differently.
        """
        if not self.image_input:
            return None
        task = job.task
        if not isinstance(task, Detect):
            raise UsageError("image_input needs a task whose input is an image; this model's contract has none.")
        if len(set(task.std)) > 1:
            raise UsageError(
                f"image_input takes one scale for all channels, but the contract divides by {list(task.std)}."
            )
        if any(isinstance(d, str) for d in signature.inputs[0].shape) or signature.inputs[0].shape[0] != 1:
            raise UsageError("image_input needs a fixed image size and a batch of 1.")
        from edgedeploy_coreml.convert import Pixels

        bias = tuple(-mean / task.std[0] for mean in task.mean)
        return Pixels(1 / task.std[0], (bias[0], bias[1], bias[2]), task.color)
