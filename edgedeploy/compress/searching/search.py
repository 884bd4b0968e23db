"""The share of channels to remove from each block, searched for: accuracy on real images against latency on a device.

A trial prunes a copy of the network, lets it recover for a moment, and judges it on the same images as every other
trial. What it costs on the device is predicted from its shapes; where the device is this machine, the prediction is
corrected by networks that were timed, and those on the front are timed before one of them is chosen.
"""

from __future__ import annotations

from edgedeploy.compress.detector import Detector
from edgedeploy.compress.recipe import Pruning
from edgedeploy.compress.searching.goal import Found, Goal, Recovery, SearchOptions
from edgedeploy.compress.searching.hunt import Hunt
from edgedeploy.compress.searching.laboratory import Laboratory
from edgedeploy.compress.searching.study import Space, Study
from edgedeploy.compress.staging import Staged
from edgedeploy.plan.journal import alone
from edgedeploy.tasks.dataset import DetectionSet

__all__ = ["Found", "Goal", "Recovery", "SearchOptions", "search"]

#: The trials, in the folder of a search.
TRIALS = "trials.db"


def search(
    detector: Detector, data: Staged | DetectionSet, pruning: Pruning, goal: Goal, options: SearchOptions
) -> Found:
    """Find the ratios of the blocks that serve a goal best.

    Args:
        detector: trained, and not pruned yet; best after training with a penalty on its scale factors.
        data: staged data, of which training images are used, other ones for recovery than for accuracy, so that
            nothing is chosen by the validation images; or a data set whose images serve for both.
        pruning: what is kept, rounding and device; its ratios are what is searched for.
        goal: what is wanted.
        options: how to search.

    Raises:
        UsageError: the network finds nothing (AP50 is 0), no pruning makes it fast enough, or the folder holds a search
            of something else.
        BudgetExceeded: no trial reached the goal; says which came closest.
        Unavailable: Optuna, an evaluator or what exports a network is not installed; the device is not known well.
    """
    with alone(options.folder):
        laboratory = Laboratory.of(detector, data, pruning, options)
        space = Space(laboratory.blocks, options.most, options.step)
        study = Study(options.folder / TRIALS, space, laboratory.identity)
        return Hunt(laboratory, study, space, goal, options).run()
