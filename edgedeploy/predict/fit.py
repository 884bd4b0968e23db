"""How many times the roofline's seconds a class of nodes takes, fitted on observations; and how far off that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedeploy.errors import Unavailable
from edgedeploy.predict.features import CLASSES, Features
from edgedeploy.predict.observation import Observation

#: What is expected before anything is measured: multiples of the roofline's seconds by class, and seconds per node.
PRIOR = np.array([2.0, 5.0, 2.0, 2.0, 3e-6])
#: How much that counts against one observation: enough to decide what the observations leave open.
STRENGTH = 0.02
#: Observations that the smallest fit is made of.
LEAST = 4


@dataclass(frozen=True)
class Fit:
    """Multiples of the roofline's seconds by class, and seconds per node."""

    weights: tuple[float, ...]

    def seconds(self, features: Features) -> float:
        """Of one pass."""
        return float(features.row @ np.asarray(self.weights))

    def shares(self, features: Features) -> dict[str, float]:
        """Share of the predicted time by class, and of starting nodes."""
        parts = features.row * np.asarray(self.weights)
        return dict(zip((*CLASSES, "starting nodes"), (parts / parts.sum()).tolist(), strict=True))


def fit(observations: Sequence[Observation]) -> Fit:
    """Non-negative least squares of relative errors, drawn towards `PRIOR`.

    Raises:
        Unavailable: there are fewer than `LEAST`, or no scipy.
    """
    if len(observations) < LEAST:
        raise Unavailable(
            f"{len(observations)} measured graphs of this kind are too few to predict from; {LEAST} are the least."
        )
    try:
        from scipy.optimize import nnls
    except ImportError as error:
        raise Unavailable.extra("scipy, which fits predictions,", "predict") from error
    rows = np.array([one.features.row * PRIOR / one.seconds for one in observations])
    pull = math.sqrt(STRENGTH) * np.eye(len(PRIOR))
    wanted = np.concatenate([np.ones(len(rows)), np.full(len(PRIOR), math.sqrt(STRENGTH))])
    found, _ = nnls(np.vstack([rows, pull]), wanted)
    return Fit(tuple((found * PRIOR).tolist()))


def held_out(observations: Sequence[Observation], by_device: bool) -> npt.NDArray[np.float64]:
    """log(measured / predicted) of each observation, by a fit of those of all other devices, or of all other graphs.

    Those whose fit would have too few observations are left out.
    """

    def group(one: Observation) -> str:
        return one.setting.device if by_device else one.graph

    errors = []
    for one in observations:
        others = [other for other in observations if group(other) != group(one)]
        if len(others) >= LEAST:
            errors.append(math.log(one.seconds / fit(others).seconds(one.features)))
    return np.asarray(errors)


def spread(errors: npt.NDArray[np.float64], confidence: float) -> float | None:
    """The factor that a prediction is within with ``confidence``, from errors of graphs that the fit had not seen.

    The rank of split conformal prediction on |log error| (H. Papadopoulos et al., "Inductive confidence machines for
    regression", 2002): the next error is among the smallest ceil((n + 1) * confidence) of n + 1 alike ones. Those here
    are of fits that each left another graph out, which makes it nearly so, and no guarantee. ``None`` where there
    are too few errors for that.
    """
    rank = math.ceil((len(errors) + 1) * confidence)
    if rank > len(errors):
        return None
    return float(math.exp(np.sort(np.abs(errors))[rank - 1]))
