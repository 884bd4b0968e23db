"""Sessions: what they say where there is no GPU, and, on a GPU made of main memory, what they copy, launch and keep.

The made-up GPU stands for ``cuda.bindings.runtime``: its memory is the host's, its streams run at once, and its graphs
replay what was launched. The made-up engine computes ``y = 2 x + s``, and its state is ``s' = s + 1``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from edgedeploy_tensorrt import api, build
from edgedeploy_tensorrt import plan as plans
from edgedeploy_tensorrt import runtime as runtimes
from edgedeploy_tensorrt.api import Library, Refused
from edgedeploy_tensorrt.build import Engine
from edgedeploy_tensorrt.cuda import Cuda, Gpu
from edgedeploy_tensorrt.execution import Execution
from edgedeploy_tensorrt.plan import Plan, Shapes
from edgedeploy_tensorrt.runtime import TensorRTRuntime, TensorRTSession

from edgedeploy.errors import Incompatible, RunFailed, Unavailable, UsageError
from edgedeploy.tensors import Signature, StateSpec, TensorSpec


class FakeCuda:
    """The functions of CUDA's runtime that are used, over main memory; ``fail`` makes one of them fail."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="in", cudaMemcpyDeviceToHost="out")
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=2)

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.done: list[str] = []
        self.fail = ""
        self.recording: list[Callable[[], None]] | None = None

    def start(self, work: Callable[[], None]) -> None:
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        def call(*arguments: Any) -> tuple[Any, ...]:
            if name == self.fail:
                return (2, None)
            return (0, *getattr(self, f"_{name}")(*arguments))

        return call

    def cudaGetErrorName(self, status: int) -> tuple[int, bytes]:
        return 0, {2: b"cudaErrorMemoryAllocation", 35: b"cudaErrorInsufficientDriver"}[status]

    def cudaGetErrorString(self, status: int) -> tuple[int, bytes]:
        return 0, b"out of memory"

    def _cudaMalloc(self, count: int) -> tuple[int]:
        buffer = (ctypes.c_uint8 * count)(*([205] * count))
        self.memory[ctypes.addressof(buffer)] = buffer
        return (ctypes.addressof(buffer),)

    _cudaMallocHost = _cudaMalloc

    def _cudaFree(self, address: int) -> tuple[()]:
        del self.memory[address]
        return ()

    _cudaFreeHost = _cudaFree

    def _cudaStreamCreate(self) -> tuple[int]:
        return (7,)

    def _cudaStreamDestroy(self, stream: int) -> tuple[()]:
        self.done.append("destroyed")
        return ()

    def _cudaStreamSynchronize(self, stream: int) -> tuple[()]:
        assert self.recording is None
        return ()

    def _cudaMemcpyAsync(self, target: int, source: int, count: int, kind: str, stream: int) -> tuple[()]:
        self.done.append(kind)
        ctypes.memmove(target, source, count)
        return ()

    def _cudaMemsetAsync(self, target: int, value: int, count: int, stream: int) -> tuple[()]:
        ctypes.memset(target, value, count)
        return ()

    def _cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[()]:
        self.recording = []
        return ()

    def _cudaStreamEndCapture(self, stream: int) -> tuple[Any]:
        recorded, self.recording = self.recording, None
        return (recorded,)

    def _cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any]:
        return (graph,)

    def _cudaGraphDestroy(self, graph: Any) -> tuple[()]:
        return ()

    def _cudaGraphExecDestroy(self, graph: Any) -> tuple[()]:
        self.done.append("forgotten")
        return ()

    def _cudaGraphLaunch(self, graph: Any, stream: int) -> tuple[()]:
        self.done.append("replayed")
        for work in graph:
            work()
        return ()


class FakeEngine:
    """``y = 2 x + s`` and ``s' = s + 1``, on whatever addresses and shapes it was told."""

    def __init__(self, gpu: FakeCuda, state: bool = False, kind: str = "FLOAT", open_ended: bool = False) -> None:
        self.gpu, self.state, self.kind, self.open_ended = gpu, state, kind, open_ended
        self.names = ["x", "y", "s", "t"] if state else ["x", "y"]
        self.num_io_tensors = len(self.names)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.refuses = False

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self.kind)

    def create_execution_context(self) -> FakeEngine:
        return self

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if self.open_ended and name == "y":
            return (-1, 2)
        return self.shapes[{"y": "x", "t": "s"}.get(name, name)]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if self.refuses:
            return False
        self.gpu.done.append("launched")
        addresses = dict(self.addresses)  # a recording keeps those that it was made with
        self.gpu.start(lambda: self.compute({name: self.array(name, addresses[name]) for name in self.names}))
        return True

    def compute(self, arrays: dict[str, Any]) -> None:
        s = arrays["s"] if self.state else np.zeros(1, np.float32)
        arrays["y"][...] = 2 * arrays["x"] + s.sum()
        if self.state:
            arrays["t"][...] = s + 1

    def array(self, name: str, address: int) -> Any:
        shape = self.get_tensor_shape(name)
        values = (ctypes.c_float * int(np.prod(shape))).from_address(address)
        return np.ctypeslib.as_array(values).reshape(shape)


class FakeLogger:
    def __init__(self) -> None:
        self.kept: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        raise NotImplementedError


FAKE = ModuleType("fake_tensorrt")
FAKE.__dict__["ILogger"] = FakeLogger
LIBRARY = Library("tensorrt", FAKE, "10.3.0")
DYNAMIC = {"x": Shapes((1, 2), (2, 2), (4, 2))}


def signature(state: bool = False) -> Signature:
    kept = (StateSpec("s", "t", "float32", (1,)),) if state else ()
    return Signature((TensorSpec("x", "float32", ("batch", 2)),), (TensorSpec("y", "float32", ("batch", 2)),), kept)


def session(gpu: FakeCuda, engine: FakeEngine, **options: Any) -> TensorRTSession:
    plan = Plan(1, "tensorrt", "fp16", shapes=DYNAMIC)
    execution = Execution(LIBRARY, Cuda(gpu), engine, signature(engine.state), plan)
    facts: dict[str, str | int | float] = {"runtime": "tensorrt"}
    gpu.done.clear()
    return TensorRTSession(TensorRTRuntime(**options), {"main": execution}, {"main": signature(engine.state)}, facts)


def call(opened: TensorRTSession, rows: int, value: float = 1.0) -> Any:
    return opened.run({"x": np.full((rows, 2), value, np.float32)})["y"]


def test_a_call_copies_in_computes_and_copies_out() -> None:
    gpu = FakeCuda()
    opened = session(gpu, FakeEngine(gpu))
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_array_equal(opened.run({"x": x})["y"], 2 * x)
    assert gpu.done == ["in", "launched", "out"]
    np.testing.assert_array_equal(call(opened, 1, 5.0), [[10, 10]])
    assert opened.facts["transfers"] == "inside"


def test_outputs_belong_to_the_caller() -> None:
    gpu = FakeCuda()
    opened = session(gpu, FakeEngine(gpu))
    first = call(opened, 2, 1.0)
    call(opened, 2, 9.0)
    np.testing.assert_array_equal(first, np.full((2, 2), 2.0))


def test_inputs_that_are_not_contiguous_are_taken() -> None:
    gpu = FakeCuda()
    x = np.arange(8, dtype=np.float32).reshape(2, 4).T
    np.testing.assert_array_equal(session(gpu, FakeEngine(gpu)).run({"x": x})["y"], 2 * x)


def test_state_stays_on_the_gpu_and_starts_at_zero() -> None:
    gpu = FakeCuda()
    opened = session(gpu, FakeEngine(gpu, state=True))
    assert [float(call(opened, 1)[0, 0]) for _ in range(3)] == [2.0, 3.0, 4.0]
    assert gpu.done == ["in", "launched", "out"] * 3
    opened.reset()
    assert float(call(opened, 1)[0, 0]) == 2.0


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("recorded", [False, True])
def test_state_is_taken_out_and_put_back(recorded: bool, calls: int) -> None:
    """After an odd and an even number of calls: the state then lies in the one or the other of two buffers."""
    gpu = FakeCuda()
    opened = session(gpu, FakeEngine(gpu, state=True), cuda_graph=recorded)
    for _ in range(calls):
        call(opened, 1)
    held = opened.state()
    np.testing.assert_array_equal(held["s"], np.array([calls], np.float32))
    later = [float(call(opened, 1)[0, 0]) for _ in range(3)]
    opened.restore(held)
    with pytest.raises(UsageError, match=r"'s' is float32 \[1\], and what was given float32 \[2\]"):
        opened.restore({"s": np.zeros(2, np.float32)})
    assert [float(call(opened, 1)[0, 0]) for _ in range(3)] == later


@pytest.mark.parametrize("state", [False, True])
def test_launches_are_recorded_once_for_each_shape(state: bool) -> None:
    gpu = FakeCuda()
    opened = session(gpu, FakeEngine(gpu, state=state), cuda_graph=True)
    got = [float(call(opened, rows, 3.0)[0, 0]) for rows in (1, 1, 1, 2, 2)]
    assert got == [6.0, 7.0, 8.0, 9.0, 10.0] if state else got == [6.0] * 5
    assert gpu.done.count("replayed") == 5
    ways = 2 if state else 1  # state is read from two buffers in turn
    assert gpu.done.count("launched") == 4 * ways  # once to warm up and once to record, for both shapes
    assert gpu.done.count("forgotten") == ways
    assert opened.facts["cuda_graph"] == 1


def test_the_same_arrays_are_not_copied_again_where_transfers_are_outside() -> None:
    gpu = FakeCuda()
    opened = session(gpu, FakeEngine(gpu), transfers="outside")
    inputs = {"x": np.ones((1, 2), np.float32)}
    first = opened.run(inputs)["y"]
    again = opened.run(inputs)["y"]
    assert gpu.done == ["in", "launched", "out", "launched"]
    np.testing.assert_array_equal(first, again)
    other = opened.run({"x": np.full((1, 2), 4.0, np.float32)})["y"]
    np.testing.assert_array_equal(other, [[8, 8]])
    assert opened.facts["transfers"] == "outside in 1 of 3 calls"


def test_a_shape_that_the_engine_was_not_built_for_is_said() -> None:
    gpu = FakeCuda()
    opened = session(gpu, FakeEngine(gpu))
    with pytest.raises(UsageError, match=r"'x' is \[5, 2\], but the engine was built for \[1, 2\] to \[4, 2\]"):
        call(opened, 5)
    with pytest.raises(UsageError, match="takes float32"):
        opened.run({"x": np.ones((1, 2), np.float64)})
    np.testing.assert_array_equal(call(opened, 4), np.full((4, 2), 2.0))


def test_what_fails_on_the_gpu_is_said() -> None:
    gpu = FakeCuda()
    engine = FakeEngine(gpu)
    opened = session(gpu, engine)
    engine.refuses = True
    with pytest.raises(RunFailed, match="TensorRT failed in graph 'main': it gave no reason"):
        call(opened, 1)
    engine.refuses = False
    gpu.fail = "cudaMemcpyAsync"
    with pytest.raises(RunFailed, match="cudaMemcpyAsync: cudaErrorMemoryAllocation: out of memory"):
        call(opened, 1)


def test_closing_frees_everything() -> None:
    gpu = FakeCuda()
    opened = session(gpu, FakeEngine(gpu, state=True), cuda_graph=True)
    call(opened, 1)
    opened.close()
    assert gpu.memory == {}
    assert gpu.done[-2:] == ["forgotten", "destroyed"]
    opened.close()


def test_an_engine_that_is_not_as_the_bundle_says_is_refused() -> None:
    gpu, plan = FakeCuda(), Plan(1, "tensorrt", "fp16", shapes=DYNAMIC)
    for engine, words in (
        (FakeEngine(gpu, kind="HALF"), "says that 'x' is float32, and its engine that it is float16"),
        (FakeEngine(gpu, kind="BF16"), "as BF16, which has no type in numpy"),
        (FakeEngine(gpu, state=True), "'s' is not there, and its engine that it is float32"),
        (FakeEngine(gpu, open_ended=True), "depends on the values.*NMS"),
    ):
        with pytest.raises(Incompatible, match=words):
            Execution(LIBRARY, Cuda(gpu), engine, signature(), plan)


# Opening


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "main.onnx").write_bytes(b"graph")
    plans.write(Plan(1, "tensorrt", "fp16", ("tensorrt>=10.3,<11",), DYNAMIC, dla_core=0), tmp_path / "main.onnx")
    return tmp_path / "main.onnx"


def here(monkeypatch: pytest.MonkeyPatch, gpu: FakeCuda, engine: Any) -> None:
    layers = [
        {"Name": "a", "Outputs": [{"Format/Datatype": "Row major linear FP32"}]},
        {"Name": "b", "Outputs": [{"Format/Datatype": "Half"}]},
    ]
    monkeypatch.setattr(api, "load", lambda flavour: LIBRARY)
    monkeypatch.setattr(runtimes, "open_cuda", lambda: (Cuda(gpu), Gpu("Orin", 87, "MAXN")))
    monkeypatch.setattr(build, "engine", lambda *_: Engine(b"data", "kept", 61.5, ("cast",)))
    monkeypatch.setattr(api, "deserialize", engine)
    monkeypatch.setattr(api, "layers", lambda *_: tuple(layers))


def test_facts_say_what_is_in_force(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeCuda()
    here(monkeypatch, gpu, lambda *_: FakeEngine(gpu))
    opened = TensorRTRuntime().open({"main": bundle}, {"main": signature()})
    assert dict(opened.facts) == {
        "runtime": "tensorrt",
        "version": "10.3.0",
        "threads": 1,
        "gpu": "Orin",
        "sm": 87,
        "power_mode": "MAXN",
        "engine": "kept",
        "engine_size": 4,
        "build_time": 61.5,
        "dla_core": 0,
        "not_on_dla": "1 nodes: cast",
        "computes_in": "fp16 and fp32",
        "layers": 2,
        "cuda_graph": 0,
        "transfers": "inside",
    }
    np.testing.assert_array_equal(opened.run({"x": np.ones((1, 2), np.float32)})["y"], [[2, 2]])


def test_an_engine_that_tensorrt_does_not_take_is_said(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise Refused("TensorRT 10.3.0 does not take this engine: version tag does not match.")

    here(monkeypatch, FakeCuda(), refuse)
    with pytest.raises(Incompatible, match="does not take this engine"):
        TensorRTRuntime().open({"main": bundle}, {"main": signature()})


def test_no_memory_is_said(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeCuda()
    gpu.fail = "cudaMalloc"
    here(monkeypatch, gpu, lambda *_: FakeEngine(gpu))
    with pytest.raises(RunFailed, match=r"could not be prepared.*out of memory"):
        TensorRTRuntime().open({"main": bundle}, {"main": signature()})


def test_options_that_make_no_sense_are_said(bundle: Path) -> None:
    with pytest.raises(UsageError, match="no transfers 'never'"):
        TensorRTRuntime(transfers="never").open({"main": bundle}, {})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="which a model with state cannot"):
        TensorRTRuntime(transfers="outside").open({"main": bundle}, {"main": signature(state=True)})


def test_without_tensorrt_opening_says_what_is_missing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(api.MODULES, "tensorrt", "no_such_tensorrt")
    with pytest.raises(Unavailable, match="TensorRT cannot be imported here"):
        TensorRTRuntime().open({"main": bundle}, {"main": signature()})


def test_what_the_session_computes_in_is_what_the_layers_say() -> None:
    def told(*formats: str, plan: Plan) -> object:
        layers = tuple({"Outputs": [{"Format/Datatype": text}]} for text in formats)
        return runtimes._computes(layers, plan)["computes_in"]

    fp16 = Plan(1, "tensorrt", "fp16")
    assert told("Thirty-two wide channel vectorized row major Int8 format", "Half", plan=fp16) == "int8 and fp16"
    assert told("Row major linear FP32", plan=fp16) == "fp32"
    assert told("Float", plan=Plan(1, "tensorrt", "fp32", tf32=True)) == "tf32"
    assert told(plan=fp16) == "fp16"
