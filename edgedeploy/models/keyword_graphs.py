"""The graphs of a keyword network: the one that takes a clip whole, and the one that takes it frame by frame."""

from __future__ import annotations

import copy

from edgedeploy.errors import UsageError
from edgedeploy.model import Graph, InputShape
from edgedeploy.models.ds_cnn import DsCnn
from edgedeploy.models.lmuformer import LMUFormer
from edgedeploy.models.lmuformer_step import Step
from edgedeploy.models.mean_fbank import MeanFbank
from edgedeploy.tasks import STREAM, Keywords
from edgedeploy.tensors import Signature, TensorSpec

#: The networks that hear words; only the first takes a stream.
NETWORKS = (LMUFormer, DsCnn, MeanFbank)


def graphs(network: LMUFormer | DsCnn | MeanFbank, task: Keywords, shape: InputShape) -> dict[str, Graph]:
    """``main``: features (batch, frames, bins) to logits (batch, classes); and `STREAM` where ``shape`` asks for it.

    The network itself is left as it is. A stream is of batch 1 always, and only an `LMUFormer` takes one.

    Raises:
        UsageError: the network contradicts the task, or ``shape`` asks for what sound does not have.
    """
    facts = (
        ("labels", len(task.labels), network.classes),
        ("bins of features", task.features.bins, network.bins),
        ("frames of look-ahead", task.lookahead, network.lookahead),
    )
    for what, said, has in facts:
        if said != has:
            raise UsageError(f"The task has {said} {what}, but its network has {has}.")
    if shape.size or "size" in shape.dynamic:
        raise UsageError("A keyword model takes frames of sound, so it has no image size: leave the size out.")
    whole = copy.deepcopy(network).eval().requires_grad_(False)
    if isinstance(whole, LMUFormer):
        for unit in whole.units:
            unit.memory = unit.memory.window(task.frames)  # type: ignore[operator, union-attr]
    batch: int | str = "batch" if "batch" in shape.dynamic else shape.batch
    signature = Signature(
        inputs=(TensorSpec("features", "float32", (batch, task.frames, network.bins)),),
        outputs=(TensorSpec("logits", "float32", (batch, network.classes)),),
    )
    found = {"main": Graph(whole, signature)}
    if shape.streaming and isinstance(network, LMUFormer):
        step = Step(network).eval()
        found[STREAM] = Graph(step, step.signature)
    return found
