"""Where a compressed network comes from: the file it started as, and every stage since, with its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Step:
    """One stage that was done.

    ``settings`` are those of the recipe, ``data`` the sha256 of the training images and labels (empty where none were
    used), ``seconds`` how long it took, ``numbers`` what was measured after it (AP50, parameters, ...), ``tools`` the
    versions of what did it.
    """

    stage: str
    settings: Mapping[str, Any]
    data: str = ""
    seed: int = 0
    seconds: float = 0.0
    numbers: Mapping[str, float] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Lineage:
    """``source`` is the name and ``parent`` the sha256 of the checkpoint that the first stage started from."""

    source: str
    parent: str
    steps: tuple[Step, ...] = ()

    def then(self, step: Step) -> Lineage:
        """The lineage with one more step."""
        return replace(self, steps=(*self.steps, step))
