"""Recipes as TOML files: a table for every stage that is done, and the packaged ones by name."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgedeploy.compress.recipe import STAGES, Distillation, Pruning, Recipe, Slimming, Training
from edgedeploy.errors import UsageError, did_you_mean
from edgedeploy.records import from_json, to_json

#: Tables of a file, and what each describes.
TABLES: Mapping[str, type[Any]] = {
    "baseline": Training,
    "sparse": Training,
    "slimming": Slimming,
    "prune": Pruning,
    "finetune": Training,
    "distill": Training,
    "distillation": Distillation,
}

#: A table of plain values for each table of a file.
Tables = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Changes:
    """What is asked for beside a recipe: it overrides its values.

    Args:
        training: settings of every stage that trains.
        prune: settings of pruning.
        single: single settings, ``finetune.rate`` to its value, above all others.
    """

    training: Mapping[str, Any]
    prune: Mapping[str, Any]
    single: Mapping[str, Any]


def presets() -> tuple[str, ...]:
    """Names of the packaged recipes."""
    folder = files("edgedeploy.compress") / "recipes"
    return tuple(sorted(Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".toml")))


def read_recipe(name: str, changes: Changes | None = None) -> Recipe:
    """The recipe of a packaged name or a TOML file, with changes. A stage without a table is left out.

    Args:
        name: ``slim-prune-distill``, or the path of a file.
        changes: what overrides it.

    Raises:
        UsageError: there is none, it is not TOML, has an unknown table or key, a value that cannot be, or no stage.
    """
    if name in presets():
        text, where = (files("edgedeploy.compress") / "recipes" / f"{name}.toml").read_text("utf-8"), name
    else:
        text, where = _text(name), name
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # tomllib's error is one
        raise UsageError(f"{where} is not TOML that can be read: {error}.") from error
    title = data.pop("name", Path(name).stem)
    if not isinstance(title, str):
        raise UsageError(f"{where}: name: expected text, found {title!r}.")
    tables = _tables(data, where)
    return checked(title, _changed(tables, changes, where) if changes else tables, where)


def checked(name: str, tables: Tables, where: str) -> Recipe:
    """The recipe that plain values describe; ``where`` is named in messages.

    Raises:
        UsageError: see `read_recipe`.
    """
    values: dict[str, Any] = dict.fromkeys(STAGES)
    for key, table in tables.items():
        values[key] = _record(TABLES[key], table, f"{where}: [{key}]")
        if key in STAGES and getattr(values[key], "epochs", 1) == 0:
            values[key] = None
    if not any(values[stage] is not None for stage in STAGES):
        raise UsageError(f"{where}: there is no stage in it, so there is nothing to do. Known: {', '.join(STAGES)}.")
    if values["distill"] is not None and values["sparse"] is None:
        distillation = values.get("distillation")
        if distillation is not None and distillation.teacher == "sparse":
            raise UsageError(f"{where}: [distillation]: teacher is 'sparse', but there is no stage [sparse].")
    return Recipe(name, **values)


def _text(name: str) -> str:
    path = Path(name)
    if path.suffix != ".toml" and not path.exists():
        raise UsageError(f"There is no recipe '{name}'.{did_you_mean(name, presets())} Or give a file, NAME.toml.")
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path} cannot be read: {why}.") from error


def _tables(data: Mapping[str, Any], where: str) -> Tables:
    for key, table in data.items():
        _known_table(key, where)
        if not isinstance(table, dict):
            raise UsageError(f"{where}: {key}: expected a table [{key}], found {table!r}.")
    return {key: dict(table) for key, table in data.items()}


def _known_table(key: str, where: str) -> None:
    if key not in TABLES:
        raise UsageError(f"{where}: unknown table [{key}].{did_you_mean(key, TABLES)}")


def _changed(tables: Tables, changes: Changes, where: str) -> Tables:
    """The tables with what was asked for; a stage that they do not have is added by giving it epochs (or a ratio)."""
    single = _single(changes.single)
    for key, found in single.items():
        if key in STAGES and key not in tables and not {"epochs", "ratio"} & found.keys():
            what = f"{key}.{'ratio' if key == 'prune' else 'epochs'}"
            raise UsageError(f"{where}: there is no stage [{key}] to change. Add it with --set {what}=...")
    if changes.prune and "prune" not in tables | single:
        asked = ", ".join(changes.prune)
        raise UsageError(f"{where}: there is no stage [prune], so {asked} cannot be changed.")
    out = {key: dict(table) for key, table in tables.items()}
    for key in (*tables, *(key for key in single if key not in tables)):
        table = out.setdefault(key, {})
        table |= changes.training if TABLES[key] is Training else changes.prune if key == "prune" else {}
        for name, value in single.get(key, {}).items():
            merge = isinstance(value, dict) and isinstance(table.get(name), dict)
            table[name] = {**table[name], **value} if merge else value
    return out


def _single(settings: Mapping[str, Any]) -> Tables:
    """``{"finetune.rate": 0.1}`` as tables; a third part is the key of a mapping, which may have dots itself."""
    tables: Tables = {}
    for name, value in settings.items():
        table, dot, rest = name.partition(".")
        if not dot or not rest:
            raise UsageError(f"--set {name}: write it as TABLE.KEY=VALUE, such as finetune.rate=0.002.")
        _known_table(table, f"--set {name}")
        key, dot, below = rest.partition(".")
        found = tables.setdefault(table, {})
        plain = to_json(value)
        if not dot:
            found[key] = plain
        else:
            found.setdefault(key, {})[below] = plain
    return tables


def _record(cls: type[Any], table: Mapping[str, Any], where: str) -> Any:
    try:
        return from_json(cls, dict(table), where)
    except UsageError as error:  # a record that refuses a value does not know the file
        said = str(error).removeprefix("Recipe: ")
        raise UsageError(said if said.startswith(where) else f"{where}: {said}") from None
