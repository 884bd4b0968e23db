"""Issue queries as a scenario says, through a recorder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgedeploy.bench.sampling import Recorder, Report
from edgedeploy.bench.scenario import Scenario
from edgedeploy.errors import Unavailable


@dataclass(frozen=True)
class Limits:
    """When sampling ends: after ``duration`` seconds and ``minimum`` passes, or earlier where ``enough`` says so."""

    duration: float
    minimum: int
    enough: Callable[[np.ndarray[tuple[int], np.dtype[np.float64]]], bool] | None = None


def drive(scenario: Scenario, recorder: Recorder, limits: Limits, report: Report = lambda share: None) -> None:
    """Take the samples that count.

    Raises:
        Unavailable: the scenario's engine is not installed.
    """
    if scenario.name != "single-stream" or scenario.engine != "edgedeploy":
        raise Unavailable(f"The scenario '{scenario.name}' is not there yet.")
    recorder.run(limits.duration, limits.minimum, report=report)
