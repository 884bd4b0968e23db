"""State that is carried from call to call, through every backend that can be run here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("onnxscript")

import torch
from torch import nn

from edgedeploy import device, plugins
from edgedeploy.capture import EagerSession
from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.exporter import Evidence, Request, export
from edgedeploy.model import Graph, Model, Source
from edgedeploy.opening import open_artifact_here
from edgedeploy.runtime import Carrying, Session
from edgedeploy.tensors import Array, Signature, StateSpec, TensorSpec
from edgedeploy.verify import verify

DEVICES = {"coreml": "iphone-15", "tensorrt": "jetson-orin-nano"}
SIGNATURE = Signature(
    inputs=(TensorSpec("frame", "float32", (1, 6)),),
    outputs=(TensorSpec("score", "float32", (1, 2)),),
    state=(StateSpec("memory", "memory_next", "float32", (1, 4)),),
)


class Recurrent(nn.Module):
    """A leaky memory of what was seen, and a score of it."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.keep, self.score = nn.Linear(6, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 2)

    def forward(self, frame: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inner = torch.tanh(self.read(frame) + self.keep(memory))
        return self.score(inner), 0.5 * memory + inner


def model() -> Model:
    torch.manual_seed(3)
    return Model("recurrent", {"main": Graph(Recurrent().eval(), SIGNATURE)}, Source("r:r", "factory", "0" * 64))


def frames(count: int) -> list[Array]:
    generator = np.random.default_rng(0)
    return [generator.standard_normal((1, 6)).astype(np.float32) for _ in range(count)]


def score(session: Session, frame: Array) -> npt.NDArray[np.float64]:
    return session.run({"frame": frame})["score"].astype(np.float64)


def test_pytorch_carries_it() -> None:
    session, network = EagerSession(model()), model().graphs["main"].network
    memory = torch.zeros(1, 4)
    for frame in frames(5):
        with torch.no_grad():
            score, memory = network(torch.from_numpy(frame), memory)
        outputs = session.run({"frame": frame})
        assert set(outputs) == {"score"}
        assert torch.allclose(torch.from_numpy(outputs["score"]), score, atol=1e-6)


@pytest.mark.parametrize("backend", ["coreml", "executorch", "onnxruntime", "openvino", "tensorrt"])
def test_every_backend_carries_it(backend: str, tmp_path: Path) -> None:
    profile = device.load(DEVICES[backend]) if backend in DEVICES else None
    try:
        exporter = plugins.find(plugins.EXPORTERS, backend).for_device(profile, "fp32", {})
        artifact = export(model(), Request(exporter, Evidence(frames(4), "frames"), device=profile), tmp_path)
    except Unavailable as error:
        pytest.skip(str(error))
    reference, session = EagerSession(model()), open_artifact_here(artifact, threads=1)
    within = 5e-3 if backend == "coreml" else 1e-5  # Core ML keeps state in fp16, whatever it computes in
    for turn in range(2):
        for frame in frames(20):
            wanted, got = (score(one, frame) for one in (reference, session))
            np.testing.assert_allclose(got, wanted, atol=within, err_msg=f"turn {turn}")
        for one in (reference, session):
            one.reset()
    if isinstance(session, Carrying):
        goes_on_from_what_was_held(session)
    session.close()
    assert verify(artifact.path).passed


def goes_on_from_what_was_held(session: Carrying) -> None:
    """Whatever ran in between; and what is no state of it changes nothing."""
    inputs = frames(12)
    for frame in inputs[:5]:
        score(session, frame)
    held = session.state()
    assert {name: (array.shape, str(array.dtype)) for name, array in held.items()} == {"memory": ((1, 4), "float32")}
    wanted = [score(session, frame) for frame in inputs[5:]]
    session.restore(held)
    for wrong in ({}, {**held, "more": held["memory"]}, {"memory": held["memory"][0]}, {"memory": np.zeros((1, 4))}):
        with pytest.raises(UsageError, match=r"[Ss]tate"):
            session.restore(wrong)
    np.testing.assert_array_equal([score(session, frame) for frame in inputs[5:]], wanted)


def test_pytorch_goes_on_from_what_was_held() -> None:
    goes_on_from_what_was_held(EagerSession(model()))
