"""Names to implementations, by entry point: the only way that the core reaches an exporter, runtime or loader.

A third party's plug-in declares the same entry points as ours, in its own distribution:

- ``edgedeploy.exporters``: an `edgedeploy.exporter.Exporter` class,
- ``edgedeploy.runtimes``: an `edgedeploy.runtime.Runtime` class,
- ``edgedeploy.checkpoints``: a function from a path to a `edgedeploy.model.Model`, by name of the file format.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from edgedeploy.errors import EdgeDeployError, Unavailable, UsageError, did_you_mean

EXPORTERS = "edgedeploy.exporters"
RUNTIMES = "edgedeploy.runtimes"
CHECKPOINTS = "edgedeploy.checkpoints"


def names(group: str) -> list[str]:
    """What is registered under ``group``, sorted; says nothing about whether it can be loaded."""
    return sorted({point.name for point in entry_points(group=group)})


def find(group: str, name: str) -> Any:
    """The object registered as ``name``.

    Raises:
        UsageError: no such name.
        Unavailable: it is registered, and its import fails.
    """
    points: list[EntryPoint] = [p for p in entry_points(group=group) if p.name == name]
    if not points:
        kind = group.rpartition(".")[2].removesuffix("s")
        raise UsageError(f"There is no {kind} '{name}'.{did_you_mean(name, names(group))}")
    try:
        return points[0].load()
    except EdgeDeployError:
        raise
    except ImportError as error:
        raise Unavailable(
            f"'{name}' cannot be loaded here: {error}. Install it with: pip install 'edgedeploy[{name}]'"
        ) from error
