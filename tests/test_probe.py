"""Measuring this machine: the arithmetic on made-up clocks, and one short real run."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from edgedeploy import device, probe
from edgedeploy.facts import Flops, Quantity


def number(fact: Quantity) -> float:
    fact.check("here")
    assert fact.si is not None, fact.source
    return fact.si


class Clock:
    """Time that passes only while work is done, one duration after the other."""

    def __init__(self, *durations: float, cpus: float = 1.0) -> None:
        self.now, self.left, self.cpus = 0.0, list(durations), cpus

    def work(self) -> None:
        self.now += self.left.pop(0) if len(self.left) > 1 else self.left[0]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock(9.0, 9.0, 1.0, 2.0, 4.0, 2.0, 2.0)
    monkeypatch.setattr("edgedeploy.probe.time.perf_counter", lambda: fake.now)
    monkeypatch.setattr("edgedeploy.probe.time.process_time", lambda: fake.now * fake.cpus)
    return fake


def test_warm_ups_do_not_count_and_five_repeats_do(clock: Clock) -> None:
    repeats = probe.repeat(clock.work, seconds=0.0)
    assert repeats.durations == (1.0, 2.0, 4.0, 2.0, 2.0)
    assert repeats.busy == pytest.approx(1.0)


def test_repeats_go_on_until_the_time_is_over(clock: Clock) -> None:
    clock.cpus = 1.5
    repeats = probe.repeat(clock.work, seconds=20.0)
    assert len(repeats.durations) == 10
    assert repeats.busy == pytest.approx(1.5)


def test_a_rate_is_the_best_repeat_with_its_range_and_conditions() -> None:
    fact = probe._rate(Flops, 8e9, probe.Repeats((1.0, 2.0, 4.0), 1.9), "products, a library")
    assert number(fact) == pytest.approx(8e9)
    assert (fact.low, fact.high) == ("2.000 GFLOP/s", "8.000 GFLOP/s")
    assert "best of 3 products, a library" in fact.source
    assert "1.9 CPUs busy, median 4.000 GFLOP/s" in fact.source


@pytest.mark.parametrize("activations", ["int8", "uint8"])
def test_the_hand_written_model_is_a_matrix_product(activations: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    generator = np.random.default_rng(0)
    weights = generator.integers(-128, 128, (96, 96), dtype=np.int8)
    a = generator.integers(0, 128, (96, 96)).astype(activations)
    model = probe.matmul_integer(weights, "int8" if activations == "int8" else "uint8")
    (y,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"a": a})
    np.testing.assert_array_equal(y, a.astype(np.int32) @ weights.astype(np.int32))


def test_the_hand_written_model_is_valid_onnx() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(probe.matmul_integer(np.ones((300, 300), np.int8), "uint8"))
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.node[0].op_type == "MatMulInteger"


def test_without_onnxruntime_int8_is_unknown_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    fact = probe.gemm_int8(32, 0.0, 1, "uint8")
    fact.check("here")
    assert fact.si is None
    assert "not installed" in fact.source


def test_a_refusal_of_onnxruntime_is_unknown_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(probe, "matmul_integer", lambda weights, activations: b"nonsense")
    fact = probe.gemm_int8(32, 0.0, 1, "uint8")
    assert fact.si is None
    assert "refused" in fact.source


def test_a_timer_has_a_step() -> None:
    assert 0 < number(probe.timer_step(rounds=2, reads=1000)) < 0.1


def test_the_probe_of_this_machine_is_a_profile() -> None:
    found = probe.probe(size=64, seconds=0.0, copy=1 << 20)
    assert found.memory.copy is not None
    assert found.cpu.dense.fp32 is not None
    assert found.timer is not None
    for fact in (found.cpu.dense.fp32, found.memory.copy, found.timer):
        assert number(fact) > 0
        assert fact.kind == "measured"
    assert "64x64x64" in found.cpu.dense.fp32.source
    assert "1.00 MiB" in found.memory.copy.source
    assert device.parse(device.dump(found), "here") == found
