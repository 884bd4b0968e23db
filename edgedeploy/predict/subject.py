"""What is predicted: the graph of a bundle, or an ONNX file, with what it was exported for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgedeploy.archive import open_artifact
from edgedeploy.cost import GraphCost, graph_cost
from edgedeploy.errors import Unavailable


@dataclass(frozen=True)
class Subject:
    """A graph, the runtime that it is for and the precision it was exported in; ``digest`` tells it from others."""

    name: str
    runtime: str
    precision: str
    cost: GraphCost
    digest: str | None = None

    @classmethod
    def of(cls, path: Path) -> Subject:
        """Of a bundle's graph "main" with batch 1, or of an ``.onnx`` file, which is taken as fp32 for ONNX Runtime.

        Raises:
            UsageError, Untrusted, Incompatible: see `open_artifact` and `graph_cost`.
            Unavailable: the bundle holds neither an ONNX graph nor one of OpenVINO.
        """
        if path.suffix.lower() == ".onnx":
            return cls(path.stem, "onnxruntime", "fp32", graph_cost(path))
        artifact = open_artifact(path)
        exporter = artifact.manifest.exporter
        file = artifact.files["main"]
        if file.suffix.lower() not in (".onnx", ".xml"):
            raise Unavailable(
                f"{path} holds a {file.suffix or 'package'} of {exporter.runtime}, in which nothing can be counted. "
                "Predict the same model exported for ONNX Runtime, or give the .onnx."
            )
        shapes = {
            s.name: tuple(1 if isinstance(d, str) else d for d in s.shape) for s in artifact.signatures["main"].inputs
        }
        sized = all(isinstance(d, int) for s in artifact.signatures["main"].inputs for d in s.shape[1:])
        cost = graph_cost(file, shapes if sized else None)
        return cls(artifact.manifest.name, exporter.runtime, exporter.precision, cost, artifact.digest)
