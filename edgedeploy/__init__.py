"""A trained model in; an artifact for a named device out, with measured latency, memory and accuracy.

The public names are imported when they are first used, so that ``import edgedeploy`` costs nothing. Functions that
share the name of their module stay there: `edgedeploy.verify.verify`, `edgedeploy.comparison.compare`,
`edgedeploy.bench.run.bench`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgedeploy.accuracy import equivalence, paired_difference
    from edgedeploy.archive import open_artifact, pack, unpack
    from edgedeploy.artifact import Artifact
    from edgedeploy.bench.doubts import doubts
    from edgedeploy.bench.measurement import Measurement
    from edgedeploy.bench.run import BenchOptions
    from edgedeploy.comparison import Comparison
    from edgedeploy.device import Device, unmet
    from edgedeploy.errors import EdgeDeployError
    from edgedeploy.exporter import Evidence, Exporter, Request, export
    from edgedeploy.model import Graph, InputShape, Model, Source, load
    from edgedeploy.runtime import Runtime, Session
    from edgedeploy.stream import Stream, open_stream
    from edgedeploy.tensors import Signature, StateSpec, TensorSpec
    from edgedeploy.verdict import Budget, Verdict, judge
    from edgedeploy.verify import Verification

_HOMES = {
    "accuracy": ("equivalence", "paired_difference"),
    "archive": ("open_artifact", "pack", "unpack"),
    "artifact": ("Artifact",),
    "bench.doubts": ("doubts",),
    "bench.measurement": ("Measurement",),
    "bench.run": ("BenchOptions",),
    "comparison": ("Comparison",),
    "device": ("Device", "unmet"),
    "errors": ("EdgeDeployError",),
    "exporter": ("Evidence", "Exporter", "Request", "export"),
    "model": ("Graph", "InputShape", "Model", "Source", "load"),
    "runtime": ("Runtime", "Session"),
    "stream": ("Stream", "open_stream"),
    "tensors": ("Signature", "StateSpec", "TensorSpec"),
    "verdict": ("Budget", "Verdict", "judge"),
    "verify": ("Verification",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022  - in the order of the work
    "load",
    "Model",
    "Graph",
    "Source",
    "InputShape",
    "TensorSpec",
    "StateSpec",
    "Signature",
    "export",
    "Exporter",
    "Request",
    "Evidence",
    "Artifact",
    "open_artifact",
    "pack",
    "unpack",
    "Verification",
    "Device",
    "unmet",
    "Runtime",
    "Session",
    "Stream",
    "open_stream",
    "BenchOptions",
    "Measurement",
    "doubts",
    "Comparison",
    "paired_difference",
    "equivalence",
    "judge",
    "Budget",
    "Verdict",
    "EdgeDeployError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edgedeploy' has no attribute '{name}'")
    return getattr(import_module(f"edgedeploy.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
