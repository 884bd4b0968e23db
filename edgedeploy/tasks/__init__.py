"""What models are for. A task is a contract in JSON; `from_contract` makes it work again, on the device too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgedeploy.errors import UsageError, did_you_mean
from edgedeploy.records import from_json, to_json
from edgedeploy.tasks.detect import Detect, Detections
from edgedeploy.tasks.keywords import Heard, Keywords
from edgedeploy.tasks.raw import Raw
from edgedeploy.tasks.task import STREAM, Feed, Prepared, Task

__all__ = [
    "STREAM",
    "Detect",
    "Detections",
    "Feed",
    "Heard",
    "Keywords",
    "Prepared",
    "Raw",
    "Task",
    "contract_of",
    "from_contract",
]

_KINDS: dict[str, type[Task[Any]]] = {task.kind: task for task in (Detect, Keywords, Raw)}


def from_contract(contract: Mapping[str, Any]) -> Task[Any]:
    """The task that a contract describes: the key ``kind`` and the fields of that task, nothing else.

    Raises:
        UsageError: an unknown kind or key, or a value of another type or out of its range.
    """
    if not isinstance(contract, Mapping) or "kind" not in contract:
        raise UsageError(f"Task: the key 'kind' is missing.{did_you_mean('', _KINDS)}")
    kind = str(contract["kind"])
    if kind not in _KINDS:
        raise UsageError(f"Task: unknown kind '{kind}'.{did_you_mean(kind, _KINDS)}")
    return from_json(_KINDS[kind], {key: value for key, value in contract.items() if key != "kind"}, f"Task '{kind}'")


def contract_of(task: Task[Any]) -> dict[str, Any]:
    """The contract of a task as plain JSON values; `from_contract` of it gives an equal task."""
    return {"kind": task.kind, **to_json(task)}
