"""Measuring this machine: arithmetic peaks, copy bandwidth, timer. Each gives a fact of kind measured.

A peak is the best of its repeats, because it bounds what a model can reach; ``low`` and ``high`` are their range, and
the source says under which conditions. The best is of *these* kernels, so that a better kernel may still exceed it.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from edgedeploy import units
from edgedeploy.device import Device, this_machine
from edgedeploy.facts import Bandwidth, Flops, Ops, Quantity, Time
from edgedeploy.parts import Peaks

_Q = TypeVar("_Q", bound=Quantity)

_WARM_UPS = 2
_MINIMUM = 5
#: What settles the threads of numpy's BLAS.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def probe(size: int = 2048, seconds: float = 3.0, copy: int | None = None, threads: int | None = None) -> Device:
    """`edgedeploy.device.this_machine`, measured too: arithmetic peaks, copy bandwidth and timer.

    Args:
        size: side of the square matrices that are multiplied.
        seconds: how long each measurement repeats itself, five times at least.
        copy: bytes of each of the two arrays of the copy; 256 MiB, or a sixteenth of the memory, where ``None``.
        threads: as many as this process may keep busy, where ``None``. Those of numpy's BLAS are settled when it is
            loaded, see `edgedeploy.bench.peaks`.
    """
    device = this_machine()
    threads = threads or (device.cpu.usable.value if device.cpu.usable else None) or 1
    room = (device.memory.limit or device.memory.size).si or 4 << 30
    begin, used = time.perf_counter(), time.process_time()
    measured = Peaks(
        fp32=gemm_fp32(size, seconds),
        int8=gemm_int8(size, seconds, threads, device.int8.activations),
    )
    copied = copy_bandwidth(copy or min(256 << 20, int(room) // 16), seconds, threads)
    busy = (time.process_time() - used) / (time.perf_counter() - begin)
    crowded = f"While measuring, this process kept {busy:.1f} of {threads} usable CPUs busy: other work, or a limit on"
    return dataclasses.replace(
        device,
        cpu=dataclasses.replace(device.cpu, dense=measured),
        memory=dataclasses.replace(device.memory, copy=copied),
        timer=timer_step(),
        notes=(f"{crowded} threads, made the peaks too low.",) if busy < 0.7 * threads else (),
    )


@dataclass(frozen=True)
class Repeats:
    """Durations in seconds of equal work, and the mean number of CPUs that this process kept busy meanwhile."""

    durations: tuple[float, ...]
    busy: float


def repeat(work: Callable[[], object], seconds: float) -> Repeats:
    """``work`` again and again for about ``seconds``: at least five times, after two that are not counted."""
    for _ in range(_WARM_UPS):
        work()
    durations: list[float] = []
    begin, used = time.perf_counter(), time.process_time()
    now = begin
    while len(durations) < _MINIMUM or now - begin < seconds:
        work()
        before, now = now, time.perf_counter()
        durations.append(now - before)
    return Repeats(tuple(durations), (time.process_time() - used) / max(now - begin, 1e-9))


def gemm_fp32(size: int, seconds: float) -> Flops:
    """Rate of multiplying two square float32 matrices of side ``size`` with numpy's BLAS, on its own threads."""
    generator = np.random.default_rng(0)
    a, b = (generator.random((size, size), dtype=np.float32) for _ in range(2))
    product = np.empty_like(a)
    repeats = repeat(lambda: np.matmul(a, b, out=product), seconds)
    return _rate(Flops, 2 * size**3, repeats, f"{size}x{size}x{size} matmul, {_blas()}")


def gemm_int8(size: int, seconds: float, threads: int, activations: Literal["int8", "uint8"]) -> Ops:
    """Rate of ONNX Runtime's MatMulInteger of ``activations`` by int8 weights, square of side ``size``.

    Of kind unknown, with the reason as its source, where there is no ONNX Runtime or it refuses.
    """
    try:
        import onnxruntime
    except ImportError:
        return Ops(source="not measured: onnxruntime is not installed")
    generator = np.random.default_rng(0)
    weights = generator.integers(-127, 128, (size, size), dtype=np.int8)
    inputs = {"a": generator.integers(0, 128, (size, size)).astype(activations)}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(
            matmul_integer(weights, activations), options, providers=["CPUExecutionProvider"]
        )
        repeats = repeat(lambda: session.run(None, inputs), seconds)
    except Exception as error:  # the vendor's exceptions have no common base; a probe reports and goes on
        return Ops(source=f"not measured: onnxruntime refused MatMulInteger ({type(error).__name__})")
    what = f"{size}x{size}x{size} MatMulInteger {activations} by int8, onnxruntime {onnxruntime.__version__}"
    return _rate(Ops, 2 * size**3, repeats, f"{what}, threads: {threads}")


def copy_bandwidth(size: int, seconds: float, threads: int) -> Bandwidth:
    """Bandwidth of copying ``size`` bytes, cut into one piece per thread; bytes read plus bytes written."""
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    pieces = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        repeats = repeat(lambda: list(pool.map(lambda piece: np.copyto(*piece), pieces)), seconds)
    what = f"copies of {units.show(size, 'B')} (read plus write), numpy {np.__version__}, threads: {threads}"
    return _rate(Bandwidth, 2 * size, repeats, what)


def timer_step(rounds: int = 5, reads: int = 20_000) -> Time:
    """The smallest step that two neighbouring readings of ``perf_counter`` can differ by, the call included."""
    steps = []
    for _ in range(rounds):
        readings = [time.perf_counter_ns() for _ in range(reads)]
        steps.append(min(b - a for a, b in itertools.pairwise(readings) if b > a))
    source = f"{_when()}: smallest step of perf_counter, {rounds} rounds of {reads} readings, the call included"
    low, high = f"{min(steps)} ns", f"{max(steps)} ns"
    return Time(f"{statistics.median_low(steps)} ns", "measured", source, low, high)


def _rate(kind: type[_Q], work: float, repeats: Repeats, what: str) -> _Q:
    rates = sorted(work / duration for duration in repeats.durations)
    low, median, high = (units.show(rate, kind.unit, 4) for rate in (rates[0], statistics.median(rates), rates[-1]))
    conditions = f"best of {len(rates)} {what}; {repeats.busy:.1f} CPUs busy, median {median}"
    return kind(high, "measured", f"{_when()}: {conditions}", low, high)


def _when() -> str:
    return f"edgedeploy devices probe, {time.strftime('%Y-%m-%d', time.gmtime())}"


def _blas() -> str:
    """Name and version of the BLAS of numpy, and what the environment says of its threads."""
    config: Any = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {})
    limits = [f"{name}={os.environ[name]}" for name in THREAD_VARIABLES if name in os.environ]
    name = f"{blas.get('name', 'unknown BLAS')} {blas.get('version', '')}".strip()
    return ", ".join([f"numpy {np.__version__}", name, *limits])


# --- one ONNX node as bytes ----------------------------------------------------------------------------------------

_TYPES = {"uint8": 2, "int8": 3, "int32": 6}


def matmul_integer(weights: np.ndarray[Any, np.dtype[np.int8]], activations: Literal["int8", "uint8"]) -> bytes:
    """An ONNX model ``y = MatMulInteger(a, weights)`` for square ``weights``: one node, written without ``onnx``.

    Field numbers are those of onnx.proto (IR version 8, opset 13); a board that runs ONNX Runtime has no ``onnx``.
    """
    side = len(weights)
    node = _field(1, b"a") + _field(1, b"b") + _field(2, b"y") + _field(4, b"MatMulInteger")
    tensor = _field(1, side) * 2 + _field(2, _TYPES["int8"]) + _field(8, b"b") + _field(9, weights.tobytes())
    a, y = (_value_info(name, _TYPES[dtype], side) for name, dtype in ((b"a", activations), (b"y", "int32")))
    graph = _field(1, node) + _field(2, b"g") + _field(5, tensor) + _field(11, a) + _field(12, y)
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 13))


def _value_info(name: bytes, dtype: int, side: int) -> bytes:
    shape = _field(1, _field(1, side)) * 2
    return _field(1, name) + _field(2, _field(1, _field(1, dtype) + _field(2, shape)))


def _field(number: int, value: int | bytes) -> bytes:
    """One protobuf field: a varint, or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)
