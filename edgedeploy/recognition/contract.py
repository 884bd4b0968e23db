"""Whether a checkpoint and an artifact are of one task; else one of them would be judged by the wrong rules."""

from __future__ import annotations

import dataclasses

from edgedeploy.errors import UsageError
from edgedeploy.model import Model
from edgedeploy.tasks import Keywords, from_contract
from edgedeploy.tasks.fbank import Fbank
from edgedeploy.tensors import Signature


def check_same(model: Model, task: Keywords, made_from: str) -> None:
    """Refuse a checkpoint ``model`` that does not hear what an artifact with ``task`` hears.

    A checkpoint without a contract (a plain module, a .pt2 file) is held to the shapes of its graph ``main``: they are
    all that it says.

    Args:
        model: the checkpoint.
        task: the artifact's.
        made_from: what the artifact was made of, to say what to do.

    Raises:
        UsageError: says in which of labels, features, frames and look-ahead the two differ.
    """
    name = model.source.reference
    if model.task is None:
        differing = _shapes(model.graphs["main"].signature, task) if "main" in model.graphs else []
    else:
        own = from_contract(model.task)
        if not isinstance(own, Keywords):
            raise UsageError(f"{name} hears no keywords: its task is '{own.kind}'.")
        differing = [*_labels(own.labels, task.labels), *_features(own.features, task.features), *_counts(own, task)]
    if differing:
        raise UsageError(
            f"{name} and the artifact are of different tasks, and cannot be judged by one: they differ in "
            f"{'; in '.join(differing)}. Compare with the checkpoint that the bundle was made of ({made_from})."
        )


def _labels(own: tuple[str, ...], its: tuple[str, ...]) -> list[str]:
    if own == its:
        return []
    if sorted(own) == sorted(its):
        return [f"labels (the same {len(own)} in another order)"]
    if len(own) != len(its):
        return [f"labels ({len(own)} in the checkpoint, {len(its)} in the artifact)"]
    at = next(i for i, (one, other) in enumerate(zip(own, its, strict=True)) if one != other)
    return [f"labels (such as '{own[at]}' in the checkpoint and '{its[at]}' in the artifact)"]


def _features(own: Fbank, its: Fbank) -> list[str]:
    names = [f.name for f in dataclasses.fields(Fbank) if getattr(own, f.name) != getattr(its, f.name)]
    said = [f"{name} {getattr(own, name)!r} and {getattr(its, name)!r}" for name in names]
    return [f"features ({', '.join(said)})"] if said else []


def _counts(own: Keywords, its: Keywords) -> list[str]:
    return [
        f"{said} ({one} and {other})"
        for said, one, other in (("frames", own.frames, its.frames), ("look-ahead", own.lookahead, its.lookahead))
        if one != other
    ]


def _shapes(main: Signature, its: Keywords) -> list[str]:
    """What the shapes contradict; a dimension without a number contradicts nothing."""
    takes, gives = main.inputs[0].shape, main.outputs[0].shape
    if len(takes) != 3 or len(gives) != 2:
        return [f"shapes ({takes} to {gives} in the checkpoint, frames by bins to labels in the artifact)"]
    facts = (
        ("frames", takes[1], its.frames),
        ("bins", takes[2], its.features.bins),
        ("labels", gives[1], len(its.labels)),
    )
    return [f"{said} ({one} and {other})" for said, one, other in facts if isinstance(one, int) and one != other]
