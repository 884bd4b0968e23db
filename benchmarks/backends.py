"""What every backend that runs here makes of one checkpoint: AP against eager PyTorch, file, time of the export.

    python -m benchmarks.backends CHECKPOINT --data VAL.json --calibrate TRAIN.json --bundles out/backends

Every export is a process of its own, by ``edgedeploy export``; bundles in ``--bundles`` that are still true are taken
as they are. AP50-95 is taken on the same images for all, and its difference from the eager FP32 checkpoint (of a model
given as ONNX: that graph in ONNX Runtime) with a paired 90 % interval. Backends that run here in an emulation only
(Core ML's reference interpreter, the rehearsal of TensorRT's typed graph, the Hexagon simulator) are named so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record import CALIBRATION_IMAGES, Row, dataset, finish, parser
from edgedeploy.accuracy import Assessment, assess, paired_difference
from edgedeploy.artifact import Artifact
from edgedeploy.capture import reference_session
from edgedeploy.errors import EdgeDeployError
from edgedeploy.golden import Caller
from edgedeploy.model import InputShape, load
from edgedeploy.opening import described, open_artifact_here
from edgedeploy.tasks import Detect, from_contract
from edgedeploy.tasks.dataset import DetectionSet

#: Backend, precision, device it is exported for (this machine where empty).
CASES = (
    ("onnxruntime", "fp32", ""),
    ("onnxruntime", "fp16", ""),
    ("onnxruntime", "int8", ""),
    ("openvino", "fp32", ""),
    ("openvino", "fp16", ""),
    ("openvino", "int8", ""),
    ("executorch", "fp32", ""),
    ("executorch", "fp16", ""),
    ("executorch", "int8", ""),
    ("coreml", "fp32", "iphone-15"),
    ("coreml", "fp16", "iphone-15"),
    ("coreml", "int8", "iphone-15"),
    ("tensorrt", "fp32", "jetson-orin-nano"),
    ("tensorrt", "fp16", "jetson-orin-nano"),
    ("tensorrt", "int8", "jetson-orin-nano"),
    ("qnn", "fp16", "galaxy-s24"),
    ("qnn", "int8", "galaxy-s24"),
)
#: What a precision may lose, or in fp32 differ, of AP50-95.
LIMITS = {"fp32": 0.001, "fp16": 0.002, "int8": 0.015}


@dataclass(frozen=True)
class Case:
    """One export: where it lies, and how long it took when it was made."""

    name: str
    precision: str
    artifact: Artifact
    seconds: float


def export(checkpoint: Path, case: tuple[str, str, str], words: Sequence[str], folder: Path) -> Case | str:
    """The bundle of one case, or what ``edgedeploy export`` said instead."""
    backend, precision, device = case
    target = folder / f"{backend}-{precision}"
    command = [sys.executable, "-m", "edgedeploy", "export", str(checkpoint), "--backend", backend, *words]
    command += ["--precision", precision, "--output", str(target), "--json", *(("--device", device) if device else ())]
    print(f"exporting {target.name}", file=sys.stderr, flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no word"])[-1]
    artifact = Artifact.open(json.loads(done.stdout)["path"])
    return Case(target.name, precision, artifact, artifact.manifest.seconds)


def judged(case: Case, task: Detect, data: DetectionSet) -> tuple[Assessment, str]:
    """The accuracy of an artifact, and who computed."""
    session = open_artifact_here(case.artifact)
    by = f"{described(session)}, {session.facts.get('computes_in', '')}"
    print(f"{case.name}: AP on {len(data)} images, {by}", file=sys.stderr, flush=True)
    result = assess(task, Caller(session, case.artifact.signatures["main"]), data, case.artifact.digest)
    session.close()
    return result, by


def main() -> int:
    """Print a row per backend and precision."""
    made = parser(__doc__)
    made.add_argument("--bundles", type=Path, required=True, help="folder for the bundles")
    made.add_argument("--backends", nargs="+", default=[], help="only these")
    made.add_argument("--precisions", nargs="+", default=[], help="only these")
    made.add_argument("--limit", type=int, help="use the first so many images only")
    made.add_argument("--head", help="layout of the output, for an .onnx that does not say")
    made.add_argument("--option", action="append", default=[], help="of edgedeploy export, for every backend")
    arguments = made.parse_args()
    data = dataset(arguments.data)
    data = data if arguments.limit is None else data.subset(range(min(arguments.limit, len(data))))
    words = ["--calibrate", str(arguments.calibrate), "--calibration-images", str(CALIBRATION_IMAGES)]
    words += ["--imgsz", str(arguments.size), *(("--head", arguments.head) if arguments.head else ())]
    words += [part for option in arguments.option for part in ("--option", option)]
    wanted = [
        case
        for case in CASES
        if (not arguments.backends or case[0] in arguments.backends)
        and (not arguments.precisions or case[1] in arguments.precisions)
    ]
    cases = {f"{case[0]}-{case[1]}": export(arguments.checkpoint, case, words, arguments.bundles) for case in wanted}
    whole = [case for case in cases.values() if isinstance(case, Case)]
    if not whole:
        raise SystemExit("\n".join(f"{name}: {case}" for name, case in cases.items()))
    task = from_contract(whole[0].artifact.manifest.task or {})
    assert isinstance(task, Detect)
    reference = _reference(arguments.checkpoint, arguments.size, task, data)
    rows = [Row("AP50-95, reference", reference.accuracy.metric.ap50_95 or 0.0, "AP")]
    by, failed = {}, {name: case for name, case in cases.items() if isinstance(case, str)}
    for case in whole:
        try:
            side, by[case.name] = judged(case, task, data)
        except EdgeDeployError as error:
            failed[case.name] = str(error)
            continue
        found = paired_difference(reference.matches, side.matches).ap50_95
        limit = LIMITS[case.precision]
        rows += [
            Row(f"{case.name} - reference", found.estimate, "AP", "at least", -limit, found.low, found.high),
            Row("  export", case.seconds, "s"),
            Row("  file", float(case.artifact.model_size), "B"),
        ]
    decisions = {case.name: case.artifact.manifest.exporter.decisions for case in whole}
    details = {"run by": by, "images": len(data), "failed": failed, "decisions": decisions}
    digests = {case.name: case.artifact.digest for case in whole}
    return finish(arguments, rows, (), digests, details, [f"{name}: {said}" for name, said in failed.items()])


def _reference(checkpoint: Path, size: int, task: Detect, data: DetectionSet) -> Assessment:
    model = load(checkpoint, InputShape(size=(size, size)))
    call = Caller(reference_session(model), model.graphs["main"].signature)
    print(f"reference: AP on {len(data)} images", file=sys.stderr, flush=True)
    return assess(task, call, data, model.source.sha256)


if __name__ == "__main__":
    sys.exit(main())
