"""Step by step equals the whole clip, at every prefix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor

from edgedeploy.errors import UsageError
from edgedeploy.models.lmuformer import LMUFormer
from edgedeploy.models.lmuformer_step import Step

Make = Callable[..., LMUFormer]
TINY: dict[str, Any] = {"bins": 12, "dim": 8, "memory": 6, "theta": 16}


def streamed(step: Step, features: Tensor, extra: int = 0) -> tuple[Tensor, list[int], tuple[Tensor, ...]]:
    """Logits (steps, classes) and frames heard after each step of a clip (frames, bins), and the last state."""
    state = step.start()
    logits, heard = [], []
    for t in range(len(features) + step.lookahead + extra):
        over = t >= len(features)
        frame = features.new_full((1, step.bins), 1e3) if over else features[t : t + 1]
        found, count, *rest = step(frame, frame.new_full((1, 1), float(over)), *state)
        state = tuple(rest)
        logits.append(found)
        heard.append(int(count))
    return torch.cat(logits), heard, state


@pytest.mark.parametrize("spiking", [False, True])
@pytest.mark.parametrize(("causal", "depth"), [(False, 1), (True, 1), (False, 2)])
def test_every_prefix_in_float64(spiking: bool, causal: bool, depth: int, lively: Make) -> None:
    network = lively(3, spiking=spiking, causal=causal, depth=depth, double=True, **TINY)
    step = Step(network)
    for frames in (1, 2, 4, 5, 6, 60):
        features = torch.randn(frames, 12, dtype=torch.float64)
        logits, heard, _ = streamed(step, features)
        assert heard == [max(0, t + 1 - network.lookahead) for t in range(frames + network.lookahead)]
        expected = network.prefixes(features[None])[0]
        torch.testing.assert_close(logits[network.lookahead :], expected, rtol=0, atol=1e-12)
        assert frames < 60 or float((expected[0] - expected[-1]).abs().max()) > 1e-4, "the answers change on the way"


@pytest.mark.parametrize(("spiking", "state"), [(False, 3072), (True, 6913)])
def test_every_prefix_at_full_size_in_float32(spiking: bool, state: int, lively: Make) -> None:
    network = lively(35, spiking=spiking)
    step = Step(network)
    assert sum(step.widths.values()) == state + 2
    features = torch.randn(128, 128)
    logits, heard, _ = streamed(step, features)
    assert heard[-1] == 128
    torch.testing.assert_close(logits[5:], network.prefixes(features[None])[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("spiking", [False, True])
def test_steps_after_the_end_change_nothing(spiking: bool, lively: Make) -> None:
    step = Step(lively(3, spiking=spiking, double=True, **TINY))
    features = torch.randn(9, 12, dtype=torch.float64)
    logits, heard, _ = streamed(step, features, extra=4)
    assert heard[-5:] == [9] * 5
    assert torch.equal(logits[-5:], logits[-5].expand(5, -1))


@pytest.mark.parametrize("causal", [False, True])
def test_a_stream_of_nothing_has_no_answer(causal: bool, lively: Make) -> None:
    step = Step(lively(3, causal=causal, double=True, **TINY))
    _, heard, state = streamed(step, torch.zeros(0, 12, dtype=torch.float64), extra=3)
    assert set(heard) == {0}
    assert tuple(step.widths)[-2:] == ("seen", "ended")
    assert not any(tensor.any() for tensor in state[:-2])


def test_it_waits_with_an_answer_for_as_long_as_it_looks_ahead(lively: Make) -> None:
    step = Step(lively(3, double=True, **TINY))
    features = torch.randn(20, 12, dtype=torch.float64)
    changed = features.clone()
    changed[10] += 100.0
    before, after = streamed(step, features)[0], streamed(step, changed)[0]
    assert torch.equal(before[:10], after[:10])
    assert not torch.equal(before[10], after[10]), "the answer about frame 5 knows frame 10"


@pytest.mark.parametrize("spiking", [False, True])
def test_an_endless_stream_forgets(spiking: bool, lively: Make) -> None:
    """The first frames go into a mean as ever, later ones with the weight of one in ten."""
    network = lively(3, spiking=spiking, double=True, **TINY)
    features = torch.randn(50, 12, dtype=torch.float64)
    logits, _, _ = streamed(Step(network, horizon=10), features)
    mean = torch.zeros(network.dim, dtype=torch.float64)
    for t, trait in enumerate(network.traits(features[None])[0]):
        mean += (trait - mean) / min(t + 1, 10)
        torch.testing.assert_close(logits[t + 5], network.head(mean), rtol=0, atol=1e-12)
    with pytest.raises(UsageError, match="at least 1 frame, found 0"):
        Step(network, horizon=0)


@pytest.mark.parametrize("spiking", [False, True])
def test_it_is_one_program_without_branches(spiking: bool, lively: Make) -> None:
    step = Step(lively(3, spiking=spiking, **TINY)).eval()
    state = step.start()
    arguments = (torch.randn(1, 12), torch.zeros(1, 1), *state)
    with torch.no_grad():
        program = torch.export.export(step, arguments)
    assert len(step.signature.state) == len(state)
    assert not program.graph_signature.buffers_to_mutate
    found, expected = program.module()(*arguments), step(*arguments)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert [tuple(t.shape) for t in expected[2:]] == [s.shape for s in step.signature.state]


def test_the_weights_are_its_own(lively: Make) -> None:
    network = lively(3, double=True, **TINY)
    step = Step(network)
    features = torch.randn(8, 12, dtype=torch.float64)
    before = streamed(step, features)[0]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(streamed(step, features)[0], before)
