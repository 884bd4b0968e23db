"""Engines for GPUs that are not here: what TensorRT for RTX makes of one detector in fp32, fp16 and int8.

    python -m benchmarks.tensorrt_rtx CHECKPOINT --calibrate data.yaml

For each precision one build bundle is exported, as for a PC with an NVIDIA GPU, and engines are built from its graph
for each compute capability, without a GPU. What TensorRT said of each is in the result file. Nothing of this
is a speed: no engine ran. The agreement is that of the typed graph, which the engines are built from, in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.record import CALIBRATION_IMAGES, Row, finish
from edgedeploy import plugins
from edgedeploy.artifact import Artifact
from edgedeploy.device import load
from edgedeploy.exporter import Request
from edgedeploy.model import InputShape
from edgedeploy.pipeline import evidence_from, export_checkpoint, read_calibration_set

PRECISIONS = ("fp32", "fp16", "int8")


def bundle(arguments: argparse.Namespace, precision: str, folder: Path) -> Artifact:
    """The build bundle of the checkpoint, with an engine for each compute capability."""
    device = load("x86-server")
    options = {"flavour": "rtx", "aot": arguments.aot}
    exporter = plugins.find(plugins.EXPORTERS, "tensorrt").for_device(device, precision, options)
    evidence = evidence_from(read_calibration_set(arguments.calibrate, None), arguments.images)
    request = Request(exporter, evidence, InputShape(size=(arguments.size, arguments.size)), device)
    return export_checkpoint(str(arguments.checkpoint), request, folder / precision, _say).artifact


def rows(precision: str, artifact: Artifact, seconds: float) -> list[Row]:
    """Sizes, time and agreement of one bundle."""
    decided = artifact.manifest.exporter.decisions["main"]
    golden = artifact.manifest.golden
    return [
        Row(f"{precision}: export and builds", seconds, "s"),
        Row(f"{precision}: graph", artifact.files["main"].stat().st_size, "B"),
        *(Row(f"{precision}: engine for sm {one['sm']}", one["bytes"], "B") for one in decided["engines"]),
        Row(f"{precision}: worst channel", min(a.worst_snr for g in golden for a in g.agreement), "dB"),
        Row(f"{precision}: results move by", max(g.distance or 0.0 for g in golden)),
    ]


def logs(artifact: Artifact) -> Mapping[str, list[str]]:
    """What TensorRT said, by file."""
    files = sorted(artifact.files["main"].parent.glob("*.build.log"))
    return {file.name: file.read_text("utf-8").splitlines() for file in files}


def main() -> int:
    """Print the sizes, and keep them with the logs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="of a detector")
    parser.add_argument("--calibrate", type=Path, required=True, help="data.yaml or COCO json of images")
    parser.add_argument("--size", type=int, default=640, help="height and width of the input (640)")
    parser.add_argument("--images", type=int, default=CALIBRATION_IMAGES, help="to calibrate on, at most")
    parser.add_argument("--aot", default="86,89,120", help="compute capabilities times ten (86,89,120)")
    parser.add_argument("--json", type=Path, help="where the result goes (benchmarks/results/tensorrt_rtx.json)")
    arguments = parser.parse_args()
    found: list[Row] = []
    details: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in PRECISIONS:
            start = time.perf_counter()
            artifact = bundle(arguments, precision, Path(folder))
            found += rows(precision, artifact, time.perf_counter() - start)
            manifest = artifact.manifest
            details[precision] = {
                "decisions": manifest.exporter.decisions["main"],
                "notes": list(manifest.notes),
                "checked_by": manifest.golden_by,
                "logs": logs(artifact),
            }
    return finish(
        arguments,
        found,
        details=details,
        open_questions=["whether the engines run, how fast, and what they compute: that needs the GPUs"],
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
