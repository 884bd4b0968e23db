"""One adapter over the Python interfaces of ``tensorrt`` 8.6, 10 and 11, and of ``tensorrt_rtx``.

They are one interface with a few differences, and all of them are here: whether a network can be strongly typed, which
builder flags exist, and that only TensorRT for RTX can be told the compute capability of a GPU that is not there.
Nothing of the library is imported before `load`.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedeploy.errors import Unavailable
from edgedeploy_tensorrt.plan import Flavour, Plan, Shapes

MODULES: Mapping[Flavour, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
TITLES: Mapping[Flavour, str] = {"tensorrt": "TensorRT", "rtx": "TensorRT for RTX"}
#: Messages above this severity (3 is INFO, 4 VERBOSE) are not kept: a build makes tens of thousands of them.
_KEPT = 3


class Refused(Exception):
    """TensorRT did not take a graph, a plan or an engine. The message is a sentence; the rest is TensorRT's log."""


@dataclass(frozen=True)
class Library:
    """An imported TensorRT and its version."""

    flavour: Flavour
    module: Any
    version: str

    @property
    def title(self) -> str:
        """Name and version, for messages."""
        return f"{TITLES[self.flavour]} {self.version}"

    @property
    def major(self) -> int:
        """The first number of the version."""
        return int(self.version.partition(".")[0])


@dataclass(frozen=True)
class Parsed:
    """A graph that the parser took, ready to be built. The builder and the parser have to outlive the network."""

    library: Library
    builder: Any
    parser: Any
    network: Any


@dataclass(frozen=True)
class Built:
    """A serialized engine, what TensorRT said while it was built, the timings to keep, and nodes that left the DLA."""

    engine: bytes
    log: tuple[str, ...]
    timings: bytes = b""
    fallen_back: tuple[str, ...] = ()


def load(flavour: Flavour) -> Library:
    """Import TensorRT.

    Raises:
        Unavailable: it is not here, or its own libraries are not.
    """
    try:
        module = importlib.import_module(MODULES[flavour])
    except (ImportError, OSError) as error:
        hint = "Install it with: pip install 'edgedeploy[tensorrt-rtx]'" if flavour == "rtx" else _tensorrt_hint()
        why = "" if isinstance(error, ModuleNotFoundError) and error.name == MODULES[flavour] else f" ({_line(error)})"
        raise Unavailable(f"{TITLES[flavour]} cannot be imported here{why}. {hint}") from error
    return Library(flavour, module, str(module.__version__))


def _tensorrt_hint() -> str:
    if Path("/etc/nv_tegra_release").exists():
        return "On a Jetson it comes with JetPack, for the system's own Python: python3 -m venv --system-site-packages"
    return "Install it with: pip install 'edgedeploy[tensorrt]'"


# --- messages ------------------------------------------------------------------------------------------------------


@functools.cache
def logger(module: Any) -> Any:
    """The logger of this process: TensorRT takes the first one and ignores every other."""

    class Collector(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.kept: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= _KEPT:
                self.kept.append(f"{severity.name}: {message}")

    return Collector()


@contextmanager
def listening(library: Library) -> Iterator[list[str]]:
    """What TensorRT says inside the block, as lines that begin with the severity."""
    collector = logger(library.module)
    lines: list[str] = []
    collector.kept = lines
    yield lines


def last_error(lines: Sequence[str]) -> str:
    """The first error that TensorRT logged, in its own words, on one line; those after it are its consequences."""
    errors = [line for line in lines if line.startswith(("ERROR:", "INTERNAL_ERROR:"))]
    return " ".join(errors[0].partition(": ")[2].split())[:400] if errors else "it gave no reason"


# --- from ONNX to an engine ----------------------------------------------------------------------------------------


def parse(library: Library, graph: Path, plan: Plan) -> Parsed:
    """Read the ONNX file ``graph``.

    Raises:
        Refused: it is not one, or has nodes that TensorRT does not support; they are named with the PyTorch modules
            that they come from.
    """
    trt = library.module
    with listening(library) as lines:
        builder = trt.Builder(logger(trt))
        network = builder.create_network(_creation_flags(library, plan))
        parser = trt.OnnxParser(network, logger(trt))
        if plan.dla_core is not None and hasattr(trt.OnnxParserFlag, "ADJUST_FOR_DLA"):
            parser.set_flag(trt.OnnxParserFlag.ADJUST_FOR_DLA)
        if not parser.parse_from_file(str(graph)):
            errors = [parser.get_error(i) for i in range(parser.num_errors)]
            raise Refused(_explain(library, graph, errors, lines)) from RuntimeError("\n".join(lines))
        if not network.num_outputs:
            raise Refused(f"{library.title} cannot read {graph.name}: there is no graph in it that puts something out.")
    if not _typed(library, plan):
        _hold_in_float(trt, network, frozenset(plan.float_layers))
    return Parsed(library, builder, parser, network)


def build(parsed: Parsed, plan: Plan, sms: Sequence[int] = (), timings: bytes | None = None) -> Built:
    """The serialized engine of a parsed graph.

    Args:
        parsed: from `parse`, with the same plan.
        plan: how to build it.
        sms: compute capabilities (times ten) of the GPUs to build for, without one; that of the GPU here where empty.
        timings: timings of layers that were kept from an earlier build; ``None`` keeps none.

    Raises:
        Refused: TensorRT cannot build it, in its own words.
    """
    library, builder, network = parsed.library, parsed.builder, parsed.network
    with listening(library) as lines:
        config = _configure(library, builder, plan, sms)
        _add_profile(builder, network, config, plan.shapes)
        cache = None
        if timings is not None and plan.timing_cache:
            cache = config.create_timing_cache(timings)
            config.set_timing_cache(cache, False)
        fallen = _not_on_dla(network, config) if plan.dla_core is not None else ()
        engine = builder.build_serialized_network(network, config)
    if engine is None:
        said = f"{library.title} did not build an engine: {last_error(lines)}"
        raise Refused(said) from RuntimeError("\n".join(lines))
    kept = bytes(memoryview(cache.serialize())) if cache is not None else b""
    return Built(bytes(memoryview(engine)), tuple(lines), kept, fallen)


def _typed(library: Library, plan: Plan) -> bool:
    """Whether the network is strongly typed, of which there is no other kind in RTX and since TensorRT 11."""
    return plan.strongly_typed or library.flavour == "rtx" or library.major >= 11


def _creation_flags(library: Library, plan: Plan) -> int:
    trt = library.module
    if _typed(library, plan):
        if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
            raise Refused(
                f"{library.title} has no strongly typed networks, and the graph was exported for one that has. "
                "Export it again for this device."
            )
        return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH) if library.major < 10 else 0


def builder_flags(library: Library, plan: Plan) -> dict[str, bool]:
    """Names of builder flags to set and to clear."""
    wanted = {
        "TF32": plan.tf32,
        "SPARSE_WEIGHTS": plan.sparsity,
        "GPU_FALLBACK": plan.dla_core is not None and plan.gpu_fallback,
        "VERSION_COMPATIBLE": plan.version_compatible,
        "DISABLE_TIMING_CACHE": not plan.timing_cache,
    }
    if not _typed(library, plan):
        wanted |= {"FP16": plan.precision in ("fp16", "int8"), "INT8": plan.precision in ("int8", "int8-weights")}
        wanted |= {"BF16": plan.precision == "bf16", "OBEY_PRECISION_CONSTRAINTS": bool(plan.float_layers)}
    return wanted


def _configure(library: Library, builder: Any, plan: Plan, sms: Sequence[int]) -> Any:
    trt = library.module
    config = builder.create_builder_config()
    for name, wanted in builder_flags(library, plan).items():
        flag = getattr(trt.BuilderFlag, name, None)
        if flag is None and wanted:
            raise Refused(f"{library.title} has no builder flag {name}, which the plan asks for.")
        if flag is not None:
            (config.set_flag if wanted else config.clear_flag)(flag)
    if plan.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, plan.workspace)
    if plan.optimization_level is not None:
        config.builder_optimization_level = plan.optimization_level
    if plan.dla_core is not None:
        config.default_device_type, config.DLA_core = trt.DeviceType.DLA, plan.dla_core
    if plan.hardware != "none":
        config.hardware_compatibility_level = _hardware(library, plan)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that an engine can tell what it computes in
    for i, sm in enumerate(sms):
        config.num_compute_capabilities = len(sms)
        config.set_compute_capability(capability(library, sm), i)
    return config


def capability(library: Library, sm: int) -> Any:
    """TensorRT's name of a compute capability.

    Raises:
        Refused: this TensorRT only builds for the GPU that is there, or not for this one.
    """
    known = getattr(library.module, "ComputeCapability", None)
    if known is None:
        raise Refused(f"{library.title} builds only for the GPU that is in the machine; for others take flavour=rtx.")
    if not hasattr(known, f"SM{sm}"):
        names = ", ".join(sorted((n[2:] for n in dir(known) if n.startswith("SM")), key=int))
        raise Refused(f"{library.title} does not build for compute capability {sm}; it knows {names}.")
    return getattr(known, f"SM{sm}")


def _hardware(library: Library, plan: Plan) -> Any:
    levels = library.module.HardwareCompatibilityLevel
    name = {"ampere_plus": "AMPERE_PLUS", "same_sm": "SAME_COMPUTE_CAPABILITY"}[plan.hardware]
    if not hasattr(levels, name):
        raise Refused(f"{library.title} has no hardware compatibility {name}, which the plan asks for.")
    return getattr(levels, name)


def _add_profile(builder: Any, network: Any, config: Any, shapes: Mapping[str, Shapes]) -> None:
    inputs = {tensor.name: tuple(tensor.shape) for tensor in (network.get_input(i) for i in range(network.num_inputs))}
    dynamic = {name for name, shape in inputs.items() if -1 in shape}
    for name in sorted(dynamic - set(shapes)):
        raise Refused(
            f"Input '{name}' has dynamic dimensions {list(inputs[name])}, and the plan has no optimisation profile for "
            "it: give its smallest, usual and largest sizes."
        )
    for name in sorted(set(shapes) - set(inputs)):
        raise Refused(f"The plan has shapes for an input '{name}'; the graph takes {', '.join(inputs)}.")
    if not dynamic:
        return
    profile = builder.create_optimization_profile()
    for name in sorted(dynamic):
        profile.set_shape(name, shapes[name].min, shapes[name].opt, shapes[name].max)
    if config.add_optimization_profile(profile) < 0:
        raise Refused(f"The optimisation profile {dict(shapes)} does not fit the graph, whose inputs are {inputs}.")


def _hold_in_float(trt: Any, network: Any, names: frozenset[str]) -> None:
    """Without strong types, a layer takes part in the choice of types unless it is held to its own."""
    for layer in (network.get_layer(i) for i in range(network.num_layers)):
        if layer.name in names:
            layer.precision = trt.DataType.FLOAT
            for i in range(layer.num_outputs):
                if layer.get_output(i).dtype == trt.DataType.HALF:
                    layer.set_output_type(i, trt.DataType.FLOAT)


def _not_on_dla(network: Any, config: Any) -> tuple[str, ...]:
    layers = (network.get_layer(i) for i in range(network.num_layers))
    return tuple(layer.name for layer in layers if not config.can_run_on_DLA(layer))


# --- engines -------------------------------------------------------------------------------------------------------


def deserialize(library: Library, data: bytes, dla_core: int | None = None) -> Any:
    """The engine, loaded on the GPU; the runtime that made it has to live as long, and is tied to it by TensorRT.

    Raises:
        Refused: it is of another TensorRT or GPU, or damaged.
    """
    trt = library.module
    with listening(library) as lines:
        runtime = trt.Runtime(logger(trt))
        if dla_core is not None:
            runtime.DLA_core = dla_core
        engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise Refused(
            f"{library.title} does not take this engine: {last_error(lines)}. An engine fits only the TensorRT and the "
            "GPU that it was built with."
        ) from RuntimeError("\n".join(lines))
    return engine


def layers(library: Library, engine: Any) -> tuple[Mapping[str, Any], ...]:
    """What the engine says of its layers (``Name``, ``LayerType``, ``Outputs`` ...); empty where it does not."""
    text = engine.create_engine_inspector().get_engine_information(library.module.LayerInformationFormat.JSON)
    try:
        found = json.loads(text or "{}").get("Layers", [])
    except ValueError:
        return ()
    return tuple(layer if isinstance(layer, dict) else {"Name": str(layer)} for layer in found)


# --- what the parser says ------------------------------------------------------------------------------------------


def _explain(library: Library, graph: Path, errors: Sequence[Any], lines: Sequence[str]) -> str:
    """One sentence for the errors of the parser: unsupported operators by name and module, else its own words."""
    modules = _modules(graph)
    missing: dict[str, list[str]] = {}
    for problem in errors:
        if problem.code().name.startswith("UNSUPPORTED_NODE") or problem.code().name == "INVALID_NODE":
            operator, place = _place(problem, modules)
            if place not in missing.setdefault(operator, []):
                missing[operator].append(place)
    if not missing:
        said = errors[0].desc() if errors else ""
        said = said if len(said) > len("false") else last_error(lines)
        return f"{library.title} cannot read {graph.name}: {' '.join(said.split())[:300]}"
    said = "; ".join(f"{operator} in {_some(where)}" for operator, where in sorted(missing.items()))
    why = {" ".join(problem.desc().split())[:200] for problem in errors} - {"false", "Assertion failed", ""}
    reason = f" ({min(why)})" if why else ""
    return (
        f"{library.title} does not support {said}{reason}. Replace what computes it, or leave it to the code after the "
        "network."
    )


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 3} more places" if len(names) > 3 else ""
    return ", ".join(f"'{name}'" for name in names[:3]) + rest


def _place(problem: Any, modules: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Operator and module of the node that the parser means; before TensorRT 10 it only tells the node's number."""
    number = problem.node()
    operator, module = modules[number] if 0 <= number < len(modules) else ("an operator", f"node {number}")
    if not hasattr(problem, "node_operator"):
        return operator, module
    name = problem.node_name()
    return problem.node_operator() or operator, module if modules else name or module


def _modules(graph: Path) -> Sequence[tuple[str, str]]:
    """Operator and PyTorch module path of each node. On a device there is no onnx to read them with."""
    try:
        import onnx

        from edgedeploy.capture import module_path

        nodes = onnx.load(graph, load_external_data=False).graph.node
    except Exception:  # the graph may be what is wrong
        return ()
    return [(node.op_type, module_path(node)) for node in nodes]


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
