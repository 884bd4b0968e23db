"""Distances between features, against their definitions and the properties that follow from them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from edgedeploy.compress.training.losses import cwd, logit, mse
from edgedeploy.errors import UsageError

seeds = st.integers(0, 2**31)
temperatures = st.floats(0.25, 16)


def pair(seed: int, shape: tuple[int, ...] = (2, 3, 4, 5), dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2)]


@settings(max_examples=25)
@given(seed=seeds, temperature=temperatures, scale=st.floats(0.1, 10))
def test_cwd_does_what_its_definition_implies(seed: int, temperature: float, scale: float) -> None:
    student, teacher = pair(seed)
    shift = 10 * torch.randn(2, 3, 1, 1, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    loss = cwd(student, teacher, temperature)
    assert cwd(teacher, teacher, temperature) == 0
    assert loss > 0
    torch.testing.assert_close(cwd(student + shift, teacher, temperature), loss)
    torch.testing.assert_close(cwd(student, teacher + shift, temperature), loss)
    torch.testing.assert_close(cwd(scale * student, scale * teacher, scale * temperature), scale**2 * loss)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_cwd_is_the_divergence_of_torch_per_channel_and_image(temperature: float) -> None:
    student, teacher = pair(0)
    log_q = F.log_softmax(student.reshape(6, 20) / temperature, dim=1)
    p = F.softmax(teacher.reshape(6, 20) / temperature, dim=1)
    expected = F.kl_div(log_q, p, reduction="sum") * temperature**2 / 6
    torch.testing.assert_close(cwd(student, teacher, temperature), expected)
    doubled = cwd(student.repeat(2, 2, 1, 1), teacher.repeat(2, 2, 1, 1), temperature)
    torch.testing.assert_close(doubled, expected)  # a mean over images and channels


def test_cwd_tends_to_half_the_variance_of_the_difference() -> None:
    student, teacher = pair(3)
    limit = (teacher - student).flatten(2).var(dim=2, correction=0).mean() / 2
    far, farther = (abs(cwd(student, teacher, temperature) - limit) for temperature in (1e2, 1e3))
    assert farther < 2e-3 * limit
    assert farther < 0.2 * far


def test_logit_is_the_divergence_of_bernoulli_distributions() -> None:
    student, teacher = pair(1, (2, 3, 7))
    expected = torch.zeros(2, dtype=torch.float64)
    for image in range(2):
        p, q = (torch.distributions.Bernoulli(logits=z[image] / 2) for z in (teacher, student))
        expected[image] = torch.distributions.kl_divergence(p, q).sum() / p.probs.sum()
    torch.testing.assert_close(logit(student, teacher, 2.0), 4 * expected.mean())
    assert logit(teacher, teacher, 2.0) == 0


def test_logit_of_an_image_does_not_depend_on_how_much_background_there_is() -> None:
    student, teacher = pair(1, (1, 3, 7))
    more = [F.pad(scores, (0, 500), value=-60.0) for scores in (student, teacher)]
    torch.testing.assert_close(logit(more[0], more[1]), logit(student, teacher))
    empty = torch.full((1, 3, 7), -60.0)
    torch.testing.assert_close(
        logit(torch.zeros(1, 3, 7), empty), 21 * torch.tensor(2.0).log()
    )  # a sum, if none is found


def test_mse_is_a_mean() -> None:
    student, teacher = pair(2)
    torch.testing.assert_close(mse(student, teacher), (student - teacher).square().mean())


def losses_of(student: torch.Tensor, teacher: torch.Tensor) -> list[torch.Tensor]:
    return [cwd(student, teacher, 2.0), mse(student, teacher), logit(student.flatten(2), teacher.flatten(2), 2.0)]


def test_gradients_reach_the_student_alone() -> None:
    student, teacher = (tensor.requires_grad_() for tensor in pair(4, (1, 2, 2, 3)))
    assert torch.autograd.gradcheck(lambda s: tuple(losses_of(s, teacher)), (student,))
    ours, theirs = torch.autograd.grad(
        torch.stack(losses_of(student, teacher)).sum(), (student, teacher), allow_unused=True
    )
    assert ours is not None
    assert theirs is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_they_are_computed_in_float32_also_under_autocast(dtype: torch.dtype) -> None:
    low = [tensor.to(dtype) for tensor in pair(5, (2, 4, 64, 64), torch.float32)]
    expected = losses_of(low[0].float(), low[1].float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses_of(low[0], low[1])
    for value, exact in zip(found, expected, strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value, exact)


def test_very_different_activations_stay_finite() -> None:
    student, teacher = pair(6, dtype=torch.float32)
    for value in losses_of(1e4 * student, -1e4 * teacher):
        assert value.isfinite()


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 6, 4, 5), (1, 3, 4, 5), (2, 3, 20)])
def test_tensors_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    for loss in (cwd, mse):
        with pytest.raises(UsageError, match=r"\(2, 3, 4, 5\).*equal stride"):
            loss(torch.zeros(shape), torch.zeros(2, 3, 4, 5))
    with pytest.raises(UsageError, match="3 dimensions"):
        logit(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5))
