"""A detector in memory, whole enough to be trained further: the network, its classes, its size, where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from edgedeploy.compress.lineage import Lineage, Step


@dataclass(frozen=True, eq=False)
class Detector:
    """A network of Ultralytics' classes with what belongs to it.

    ``network`` is its ``DetectionModel``: float32, on the CPU, in eval mode, batch normalisation not folded.
    ``labels`` are the class names in order, ``size`` (height, width) of the input that it was trained at.
    """

    network: Any
    labels: tuple[str, ...]
    size: tuple[int, int]
    lineage: Lineage

    def after(self, network: Any, step: Step) -> Detector:
        """The detector that a stage made of this one."""
        return replace(self, network=network, lineage=self.lineage.then(step))
