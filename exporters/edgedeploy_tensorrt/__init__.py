"""TensorRT: build bundles, of a typed ONNX graph and the plan by which the device builds its engine from it.

An engine fits one GPU and one version of TensorRT, so it is built where it runs. What is settled here is the precision,
as types in the graph, which ONNX Runtime can check against the model on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

from packaging.version import Version

from edgedeploy import plugins, units
from edgedeploy.capture import to_onnx
from edgedeploy.device import Device
from edgedeploy.errors import UsageError
from edgedeploy.exporter import Exporter, Job, Step, Written
from edgedeploy.model import Graph
from edgedeploy_tensorrt import ahead, board, typed
from edgedeploy_tensorrt import plan as plans
from edgedeploy_tensorrt.plan import Flavour, Hardware, Kind, Plan
from edgedeploy_tensorrt.shapes import Profile, profile_of

__all__ = ["TensorRT"]

MIN_OPSET, MAX_OPSET = 16, 24
#: From this opset on, Q/DQ nodes may have fp16 scales, and up to the other, ONNX Runtime's quantiser takes a graph.
HALF_SCALES, QUANTIZER_OPSET = 19, 20


@dataclass(frozen=True)
class TensorRT(Exporter):
    """Options of an export, besides those of every `Exporter`.

    Args:
        precision: ``fp32``, ``fp16``, ``int8-weights`` or ``int8``, as types in the graph; inputs, outputs and state
            stay float32. A graph with state gets int8 weights where int8 was asked for.
        flavour: ``tensorrt``, or ``rtx`` for TensorRT for RTX.
        tensorrt: version on the device; the profile's where it states one.
        sm: compute capability of the device's GPU, times ten; the profile's.
        opset: ONNX opset; int8 takes 19 and 20, or up to 20 with ``rest=fp32``.
        rest: what int8 leaves in float is ``fp16`` or ``fp32``.
        calibration: how ranges are taken: ``minmax``, ``entropy`` or ``percentile``.
        shapes: ``NAME=MIN:USUAL:MAX`` of each dynamic dimension, such as ``batch=1:4:8``.
        workspace: scratch memory at most, such as ``1GiB``; TensorRT's default where ``None``.
        dla_core: run on this DLA (in fp16); ``gpu_fallback`` lets layers that it cannot run go to the GPU.
        sparsity: use weights that are pruned two out of four.
        tf32: allow FP32 convolutions to round their inputs; what is called fp32 is fp32 without it.
        optimization_level: 0 (fast to build) to 5; TensorRT's default where ``None``.
        timing_cache: keep timings of layers on the device, which shortens later builds.
        hardware: engines for other GPUs too: ``ampere_plus`` or ``same_sm``.
        version_compatible: engines for later releases of TensorRT too.
        aot: compute capabilities, as in ``86,89,120``, to build engines for right now, with TensorRT for RTX.
    """

    name: ClassVar[str] = "tensorrt"
    runtime: ClassVar[str] = "tensorrt"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8-weights", "int8")
    rehearsal: ClassVar[str | None] = "onnxruntime"
    flavour: Flavour = "tensorrt"
    tensorrt: str | None = None
    sm: int | None = None
    opset: int = HALF_SCALES
    rest: Literal["fp16", "fp32"] = "fp16"
    calibration: Literal["minmax", "entropy", "percentile"] = "minmax"
    shapes: tuple[str, ...] = ()
    workspace: str | None = None
    dla_core: int | None = None
    gpu_fallback: bool = True
    sparsity: bool = False
    tf32: bool = False
    optimization_level: int | None = None
    timing_cache: bool = True
    hardware: Hardware = "none"
    version_compatible: bool = False
    aot: str | int = ""

    def __post_init__(self) -> None:
        """Refuse what TensorRT cannot do, whatever the board."""
        if self.precision in ("bf16", "fp8"):
            raise UsageError(
                f"The tensorrt exporter does not write {self.precision}: ONNX Runtime does not compute it on a CPU, so "
                "what it does to the results could not be checked. Export in fp16 or int8."
            )
        super().__post_init__()
        if self.tensorrt is not None and board.version(self.tensorrt) is None:
            raise UsageError(f"tensorrt={self.tensorrt} is no version: write as in tensorrt=10.3.0.")
        if self.aot != "" and self.flavour != "rtx":
            raise UsageError("aot builds engines with TensorRT for RTX, which only it can run: add flavour=rtx.")
        ahead.capabilities(self.aot)
        self._check_opset()
        board.refuse_version(self, self._installed)
        self._plan(None, Path())

    @property
    def _installed(self) -> Version | None:
        """TensorRT on the device, where it is known and of the flavour that versions are counted in."""
        return board.version(self.tensorrt) if self.flavour == "tensorrt" else None

    def _check_opset(self) -> None:
        low, high = MIN_OPSET, MAX_OPSET
        if self.precision == "int8":
            low, high = HALF_SCALES if self.rest == "fp16" else MIN_OPSET, QUANTIZER_OPSET
        if not low <= self.opset <= high:
            rest = f" with rest={self.rest}" if self.precision == "int8" else ""
            raise UsageError(f"opset {self.opset} cannot be written in {self.precision}{rest}: give {low} to {high}.")

    @classmethod
    def defaults(cls, device: Device | None, precision: str) -> Mapping[str, Any]:
        """See `Exporter.defaults`: the TensorRT and the GPU of the device, and the opset that it reads."""
        found = board.Board.of(device)
        flavour = "rtx" if found.rtx else "tensorrt"
        told: dict[str, Any] = {"flavour": flavour, "sm": found.sm}
        if found.tensorrt is not None and flavour == "tensorrt":
            told["tensorrt"] = str(found.tensorrt)
            most = board.OPSETS.get(found.tensorrt.major, HALF_SCALES)
            told["opset"] = min(HALF_SCALES, max(most, MIN_OPSET))
            told["rest"] = "fp16" if most >= HALF_SCALES else "fp32"
        return told

    @classmethod
    def for_device(cls, device: Device | None, precision: str, options: Mapping[str, Any]) -> Self:
        """See `Exporter.for_device`.

        Raises:
            UsageError: an option that TensorRT, or the board, does not have.
            Incompatible: the board has no TensorRT, one that is too old, or a GPU without the precision.
        """
        found = board.Board.of(device)
        board.refuse_board(found, options.get("flavour"))
        made = super().for_device(device, precision, options)
        board.refuse(found, made)
        return made

    def write(self, job: Job) -> Written:
        """See `Exporter.write`."""
        files, decisions, notes = {}, {}, list(self._traps())
        profiles = {name: self._profile(graph) for name, graph in job.model.graphs.items()}
        for name, graph in job.model.graphs.items():
            target = job.directory / f"{name}.onnx"
            self._capture(job, graph, target)
            lowered = typed.lower(self, job, name, target)
            decided, said = self._finish(job, profiles[name], target)
            decisions[name] = {**lowered.decided, **decided}
            notes += [*lowered.notes, *said]
            files[name] = target.name
        signatures = {name: graph.signature for name, graph in job.model.graphs.items()}
        return Written(files, signatures, board.requires(self), decisions, tuple(dict.fromkeys(notes)))

    def steps(self, job: Job, decisions: Mapping[str, Any]) -> Iterator[Step]:
        """See `Exporter.steps`: the float graph, and the typed one, both by ONNX Runtime."""
        graph, target = job.model.graphs["main"], job.directory / "main.onnx"
        runtime = plugins.find(plugins.RUNTIMES, "onnxruntime")
        self._capture(job, graph, target)
        yield Step("ONNX in fp32", runtime().open({"main": target}, {"main": graph.signature}))
        if self.precision != "fp32":
            typed.lower(self, job, "main", target, again=decisions["main"])
            exact = runtime(optimization="none")  # see `edgedeploy_tensorrt.rest`
            yield Step(f"ONNX in {self.precision}", exact.open({"main": target}, {"main": graph.signature}))

    def _capture(self, job: Job, graph: Graph, target: Path) -> None:
        job.progress(f"capturing graph '{target.stem}'")
        to_onnx(graph, target, self.opset, job.model.task)
        found, wanted = typed.opset(target), self.opset
        if isinstance(graph.network, Path):
            most = board.OPSETS.get(self._installed.major, MAX_OPSET) if self._installed else MAX_OPSET
            if found > most:
                raise UsageError(f"{graph.network} is of opset {found}, and this TensorRT reads up to {most}.")
        elif found != wanted:
            raise UsageError(f"torch cannot write this model in opset {wanted}, only in {found}: add opset={found}.")

    def _profile(self, graph: Graph) -> Profile:
        profile = profile_of(graph, self.shapes)
        if self.dla_core is not None and not all(one.fixed for one in profile.shapes.values()):
            raise UsageError("The DLA takes one shape only: export without dynamic dimensions, or without dla_core.")
        return profile

    def _finish(self, job: Job, profile: Profile, target: Path) -> tuple[dict[str, Any], list[str]]:
        """Write the plan beside the typed graph, and let what TensorRT is here have a look at it."""
        plan = self._plan(profile, target)
        notes = list(profile.notes)
        job.progress(f"reading graph '{target.stem}' with TensorRT's parser")
        checked = ahead.check(target, plan)
        decided = dict(checked.decided)
        sms = ahead.capabilities(self.aot)
        if sms:
            job.progress(f"building engines for sm {', '.join(map(str, sms))}")
            made = ahead.build(target, plan, sms)
            decided["engines"] = ahead.summary(made, target.parent)
            plan = plan.with_engines(made)
        if self.precision == "int8" and board.fails_on_nms(self._installed, typed.operators(target)):
            notes.append(
                f"TensorRT {self.tensorrt} is known to fail on int8 with NMS in the graph: leave it to the task"
            )
        plans.write(plan, target)
        return decided, [*notes, *checked.notes]

    def _plan(self, profile: Profile | None, target: Path) -> Plan:
        """The plan by these options, of a graph if there is one yet."""
        strong = board.typed(self._installed, self.dla_core is not None)
        return Plan(
            schema=1,
            flavour=self.flavour,
            precision=cast(Kind, self.precision),
            requires=board.requires(self),
            shapes=profile.shapes if profile else {},
            strongly_typed=strong,
            float_layers=() if strong or profile is None or self.precision == "fp32" else typed.nodes_in_float(target),
            workspace=None if self.workspace is None else int(units.parse(self.workspace, "B")),
            dla_core=self.dla_core,
            gpu_fallback=self.gpu_fallback,
            sparsity=self.sparsity,
            tf32=self.tf32,
            optimization_level=self.optimization_level,
            timing_cache=self.timing_cache,
            hardware=self.hardware,
            version_compatible=self.version_compatible,
        )

    def _traps(self) -> Iterator[str]:
        """Known faults of the device's TensorRT, and what is not known of it."""
        installed = self._installed
        if installed is None and self.flavour == "tensorrt":
            yield "which TensorRT the device has is not known: the bundle asks for 10 or 11"
        if installed is not None and installed.release[:3] == (10, 2, 0):
            yield "TensorRT 10.2.0 is known to be faulty: install another release"
        if not board.typed(installed, self.dla_core is not None):
            where = " for the DLA" if self.dla_core is not None else ""
            yield (
                f"TensorRT {installed} takes no strongly typed graph{where}: it is held to fp32 where the graph says "
                "so, and chooses for itself elsewhere"
            )
