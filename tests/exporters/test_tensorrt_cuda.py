"""CUDA's bindings: what is said where they or the GPU are missing, and the real ones, where they are installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from edgedeploy_tensorrt import cuda
from edgedeploy_tensorrt.cuda import Buffer, Cuda, CudaError

from edgedeploy.errors import Unavailable


def test_without_a_gpu_opening_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"cudaGetErrorName": b"cudaErrorInsufficientDriver", "cudaGetErrorString": b"too old"}
    bindings = SimpleNamespace(cudaGetDeviceCount=lambda: (35, None))
    for name, text in said.items():
        setattr(bindings, name, lambda status, text=text: (0, text))
    monkeypatch.setattr(importlib, "import_module", lambda name: bindings)
    with pytest.raises(Unavailable, match=r"no NVIDIA GPU here.*cudaErrorInsufficientDriver.*in rehearsal"):
        cuda.open_cuda()


def test_without_the_bindings_opening_says_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(Unavailable, match=r"pip install .edgedeploy\[tensorrt\]"):
        cuda.open_cuda()


# The real bindings, where they are installed


@pytest.fixture
def bindings() -> Any:
    return pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings")


def test_the_bindings_take_every_call_that_is_made(bindings: Any) -> None:
    """Without a GPU each one fails in CUDA, and none in Python."""
    made, host = Cuda(bindings), np.zeros(4, np.float32)
    stream = bindings.cudaStream_t(0)
    calls: list[Callable[[], object]] = [
        lambda: made.call("cudaMalloc", 16),
        lambda: made.call("cudaMallocHost", 16),
        lambda: made.call("cudaFree", 0),
        lambda: made.copy_in(0, host, stream),
        lambda: made.copy_out(host, 0, stream),
        lambda: made.call("cudaMemsetAsync", 0, 0, 4, stream),
        lambda: made.call("cudaStreamSynchronize", stream),
        lambda: made.begin_capture(stream),
        lambda: made.end_capture(stream),
        lambda: made.call("cudaGraphInstantiate", bindings.cudaGraph_t(0), 0),
        lambda: made.call("cudaGraphLaunch", bindings.cudaGraphExec_t(0), stream),
        lambda: made.call("cudaGraphExecDestroy", bindings.cudaGraphExec_t(0)),
        lambda: made.call("cudaStreamDestroy", stream),
        made.gpu,
    ]
    try:
        made.gpu()
    except CudaError:
        for call in calls:
            with pytest.raises(CudaError, match="cudaError"):
                call()
    else:
        pytest.skip("there is a GPU: what is called really works is tested below")


def test_memory_goes_to_the_gpu_and_back(bindings: Any) -> None:
    made = Cuda(bindings)
    try:
        made.gpu()
    except CudaError as error:
        pytest.skip(f"needs a GPU: {error}")
    stream = made.call("cudaStreamCreate")
    one, other = Buffer(made, 16), Buffer(made, 16)
    host = one.view((4,), np.dtype(np.float32))
    host[...] = [1, 2, 3, 4]
    made.copy_in(one.device, host, stream)
    made.begin_capture(stream)
    back = other.view((4,), np.dtype(np.float32))
    made.copy_out(back, one.device, stream)
    recorded = made.end_capture(stream)
    made.call("cudaGraphLaunch", recorded, stream)
    made.call("cudaStreamSynchronize", stream)
    np.testing.assert_array_equal(back.astype(np.float64), [1, 2, 3, 4])
    made.call("cudaGraphExecDestroy", recorded)
    for buffer in (one, other):
        buffer.free()
    made.call("cudaStreamDestroy", stream)
