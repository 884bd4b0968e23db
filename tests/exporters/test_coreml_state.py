"""State in Core ML packages: as exact as it has to be, although Core ML has it in fp16 only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("coremltools")

import torch
from edgedeploy_coreml import CoreML
from edgedeploy_coreml.state import REST, joined, parted
from torch import Tensor, nn

from edgedeploy.exporter import Evidence, Request, export
from edgedeploy.model import Graph, Model, Source
from edgedeploy.opening import open_artifact_here
from edgedeploy.runtime import Carrying
from edgedeploy.tensors import Signature, StateSpec, TensorSpec

SPEC = StateSpec("value", "value_next", "float32", (1, 1))


@given(st.floats(-1.6e7, 1.6e7, width=32))
def test_two_parts_hold_what_float32_does(value: float) -> None:
    whole = np.full((1, 1), value, np.float32)
    parts = dict(parted("value", whole, split=True))
    assert set(parts) == {"value", "value" + REST}
    assert {part.dtype for part in parts.values()} == {np.dtype(np.float16)}
    assert abs(float(joined(SPEC, "value", parts)[0, 0]) - value) <= max(abs(value) * 2**-22, 4e-9)


@given(st.integers(0, 2**23))
def test_whole_numbers_are_held_exactly(number: int) -> None:
    parts = dict(parted("value", np.full((1, 1), number, np.float32), split=True))
    assert int(joined(SPEC, "value", parts)[0, 0]) == number


class Listener(nn.Module):
    """A memory that forgets, a sum and a count that do not."""

    signature = Signature(
        (TensorSpec("x", "float32", (1, 64)),),
        (TensorSpec("mean", "float32", (1, 64)), TensorSpec("number", "float32", (1, 1))),
        (
            StateSpec("memory", "memory_next", "float32", (1, 64)),
            StateSpec("sum", "sum_next", "float32", (1, 64)),
            StateSpec("count", "count_next", "float32", (1, 1)),
        ),
    )

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.keep, self.out = nn.Linear(64, 64, bias=False), nn.Linear(64, 64)

    def forward(self, x: Tensor, memory: Tensor, total: Tensor, count: Tensor) -> tuple[Tensor, ...]:
        memory = 0.5 * self.keep(memory) + x
        total, count = total + self.out(memory), count + 1
        return total / count, count, memory, total, count


def test_a_count_goes_on_where_fp16_would_stop(tmp_path: Path) -> None:
    network = Listener().eval().requires_grad_(False)
    model = Model("listener", {"main": Graph(network, Listener.signature)}, Source("l:l", "factory", "0" * 64))
    samples = [np.full((1, 64), 0.1 * i, np.float32) for i in range(1, 4)]
    artifact = export(model, Request(CoreML(precision="int8-weights"), Evidence(samples, "rows")), tmp_path)
    decided, notes = artifact.manifest.exporter.decisions["main"], artifact.manifest.notes
    assert decided["weights"]["lowered"] == 1  # `out`; `keep` is a recurrence
    assert any("kept so; sum, count, which add up" in note for note in notes), notes
    session, frame = open_artifact_here(artifact, threads=1), np.full((1, 64), 0.3, np.float32)
    state = [torch.zeros(spec.shape) for spec in Listener.signature.state]
    for _ in range(2100):
        got = session.run({"x": frame})
        mean, count, *state = network(torch.from_numpy(frame), *state)
    assert got["number"] == count == 2100
    assert float(np.abs(got["mean"].astype(np.float64) - mean.numpy()).max()) <= 0.01
    assert isinstance(session, Carrying)
    assert session.state()["count"] == 2100
