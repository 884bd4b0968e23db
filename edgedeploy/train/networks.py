"""The networks that can be trained here, by name: what their constructors are given for a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from edgedeploy.errors import UsageError, did_you_mean
from edgedeploy.models.ds_cnn import DsCnn
from edgedeploy.models.lmuformer import LMUFormer
from edgedeploy.models.mean_fbank import MeanFbank
from edgedeploy.train.recipe import Recipe

#: The one that is not trained in epochs.
LINEAR = "mean-fbank"
#: Architecture names, as in `edgedeploy.models.native`, to their classes.
NETWORKS: Mapping[str, type[nn.Module]] = {"ds-cnn": DsCnn, "lmuformer": LMUFormer, LINEAR: MeanFbank}


def options_of(architecture: str, recipe: Recipe, classes: int) -> dict[str, Any]:
    """Keyword arguments of an architecture's constructor.

    Raises:
        UsageError: there is none of that name, or the recipe asks it for what it is not.
    """
    if architecture not in NETWORKS:
        raise UsageError(f"There is no network '{architecture}' to train.{did_you_mean(architecture, NETWORKS)}")
    own, bins = recipe.network, recipe.features.bins
    if architecture == "lmuformer":
        return {
            "classes": classes, "bins": bins, "dim": own.dim, "memory": own.memory, "theta": own.theta,
            "depth": own.depth, "spiking": own.spiking, "causal": own.causal, "frames": own.frames,
        }  # fmt: skip
    if own.spiking or own.causal:
        asked = "spiking" if own.spiking else "causal"
        raise UsageError(f"There is no {asked} form of {architecture}: leave --{asked} out, or train lmuformer.")
    return {"classes": classes, "bins": bins}


def build(architecture: str, options: Mapping[str, Any]) -> nn.Module:
    """An untrained network, with weights from torch's generator."""
    return NETWORKS[architecture](**options)
