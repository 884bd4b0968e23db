"""ExecuTorch: .pte programs in fp32, fp16 and int8, for XNNPACK on the CPU and, ahead of time, for other delegates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from edgedeploy.capture import to_program
from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.exporter import Exporter, Job, Step, Written
from edgedeploy.golden import streams
from edgedeploy_executorch.delegates import Delegate, find
from edgedeploy_executorch.runtime import binding
from edgedeploy_executorch.words import caught

if TYPE_CHECKING:
    from edgedeploy.model import Graph
    from edgedeploy.precision.pt2e import Pt2eLowering
    from edgedeploy_executorch.half import HalfLowering
    from edgedeploy_executorch.methods import Part
    from edgedeploy_executorch.writing import Writer

__all__ = ["ExecuTorch"]


@dataclass(frozen=True)
class ExecuTorch(Exporter):
    """Options of an export.

    Args:
        precision: ``fp32``, ``fp16`` (weights and arithmetic; inputs and outputs stay float32), ``int8`` or
            ``int8-weights`` (of linear layers, whose inputs are rounded by their range at each call; no calibration);
            a graph with state is in int8-weights where int8 is asked for.
        delegate: who computes: ``xnnpack`` (CPU), ``portable`` (ExecuTorch's own kernels, anywhere, slow), ``coreml``
            or ``vulkan``.
        calibration: how ranges of int8 are taken: by ``histogram`` (what costs the least error) or ``minmax``.
        largest: the largest size of each dynamic dimension; memory is planned for it.
        etrecord: keep what ExecuTorch's Inspector reads a profile with beside the program.
    """

    name: ClassVar[str] = "executorch"
    runtime: ClassVar[str] = "executorch"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8-weights", "int8")
    delegate: str = "xnnpack"
    calibration: Literal["histogram", "minmax"] = "histogram"
    largest: Mapping[str, int] = field(default_factory=dict)
    etrecord: bool = False

    def __post_init__(self) -> None:
        """Refuse a delegate that there is not, and choices of parts where the delegate makes them itself."""
        super().__post_init__()
        found = find(self.delegate, self.precision)
        if found.own_types and (self.keep_float or self.limit is not None or self.max_drop is not None):
            raise UsageError(
                f"The delegate '{self.delegate}' decides by itself what is in {self.precision}: "
                "keep_float, limit and max_drop mean nothing to it."
            )

    def write(self, job: Job) -> Written:
        """See `Exporter.write`: every graph is a method, or several, of one program."""
        _preload()
        from edgedeploy_executorch.writing import FILE

        delegate = find(self.delegate, self.precision)
        parts, decisions = [], dict[str, dict[str, Any]]()
        notes = [delegate.notes[self.precision]] if self.precision in delegate.notes else []
        for name in job.model.graphs:
            part, decided, said = self._part(job, name, delegate)
            parts.append(part)
            decisions[name] = decided
            notes += said
        here = not delegate.backend or bool(binding()._is_available(delegate.backend))
        job.progress(f"lowering to {self.delegate}")
        lowered, entries, said = self._writer(job, delegate, decisions).write(parts, here)
        notes += said
        for name, entry in entries.items():
            methods = tuple(entry.methods.values())
            decisions[name] |= {"delegate": self.delegate, "delegated": dict(lowered.delegated[methods[0]])}
            decisions[name] |= {"methods": list(methods), "largest": dict(entry.largest), "state": list(entry.state)}
        return Written(
            files=dict.fromkeys(job.model.graphs, FILE),
            signatures={name: graph.signature for name, graph in job.model.graphs.items()},
            requires=("executorch>=1.4",),
            decisions=decisions,
            notes=tuple(notes),
            unchecked="" if here else f"ExecuTorch's runtime here has no {delegate.backend}",
        )

    def steps(self, job: Job, decisions: Mapping[str, Any]) -> Iterator[Step]:
        """See `Exporter.steps`: the exported program, and that in the low precision, both run by PyTorch."""
        _preload()
        from edgedeploy.precision.program import ProgramSession
        from edgedeploy_executorch.state import captured

        signature = replace(job.model.graphs["main"].signature, state=())
        program = captured(job.model.graphs["main"])
        exported = ProgramSession(program.module(check_guards=False), signature, "exported program", "fp32")
        yield Step("exported program", exported)
        typed = self.precision != "fp32" and not find(self.delegate, self.precision).own_types
        if typed and not self._stays(job, "main"):
            lowering = self._lowering(job, "main")
            kept = frozenset(decisions["main"]["kept_in_float"])
            yield Step(f"{self.precision} program", lowering.open(frozenset(lowering.units) - kept))

    def _writer(self, job: Job, delegate: Delegate, decisions: Mapping[str, Mapping[str, Any]]) -> Writer:
        from edgedeploy_executorch.writing import Writer

        pure = delegate.own_types or self.precision == "fp32" or decisions["main"].get("kept_in_float") == []
        words = {"int8": "int8 and fp32", "int8-weights": "fp32, linear layers in int8 by the range of each call"}
        mixed = words.get(self.precision, self.precision if pure else f"{self.precision} and fp32")
        return Writer(
            directory=job.directory,
            delegate=delegate,
            precision=self.precision,
            computes_in=mixed,
            shares_state=sum(bool(graph.signature.state) for graph in job.model.graphs.values()) > 1,
            etrecord=self.etrecord,
        )

    def _part(self, job: Job, name: str, delegate: Delegate) -> tuple[Part, dict[str, Any], list[str]]:
        """One graph in its precision; what was decided, and what the user should know."""
        from edgedeploy.precision.choice import choose, few_samples
        from edgedeploy_executorch.lower import state_of
        from edgedeploy_executorch.methods import Part, largest_of
        from edgedeploy_executorch.state import captured

        job.progress(f"capturing graph '{name}'")
        graph = job.model.graphs[name]
        signature = replace(graph.signature, state=())
        largest = largest_of(signature, graph.stride, self.largest)
        why = self._stays(job, name)
        if why or self.precision == "fp32" or delegate.own_types:
            module: Any = captured(graph).module(check_guards=False)
            notes = [f"graph '{name}' is in fp32: {why}"] if why else []
            return Part(name, module, signature, graph.stride, largest), {}, notes
        if not graph.signature.state and state_of(captured(graph)):
            raise UsageError(
                f"Graph '{name}' carries state from call to call in buffers of its own, and what a lower precision "
                "does to them cannot be seen: export it in fp32, or let it take its state and give it back."
            )
        lowering = self._lowering(job, name)
        kind = self._kind(graph)
        choice = choose(lowering, job, name, replace(self, precision=kind))
        notes = [*(few_samples(job) if kind == "int8" else []), *choice.notes(kind)]
        if kind != self.precision:
            notes.append(f"graph '{name}' carries state, and is in {kind}: {delegate.notes[kind]}")
        module = lowering.convert(choice.lowered)
        return Part(name, module, signature, graph.stride, largest), choice.record(), notes

    def _stays(self, job: Job, name: str) -> str:
        """Why a graph is in fp32 whatever was asked for; empty where it need not be."""
        from edgedeploy.precision.loops import loops
        from edgedeploy_executorch.state import captured

        if self.precision == "fp32" or find(self.delegate, self.precision).own_types:
            return ""
        if name != "main" and not streams(job.task, name):
            return "samples to choose by are of graph 'main'"
        looping = loops(captured(job.model.graphs[name]))
        return "it has loops, which PyTorch's quantiser does not know" if looping else ""

    def _kind(self, graph: Graph) -> str:
        """The precision of a graph: int8 needs ranges, and state has none that samples show."""
        return "int8-weights" if self.precision == "int8" and graph.signature.state else self.precision

    def _lowering(self, job: Job, name: str) -> Pt2eLowering | HalfLowering:
        """The graph in a form of which any part can be lowered; for int8, with its ranges taken."""
        from edgedeploy.precision.carried import recurrent, summing
        from edgedeploy.precision.choice import ReadySamples
        from edgedeploy_executorch.half import HalfLowering, plain_of
        from edgedeploy_executorch.methods import largest_of
        from edgedeploy_executorch.state import captured

        graph = job.model.graphs[name]
        program, inner = captured(graph), replace(graph, signature=replace(graph.signature, state=()))
        if self.precision == "fp16":
            plain = plain_of(program, inner, largest_of(inner.signature, graph.stride, self.largest))
            sums = summing(to_program(graph), graph.signature) if graph.signature.state else ()
            return HalfLowering(plain, inner.signature, ReadySamples(job, name), sums)
        from edgedeploy.precision.pt2e import Pt2eLowering
        from edgedeploy_executorch.quantizer import quantizer, weights_quantizer

        if self._kind(graph) == "int8-weights":
            fixed = recurrent(to_program(graph), graph.signature)
            return Pt2eLowering(program, inner.signature, lambda: weights_quantizer(fixed))
        lowering = Pt2eLowering(program, inner.signature, quantizer, self.calibration)
        job.progress(f"taking ranges from {len(job.calibration)} samples")
        lowering.calibrate(job.calibration)
        return lowering


def _preload() -> None:
    """Import ExecuTorch's compiler and torchao, which takes seconds, and keep to ourselves what they say meanwhile.

    Raises:
        Unavailable: one is not installed.
    """
    try:
        from edgedeploy.precision.program import quiet

        with quiet(), caught():
            import executorch.exir  # noqa: F401
            import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401
    except ImportError as error:
        raise Unavailable.extra("ExecuTorch with its compiler", "executorch") from error
