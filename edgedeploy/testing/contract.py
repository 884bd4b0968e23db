"""What every backend keeps, as checks that a plug-in runs on itself, with pytest or without.

::

    @pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
    def test_contract(check, tmp_path):
        check(contract.made("mybackend", "int8", tmp_path))

A check raises AssertionError, or lets pass an exception that a backend must not let out. `made` exports a small network
that every backend can express. Needs torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedeploy import plugins
from edgedeploy.artifact import Artifact, CalibrationRecord
from edgedeploy.device import Device, this_machine, unmet
from edgedeploy.errors import EdgeDeployError, UsageError
from edgedeploy.exporter import Evidence, Exporter, Request, export
from edgedeploy.golden import first_row
from edgedeploy.model import Graph, Model, Source
from edgedeploy.opening import open_artifact_here
from edgedeploy.runtime import Session, inputs_of
from edgedeploy.tasks.raw import Raw
from edgedeploy.tensors import Array, Signature, TensorSpec
from edgedeploy.verify import verify

#: What the network takes and gives: an image, a row of scores.
SIGNATURE = Signature(
    inputs=(TensorSpec("image", "float32", (1, 3, 32, 32)),), outputs=(TensorSpec("scores", "float32", (1, 5)),)
)
#: Facts that every session states.
FACTS = ("runtime", "version", "threads", "computes_in")
#: Samples to calibrate on, and how far (0 to 1) results may move in each precision.
SAMPLES = 8
FURTHEST = {"fp32": 1e-3, "fp16": 0.03, "bf16": 0.1, "int8-weights": 0.1, "int8": 0.3, "fp8": 0.3}


@dataclass(frozen=True)
class Made:
    """An artifact of the small network, the request that it was made from, and a folder to work in."""

    artifact: Artifact
    request: Request
    model: Model
    folder: Path

    def open(self) -> Session:
        """A session on this machine: the backend's own, or its rehearsal."""
        return open_artifact_here(self.artifact, threads=1)


def model() -> Model:
    """Two convolutions with a branch, pooling and a linear layer, with weights from a seed."""
    import torch
    from torch import nn

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.SiLU())
            self.block = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
            self.head = nn.Linear(16, 5)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            inner = self.stem(image)
            inner = inner + self.block(inner)
            scores: torch.Tensor = self.head(inner.mean((2, 3))).softmax(1)
            return scores

    state = torch.get_rng_state()
    torch.manual_seed(0)
    network = Small().eval()
    torch.set_rng_state(state)
    return Model("small", {"main": Graph(network, SIGNATURE)}, Source("contract:small", "factory", "0" * 64))


def samples(count: int = SAMPLES) -> list[Array]:
    """Smooth pictures of two waves, each of another frequency and colour."""
    rows, columns = np.mgrid[0:32, 0:32] / 32
    pictures = []
    for i in range(count):
        wave = 0.5 + 0.5 * np.sin(2 * np.pi * ((1 + i % 3) * rows + (1 + i % 2) * columns) + i)
        colours = np.array([0.3 + 0.1 * (i % 7), 0.9 - 0.1 * (i % 5), 0.5])
        pictures.append((wave[None, None] * colours[None, :, None, None]).astype(np.float32))
    return pictures


def made(backend: str, precision: str, folder: Path, device: Device | None = None, **options: Any) -> Made:
    """The small network, exported.

    Raises:
        Unavailable: the backend is not installed.
    """
    exporter = plugins.find(plugins.EXPORTERS, backend).for_device(device, precision, options)
    record = CalibrationRecord("waves", SAMPLES, "0" * 64)
    request = Request(exporter, Evidence(samples(), "waves", record), device=device)
    small = model()
    return Made(export(small, request, folder), request, small, folder)


def it_says_what_it_is(one: Made) -> None:
    """The manifest names exporter, runtime, precision, requirements that can be judged, and who computed."""
    manifest, exporter = one.artifact.manifest, one.request.exporter
    assert manifest.exporter.name == exporter.name
    assert manifest.exporter.runtime == exporter.runtime
    assert manifest.exporter.precision == exporter.precision
    assert manifest.requires, "an artifact needs at least its runtime"
    unmet(manifest.requires, this_machine())
    assert manifest.golden_by
    assert one.artifact.model_size > 0


def it_computes_what_the_model_computes(one: Made) -> None:
    """Results on the golden samples are as near to FP32 as the precision allows."""
    for golden in one.artifact.manifest.golden:
        moved = golden.distance
        assert moved is not None, f"nothing here ran it: {one.artifact.manifest.golden_by}"
        assert moved <= FURTHEST[one.request.exporter.precision], f"results moved by {moved}"


def it_verifies(one: Made) -> None:
    """`edgedeploy.verify.verify` passes on the machine that exported."""
    verification = verify(one.artifact.path)
    wrong = [rung for rung in verification.rungs if not rung.passed and rung.name != "requires"]
    assert not wrong, wrong


def its_session_states_facts(one: Made) -> None:
    """Runtime, version, threads and the precision really used are stated."""
    session = one.open()
    missing = [name for name in FACTS if name not in session.facts]
    session.close()
    assert not missing, f"the session's facts lack {missing}"


def it_gives_the_same_twice(one: Made) -> None:
    """Two runs, and one after a reset, give the same numbers; outputs have the shapes and types of the signature."""
    session = one.open()
    first = _run(session, samples()[0])
    second = _run(session, samples()[0])
    session.reset()
    third = _run(session, samples()[0])
    other = _run(session, samples()[1])
    session.close()
    for spec, values in zip(SIGNATURE.outputs, (first,), strict=True):
        assert values.shape == spec.shape
        assert values.dtype == np.dtype(spec.dtype)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)
    assert not np.array_equal(first, other)


def it_refuses_wrong_inputs(one: Made) -> None:
    """Missing, unknown, of another type or shape: a `UsageError`, and the session still works."""
    session = one.open()
    right = samples()[0]
    wrong: list[dict[str, Array]] = [
        {},
        {"picture": right},
        {"image": right, "picture": right},
        {"image": right.astype(np.float64)},
        {"image": right[:, :, :16]},
        {"image": right[0]},
    ]
    for inputs in wrong:
        try:
            session.run(inputs)
        except UsageError:
            continue
        raise AssertionError(f"it took { {name: (a.dtype, a.shape) for name, a in inputs.items()} }")
    assert np.isfinite(_run(session, right)).all()
    session.close()


def it_refuses_options_that_it_does_not_have(one: Made) -> None:
    """An unknown option or precision, and a module to keep that is not there: a `UsageError`."""
    kind, precision = type(one.request.exporter), one.request.exporter.precision
    for wrong, options in (("fp7", {}), (precision, {"no_such_option": 1})):
        try:
            kind.for_device(one.request.device, wrong, options)
        except UsageError:
            continue
        raise AssertionError(f"it took {wrong} {options}")
    if precision == "fp32":
        return
    try:
        exporter: Exporter = kind.for_device(one.request.device, precision, {"keep_float": ("no.such.module",)})
        export(one.model, Request(exporter, one.request.evidence, device=one.request.device), one.folder / "wrong")
    except UsageError:
        assert not list((one.folder / "wrong").glob("*")), "something half-written was left"
        return
    raise AssertionError("it kept a module that is not there")


def it_refuses_damaged_files(one: Made) -> None:
    """Files cut in half or overwritten are an `EdgeDeployError` when opened, never a vendor's exception or a crash."""
    for damage in (_halved, _garbled):
        copy = one.folder / damage.__name__
        shutil.copytree(one.artifact.path, copy)
        for member in one.artifact.members("main"):
            damage(copy / member)
        files = {name: copy / record.file for name, record in one.artifact.manifest.graphs.items()}
        runtime = one.artifact.manifest.exporter.runtime
        if open_artifact_here(one.artifact).facts.get("reason"):
            runtime = str(one.artifact.manifest.exporter.rehearsal)
        try:
            session = plugins.find(plugins.RUNTIMES, runtime)().open(files, one.artifact.signatures)
            _run(session, samples()[0])
        except EdgeDeployError:
            continue
        raise AssertionError(f"it opened files that were {damage.__name__.removeprefix('_')}")


def it_keeps_modules_in_float_on_request(one: Made) -> None:
    """In a lower precision, ``keep_float`` is refused, or names modules that the record of decisions repeats."""
    kind, precision = type(one.request.exporter), one.request.exporter.precision
    if precision == "fp32":
        return
    try:
        exporter = kind.for_device(one.request.device, precision, {"keep_float": ("block",)})
    except UsageError:
        return
    request = Request(exporter, one.request.evidence, device=one.request.device)
    artifact = export(one.model, request, one.folder / "kept")
    kept = artifact.manifest.exporter.decisions["main"]["kept_in_float"]
    assert any(unit == "block" or unit.startswith("block.") for unit in kept), kept


#: Every check, for a plug-in's tests to go through.
CHECKS: tuple[Callable[[Made], None], ...] = (
    it_says_what_it_is,
    it_computes_what_the_model_computes,
    it_verifies,
    its_session_states_facts,
    it_gives_the_same_twice,
    it_refuses_wrong_inputs,
    it_refuses_options_that_it_does_not_have,
    it_refuses_damaged_files,
    it_keeps_modules_in_float_on_request,
)


def _run(session: Session, sample: Array) -> npt.NDArray[np.float32]:
    inputs = inputs_of(SIGNATURE, Raw().prepare(sample).tensors)
    scores: npt.NDArray[np.float32] = first_row(session.run(inputs), SIGNATURE)["scores"]  # type: ignore[assignment]
    return scores


def _halved(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _garbled(path: Path) -> None:
    size = path.stat().st_size
    path.write_bytes(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8).tobytes())
