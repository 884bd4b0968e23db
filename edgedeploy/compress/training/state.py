"""Where a training stands after an epoch, in a file that it goes on from after it was killed.

Order and augmentation of an epoch follow from the seed (see `feed`), so no random state is kept.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from edgedeploy.compress.training import epochs
from edgedeploy.errors import UsageError
from edgedeploy.records import canonical

STATE, LOG = "last.pt", "epochs.jsonl"
_FORMAT = 1


def save(loop: Any) -> None:
    """Write the log, then the state, each at once: a kill between them leaves a log that is longer than the state."""
    folder: Path = loop.plan.folder
    epochs.write(folder / LOG, loop.epochs_done)
    partial = folder / f"{STATE}.partial"
    torch.save(
        {
            "format": _FORMAT,
            "key": loop.plan.key,
            "epoch": loop.epoch + 1,
            "network": _plain(loop.model).state_dict(),
            "ema": loop.ema.ema.state_dict(),
            "updates": loop.ema.updates,
            "optimizer": loop.optimizer.state_dict(),
            "scaler": loop.scaler.state_dict(),
        },
        partial,
    )
    os.replace(partial, folder / STATE)  # noqa: PTH105


def read(folder: Path, key: str) -> dict[str, Any] | None:
    """The state in a folder, or ``None`` where no epoch was finished; read without running what is pickled.

    Raises:
        UsageError: it is damaged, or of another training than ``key`` names.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise UsageError(f"{path} is damaged. Delete it to train again from the first epoch.") from error
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise UsageError(f"{path} is no state of a training of this version. Delete it, or give another folder.")
    if found["key"] != key:
        raise UsageError(
            f"{folder} holds a training with another network, data or settings, {found['epoch']} epochs of it. "
            "Give another folder, or delete this one."
        )
    return found


def restore(loop: Any) -> int:
    """Put a set-up training where it stood; the number of epochs that are done."""
    found = read(loop.plan.folder, loop.plan.key)
    if found is None:
        return 0
    loop.model.load_state_dict(found["network"])
    loop.ema.ema.load_state_dict(found["ema"])
    loop.ema.updates = found["updates"]
    loop.optimizer.load_state_dict(found["optimizer"])
    if found["scaler"]:
        loop.scaler.load_state_dict(found["scaler"])
    done = int(found["epoch"])
    loop.epochs_done = epochs.read(loop.plan.folder / LOG)[:done]
    return done


def key(*parts: object) -> str:
    """sha256 that tells a training from others."""
    return hashlib.sha256(canonical(list(parts))).hexdigest()


def _plain(network: Any) -> Any:
    return getattr(network, "module", network)
