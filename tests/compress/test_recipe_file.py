"""Recipes: packaged ones, files, changes, and what is said of a wrong one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.compress.recipe import STAGES, Recipe, Training
from edgedeploy.compress.recipe_file import TABLES, Changes, checked, presets, read_recipe
from edgedeploy.errors import UsageError


def changes(training: dict[str, Any] | None = None, prune: dict[str, Any] | None = None, **single: Any) -> Changes:
    return Changes(training or {}, prune or {}, {name.replace("__", "."): value for name, value in single.items()})


def written(folder: Path, text: str) -> str:
    (folder / "mine.toml").write_text(text, "utf-8")
    return str(folder / "mine.toml")


def test_the_packaged_recipes_are_what_they_are_called() -> None:
    assert presets() == ("control", "prune-finetune", "quick", "slim-prune-distill")
    paper, control = read_recipe("slim-prune-distill"), read_recipe("control")
    assert paper.stages == ("sparse", "prune", "finetune", "distill")
    assert paper.slimming.rate == 1e-4
    assert paper.prune is not None
    assert (paper.prune.ratio, paper.prune.policy, paper.prune.keep, paper.prune.round_to) == (
        0.5,
        "uniform",
        ("detect",),
        8,
    )
    for training in (paper.sparse, paper.finetune, paper.distill):
        assert training is not None
        assert (training.epochs, training.size, training.batch) == (100, 1024, 8)
    assert (paper.distillation.temperature, paper.distillation.weight) == (1.0, 1.0)
    # the same budget, without a teacher
    assert control.distillation.weight == 0
    assert replace(control, name=paper.name, distillation=paper.distillation) == paper
    assert read_recipe("prune-finetune").stages == ("prune", "finetune")
    quick = read_recipe("quick")
    assert quick.stages == paper.stages
    assert quick.sparse is not None
    assert quick.sparse.epochs < 10


def test_a_file_has_the_stages_that_it_has_tables_for(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, "[baseline]\nepochs = 3\n[finetune]\n[finetune.overrides]\nmosaic = 0.5\n"))
    assert recipe == Recipe(
        "mine", Training(epochs=3), sparse=None, prune=None, finetune=Training(overrides={"mosaic": 0.5}), distill=None
    )
    assert read_recipe(written(tmp_path, 'name = "other"\n[prune]')).name == "other"
    assert read_recipe(written(tmp_path, "[prune]\n[finetune]\nepochs = 0")).stages == ("prune",)


def test_single_changes_beat_general_ones_and_both_beat_the_file() -> None:
    made = read_recipe(
        "quick",
        changes(
            {"epochs": 7, "size": 96},
            {"ratio": 0.25},
            finetune__epochs=9,
            prune__keep=("detect", "residual"),
            distill__overrides__mosaic=0.0,
            baseline__epochs=2,
        ),
    )
    assert [getattr(made, stage).epochs for stage in STAGES if stage != "prune"] == [2, 7, 9, 7]
    assert made.baseline is not None
    assert made.baseline.size == 96
    assert made.prune is not None
    assert (made.prune.ratio, made.prune.keep) == (0.25, ("detect", "residual"))
    assert made.distill is not None
    assert made.distill.overrides == {"mosaic": 0.0}
    # the name of a group has dots of its own
    ratios = read_recipe("quick", Changes({}, {}, {"prune.ratios.model.4.cv1": 0.1})).prune
    assert ratios is not None
    assert ratios.ratios == {"model.4.cv1": 0.1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[sparse]\nepochs = ", ["mine.toml is not TOML"]),
        ("[sprase]\n", ["unknown table [sprase].", "Did you mean 'sparse'?"]),
        ("sparse = 3\n", ["sparse: expected a table [sparse], found 3"]),
        ("[sparse]\nepoch = 3", ["[sparse]: unknown key 'epoch'.", "Did you mean 'epochs'?"]),
        ("[sparse]\nepochs = '3'", ["[sparse]: epochs: expected a whole number, found str '3'"]),
        ("[sparse]\nsize = 100", ["[sparse]: size is 100; it has to be a multiple of 32"]),
        ("[prune]\nratio = 1.0", ["[prune]: ratio is 1.0; it has to be", "no channel is left"]),
        ("[prune]\npolicy = 'some'", ["[prune]: policy: 'some' is not one of uniform, global, latency"]),
        ("[prune]\nkeep = ['head']", ["[prune]: keep", "'head'", "detect, residual, inner"]),
        ("[slimming]\nrate = 1.0", ["there is no stage in it"]),
        ("[finetune]\nepochs = 0", ["there is no stage in it"]),
        ("name = 3\n[prune]", ["name: expected text, found 3"]),
        ("[distill]\n[distillation]\nteacher = 'sparse'", ["teacher is 'sparse'", "no stage [sparse]"]),
    ],
)
def test_a_wrong_file_is_named_with_its_key(text: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_recipe(written(tmp_path, text))
    for word in ["mine.toml", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("slim-prune-destill", changes(), ["no recipe 'slim-prune-destill'", "Did you mean 'slim-prune-distill'?"]),
        ("gone.toml", changes(), ["gone.toml cannot be read"]),
        ("quick", changes(prune={"ratio": 1.5}), ["[prune]: ratio is 1.5"]),
        ("quick", changes(epochs=3), ["--set epochs", "TABLE.KEY=VALUE"]),
        ("quick", changes(finetun__rate=3), ["unknown table [finetun].", "finetune"]),
        ("quick", changes(finetune__rat=3), ["[finetune]: unknown key 'rat'.", "'rate'"]),
        ("quick", changes(baseline__rate=0.1), ["no stage [baseline]", "--set baseline.epochs="]),
        ("control", changes(distillation__weight="much"), ["[distillation]: weight: expected a number"]),
    ],
)
def test_a_wrong_change_is_refused(name: str, changed: Changes, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        read_recipe(name, changed)
    for word in words:
        assert word in str(caught.value)


def test_pruning_options_need_a_stage_that_prunes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no stage \[prune\], so ratio cannot be changed"):
        read_recipe(written(tmp_path, "[finetune]"), changes(prune={"ratio": 0.5}))


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 200) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
KEYS = ("epochs", "batch", "size", "rate", "ratio", "keep", "policy", "layers", "off", "overrides", "ratios", "weight")
tables = st.dictionaries(st.sampled_from(KEYS), values, max_size=3)


@given(st.dictionaries(st.sampled_from(sorted(TABLES)), tables, max_size=4))
def test_whatever_a_file_says_is_a_recipe_or_one_sentence(data: dict[str, dict[str, Any]]) -> None:
    try:
        recipe = checked("any", data, "any.toml")
    except UsageError as error:
        assert str(error).startswith("any.toml: ")
    else:
        assert recipe.stages
