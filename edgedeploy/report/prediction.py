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
            ", ".join(f"{count} graphs on {device}" for device, count in one.fitted_on.items()),
        )
        for one in made
    ]


def notes(made: Sequence[Prediction]) -> list[str]:
    """Where predictions go beyond what was measured."""
    return [f"{one.setting.device}: {sentence}" for one in made for sentence in one.outside]


def _most(one: Prediction) -> str:
    name, share = max(one.shares.items(), key=lambda item: item[1])
    return f"{name}, {share:.0%}"
