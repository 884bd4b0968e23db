"""Runs OpenVINO IR on Intel CPUs, GPUs and NPUs (and Arm CPUs). Needs numpy and openvino, nothing else."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from edgedeploy.errors import Incompatible, RunFailed, Unavailable, UsageError, did_you_mean
from edgedeploy.runtime import (
    TAP,
    UNCOUNTED_PASSES,
    Outputs,
    Profile,
    Runtime,
    Session,
    alone,
    check_state,
    timed_passes,
)
from edgedeploy.tensors import Array, Signature
from edgedeploy_openvino.carried import Carried

if TYPE_CHECKING:
    from collections.abc import Iterator

Device = Literal["CPU", "GPU", "NPU"]
Hint = Literal["latency", "throughput"]
InferencePrecision = Literal["f32", "bf16", "f16", "default"]

#: Chains of matrix products are not put together: with int8 weights and one thread, that kills the process (2026.4).
WHOLE_LAYERS = {"SNIPPETS_MODE": "DISABLE"}
#: Versions of the IR format that are known; a file of a later one comes from a newer OpenVINO.
IR_VERSIONS = (10, 11)
#: Where the exporter leaves its notes in the IR: the precision, and which tensor is which module's output (JSON).
PRECISION_INFO, TAPS_INFO = ("edgedeploy", "precision"), ("edgedeploy", "taps")
#: Layers of an executable graph that do most of the arithmetic, and those that hold or move values without any.
_MULTIPLY = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul", "RNNCell", "RNNSeq"})
_MOVE = frozenset({"Const", "Input", "MemoryInput", "MemoryOutput", "Output", "Reorder", "Reshape", "Transpose"})
_PRECISIONS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}


@dataclass(frozen=True)
class OpenVINORuntime(Runtime):
    """Options of a session.

    Args:
        threads: of the CPU; OpenVINO's own choice where ``None``.
        device: ``CPU``, ``GPU`` or ``NPU``; one that is not here is refused, not replaced.
        hint: ``latency`` runs one request on all threads; ``throughput`` splits them between parallel requests.
        inference_precision: what floats are computed in: ``f32``, ``bf16``, ``f16``, or ``default``, OpenVINO's choice
            (bf16 on CPUs that have it). Where ``None``: f32, and for an fp16 export f16 on a device that has it, but
            not for a graph with state, whose errors would come back with every call.
    """

    name: ClassVar[str] = "openvino"
    device: Device = "CPU"
    hint: Hint = "latency"
    inference_precision: InferencePrecision | None = None

    @classmethod
    def version(cls) -> str:
        """Version of OpenVINO, without importing it."""
        try:
            return version("openvino")
        except PackageNotFoundError as error:
            raise Unavailable.extra("OpenVINO", "openvino") from error

    @classmethod
    def preload(cls) -> None:
        """Import OpenVINO."""
        openvino()

    def open(self, files: Mapping[str, Path], signatures: Mapping[str, Signature]) -> Session:
        """See `Runtime.open`."""
        return self._open(files, signatures, tapped=False)

    def open_tapped(self, files: Mapping[str, Path], signatures: Mapping[str, Signature]) -> Session:
        """See `Runtime.open_tapped`. A tensor that is looked at cannot be fused away: it is computed as written."""
        return self._open(files, signatures, tapped=True)

    def profile(
        self, files: Mapping[str, Path], signatures: Mapping[str, Signature], inputs: Mapping[str, Array], graph: str
    ) -> Profile:
        """See `Runtime.profile`: OpenVINO's performance counters, with what its executable graph says of each layer."""
        from edgedeploy_openvino.profiler import Layers

        session = self._open({graph: files[graph]}, {graph: signatures[graph]}, tapped=False, counting=True)
        try:
            session.run(inputs, graph)
            stored = openvino().Core().read_model(files[graph])
            layers = Layers(session.compiled(graph).get_runtime_model(), stored, self.device.lower())

            def run() -> None:
                session.run(inputs, graph)
                layers.add(session.counters(graph))

            durations = timed_passes(run)
            nodes, inside = layers.times(UNCOUNTED_PASSES)
        finally:
            session.close()
        source = f"OpenVINO {self.version()}'s performance counters, in whole microseconds"
        return Profile.of(nodes, durations, inside, source)

    def _open(
        self,
        files: Mapping[str, Path],
        signatures: Mapping[str, Signature],
        tapped: bool,
        counting: bool = False,
    ) -> OpenVINOSession:
        self._check_options()
        ov = openvino()
        core = ov.Core()
        self._check_device(core)
        if counting:
            core.set_property(self.device, {"PERF_COUNT": True})
        graphs = {name: self._compile(ov, core, path, signatures[name], tapped) for name, path in files.items()}
        return OpenVINOSession(graphs, dict(signatures), self._facts(ov, graphs))

    def _check_options(self) -> None:
        for key, kind in (("device", Device), ("hint", Hint), ("inference_precision", InferencePrecision)):
            value = getattr(self, key)
            if value is not None and value not in get_args(kind):
                raise UsageError(f"There is no {key} '{value}'.{did_you_mean(str(value), get_args(kind))}")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"{self.threads} threads cannot run anything; give 1 or more.")

    def _check_device(self, core: Any) -> None:
        here = [name.partition(".")[0] for name in core.available_devices]
        if self.device in here:
            return
        reason = ""
        try:
            core.get_property(self.device, "FULL_DEVICE_NAME")
        except RuntimeError as error:
            reason = f": {_line(error)}"
        raise Unavailable(f"OpenVINO finds no {self.device} here, only {', '.join(here)}{reason}. Install its driver.")

    def _compile(self, ov: Any, core: Any, path: Path, signature: Signature, tapped: bool) -> Graph:
        _check_header(ov, path)
        try:
            model = core.read_model(path)
        except RuntimeError as error:
            raise _refused(ov, path, error) from error
        _check_names(model, path, signature)
        taps = _add_taps(model) if tapped else {}
        try:
            compiled = core.compile_model(model, self.device, self._config(core, model, bool(signature.state)))
            return Graph(compiled, compiled.create_infer_request(), taps, _layers(compiled))
        except RuntimeError as error:
            raise RunFailed(f"OpenVINO cannot compile {path.name} for the {self.device}: {_line(error)}") from error

    def _config(self, core: Any, model: Any, stateful: bool) -> dict[str, Any]:
        config: dict[str, Any] = {"PERFORMANCE_HINT": self.hint.upper()}
        if self.device == "CPU":
            config |= {"NUM_STREAMS": 1} if self.hint == "latency" else {}
            config |= {} if self.threads is None else {"INFERENCE_NUM_THREADS": self.threads}
            config |= WHOLE_LAYERS if _info(model, PRECISION_INFO) == "int8-weights" else {}
        wanted = self.inference_precision
        if wanted is None:
            half = _info(model, PRECISION_INFO) == "fp16" and not stateful  # errors in state come back
            wanted = "f16" if half and "FP16" in core.get_property(self.device, "OPTIMIZATION_CAPABILITIES") else "f32"
        return config if wanted == "default" else {**config, "INFERENCE_PRECISION_HINT": wanted}

    def _facts(self, ov: Any, graphs: Mapping[str, Graph]) -> dict[str, str | int | float]:
        layers = sum((graph.layers for graph in graphs.values()), Counter[str]())
        main = next(iter(graphs.values())).compiled
        return {
            "runtime": "openvino",
            "version": ov.__version__.partition("-")[0],
            "threads": int(_property(main, "INFERENCE_NUM_THREADS") or 0) or "default",
            "computes_in": _computes_in(layers) or _hinted(main),
            "device": _device_name(main),
            "hint": self.hint,
            "streams": int(_property(main, "NUM_STREAMS") or 0) or "default",
        }


@dataclass(frozen=True)
class Graph:
    """One compiled graph, its request, the tensor of each module's output, and how many layers have a precision."""

    compiled: Any
    request: Any
    taps: Mapping[str, str]
    layers: Counter[str]


class OpenVINOSession:
    """One or several compiled graphs, with their state carried from call to call; see `Carried` for how.

    State that several graphs share by its name, or of graphs with dynamic shapes, is handed over as arrays instead.
    """

    def __init__(
        self, graphs: Mapping[str, Graph], signatures: Mapping[str, Signature], facts: Mapping[str, str | int | float]
    ) -> None:
        self._graphs, self._signatures, self._facts = dict(graphs), signatures, facts
        self._carried = {
            name: Carried(openvino(), graph.compiled, signatures[name])
            for name, graph in self._graphs.items()
            if name in alone(signatures) and Carried.fits(signatures[name]) and not graph.taps
        }
        self._state: dict[str, Array] = {}
        self.reset()

    @property
    def facts(self) -> Mapping[str, str | int | float]:
        """Version, threads, device, and what the layers are really computed in, all read back from OpenVINO."""
        return self._facts

    def run(self, inputs: Mapping[str, Array], graph: str = "main") -> Outputs:
        """See `Session.run`."""
        signature, opened = self._signatures[graph], self._graphs[graph]
        signature.check(inputs)
        if graph in self._carried:
            return self._step(graph, inputs)
        feed = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        feed |= {state.input: self._state[state.input] for state in signature.state}
        try:
            opened.request.infer(feed, share_inputs=True)
            outputs = {spec.name: _taken(opened.request, spec.name) for spec in signature.outputs}
            for state in signature.state:
                self._state[state.input] = _taken(opened.request, state.output)
            for module, tensor in opened.taps.items():
                outputs[TAP + module] = _taken(opened.request, tensor).astype(np.float32)
        except RuntimeError as error:
            raise RunFailed(f"OpenVINO failed in graph '{graph}': {_line(error)}") from error
        return outputs

    def _step(self, graph: str, inputs: Mapping[str, Array]) -> Outputs:
        try:
            return self._carried[graph].run(inputs)
        except RuntimeError as error:
            raise RunFailed(f"OpenVINO failed in graph '{graph}': {_line(error)}") from error

    def reset(self) -> None:
        """Put all state back to zeros."""
        for carried in self._carried.values():
            carried.reset()
        others = [signature for name, signature in self._signatures.items() if name not in self._carried]
        self._state = {s.input: np.zeros(s.shape, s.dtype) for signature in others for s in signature.state}

    def state(self) -> dict[str, Array]:
        """See `edgedeploy.runtime.Carrying.state`."""
        found = {name: array.copy() for name, array in self._state.items()}
        for carried in self._carried.values():
            found |= carried.state()
        return found

    def restore(self, state: Mapping[str, Array]) -> None:
        """See `edgedeploy.runtime.Carrying.restore`."""
        check_state(self._signatures.values(), state)
        for carried in self._carried.values():
            carried.restore(state)
        self._state = {name: state[name].copy() for name in self._state}

    def close(self) -> None:
        """Free the graphs."""
        self._carried.clear()
        self._graphs.clear()

    def compiled(self, graph: str) -> Any:
        """OpenVINO's compiled graph."""
        return self._graphs[graph].compiled

    def counters(self, graph: str) -> Any:
        """What the last run took, layer by layer, as OpenVINO gives it; only of a session that counts."""
        carried = self._carried.get(graph)
        return (self._graphs[graph].request if carried is None else carried.last).get_profiling_info()


def openvino() -> Any:
    """The vendor's package.

    Unless told otherwise, importing it makes it report its use over the network, from threads of its own. It does
    without where the package that does so is not installed; here it finds that one missing.

    Raises:
        Unavailable: it is not installed, or cannot be loaded.
    """
    try:
        with _without("openvino_telemetry"):
            import openvino as ov
    except ImportError as error:
        raise Unavailable.extra("OpenVINO", "openvino") from error
    return ov


@contextmanager
def _without(package: str) -> Iterator[None]:
    known = package in sys.modules
    if not known:
        sys.modules[package] = None  # type: ignore[assignment]  # what Python takes for: not installed
    try:
        yield
    finally:
        if not known:
            del sys.modules[package]


def _taken(request: Any, name: str) -> Array:
    """A copy: the request writes over its tensors in the next call."""
    taken: Array = np.array(request.get_tensor(name).data)
    return taken


# --- what a file says ----------------------------------------------------------------------------------------------


def _check_header(ov: Any, path: Path) -> None:
    """OpenVINO tries other formats on a file whose header it does not know, and reports the last one's complaint."""
    try:
        with path.open("rb") as stream:
            head = stream.read(4096).decode("utf-8", "replace")
    except OSError as error:
        raise RunFailed(f"{path.name} cannot be read: {error.strerror}.") from error
    found = re.search(r"<net\b[^>]*\bversion=\"(\d+)\"", head)
    if found is None:
        raise RunFailed(f"{path.name} is damaged: it does not begin as an OpenVINO IR does. Export or copy it again.")
    if int(found[1]) not in IR_VERSIONS:
        raise Incompatible(
            f"{path.name} is an OpenVINO IR of version {found[1]}; OpenVINO {ov.__version__.partition('-')[0]} reads "
            f"{' and '.join(map(str, IR_VERSIONS))}. Install a newer OpenVINO, or export again with this one."
        )


def _refused(ov: Any, path: Path, error: RuntimeError) -> RunFailed | Incompatible:
    text, weights = str(error), path.with_suffix(".bin")
    if "opset" in text:
        return Incompatible(
            f"OpenVINO {ov.__version__.partition('-')[0]} is too old for {path.name}: {_line(error)}. "
            "Install a newer one, or export again with this one."
        )
    if not weights.is_file():
        return RunFailed(f"{weights.name}, which holds the weights of {path.name}, is missing. Copy both files.")
    if "weights" in text:
        size = weights.stat().st_size
        return RunFailed(
            f"{weights.name} is damaged: with {size} bytes it is shorter than {path.name} says. Copy it again."
        )
    return RunFailed(f"{path.name} is damaged: {_line(error)}. Export or copy it again.")


def _check_names(model: Any, path: Path, signature: Signature) -> None:
    for kind, ports, specs, states in (
        ("input", model.inputs, signature.inputs, [s.input for s in signature.state]),
        ("output", model.outputs, signature.outputs, [s.output for s in signature.state]),
    ):
        known = {name for port in ports for name in port.get_names()}
        for name in (*(spec.name for spec in specs), *states):
            if name not in known:
                raise Incompatible(
                    f"{path.name} has no {kind} '{name}' as its manifest says.{did_you_mean(name, known)}"
                )


def _info(model: Any, path: tuple[str, str]) -> str | None:
    return str(model.get_rt_info(list(path)).astype(str)) if model.has_rt_info(list(path)) else None


def _add_taps(model: Any) -> dict[str, str]:
    """Make the outputs of modules outputs of the model; those that the conversion has fused away are left out."""
    noted: Mapping[str, str] = json.loads(_info(model, TAPS_INFO) or "{}")
    given = {name for port in model.outputs for name in port.get_names()}
    there = {name for op in model.get_ordered_ops() for port in op.outputs() for name in port.get_names()}
    taps = {module: tensor for module, tensor in noted.items() if tensor in there}
    model.add_outputs(sorted(set(taps.values()) - given))
    return taps


# --- what a compiled graph says ------------------------------------------------------------------------------------


def _layers(compiled: Any) -> Counter[str]:
    """How many convolutions and matrix products compute in which precision; all layers of a graph that has none.

    The name of the kernel ends with what it computes in. ``runtimePrecision`` would be that of its first input: fp16
    for a convolution in fp32 whose weights are stored as fp16.
    """
    multiply, all_layers = Counter[str](), Counter[str]()
    for layer in compiled.get_runtime_model().get_ordered_ops():
        info = layer.get_rt_info()
        kind, kernel = (str(info[key].astype(str)) if key in info else "" for key in ("layerType", "primitiveType"))
        precision = _PRECISIONS.get(kernel.rpartition("_")[2].lower())
        if precision is not None and kind not in _MOVE:
            all_layers[precision] += 1
            multiply[precision] += kind in _MULTIPLY
    return +multiply or all_layers


def _computes_in(layers: Counter[str]) -> str:
    """``fp32``, or the shares: ``int8 89 %, fp32 11 % of 64 layers that multiply``."""
    total = sum(layers.values())
    if len(layers) < 2:
        return "".join(layers)
    shares = ", ".join(f"{name} {100 * count / total:.0f} %" for name, count in layers.most_common())
    return f"{shares} of {total} layers that multiply"


def _hinted(compiled: Any) -> str:
    """The precision hint in force, where a device does not tell of layers."""
    hint = _property(compiled, "INFERENCE_PRECISION_HINT")
    return str(hint.get_type_name()) if hasattr(hint, "get_type_name") else str(hint or "unknown")


def _property(compiled: Any, name: str) -> Any:
    try:
        return compiled.get_property(name)
    except RuntimeError:  # not every device has every property
        return None


def _device_name(compiled: Any) -> str:
    devices = _property(compiled, "EXECUTION_DEVICES")
    return ",".join(devices) if isinstance(devices, list) else str(devices or "unknown")


def _line(error: BaseException) -> str:
    """The last line of OpenVINO's text that is not about where in its source something was checked."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not re.match(r"Exception from|Check '|FrontEnd API failed", line)]
    return (told or lines or [type(error).__name__])[-1][:300].rstrip(". ")
