"""Several processes of one training, as torchrun starts them: the first does everything, the others train with it."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import timedelta
from typing import Any

#: The others wait while the first one prunes and judges, which may take long; where it dies, torchrun ends them.
PATIENCE = timedelta(days=7)


def world() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first() -> bool:
    """Whether this is the one that prints and writes."""
    return int(os.environ.get("RANK", "0")) == 0


def tell(order: Any) -> None:
    """Send an order from the first process to all others; ``None`` lets them go home."""
    _passed([order])


def told() -> Any:
    """The next order of the first process."""
    return _passed([None])


def _passed(box: list[Any]) -> Any:
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        _import_ultralytics()
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if torch.cuda.is_available():
            torch.cuda.set_device(local)
        kinds = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(kinds, timeout=PATIENCE)
    distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def _import_ultralytics() -> None:
    """Before there is a group: when imported in one, it waits for the others to import it, too."""
    from edgedeploy.models.yolo import quietly

    with suppress(ImportError), quietly():
        import ultralytics.utils  # noqa: F401


def leave() -> None:
    """End the group, where there is one."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
