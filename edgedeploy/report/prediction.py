"""Predictions as rows of a table. They are never shown like measurements."""

from __future__ import annotations

from collections.abc import Sequence

from edgedeploy.predict import Prediction
from edgedeploy.units import show

HEADER = ("device", "runtime", "predicted", "80 % interval", "most of it", "fitted on")


def rows(made: Sequence[Prediction]) -> list[tuple[str, ...]]:
    """A row per prediction under `HEADER`."""
    return [
        (
            one.setting.device,
            f"{one.setting.runtime} {one.setting.precision} on {one.setting.unit}",
            f"about {show(one.seconds, 's', 2)}",
            f"{show(one.low, 's', 2)} to {show(one.high, 's', 2)}",
            _most(one),
            _fitted_on(one),
        )
        for one in made
    ]


def notes(made: Sequence[Prediction]) -> list[str]:
    """Where predictions go beyond what was measured."""
    return [f"{one.setting.device}: {sentence}" for one in made for sentence in one.outside]


def _fitted_on(one: Prediction) -> str:
    devices = len(one.fitted_on)
    return f"{sum(one.fitted_on.values())} graphs, {devices} device{'s'[: devices != 1]}"


def _most(one: Prediction) -> str:
    name, share = max(one.shares.items(), key=lambda item: item[1])
    return f"{name}, {share:.0%}"
