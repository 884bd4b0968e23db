"""Runs ExecuTorch programs (.pte) with the runtime in the executorch wheel. Needs numpy, executorch and torch.

torch is what the binding takes and gives tensors by; on a device without Python the same file runs from C++.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgedeploy.errors import Incompatible, RunFailed, Unavailable, UsageError
from edgedeploy.runtime import UNCOUNTED_PASSES, Outputs, Profile, Runtime, Session, check_state, timed_passes
from edgedeploy.tensors import Array, Signature, StateSpec
from edgedeploy_executorch.contents import METHOD, Contents, Entry
from edgedeploy_executorch.words import Refused, attempt, caught

#: What a .pte file has in bytes 4 to 8; the number is that of the schema.
MAGIC = b"ET12"
#: What brings the runtime of a delegate that the wheel does not have.
ABSENT = {
    "CoreMLBackend": "it runs on macOS and iOS, in an app with the ExecuTorch framework",
    "VulkanBackend": "it runs on Android, in an app built with ExecuTorch's Vulkan library",
}


@dataclass(frozen=True)
class ExecuTorchRuntime(Runtime):
    """Options of a session.

    Args:
        threads: threads of XNNPACK and of the portable kernels; as many as the CPU has cores where ``None``. There is
            one pool for the whole process: a later session with another number changes it for all of them.
    """

    name: ClassVar[str] = "executorch"

    @classmethod
    def version(cls) -> str:
        """Version of ExecuTorch, without importing it."""
        try:
            return version("executorch")
        except PackageNotFoundError:
            raise Unavailable.extra("ExecuTorch", "executorch") from None

    @classmethod
    def preload(cls) -> None:
        """Import torch and ExecuTorch's runtime, and start its threads."""
        binding()

    def open(self, files: Mapping[str, Path], signatures: Mapping[str, Signature]) -> Session:
        """See `Runtime.open`. Graphs in one file are loaded together, and share state of the same name."""
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"{self.threads} threads are too few: give 1 or more.")
        native = binding()
        if self.threads is not None:
            with caught():
                native._unsafe_reset_threadpool(self.threads)
        programs = {path: Program(native, path) for path in dict.fromkeys(files.values())}
        contents = [program.contents for program in programs.values() if program.contents is not None]
        facts: dict[str, str | int | float] = {
            "runtime": "executorch",
            "version": self.version(),
            "computes_in": ", ".join(sorted({c.computes_in for c in contents})) or "unknown",
            "delegates": ", ".join(sorted({b for c in contents for b in c.backends})) or "none",
        }
        graphs = {name: programs[path].graph(name) for name, path in files.items()}
        return ExecuTorchSession(graphs, signatures, facts, native._threadpool_get_thread_count)

    def profile(
        self, files: Mapping[str, Path], signatures: Mapping[str, Signature], inputs: Mapping[str, Array], graph: str
    ) -> Profile:
        """See `Runtime.profile`: ExecuTorch's event tracer, which sees into XNNPACK."""
        from edgedeploy_executorch.profile import Call, node_times, traced

        session = self.open({graph: files[graph]}, {graph: signatures[graph]})  # checks options, and sets the threads
        backends = [name for name in str(session.facts["delegates"]).split(", ") if name != "none"]
        session.close()
        durations: list[float] = []
        call = Call(signatures[graph], inputs, graph)
        operators = traced(files[graph], call, lambda run: durations.extend(timed_passes(run)), UNCOUNTED_PASSES)
        source = f"ExecuTorch {self.version()}'s event tracer; inside a delegate in whole microseconds"
        inside = [sum(times) for times in zip(*(operator.times for operator in operators), strict=True)]
        return Profile.of(node_times(operators, backends), durations, inside or [0.0] * len(durations), source)


class Program:
    """One loaded .pte file, and what it says about itself; ``None`` where somebody else wrote it."""

    def __init__(self, native: Any, path: Path, traced: bool = False) -> None:
        self._path = path
        _check_header(path)
        checked = native.Verification.InternalConsistency
        try:
            self._native = attempt(
                lambda: native._load_program(str(path), enable_etdump=traced, program_verification=checked)
            )
        except Refused as error:
            raise RunFailed(f"ExecuTorch cannot load {path.name}: {error.reason}.") from error
        self._names: list[str] = [self._native.get_method_name(i) for i in range(self._native.num_methods())]
        text = self._method(METHOD).call([])[0] if METHOD in self._names else None
        self.contents = Contents.loads(text, path.name) if text is not None else None
        for backend in self.contents.backends if self.contents else ():
            if not native._is_available(backend):
                where = ABSENT.get(backend, "take a build of ExecuTorch that has it")
                raise Unavailable(f"{path.name} computes in {backend}, which is not in this ExecuTorch: {where}.")

    def graph(self, name: str) -> Loaded:
        """The methods of one graph, loaded.

        Raises:
            Incompatible: the program has no such graph, or delegates to what is not here.
        """
        if self.contents is not None:
            entry = self.contents.graphs.get(name)
        else:
            only = name if name in self._names else "forward" if "forward" in self._names else None
            entry = Entry({"": only}) if only else None
        if entry is None:
            raise Incompatible(f"{self._path.name} has no graph '{name}'. Known: {', '.join(self._names)}.")
        return Loaded({batch: self._method(method) for batch, method in entry.methods.items()}, entry)

    def write_trace(self, target: Path) -> None:
        """Write what was traced so far, in ExecuTorch's format."""
        self._native.write_etdump_result_to_file(str(target))

    def _method(self, name: str) -> Any:
        try:
            return attempt(lambda: self._native.load_method(name))
        except Refused as error:
            kind = Incompatible if error.code in (0x14, 0x20, 0x30) else RunFailed
            raise kind(f"ExecuTorch cannot load '{name}' of {self._path.name}: {error.reason}.") from error


class Loaded:
    """The methods of one graph; each has the state of its own program, from which the start is kept."""

    def __init__(self, methods: Mapping[str, Any], entry: Entry) -> None:
        self.methods, self.entry = dict(methods), entry
        self._buffers = [(name, method.get_attribute(name)) for method in self.methods.values() for name in entry.state]
        self._start = [buffer.clone() for _, buffer in self._buffers]

    def method(self, sizes: Mapping[str, int], graph: str) -> Any:
        """The method for these sizes of dynamic dimensions.

        Raises:
            UsageError: one is larger than the program was lowered for; ExecuTorch plans its memory ahead.
        """
        for dimension, size in sizes.items():
            most = self.entry.largest.get(dimension, size)
            if not 1 <= size <= most:
                raise UsageError(
                    f"Graph '{graph}' was lowered for a {dimension} of 1 to {most}, but was given {size}. "
                    f"""Export it again with --option largest='{{"{dimension}": {max(size, 1)}}}'."""
                )
        return self.methods.get("") or self.methods[str(sizes["batch"])]

    def call(self, signature: Signature, inputs: Mapping[str, Array], graph: str) -> Outputs:
        """The outputs by name.

        Raises:
            UsageError: an input is missing, unknown, or of a dtype or shape that the graph does not take.
            RunFailed: ExecuTorch gave up.
        """
        signature.check(inputs)
        method = self.method(sizes_of(signature, inputs), graph)
        tensors = [_tensor(inputs[spec.name]) for spec in signature.inputs]
        try:
            values = method.call(tensors)
        except RuntimeError as error:
            raise RunFailed(f"ExecuTorch failed in graph '{graph}': {_reason(method, tensors)}.") from error
        return {spec.name: np.asarray(value) for spec, value in zip(signature.outputs, values, strict=True)}

    def reset(self) -> None:
        """Put the state back to what it was when the program was loaded."""
        for (_, buffer), start in zip(self._buffers, self._start, strict=True):
            buffer.copy_(start)

    @property
    def specs(self) -> Signature:
        """The state, of the last method where there are several: one per batch size."""
        found = dict(self._buffers)
        kinds = {name: str(buffer.dtype).removeprefix("torch.") for name, buffer in found.items()}
        return Signature((), (), tuple(StateSpec(n, n, kinds[n], tuple(b.shape)) for n, b in found.items()))

    def state(self) -> dict[str, Array]:
        """The state by name, copied."""
        return {name: buffer.numpy().copy() for name, buffer in self._buffers}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Go on from ``state``, of which every method takes its own."""
        for name, buffer in self._buffers:
            buffer.copy_(_tensor(state[name]))


class ExecuTorchSession:
    """The graphs of one artifact; state is in mutable buffers of the program."""

    def __init__(
        self,
        graphs: Mapping[str, Loaded],
        signatures: Mapping[str, Signature],
        facts: Mapping[str, str | int | float],
        threads: Callable[[], int],
    ) -> None:
        self._graphs, self._signatures, self._facts, self._threads = dict(graphs), signatures, facts, threads

    @property
    def facts(self) -> Mapping[str, str | int | float]:
        """Version, threads of the process now, delegates, and the precision that was lowered."""
        return {**self._facts, "threads": self._threads()}

    def run(self, inputs: Mapping[str, Array], graph: str = "main") -> Outputs:
        """See `Session.run`. A shape is refused here: where it has room for it, ExecuTorch would take a wrong one."""
        return self._graphs[graph].call(self._signatures[graph], inputs, graph)

    def reset(self) -> None:
        """Put all state back to its start."""
        for loaded in self._graphs.values():
            loaded.reset()

    def state(self) -> dict[str, Array]:
        """See `edgedeploy.runtime.Carrying.state`."""
        return {name: value for loaded in self._graphs.values() for name, value in loaded.state().items()}

    def restore(self, state: Mapping[str, Array]) -> None:
        """See `edgedeploy.runtime.Carrying.restore`."""
        check_state([loaded.specs for loaded in self._graphs.values()], state)
        for loaded in self._graphs.values():
            loaded.restore(state)

    def close(self) -> None:
        """Free the programs."""
        self._graphs.clear()


def sizes_of(signature: Signature, inputs: Mapping[str, Array]) -> dict[str, int]:
    """The sizes of dynamic dimensions in a call.

    Raises:
        UsageError: one dimension has two sizes.
    """
    sizes: dict[str, int] = {}
    for spec in signature.inputs:
        for dimension, size in zip(spec.shape, inputs[spec.name].shape, strict=True):
            if isinstance(dimension, str) and sizes.setdefault(dimension, size) != size:
                raise UsageError(f"The inputs disagree about '{dimension}': {sizes[dimension]} and {size}.")
    return sizes


def binding() -> Any:
    """ExecuTorch's runtime, quickly: ``executorch.runtime`` would import its whole compiler.

    Raises:
        Unavailable: executorch or torch is not installed.
    """
    try:
        import torch  # noqa: F401  - brings the libraries that the binding is linked with

        with caught():
            from executorch.extension.pybindings import _C

            _C._threadpool_get_thread_count()  # looks at the CPU, and tells what it did not find
    except ImportError as error:
        raise Unavailable.extra("ExecuTorch", "executorch") from error
    return _C


def _tensor(array: Array) -> Any:
    """A tensor in row-major order, whatever the array's strides: the order of dimensions is part of a program."""
    import torch

    whole = np.ascontiguousarray(array)
    return torch.from_numpy(whole if whole.flags.writeable else whole.copy())


def _reason(method: Any, tensors: list[Any]) -> str:
    """The reason, by failing once more while listening; listening to every call would cost time and last words."""
    try:
        attempt(lambda: method.call(tensors))
    except Refused as error:
        return error.reason
    return "it failed once, and not again"


def _check_header(path: Path) -> None:
    try:
        with path.open("rb") as stream:
            head = stream.read(8)
    except OSError as error:
        raise RunFailed(f"{path} cannot be read: {error.strerror}.") from error
    if head[4:6] != MAGIC[:2]:
        raise RunFailed(f"{path.name} is no ExecuTorch program, or is damaged. Export or copy it again.")
    if head[4:8] != MAGIC:
        found = head[4:8].decode("ascii", "replace")
        raise Incompatible(
            f"{path.name} has schema {found}, and this runtime reads {MAGIC.decode()}: "
            "use the ExecuTorch that it was exported with, or export it again."
        )
