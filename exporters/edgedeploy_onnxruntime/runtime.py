"""Runs ONNX graphs with ONNX Runtime. Needs numpy and onnxruntime, nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from edgedeploy.capture import COMPUTES_KEY
from edgedeploy.errors import Incompatible, RunFailed, Unavailable, UsageError
from edgedeploy.runtime import UNCOUNTED_PASSES, Outputs, Profile, Runtime, Session, alone, check_state, timed_passes
from edgedeploy.tensors import Array, Signature
from edgedeploy_onnxruntime.bound import Bound

Optimization = Literal["all", "extended", "basic", "none"]
#: Optimisers that are wrong for Q/DQ nodes with scales in fp16 (seen in ONNX Runtime 1.31).
WRONG_IN_HALF = ["WeightBiasQuantization"]
_LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "none": "ORT_DISABLE_ALL",
}


@dataclass(frozen=True)
class OnnxRuntimeRuntime(Runtime):
    """Options of a session.

    Args:
        threads: intra-op threads; one per physical core where ``None``.
        optimization: graph optimisation level.
        provider: execution provider, such as ``CPUExecutionProvider`` or ``XnnpackExecutionProvider``.
        io_binding: keep inputs and outputs in buffers that the session owns; outputs are then overwritten by the
            next call. A graph with state has its buffers bound without it, and gives outputs that nothing overwrites.
    """

    name: ClassVar[str] = "onnxruntime"
    optimization: Optimization = "all"
    provider: str = "CPUExecutionProvider"
    io_binding: bool = False

    @classmethod
    def version(cls) -> str:
        """Version of ONNX Runtime, without importing it."""
        for package in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-qnn"):
            try:
                return version(package)
            except PackageNotFoundError:
                continue
        raise Unavailable.extra("ONNX Runtime", "onnxruntime")

    @classmethod
    def preload(cls) -> None:
        """Import ONNX Runtime."""
        _onnxruntime()

    def open(self, files: Mapping[str, Path], signatures: Mapping[str, Signature]) -> Session:
        """See `Runtime.open`."""
        return self._opened(files, signatures, tapped=False)

    def open_tapped(self, files: Mapping[str, Path], signatures: Mapping[str, Signature]) -> Session:
        """See `Runtime.open_tapped`; needs the package onnx, to add the outputs in memory."""
        return self._opened(files, signatures, tapped=True)

    def profile(
        self, files: Mapping[str, Path], signatures: Mapping[str, Signature], inputs: Mapping[str, Array], graph: str
    ) -> Profile:
        """See `Runtime.profile`: ONNX Runtime's own profiler, which writes a trace of every node."""
        from edgedeploy_onnxruntime.profiler import node_times

        alone = ({graph: files[graph]}, {graph: signatures[graph]})
        with tempfile.TemporaryDirectory(prefix="edgedeploy-profile-") as folder:
            session = self._opened(*alone, tapped=False, trace=str(Path(folder) / "pass"))
            try:
                durations = timed_passes(lambda: session.run(inputs, graph))
                nodes, inside = node_times(session.end_trace(graph), UNCOUNTED_PASSES)
            finally:
                session.close()
        source = f"ONNX Runtime {self.version()}'s profiler, in whole microseconds"
        return Profile.of(nodes, durations, inside, source)

    def _opened(
        self, files: Mapping[str, Path], signatures: Mapping[str, Signature], tapped: bool, trace: str | None = None
    ) -> OnnxRuntimeSession:
        """A session; ``trace`` is the beginning of the path of a file to write a trace to."""
        if self.optimization not in _LEVELS:
            raise UsageError(f"There is no optimization '{self.optimization}'. Known: {', '.join(_LEVELS)}.")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"{self.threads} threads cannot run anything; give 1 or more.")
        ort = _onnxruntime()
        if self.provider not in ort.get_available_providers():  # it would only warn, and run on the CPU
            known = ", ".join(ort.get_available_providers())
            raise Unavailable(f"This ONNX Runtime has no {self.provider}, only {known}. Install a build that has it.")
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads or 0
        options.inter_op_num_threads = 1
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[self.optimization])
        options.log_severity_level = 3
        if trace is not None:
            options.enable_profiling = True
            options.profile_file_prefix = trace
        sources = {name: _tapped(path) if tapped else str(path) for name, path in files.items()}
        sessions = {name: _open(ort, files[name], source, options, self.provider) for name, source in sources.items()}
        facts = {
            "runtime": "onnxruntime",
            "version": ort.__version__,
            "threads": self.threads or "default",
            "computes_in": ", ".join(sorted({_computes_in(s) for s in sessions.values()})),
            "provider": ",".join(sorted({p for s in sessions.values() for p in s.get_providers()})),
            "optimization": self.optimization,
            "io_binding": int(self.io_binding),
        }
        return OnnxRuntimeSession(sessions, dict(signatures), facts, self.io_binding)


class OnnxRuntimeSession:
    """One or several ONNX graphs, with their state carried from call to call; see `Bound` for how.

    State that several graphs share by its name, or of graphs with dynamic shapes, is handed over as arrays instead.
    """

    def __init__(
        self,
        sessions: Mapping[str, Any],
        signatures: Mapping[str, Signature],
        facts: Mapping[str, str | int | float],
        io_binding: bool,
    ) -> None:
        self._sessions, self._signatures, self._facts = dict(sessions), signatures, facts
        self._names = {name: [o.name for o in s.get_outputs()] for name, s in self._sessions.items()}
        self._bindings = {name: s.io_binding() for name, s in self._sessions.items()} if io_binding else {}
        self._bound = {
            name: Bound(_onnxruntime(), self._sessions[name], signatures[name])
            for name in alone(signatures)
            if Bound.fits(self._sessions[name], signatures[name])
        }
        self._state: dict[str, Array] = {}
        self.reset()

    @property
    def facts(self) -> Mapping[str, str | int | float]:
        """Version, threads, providers really in use, optimisation level."""
        return self._facts

    def run(self, inputs: Mapping[str, Array], graph: str = "main") -> Outputs:
        """See `Session.run`."""
        signature = self._signatures[graph]
        signature.check(inputs)
        if graph in self._bound:
            return self._step(graph, inputs)
        feed = {**inputs, **{s.input: self._state[s.input] for s in signature.state}} if signature.state else inputs
        try:
            values = self._kept(graph, feed) if graph in self._bindings else self._sessions[graph].run(None, feed)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise RunFailed(f"ONNX Runtime failed in graph '{graph}': {_line(error)}") from error
        outputs = dict(zip(self._names[graph], values, strict=True))
        for state in signature.state:
            self._state[state.input] = outputs.pop(state.output)
        return outputs

    def _step(self, graph: str, inputs: Mapping[str, Array]) -> Outputs:
        try:
            return self._bound[graph].run(inputs)
        except Exception as error:  # see above
            raise RunFailed(f"ONNX Runtime failed in graph '{graph}': {_line(error)}") from error

    def _kept(self, graph: str, feed: Mapping[str, Array]) -> list[Array]:
        binding = self._bindings[graph]
        for name, array in feed.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in self._names[graph]:
            binding.bind_output(name)
        self._sessions[graph].run_with_iobinding(binding)
        return [value.numpy() for value in binding.get_outputs()]

    def end_trace(self, graph: str) -> Path:
        """Stop tracing, and the file that was written; only of a session that traces."""
        return Path(self._sessions[graph].end_profiling())

    def reset(self) -> None:
        """Put all state back to zeros."""
        for bound in self._bound.values():
            bound.reset()
        unbound = [signature for name, signature in self._signatures.items() if name not in self._bound]
        self._state = {s.input: np.zeros(s.shape, s.dtype) for signature in unbound for s in signature.state}

    def state(self) -> dict[str, Array]:
        """See `edgedeploy.runtime.Carrying.state`."""
        found = {name: array.copy() for name, array in self._state.items()}
        for bound in self._bound.values():
            found |= bound.state()
        return found

    def restore(self, state: Mapping[str, Array]) -> None:
        """See `edgedeploy.runtime.Carrying.restore`."""
        check_state(self._signatures.values(), state)
        for bound in self._bound.values():
            bound.restore(state)
        self._state = {name: state[name].copy() for name in self._state}

    def close(self) -> None:
        """Free the graphs."""
        self._bindings.clear()
        self._bound.clear()
        self._sessions.clear()


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise Unavailable.extra("ONNX Runtime", "onnxruntime") from error
    return onnxruntime


def _tapped(path: Path) -> bytes:
    """The graph with taps, as bytes."""
    try:
        import onnx
    except ImportError as error:
        raise Unavailable.extra("onnx, which shows what is inside a graph,", "export") from error
    from edgedeploy_onnxruntime.taps import add_taps

    proto = onnx.load(path)
    add_taps(proto)
    return bytes(proto.SerializeToString())


def _open(ort: Any, path: Path, source: str | bytes, options: Any, provider: str) -> Any:
    """A session of ``source``, the file itself or bytes made of it; ``path`` is for what is said of it."""
    providers = [provider] if provider == "CPUExecutionProvider" else [provider, "CPUExecutionProvider"]
    try:
        session = ort.InferenceSession(source, options, providers=providers)
        if {"int8", "fp16"} <= {*_computes_in(session).split()}:
            session = ort.InferenceSession(source, options, providers=providers, disabled_optimizers=WRONG_IN_HALF)
    except Exception as error:  # onnxruntime's exceptions share no base class
        text = _line(error)
        if "opset" in text.lower() or "ir version" in text.lower():
            raise Incompatible(f"ONNX Runtime {ort.__version__} is too old for {path.name}: {text}") from error
        raise RunFailed(f"ONNX Runtime cannot load {path.name}: {text}") from error
    if provider not in session.get_providers():
        raise Unavailable(f"ONNX Runtime did not start {provider} and fell back to {session.get_providers()}.")
    return session


def _computes_in(session: Any) -> str:
    """As the graph says it was typed; for one that says nothing, after the type of its inputs."""
    said = session.get_modelmeta().custom_metadata_map.get(COMPUTES_KEY)
    kinds = {value.type for value in session.get_inputs()}
    return str(said or ("fp16" if "tensor(float16)" in kinds else "fp32"))


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
