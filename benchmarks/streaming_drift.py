"""How far an exported stream drifts from PyTorch's over ten thousand frames, on every backend that can be run here.

    python -m benchmarks.streaming_drift [--frames 10000] [--spiking] [--data CLIPS] [--model CHECKPOINT] [--json]

For each backend and precision: the largest difference of the logits, over all frames, from PyTorch's step in FP32 and
from the parallel pass in FP32 over the whole stream (its prefixes), after how many frames it came, and how many steps
were further off than 1e-4. Without a checkpoint the network is LMUFormer in full size with weights from a seed and the
statistics of normalisation that the sound itself gives. Sound is clips strung together, or synthetic.

In the spiking form a membrane within rounding of its threshold fires in one and not in the other, which is a jump and
no drift: the first row, PyTorch's step against its own parallel pass, shows what is to be expected of that.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgedeploy import device, plugins
from edgedeploy.capture import EagerSession
from edgedeploy.errors import EdgeDeployError
from edgedeploy.exporter import Evidence, Request, export
from edgedeploy.model import InputShape, Model, Source, load
from edgedeploy.models import native
from edgedeploy.models.keyword_graphs import graphs
from edgedeploy.models.lmuformer import LMUFormer
from edgedeploy.opening import open_artifact_here
from edgedeploy.runtime import Session
from edgedeploy.tasks import STREAM, Keywords, contract_of, from_contract
from edgedeploy.tasks.babble import babble
from edgedeploy.tasks.clips import load_clips
from edgedeploy.tasks.speech_files import read_clips

#: Backends that can be run here, and a device to export for where one is needed.
BACKENDS: Mapping[str, str] = {
    "onnxruntime": "",
    "openvino": "",
    "tensorrt": "jetson-orin-nano",
    "executorch": "",
    "coreml": "iphone-15",
}
PRECISIONS = ("fp32", "fp16", "int8-weights")
NEAR = 1e-4
CLASSES, CLIPS = 35, 4
HEADER = "backend      precision      from step from parallel      at at the end   > 1e-4"
Logits = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Drift:
    """Of one artifact: largest differences from the step and from the parallel pass, and after how many frames.

    ``far`` counts the steps further than `NEAR` from the step; ``said`` is why nothing could be measured.
    """

    backend: str
    precision: str
    from_step: float = 0.0
    from_parallel: float = 0.0
    at: int = 0
    far: int = 0
    last: float = 0.0
    said: str = ""

    @classmethod
    def of(cls, backend: str, precision: str, got: Logits, step: Logits, parallel: Logits) -> Drift:
        """From logits (frames, classes) each."""
        apart = np.abs(got - step).max(axis=1)
        return cls(
            backend=backend,
            precision=precision,
            from_step=float(apart.max()),  # no number where one of them is none
            from_parallel=float(np.abs(got - parallel).max()),
            at=int(apart.argmax()) + 1,
            far=int((~(apart <= NEAR)).sum()),
            last=float(apart[-1]),
        )

    def row(self) -> str:
        """For the table."""
        if self.said:
            return f"{self.backend:12} {self.precision:13} {self.said}"
        return (
            f"{self.backend:12} {self.precision:13} {self.from_step:10.1e} {self.from_parallel:13.1e} {self.at:7d} "
            f"{self.last:10.1e} {self.far:8d}"
        )


def sound(task: Keywords, frames: int, data: Path | None) -> npt.NDArray[np.float32]:
    """A recording with so many frames: clips one after the other, again and again if need be, or synthetic."""
    features = task.features
    samples = features.samples(frames)
    if data is None:
        return babble(0, samples / features.sample_rate, features.sample_rate)
    clips = load_clips(read_clips(data, "test"), features.sample_rate, resample=True)
    pieces: list[npt.NDArray[np.float32]] = []
    while sum(map(len, pieces)) < samples:
        pieces.append(np.asarray(clips[len(pieces) % len(clips)], np.float32))
    return np.concatenate(pieces)[:samples]


def seeded(spiking: bool, features: torch.Tensor) -> LMUFormer:
    """A network of full size; its normalisation has seen ``features`` (1, frames, bins)."""
    torch.manual_seed(0)
    network = LMUFormer(CLASSES, bins=features.shape[2], spiking=spiking)
    norms = [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm1d)]
    for norm in norms:
        torch.nn.init.normal_(norm.bias, std=0.3)
        norm.momentum = None  # the mean of all that was seen
    with torch.no_grad():
        network.train()(features[:, :1024])
    torch.nn.init.normal_(network.head.weight, std=network.dim**-0.5)
    return network.eval().requires_grad_(False)


def streamed(session: Session, frames: npt.NDArray[np.float32], lookahead: int) -> Logits:
    """Logits (frames, classes) after each frame has been heard; the look-ahead of the last ones is their flush."""
    session.reset()
    found = []
    for i in range(len(frames) + lookahead):
        frame = frames[min(i, len(frames) - 1)][None]
        end = np.full((1, 1), float(i >= len(frames)), np.float32)
        outputs = session.run({"frame": frame, "end": end}, STREAM)
        if i >= lookahead:
            assert int(outputs["heard"][0, 0]) == i + 1 - lookahead, f"{outputs['heard']} frames heard at step {i + 1}"
            found.append(outputs["logits"])
    return np.concatenate(found).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """What every backend is given: the model, clips to check it on, the stream, and what PyTorch makes of that."""

    task: Keywords
    model: Model
    clips: list[Any]
    frames: npt.NDArray[np.float32]
    step: Logits
    parallel: Logits

    def measure(self, backend: str, precision: str) -> Drift:
        """One artifact, exported and run over the whole stream."""
        profile = device.load(BACKENDS[backend]) if BACKENDS[backend] else None
        with tempfile.TemporaryDirectory(prefix="edgedeploy-drift-") as folder:
            try:
                exporter = plugins.find(plugins.EXPORTERS, backend).for_device(profile, precision, {})
                request = Request(exporter, Evidence(self.clips, "clips"), InputShape(streaming=True), profile)
                artifact = export(self.model, request, Path(folder))
                session = open_artifact_here(artifact, threads=1)
                got = streamed(session, self.frames, self.task.lookahead)
                session.close()
            except EdgeDeployError as error:
                return Drift(backend, precision, said=str(error))
        return Drift.of(backend, precision, got, self.step, self.parallel)


def main() -> int:
    """Print the table; 1 where a stream in fp32 that does not spike is further off than `NEAR`, or there is none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--spiking", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--backends", nargs="*", default=list(BACKENDS), choices=list(BACKENDS))
    parser.add_argument("--precisions", nargs="*", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    case, spiking = given(arguments)
    found = [Drift.of("PyTorch", "fp32 step", case.step, case.step, case.parallel)]
    for backend, precision in ((b, p) for b in arguments.backends for p in arguments.precisions):
        found.append(case.measure(backend, precision))
        print(found[-1].row(), file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(one) for one in found], indent=2))
    else:
        low, high = case.step.min(), case.step.max()
        print(f"{len(case.frames)} frames, {'spiking' if spiking else 'plain'}; logits from {low:.2f} to {high:.2f}")
        print(HEADER)
        print("\n".join(one.row() for one in found))
    wrong = [one for one in found if one.precision == "fp32" and (one.said or not one.from_step <= NEAR)]
    return int(bool(wrong) and not spiking)


def given(arguments: argparse.Namespace) -> tuple[Case, bool]:
    """What is to be measured, and whether it spikes."""
    shape = InputShape(streaming=True)
    if arguments.model is not None:
        model = load(arguments.model, shape)
        task = from_contract(model.task or {})
        assert isinstance(task, Keywords)
        _, network, _ = native.read(arguments.model)  # that of the graph remembers no longer than a clip
    else:
        # The graph for whole clips is not what is measured: neurons make it as long as it has frames.
        task = Keywords(labels=tuple(f"word {i}" for i in range(CLASSES)), frames=16)
        heard = task.features.extract(sound(task, 1024, arguments.data))
        network = seeded(arguments.spiking, torch.from_numpy(task.features.normalise(heard))[None])
        source = Source("benchmarks.streaming_drift:seeded", "factory", "0" * 64)
        model = Model("lmuformer", graphs(network, task, shape), source, contract_of(task))
    network.memory_form = "fft"
    recording = sound(task, arguments.frames, arguments.data)
    frames = task.features.normalise(task.features.extract(recording))
    step = streamed(EagerSession(model), frames, task.lookahead)
    with torch.inference_mode():
        parallel = network.prefixes(torch.from_numpy(frames)[None])[0].numpy()
    second = task.features.sample_rate
    clips = np.split(sound(task, 100 * (CLIPS + 1), arguments.data)[: CLIPS * second], CLIPS)
    return Case(task, model, clips, frames, step, parallel), network.spiking


if __name__ == "__main__":
    sys.exit(main())
