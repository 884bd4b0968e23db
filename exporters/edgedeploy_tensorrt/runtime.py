"""Runs build bundles with TensorRT on the device's GPU. Needs numpy, TensorRT and cuda-bindings, nothing else."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Literal

from edgedeploy.errors import Incompatible, RunFailed, Unavailable, UsageError
from edgedeploy.runtime import Outputs, Runtime, Session, check_state
from edgedeploy.tensors import Array, Signature
from edgedeploy_tensorrt import api, build
from edgedeploy_tensorrt import plan as plans
from edgedeploy_tensorrt.api import Library, Refused
from edgedeploy_tensorrt.cuda import CudaError, Gpu, open_cuda
from edgedeploy_tensorrt.execution import Execution
from edgedeploy_tensorrt.plan import Plan

_log = logging.getLogger(__name__)
#: Distributions that bring the library, first found first.
_DISTRIBUTIONS = (
    *("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    *("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
)
#: Words for types in what an engine says of its tensors, which differ between versions.
_KINDS = {
    "int8": r"int8",
    "fp8": r"fp8",
    "fp16": r"fp16|half",
    "bf16": r"bf16|bfloat16",
    "fp32": r"fp32|float",
}


@dataclass(frozen=True)
class TensorRTRuntime(Runtime):
    """Options of a session.

    Args:
        threads: without meaning: one host thread starts the work, and the GPU does it.
        cuda_graph: record the launches of a call once and replay them, which helps where there are many short kernels.
        transfers: ``inside``: every call copies its inputs to the GPU and its outputs back. ``outside``: a call with
            the very arrays of the call before only computes, and its outputs are those of that call; for measuring.
    """

    name: ClassVar[str] = "tensorrt"
    cuda_graph: bool = False
    transfers: Literal["inside", "outside"] = "inside"

    @classmethod
    def version(cls) -> str:
        """Version of TensorRT, or of TensorRT for RTX where only that is here, without importing it."""
        for package in _DISTRIBUTIONS:
            try:
                return version(package)
            except PackageNotFoundError:
                continue
        return api.load("tensorrt").version  # JetPack's has no distribution; or it says how to install it

    @classmethod
    def preload(cls) -> None:
        """Import TensorRT (for RTX where only that is here) and find the GPU."""
        try:
            api.load("tensorrt")
        except Unavailable as error:
            try:
                api.load("rtx")
            except Unavailable:
                raise error from None
        open_cuda()

    def open(self, files: Mapping[str, Path], signatures: Mapping[str, Signature]) -> Session:
        """See `Runtime.open`: builds the engines that are not there yet, which takes minutes."""
        if self.transfers not in ("inside", "outside"):
            raise UsageError(f"There are no transfers '{self.transfers}': they are inside a call or outside.")
        if self.transfers == "outside" and any(signature.state for signature in signatures.values()):
            raise UsageError("transfers=outside computes the same call again, which a model with state cannot.")
        read = {name: plans.read(path) for name, path in files.items()}
        library = _library(read)
        cuda, gpu = open_cuda()
        engines = {name: build.engine(files[name], plan, library, gpu, _log.warning) for name, plan in read.items()}
        opened: dict[str, Execution] = {}
        facts = _facts(library, gpu, read, engines)
        try:
            for name, plan in read.items():
                loaded = api.deserialize(library, engines[name].data, plan.dla_core)
                facts.update(_computes(api.layers(library, loaded), plan))
                opened[name] = Execution(library, cuda, loaded, signatures[name], plan)
        except (Refused, CudaError, Incompatible) as error:
            for execution in opened.values():
                execution.close()
            if isinstance(error, CudaError):
                raise RunFailed(f"The GPU could not be prepared for the engine: {error}") from error
            raise Incompatible(str(error)) from error
        return TensorRTSession(self, opened, signatures, facts)


class TensorRTSession:
    """One or several engines; state stays on the GPU between calls."""

    def __init__(
        self,
        options: TensorRTRuntime,
        executions: Mapping[str, Execution],
        signatures: Mapping[str, Signature],
        facts: Mapping[str, str | int | float],
    ) -> None:
        self._options, self._executions, self._signatures = options, dict(executions), signatures
        self._facts = facts
        self._last: dict[str, tuple[Mapping[str, Array], Outputs]] = {}
        self._calls = self._computed_only = 0

    @property
    def facts(self) -> Mapping[str, str | int | float]:
        """Library, GPU and its power mode, where the engine is from, what it computes in, what a call includes."""
        transfers = "inside"
        if self._computed_only:
            transfers = f"outside in {self._computed_only} of {self._calls} calls"
        return {**self._facts, "cuda_graph": int(self._options.cuda_graph), "transfers": transfers}

    def run(self, inputs: Mapping[str, Array], graph: str = "main") -> Outputs:
        """See `Session.run`."""
        execution, signature = self._executions[graph], self._signatures[graph]
        signature.check(inputs)
        self._calls += 1
        try:
            if self._options.transfers == "outside" and self._same(graph, inputs):
                execution.compute(self._options.cuda_graph)
                self._computed_only += 1
                return self._last[graph][1]
            outputs = execution.run(inputs, self._options.cuda_graph)
        except (CudaError, Refused) as error:
            raise RunFailed(f"TensorRT failed in graph '{graph}': {error}") from error
        if self._options.transfers == "outside":
            self._last[graph] = (dict(inputs), outputs)
        return outputs

    def _same(self, graph: str, inputs: Mapping[str, Array]) -> bool:
        last = self._last.get(graph)
        return last is not None and all(last[0].get(name) is array for name, array in inputs.items())

    def reset(self) -> None:
        """Put all state back to zeros."""
        self._last.clear()
        for execution in self._executions.values():
            execution.reset()

    def state(self) -> dict[str, Array]:
        """See `edgedeploy.runtime.Carrying.state`; copied from the GPU."""
        found: dict[str, Array] = {}
        for execution in self._executions.values():
            found |= execution.state()
        return found

    def restore(self, state: Mapping[str, Array]) -> None:
        """See `edgedeploy.runtime.Carrying.restore`."""
        check_state(self._signatures.values(), state)
        self._last.clear()
        for execution in self._executions.values():
            execution.restore(state)

    def close(self) -> None:
        """Free the GPU's memory."""
        self._last.clear()
        while self._executions:
            self._executions.popitem()[1].close()


def _library(read: Mapping[str, Plan]) -> Library:
    flavours = {plan.flavour for plan in read.values()}
    if len(flavours) > 1:
        raise UsageError("The graphs of this bundle are for different flavours of TensorRT. Export it again.")
    return api.load(flavours.pop())


def _facts(
    library: Library, gpu: Gpu, read: Mapping[str, Plan], engines: Mapping[str, build.Engine]
) -> dict[str, str | int | float]:
    origins = sorted({engine.origin for engine in engines.values()})
    facts: dict[str, str | int | float] = {
        "runtime": "tensorrt" if library.flavour == "tensorrt" else "tensorrt-rtx",
        "version": library.version,
        "threads": 1,
        "gpu": gpu.name,
        "sm": gpu.sm,
        "power_mode": gpu.mode,
        "engine": ", ".join(origins),
        "engine_size": sum(len(engine.data) for engine in engines.values()),
        "build_time": round(sum(engine.seconds for engine in engines.values()), 3),
    }
    fallen = [node for engine in engines.values() for node in engine.fallen_back]
    cores = {plan.dla_core for plan in read.values() if plan.dla_core is not None}
    if cores:
        facts["dla_core"] = min(cores)
        facts["not_on_dla"] = f"{len(fallen)} nodes: {', '.join(fallen[:8])}" if fallen else "0 nodes"
    return facts


def _computes(layers: tuple[Mapping[str, Any], ...], plan: Plan) -> dict[str, str | int | float]:
    """What the layers of an engine put out, where it says; what the plan asked for, where it does not."""
    outputs = [out for layer in layers for out in layer.get("Outputs", []) if isinstance(out, dict)]
    text = " ".join(str(out.get("Format/Datatype", "")) for out in outputs).lower()
    found = [kind for kind, words in _KINDS.items() if re.search(rf"\b({words})\b", text)]
    said = " and ".join(found) or plan.precision
    return {"computes_in": said.replace("fp32", "tf32") if plan.tf32 else said, "layers": len(layers)}
