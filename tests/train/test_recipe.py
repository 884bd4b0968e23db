"""Recipes: the packaged ones, what overrides them, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgedeploy.errors import UsageError
from edgedeploy.train.recipe import Recipe, presets, read_recipe


def test_the_paper_is_what_a_recipe_is_by_itself() -> None:
    found = read_recipe("paper")
    assert found == Recipe("paper")
    training = found.training
    assert (training.epochs, training.batch, training.rate, training.betas) == (200, 128, 2.5e-3, (0.95, 0.999))
    augmentation = found.augmentation
    assert (augmentation.mixup, augmentation.beta, augmentation.speed) == (0.6, 10, 0)
    assert (augmentation.frequency_mask, augmentation.time_mask, augmentation.roll) == (48, 48, 10)
    assert found.features.scale == pytest.approx(2 * 5.5654526, abs=1e-9)


def test_the_learning_rate_is_that_of_the_paper_and_scales_with_the_epochs() -> None:
    training = read_recipe("paper").training
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=2.5e-3)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(range(10, 1000, 10)), 0.85)
    for epoch in range(200):
        assert training.rate_in(epoch) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9), epoch
        optimizer.step()
        schedule.step()
    short = read_recipe("small").training
    assert short.rate_in(short.epochs - 1) == pytest.approx(training.rate_in(199))


def test_every_packaged_recipe_is_one() -> None:
    assert {"paper", "small", "digits"} <= set(presets())
    for name in presets():
        assert read_recipe(name).name == name


def test_single_settings_override_a_recipe(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text("[network]\ndim = 32\n")
    found = read_recipe(str(own), {"network.causal": True, "training.betas": (0.9, 0.99)})
    assert (found.name, found.network.dim, found.network.causal, found.training.betas) == ("own", 32, True, (0.9, 0.99))
    assert found.augmentation == Recipe().augmentation


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"network.dims": 3}, "Did you mean 'dim'"),
        ({"nettwork.dim": 3}, r"Did you mean 'network'"),
        ({"dim": 3}, "TABLE.KEY=VALUE"),
        ({"network.dim": "wide"}, "expected a whole number"),
        ({"network.dim": 0}, "at least 1"),
        ({"training.batch": 1}, "at least 2"),
        ({"training.rate": -1.0}, "above 0"),
        ({"training.rate": 1e300}, "below 10"),
        ({"training.betas": (0.9, 1.0)}, "below 1"),
        ({"augmentation.mixup": 1.5}, "between 0 and 1"),
        ({"augmentation.time_mask": 129}, r"at most 128 \(frames\)"),
        ({"features.bins": 0}, "bins"),
    ],
)
def test_what_cannot_be_is_refused_with_its_name(change: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_recipe("paper", change)


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'small'"):
        read_recipe("smal")
    with pytest.raises(UsageError, match="cannot be read"):
        read_recipe(str(tmp_path / "none.toml"))
    broken = tmp_path / "broken.toml"
    broken.write_text("[network\n")
    with pytest.raises(UsageError, match="not TOML"):
        read_recipe(str(broken))
    broken.write_text("network = 3\n")
    with pytest.raises(UsageError, match=r"expected a table \[network\]"):
        read_recipe(str(broken))
