"""QNN: graphs compiled ahead of time for the Hexagon tensor processor (HTP) of a Snapdragon, in fp16 and int8."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from edgedeploy import plugins
from edgedeploy.capture import module_path, to_onnx
from edgedeploy.device import Device
from edgedeploy.errors import ExportFailed, Unavailable, UsageError
from edgedeploy.exporter import Exporter, Job, Step, Written
from edgedeploy_qnn.compiler import SOC_MODELS, compile_graph
from edgedeploy_qnn.runtime import COMPUTES_IN, CPU_NODES, HTP, NODES, QnnRuntime

if TYPE_CHECKING:
    from edgedeploy.precision.qdq import QdqLowering
    from edgedeploy.runtime import Session
    from edgedeploy.tensors import Signature

__all__ = ["Qnn"]

MIN_OPSET, MAX_OPSET = 16, 20
#: Samples that what was compiled is run on: a simulator is slow.
CHECKED_SAMPLES = 4
#: So much further than on the CPU is not the luck of other samples.
DISAGREES = 0.02
#: Nodes that say how values are stored, and compute nothing of the network.
_STORAGE = frozenset({"Constant", "DequantizeLinear", "EPContext", "QuantizeLinear"})


@dataclass(frozen=True)
class Qnn(Exporter):
    """Options of an export, besides those of every `Exporter`.

    The HTP has no fp32: a float graph, and what int8 leaves in float, it computes in fp16. So it does with a graph that
    carries state from call to call, whatever the precision.

    Args:
        htp: version of the Hexagon tensor processor to compile for; that of the device where it is not given.
        opset: of the ONNX graph that is compiled.
        activations: ``uint8`` (w8a8) or ``uint16`` (w8a16, with int8 weights).
        calibration: how ranges are taken: ``minmax``, ``entropy`` or ``percentile``.
    """

    name: ClassVar[str] = "qnn"
    runtime: ClassVar[str] = "qnn"
    precisions: ClassVar[tuple[str, ...]] = ("fp16", "int8")
    precision: str = "fp16"
    htp: int | None = None
    opset: int = 18
    activations: Literal["uint8", "uint16"] = "uint8"
    calibration: Literal["minmax", "entropy", "percentile"] = "minmax"

    def __post_init__(self) -> None:
        """Refuse what cannot be compiled for."""
        super().__post_init__()
        if not MIN_OPSET <= self.opset <= MAX_OPSET:
            raise UsageError(f"opset {self.opset} cannot be written: give {MIN_OPSET} to {MAX_OPSET}.")
        if self.precision == "fp16" and (self.keep_float or self.max_drop is not None):
            raise UsageError(
                "In fp16 the Hexagon processor computes the whole float graph in 16 bits: keep_float and max_drop mean "
                "nothing to it."
            )
        known = ", ".join(map(str, SOC_MODELS))
        if self.htp is None:
            raise UsageError(
                "qnn compiles for one version of the Hexagon tensor processor: name a device that has one, such as "
                f"galaxy-s24, or add htp=NN ({known})."
            )
        if self.htp not in SOC_MODELS:
            raise UsageError(f"qnn cannot compile for HTP {self.htp}; known are {known}.")

    @classmethod
    def for_device(cls, device: Device | None, precision: str, options: Mapping[str, Any]) -> Self:
        """See `Exporter.for_device`."""
        if device is not None and "htp" not in options and not cls.defaults(device, precision):
            raise UsageError(
                f"The profile of {device.name} lists no version of a Hexagon tensor processor (htp), so that qnn "
                "cannot compile for it; use another backend there."
            )
        return super().for_device(device, precision, options)

    @classmethod
    def defaults(cls, device: Device | None, precision: str) -> Mapping[str, Any]:
        """See `Exporter.defaults`: the version of the device's HTP."""
        counts = [accelerator.htp for accelerator in device.accelerators] if device is not None else []
        known = [count.value for count in counts if count is not None and count.value is not None]
        return {"htp": int(known[0])} if known else {}

    def write(self, job: Job) -> Written:
        """See `Exporter.write`."""
        from edgedeploy.precision.choice import choose, few_samples, working_directory

        files, decisions, notes = {}, {}, []
        for name, graph in job.model.graphs.items():
            _refuse_dynamic(job, name)
            with working_directory() as work:
                source, target = work / "source.onnx", job.directory / f"{name}.onnx"
                job.progress(f"capturing graph '{name}'")
                to_onnx(graph, source, self.opset, job.model.task)
                decided, computes_in, places = {}, "fp16", _places(source)
                notes += [] if not graph.signature.state else [_of_state(name, self.precision)]
                if self.precision == "int8" and not graph.signature.state:
                    lowering = self._calibrated(job, name, source, work)
                    choice = choose(lowering, job, name, self)
                    lowering.write(source, choice.lowered)
                    decided, computes_in = choice.record(), self._in_words(bool(choice.kept))
                    notes += [*choice.notes(self.precision), *few_samples(job)]
                job.progress(f"compiling graph '{name}' for HTP {self.htp}")
                decided |= self._compile(source, target, computes_in, places)
                decisions[name] = decided
                if name == "main" and len(job.calibration):  # samples are those of this graph
                    moved = self._check(job, target)
                    notes += self._said(moved, decided.get("distance"))
                    decided["distance_compiled"] = round(moved, 4)
                notes += _left(decided, name)
            files[name] = target.name
        signatures = {name: graph.signature for name, graph in job.model.graphs.items()}
        return Written(files, signatures, ("qnn", f"htp={self.htp}"), decisions, tuple(notes))

    def steps(self, job: Job, decisions: Mapping[str, Any]) -> Iterator[Step]:
        """See `Exporter.steps`: the graph with the types that the HTP computes in, run by ONNX Runtime on the CPU."""
        from edgedeploy.precision.half import HalfLowering

        graph = job.model.graphs["main"]
        source, typed = job.directory / "float.onnx", job.directory / f"{self.precision}.onnx"
        to_onnx(graph, source, self.opset, job.model.task)
        if self.precision == "int8" and not graph.signature.state:
            lowering = self._calibrated(job, "main", source, job.directory)
            lowering.write(typed, frozenset(lowering.units) - set(decisions["main"]["kept_in_float"]))
        else:
            half = HalfLowering(source, graph.signature, job.directory, ())
            half.write(typed, frozenset(half.units))
        runtime = plugins.find(plugins.RUNTIMES, "onnxruntime")()
        yield Step(f"ONNX {self.precision}", runtime.open({"main": typed}, {"main": graph.signature}))

    def _calibrated(self, job: Job, name: str, source: Path, work: Path) -> QdqLowering:
        try:
            from edgedeploy.precision.qdq import QdqLowering, Scheme
        except ImportError as error:
            raise Unavailable.extra("ONNX Runtime with its quantiser", "export") from error
        scheme = Scheme(self.activations, method=self.calibration)
        lowering = QdqLowering(source, job.model.graphs[name].signature, scheme, work)
        job.progress(f"taking ranges from {len(job.calibration)} samples")
        lowering.calibrate(job.calibration)
        return lowering

    def _in_words(self, mixed: bool) -> str:
        int8 = "int8" if self.activations == "uint8" else "int8 weights with uint16 activations"
        return f"{int8} and fp16" if mixed else int8

    def _compile(self, source: Path, target: Path, computes_in: str, places: Mapping[str, str]) -> dict[str, Any]:
        """Compile and note in the file, and return, which nodes the HTP computes and which are left to the CPU.

        ``places`` has the module of each node of the float graph: a converter may forget it on the way.

        Raises:
            ExportFailed: the compiler took nothing, or compiled for another processor than it was told.
        """
        import onnx

        assert self.htp is not None
        compile_graph(source, target, self.htp)
        proto = onnx.load(target)
        contexts = [a.s for node in proto.graph.node for a in node.attribute if a.name == "ep_cache_context"]
        chips = set(re.findall(rb"soc_type=(\w+);arch=(\d+)", b"".join(contexts)))
        if any(int(arch) != self.htp for _, arch in chips):
            raise ExportFailed(f"QNN was told to compile for HTP {self.htp}, and did for {_names(chips)}.")
        left = {node.name: node.op_type for node in proto.graph.node if node.op_type not in _STORAGE}
        taken = len(places.keys() - left.keys())
        for key, value in ((COMPUTES_IN, computes_in), (HTP, self.htp), (NODES, taken), (CPU_NODES, len(left))):
            proto.metadata_props.add(key=key, value=str(value))
        onnx.save(proto, target)
        return {
            "htp": self.htp,
            "soc": _names(chips),
            "partitions": sum(node.op_type == "EPContext" for node in proto.graph.node),
            "nodes_on_htp": taken,
            "nodes_on_cpu": [f"{kind} in {places.get(name, name)}" for name, kind in left.items()],
        }

    def _check(self, job: Job, target: Path) -> float:
        """How far (0 to 1) what was compiled moves the results on real samples.

        Raises:
            ExportFailed: so far that it is of no use.
        """
        job.progress("running what was compiled")
        signature = job.model.graphs["main"].signature
        moved = _distance(job, QnnRuntime().open({"main": target}, {"main": signature}), signature)
        if moved > max(4 * self._limit, 0.5):
            raise ExportFailed(
                f"On HTP {self.htp}, {self.precision} moves the results by {moved:.2f} (0 is none, 1 is all). "
                "Values beyond 65504 do not fit into fp16; try int8, or other activations, or another backend."
            )
        return moved

    @property
    def _limit(self) -> float:
        from edgedeploy.precision.choice import LIMITS

        return LIMITS[self.precision] if self.limit is None else self.limit

    def _said(self, moved: float, expected: float | None) -> list[str]:
        notes = []
        if moved > self._limit:
            notes.append(
                f"on HTP {self.htp}, {self.precision} moves the results on calibration samples by {moved:.2f}, over "
                f"the limit of {self._limit:g}: run 'edgedeploy compare' before you use it"
            )
        if expected is not None and moved > 1.5 * expected + DISAGREES:
            notes.append(
                f"what was compiled for HTP {self.htp} moves the results by {moved:.2f}, the same graph on the CPU by "
                f"{expected:.2f}: QNN does not compute it as written; try other activations"
            )
        return notes


def _places(path: Path) -> dict[str, str]:
    import onnx

    nodes = onnx.load(path, load_external_data=False).graph.node
    return {node.name: module_path(node) for node in nodes if node.op_type not in _STORAGE}


def _distance(job: Job, session: Session, signature: Signature) -> float:
    """How far (0 to 1) the results of ``session`` are from the reference's, on average over a few samples."""
    from edgedeploy.precision.choice import first_row_of

    moved = []
    for i in range(min(CHECKED_SAMPLES, len(job.calibration))):
        prepared = job.calibration[i]
        job.reference.reset()
        session.reset()
        sides = [first_row_of(s, signature, prepared) for s in (job.reference, session)]
        wanted, got = (job.task.finish(list(side.values()), prepared.context) for side in sides)
        moved.append(job.task.distance(wanted, got))
    session.close()
    return sum(moved) / len(moved)


def _refuse_dynamic(job: Job, name: str) -> None:
    signature = job.model.graphs[name].signature
    for spec in (*signature.inputs, *signature.outputs):
        for size in spec.shape:
            if isinstance(size, str):
                raise UsageError(
                    f"The HTP takes fixed shapes only, but '{spec.name}' of graph '{name}' has a dynamic {size}: "
                    "export without --dynamic."
                )


def _of_state(name: str, precision: str) -> str:
    instead = " instead of int8, for which samples show no ranges of state" if precision == "int8" else ""
    return (
        f"graph '{name}' carries state, and is computed in fp16{instead}: a count of calls is exact up to 2048 and "
        "soon stands still, and a mean over all calls forgets the first ones from then on; reset the stream before"
    )


def _left(decided: Mapping[str, Any], name: str) -> list[str]:
    left = decided["nodes_on_cpu"]
    if not left:
        return []
    more = f" and {len(left) - 3} more" if len(left) > 3 else ""
    total = len(left) + decided["nodes_on_htp"]
    return [f"{len(left)} of {total} nodes of graph '{name}' stay on the CPU: {', '.join(left[:3])}{more}"]


def _names(chips: set[tuple[bytes, bytes]]) -> str:
    return ", ".join(sorted(f"{chip.decode()} (HTP {arch.decode()})" for chip, arch in chips))
