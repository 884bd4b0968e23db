"""LMUFormer frame by frame, in both versions, through every backend that can be run here, against PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("onnxscript")

import torch

from edgedeploy import device, plugins
from edgedeploy.capture import EagerSession, to_onnx
from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.exporter import Evidence, Request, export
from edgedeploy.model import Graph, Model, Source
from edgedeploy.models.lmuformer import LMUFormer
from edgedeploy.models.lmuformer_step import Step
from edgedeploy.opening import open_artifact_here
from edgedeploy.runtime import Carrying, Session
from edgedeploy.tensors import Array, Signature, StateSpec, TensorSpec

DEVICES = {"coreml": "iphone-15", "tensorrt": "jetson-orin-nano"}
#: The versions that each backend is given: both take their converters long, benchmarks/streaming_drift.py has the rest.
PLAIN, SPIKING = "stream", "spiking"
VERSIONS = {
    "coreml": (SPIKING,),
    "executorch": (PLAIN,),
    "onnxruntime": (PLAIN, SPIKING),
    "openvino": (PLAIN, SPIKING),
    "tensorrt": (PLAIN, SPIKING),
}
FROM_ONNX = ("onnxruntime", "openvino", "tensorrt")
BINS, STEPS, LOOKAHEAD = 8, 300, 5
#: What an exported stream may differ from PyTorch's by, in logits.
NEAR = 1e-4


def step(spiking: bool) -> Step:
    """With weights, and statistics that normalisation has seen, from a seed."""
    torch.manual_seed(5)
    made = LMUFormer(4, bins=BINS, dim=8, memory=8, theta=12, spiking=spiking)
    for layer in made.modules():
        if isinstance(layer, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(layer.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            torch.nn.init.uniform_(layer.running_var, 0.1, 0.6)  # type: ignore[arg-type]
            torch.nn.init.uniform_(layer.bias, -0.2, 0.4)
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    return Step(made.eval().requires_grad_(False)).eval()


@pytest.fixture(scope="module")
def model() -> Model:
    """Both versions of a stream in one model, whose state has names of its own, and something for `main`."""
    row = Signature((TensorSpec("row", "float32", (1, BINS)),), (TensorSpec("sums", "float32", (1, 4)),))
    graphs = {"main": Graph(torch.nn.Linear(BINS, 4).eval(), row)}
    for name in (PLAIN, SPIKING):
        network = step(name == SPIKING)
        state = tuple(
            StateSpec(f"{name}_{s.input}", f"{name}_{s.output}", s.dtype, s.shape) for s in network.signature.state
        )
        graphs[name] = Graph(network, dataclasses.replace(network.signature, state=state))
    return Model("keywords", graphs, Source("k:k", "factory", "0" * 64))


@pytest.fixture(scope="module")
def in_onnx(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The same, captured once for the backends that start from ONNX."""
    folder = tmp_path_factory.mktemp("onnx")
    for name, graph in model.graphs.items():
        to_onnx(graph, folder / f"{name}.onnx", 18)
    graphs = {name: dataclasses.replace(g, network=folder / f"{name}.onnx") for name, g in model.graphs.items()}
    return dataclasses.replace(model, graphs=graphs)


def steps(count: int, seed: int) -> Iterator[Mapping[str, Array]]:
    """Frames, then the steps that follow the last one."""
    generator = np.random.default_rng(seed)
    for i in range(count):
        ended = np.full((1, 1), float(i >= count - LOOKAHEAD), np.float32)
        yield {"frame": generator.standard_normal((1, BINS)).astype(np.float32), "end": ended}


def heard(session: Session, graph: str, count: int, seed: int = 0) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Logits (count, classes) and frames heard (count, 1) of a stream from its start."""
    session.reset()
    found = [session.run(one, graph) for one in steps(count, seed)]
    logits, frames = (np.concatenate([outputs[name] for outputs in found]) for name in ("logits", "heard"))
    return logits, frames


@pytest.mark.parametrize("backend", VERSIONS)
def test_a_stream_is_what_pytorch_makes_of_it(
    backend: str, model: Model, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    profile = device.load(DEVICES[backend]) if backend in DEVICES else None
    whole: Model = request.getfixturevalue("in_onnx") if backend in FROM_ONNX else model
    graphs = {name: graph for name, graph in whole.graphs.items() if name in ("main", *VERSIONS[backend])}
    try:
        exporter = plugins.find(plugins.EXPORTERS, backend).for_device(profile, "fp32", {})
        evidence = Evidence([np.ones((1, BINS), np.float32)], "a row")
        artifact = export(
            dataclasses.replace(whole, graphs=graphs), Request(exporter, evidence, device=profile), tmp_path
        )
    except Unavailable as error:
        pytest.skip(str(error))
    reference, session = EagerSession(model), open_artifact_here(artifact, threads=1)
    for graph in VERSIONS[backend]:
        (wanted, frames), (got, counted) = (heard(one, graph, STEPS) for one in (reference, session))
        np.testing.assert_array_equal(counted, frames)
        assert frames[-1] == STEPS - LOOKAHEAD
        apart = np.abs(got - wanted).max(axis=1)
        # A membrane within rounding of its threshold may fire in one and not in the other: seldom, or it is a mistake.
        assert np.mean(apart > NEAR) <= (0.02 if graph == SPIKING else 0), f"{graph}: {apart.max()}"
        assert np.ptp(wanted[LOOKAHEAD:], axis=0).max() > 100 * NEAR  # else it would say nothing
        again, _ = heard(session, graph, 20)
        np.testing.assert_array_equal(again[:15], got[:15], err_msg="after a reset")
    assert isinstance(session, Carrying)
    _goes_on(session, VERSIONS[backend][0])
    session.close()


def _goes_on(session: Carrying, graph: str) -> None:
    """From a saved state, as if nothing had been between."""
    inputs = list(steps(30, seed=3))
    session.reset()
    for one in inputs[:12]:
        session.run(one, graph)
    saved = session.state()
    wanted = [session.run(one, graph)["logits"] for one in inputs[12:]]
    session.reset()
    session.restore(saved)
    got = [session.run(one, graph)["logits"] for one in inputs[12:]]
    np.testing.assert_array_equal(np.concatenate(got), np.concatenate(wanted))
    with pytest.raises(UsageError, match="not the state of this model"):
        session.restore({})
