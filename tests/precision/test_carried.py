"""What a lower precision leaves alone in networks with state."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgedeploy.capture import to_program
from edgedeploy.model import Graph
from edgedeploy.precision.carried import exact, recurrent, summing
from edgedeploy.tensors import Signature, StateSpec, TensorSpec


class Carried(nn.Module):
    """State of every kind: a decaying memory, a window, a mean, two counters, neurons, a squashed recurrence."""

    names = ("memory", "window", "mean", "count", "fixed", "neurons", "squashed")

    def __init__(self) -> None:
        super().__init__()
        self.keep, self.read = nn.Linear(4, 4, bias=False), nn.Linear(8, 4)
        self.squash, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        memory, window, mean, count, fixed, neurons, squashed = state
        memory = (self.keep(memory) + x) * 0.5
        window = torch.cat([window, x], 1)
        y = torch.relu(self.read(window)) * torch.clamp(count - 2, 0.0, 1.0)
        count = count + 1
        mean = mean + (y - mean) / count
        charged = 0.5 * (neurons + y)
        neurons = torch.where(charged >= 1, torch.zeros_like(charged), charged)
        squashed = torch.tanh(self.squash(squashed)) + memory
        return self.out(mean), memory, window[:, 4:], mean, count, torch.where(x.sum() > 0, fixed, y), neurons, squashed


@pytest.fixture(scope="module")
def captured() -> tuple[torch.export.ExportedProgram, Signature]:
    widths = dict.fromkeys(Carried.names, 4) | {"count": 1}
    state = tuple(StateSpec(n, f"{n}_next", "float32", (1, w)) for n, w in widths.items())
    signature = Signature((TensorSpec("x", "float32", (1, 4)),), (TensorSpec("y", "float32", (1, 2)),), state)
    return to_program(Graph(Carried().eval(), signature)), signature


def test_only_what_is_added_to_without_end_is_a_sum(captured: tuple[torch.export.ExportedProgram, Signature]) -> None:
    assert summing(*captured) == ("mean", "count")


def test_only_weights_whose_powers_act_are_a_recurrence(
    captured: tuple[torch.export.ExportedProgram, Signature],
) -> None:
    assert recurrent(*captured) == {"keep"}


def test_what_is_computed_of_a_count_is_exact_up_to_weights_or_bounds(
    captured: tuple[torch.export.ExportedProgram, Signature],
) -> None:
    program, _ = captured
    taken = dict(zip(Carried.names, program.graph_signature.user_inputs[1:], strict=True))
    found = exact(program.graph, [str(taken["count"])])
    kinds = [str(getattr(n.target, "_opname", "")) for n in program.graph.nodes if n.name in found]
    assert kinds.count("clamp") == 1  # and not the product behind it
    assert "mul" not in kinds
    assert {"add", "div"} <= set(kinds)
    assert "linear" not in kinds
