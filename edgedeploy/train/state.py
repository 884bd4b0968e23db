"""Where a training stands after an epoch, in a file that it goes on from after it was killed.

Order and augmentation of an epoch follow from the seed (see `edgedeploy.train.batches`), so no random state is kept.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from edgedeploy.errors import UsageError
from edgedeploy.records import canonical, to_json
from edgedeploy.train.folder import write

_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Standing:
    """What a training goes on from.

    Args:
        key: sha256 of what is trained on what; see `key_of`.
        epoch: epochs that are done.
        network: weights and statistics now.
        optimizer: of Adam.
        best: weights and statistics of the best epoch.
    """

    key: str
    epoch: int
    network: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]
    best: Mapping[str, torch.Tensor]


def key_of(*parts: object) -> str:
    """sha256 of plain values and records that tells a training from others."""
    return hashlib.sha256(canonical(to_json(list(parts)))).hexdigest()


def save(path: Path, standing: Standing) -> None:
    """Write it, at once.

    Raises:
        UsageError: it cannot be written.
    """
    buffer = io.BytesIO()  # torch's own writer turns a full disk into an error that says nothing of it
    torch.save({"format": _FORMAT, **vars(standing)}, buffer)
    write(path, buffer.getvalue())


def read(path: Path, key: str) -> Standing | None:
    """The state in a file, or ``None`` where no epoch was finished; read without running what is pickled.

    Raises:
        UsageError: it is damaged, or of another training than ``key`` names.
    """
    if not path.exists():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise UsageError(f"{path} is damaged. Delete it to train again from the first epoch.") from error
    if not isinstance(found, dict) or found.pop("format", None) != _FORMAT:
        raise UsageError(f"{path} is no state of a training of this version. Delete it, or give another folder.")
    if set(found) != {field.name for field in fields(Standing)}:
        raise UsageError(f"{path} is damaged. Train again from the first epoch with --fresh.")
    standing = Standing(**found)
    if standing.key != key:
        raise UsageError(
            f"{path.parent} holds a training of another network, data or recipe, {standing.epoch} epochs of it. "
            "Give another folder, or throw away what is in this one with --fresh."
        )
    return standing
