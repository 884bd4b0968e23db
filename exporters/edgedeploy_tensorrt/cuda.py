"""The GPU: which one it is, and its memory, stream and graphs, through NVIDIA's ``cuda.bindings``.

Everything here fails with `CudaError`, which carries CUDA's own name of what went wrong.
"""

from __future__ import annotations

import ctypes
import importlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgedeploy.errors import Unavailable
from edgedeploy.tensors import Array

_SMI = ("nvidia-smi", "--query-gpu=power.limit,clocks.max.sm,persistence_mode", "--format=csv,noheader")


class CudaError(Exception):
    """A call of CUDA failed; the message is its name and description."""


@dataclass(frozen=True)
class Gpu:
    """The GPU that engines are built for and run on; ``mode`` is its power setting, on which their speed depends."""

    name: str
    sm: int
    mode: str


class Cuda:
    """CUDA's runtime, with results instead of status codes."""

    def __init__(self, bindings: Any) -> None:
        self._bindings = bindings

    def call(self, name: str, *arguments: Any) -> Any:
        """The result of the runtime's function ``name``; a tuple where it has several.

        Raises:
            CudaError: it failed.
        """
        status, *results = getattr(self._bindings, name)(*arguments)
        if int(status) != 0:
            text = [self._bindings.cudaGetErrorName(status)[1], self._bindings.cudaGetErrorString(status)[1]]
            said = ": ".join(t.decode() if isinstance(t, bytes) else str(t) for t in text)
            raise CudaError(f"{name}: {said}")
        return results[0] if len(results) == 1 else tuple(results)

    def gpu(self) -> Gpu:
        """The first GPU that this process may use.

        Raises:
            CudaError: there is none, or its driver is too old.
        """
        self.call("cudaGetDeviceCount")
        properties = self.call("cudaGetDeviceProperties", 0)
        name = properties.name
        text = name.decode() if isinstance(name, bytes) else str(name)
        return Gpu(text.strip("\0 "), 10 * int(properties.major) + int(properties.minor), power_mode())

    def copy_in(self, device: int, host: Array, stream: Any) -> None:
        """Start a copy of ``host`` to the GPU."""
        kind = self._bindings.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", device, host.ctypes.data, host.nbytes, kind, stream)

    def copy_out(self, host: Array, device: int, stream: Any) -> None:
        """Start a copy from the GPU to ``host``."""
        kind = self._bindings.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", host.ctypes.data, device, host.nbytes, kind, stream)

    def begin_capture(self, stream: Any) -> None:
        """From here on, what is started on ``stream`` is recorded instead of run."""
        mode = self._bindings.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: Any) -> Any:
        """What was recorded, ready to be launched."""
        graph = self.call("cudaStreamEndCapture", stream)
        executable = self.call("cudaGraphInstantiate", graph, 0)
        self.call("cudaGraphDestroy", graph)
        return executable


class Buffer:
    """Memory on the GPU, and page-locked memory of the same size on the host, which is copied faster."""

    def __init__(self, cuda: Cuda, count: int) -> None:
        self._cuda, self.count = cuda, max(1, count)
        self.device = int(cuda.call("cudaMalloc", self.count))
        self._host = int(cuda.call("cudaMallocHost", self.count))
        self._bytes: Array = np.ctypeslib.as_array((ctypes.c_uint8 * self.count).from_address(self._host))

    def view(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """The beginning of the host's memory as an array."""
        count = int(np.prod(shape)) * dtype.itemsize
        view: Array = self._bytes[:count].view(dtype).reshape(shape)
        return view

    def free(self) -> None:
        """Give both back; views of it must not be used any more."""
        self._cuda.call("cudaFree", self.device)
        self._cuda.call("cudaFreeHost", self._host)


def open_cuda() -> tuple[Cuda, Gpu]:
    """CUDA and the GPU.

    Raises:
        Unavailable: the bindings are not installed, or there is no GPU that they can use.
    """
    try:
        bindings = importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError) as error:
        raise Unavailable(
            "NVIDIA's CUDA bindings, through which TensorRT is given its buffers, cannot be imported here "
            f"({error}). Install them with: pip install 'edgedeploy[tensorrt]'"
        ) from error
    cuda = Cuda(bindings)
    try:
        return cuda, cuda.gpu()
    except CudaError as error:
        raise Unavailable(
            f"There is no NVIDIA GPU here that CUDA can use ({error}): TensorRT builds and runs its engine on the "
            "device itself. Elsewhere the graph that it is built from runs in rehearsal."
        ) from error


def power_mode() -> str:
    """The power setting that is in force: that of ``nvpmodel`` on a Jetson, power limit and clock elsewhere."""
    if shutil.which("nvpmodel"):
        return read_nvpmodel(_output(("nvpmodel", "-q")))
    if shutil.which(_SMI[0]):
        return (_output(_SMI).splitlines() or ["unknown"])[0].strip() or "unknown"
    return "unknown"


def read_nvpmodel(text: str) -> str:
    """The name of the power mode in what ``nvpmodel -q`` prints."""
    found = re.search(r"^NV Power Mode:\s*(\S+)", text, re.MULTILINE)
    return found[1] if found else "unknown"


def _output(command: tuple[str, ...]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
