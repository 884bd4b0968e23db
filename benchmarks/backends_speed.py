"""The backends that really run on this machine, side by side: one process, in turn, the same images.

    python -m benchmarks.backends_speed CHECKPOINT --bundles out/backends --data VAL.json

``--bundles`` is the folder that ``benchmarks.backends`` filled. Beside the artifacts: PyTorch eager (channels last, and
not) and ``torch.compile``. A time is that of the session alone, without pre- and postprocessing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.end_to_end import over
from benchmarks.record import Row, Timing, dataset, finish, in_turn, parser, pixels, timed
from edgedeploy.artifact import Artifact
from edgedeploy.golden import Caller
from edgedeploy.model import InputShape, load
from edgedeploy.opening import open_artifact_here
from edgedeploy.tasks import Detect, from_contract
from edgedeploy.tensors import Array

#: Bundles below --bundles that are timed, where they are there.
NAMES = tuple(
    f"{backend}-{precision}" for backend in ("onnxruntime", "openvino", "executorch") for precision in ("fp32", "int8")
)
REFERENCE = "onnxruntime-fp32"


def eager(network: Any, tensors: list[Array], layout: torch.memory_format) -> Callable[[], object]:
    """A call of a PyTorch network over the tensors in turn."""
    images = [torch.from_numpy(tensor).contiguous(memory_format=layout) for tensor in tensors]

    def call(image: torch.Tensor) -> object:
        with torch.inference_mode():
            return network(image)

    return over(images, call)


def networks(checkpoint: Path, size: int, compiled: bool) -> dict[str, tuple[Any, torch.memory_format]]:
    """PyTorch's own ways to run the checkpoint."""
    shape = InputShape(size=(size, size))
    flat = load(checkpoint, shape).graphs["main"].network
    last = load(checkpoint, shape).graphs["main"].network.to(memory_format=torch.channels_last)
    found = {
        "torch eager": (flat, torch.contiguous_format),
        "torch eager, channels last": (last, torch.channels_last),
    }
    if compiled:
        found["torch.compile"] = (torch.compile(flat), torch.contiguous_format)
    return found


def speed(artifacts: dict[str, Artifact], torches: Any, tensors: list[Array], threads: int, duration: float) -> Timing:
    """Everything in turn with so many threads."""
    torch.set_num_threads(threads)
    sessions = {name: open_artifact_here(artifact, threads) for name, artifact in artifacts.items()}
    callers = {name: Caller(session, artifacts[name].signatures["main"]) for name, session in sessions.items()}
    calls = {name: over(tensors, lambda tensor, call=call: call((tensor,))) for name, call in callers.items()}  # type: ignore[misc]
    calls |= {name: eager(network, tensors, layout) for name, (network, layout) in torches.items()}
    timing = in_turn(f"{threads} threads" if threads > 1 else "1 thread", calls, duration)
    for session in sessions.values():
        session.close()
    return timing


def main() -> int:
    """Print the time of every backend over that of ONNX Runtime in fp32."""
    made = timed(parser(__doc__, calibrates=False), 120.0, 8)
    made.add_argument("--bundles", type=Path, required=True, help="folder that benchmarks.backends filled")
    made.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes minutes to start")
    arguments = made.parse_args()
    bundles = {name: next((arguments.bundles / name).glob("*.edge"), None) for name in NAMES}
    artifacts = {name: Artifact.open(path) for name, path in bundles.items() if path is not None}
    if REFERENCE not in artifacts:
        raise SystemExit(f"{arguments.bundles} has no {REFERENCE}; run benchmarks.backends first.")
    task = from_contract(artifacts[REFERENCE].manifest.task or {})
    assert isinstance(task, Detect)
    images = pixels(dataset(arguments.data), arguments.images)
    tensors = [task.prepare(image).tensors[0] for image in images]
    torches = networks(arguments.checkpoint, arguments.size, not arguments.no_compile)
    timings = [speed(artifacts, torches, tensors, threads, arguments.duration) for threads in arguments.threads]
    rows = []
    for timing in timings:
        for name in timing.seconds:
            ratio, low, high = timing.ratio(name, REFERENCE)
            rows.append(Row(f"{name} / {REFERENCE}, {timing.name}", ratio, "", low=low, high=high))
    used = {name: dict(open_artifact_here(artifact).facts) for name, artifact in artifacts.items()}
    digests = {name: artifact.digest for name, artifact in artifacts.items()}
    missing = [f"{name}: no bundle of it" for name in NAMES if name not in artifacts]
    return finish(arguments, rows, timings, digests, {"facts": used}, missing)


if __name__ == "__main__":
    sys.exit(main())
