"""Reading Core ML packages that are not as they should be: one sentence each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

from edgedeploy_coreml.package import About, read, save
from edgedeploy_coreml.runtime import CoreMLRuntime
from edgedeploy_coreml.vendor import coremltools, quiet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedeploy.errors import EdgeDeployError, Incompatible, RunFailed
from edgedeploy.tensors import Signature, TensorSpec

ct = coremltools()
from coremltools.converters.mil import Builder as mb  # noqa: E402

SIGNATURE = Signature((TensorSpec("x", "float32", (1, 64)),), (TensorSpec("y", "float32", (1, 64)),))
WEIGHT = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
MODEL, WEIGHTS = Path("Data/com.apple.CoreML/model.mlmodel"), Path("Data/com.apple.CoreML/weights/weight.bin")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("package") / "main.mlpackage"
    with quiet():

        @mb.program(input_specs=[mb.TensorSpec(shape=(1, 64))], opset_version=ct.target.iOS17)  # type: ignore[untyped-decorator]
        def program(x: Any) -> Any:
            return mb.linear(x=x, weight=WEIGHT, name="y")

        model = ct.convert(
            program,
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )
    save(model, path, About("a product", "1", {}, {}, {}))
    return path


@pytest.fixture
def package(sound: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "main.mlpackage"
    shutil.copytree(sound, copy)
    return copy


def run(path: Path) -> None:
    x: Any = np.ones((1, 64), np.float32)
    got: Any = CoreMLRuntime().open({"main": path}, {"main": SIGNATURE}).run({"x": x})["y"]
    np.testing.assert_allclose(got, x @ WEIGHT.T, rtol=1e-5, atol=1e-5)


def test_a_sound_package_runs(package: Path) -> None:
    run(package)
    assert (
        read(package).facts.keys()
        == {
            "com.github.apple.coremltools.version",
            "com.github.apple.coremltools.source_dialect",
        }
        or "com.github.apple.coremltools.conversion_date" not in read(package).facts
    )


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (Path("Manifest.json"), "is no complete Core ML package: it has no Manifest.json"),
        (MODEL, "Data/com.apple.CoreML/model.mlmodel is missing"),
        (WEIGHTS, "weights/weight.bin is missing"),
        (WEIGHTS.parent, "Data/com.apple.CoreML/weights is missing"),
    ],
)
def test_a_missing_file_is_named(missing: Path, said: str, package: Path) -> None:
    target = package / missing
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(RunFailed) as caught:
        run(package)
    assert said in str(caught.value)
    assert "Export or copy it again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_package_at_all(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="is not there: a Core ML package is a directory"):
        run(tmp_path / "main.mlpackage")
    (tmp_path / "main.mlpackage").write_bytes(b"")
    with pytest.raises(RunFailed, match="is a file: a Core ML package is a directory"):
        run(tmp_path / "main.mlpackage")


def _newer(spec: Any) -> None:
    spec.specificationVersion = 99


def _another_kind(spec: Any) -> None:
    spec.neuralNetwork.layers.add()


def _no_program(spec: Any) -> None:
    for function in spec.mlProgram.functions.values():
        function.block_specializations.clear()


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (_newer, Incompatible, "is of Core ML specification 99, and the newest known here is 10. Upgrade with"),
        (_another_kind, Incompatible, "holds a model of type neuralNetwork, not an ML program"),
        (_no_program, RunFailed, "its program cannot be read"),
    ],
)
def test_a_specification_that_cannot_be_run(
    change: Callable[[Any], None], kind: type[EdgeDeployError], said: str, package: Path
) -> None:
    spec = ct.proto.Model_pb2.Model()
    spec.ParseFromString((package / MODEL).read_bytes())
    change(spec)
    (package / MODEL).write_bytes(spec.SerializeToString())
    with pytest.raises(kind) as caught:
        run(package)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda m: m.update(fileFormatVersion="2.0.0"), Incompatible),
        (lambda m: m.update(rootModelIdentifier="none"), RunFailed),
        (lambda m: m.update(itemInfoEntries=[]), RunFailed),
        (lambda m: m.pop("itemInfoEntries"), RunFailed),
        (lambda m: next(iter(m["itemInfoEntries"].values())).update(path="../../secret"), RunFailed),
        (lambda m: next(iter(m["itemInfoEntries"].values())).update(path=7), RunFailed),
        (lambda m: m["itemInfoEntries"].update(dict.fromkeys(m["itemInfoEntries"], "text")), RunFailed),
    ],
)
def test_a_manifest_that_makes_no_sense(
    change: Callable[[Any], None], kind: type[EdgeDeployError], package: Path
) -> None:
    manifest = json.loads((package / "Manifest.json").read_text())
    change(manifest)
    (package / "Manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(kind):
        run(package)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_no_crash(data: st.DataObject, sound: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A flipped or cut byte of the model file is refused in one sentence, or changes nothing that is looked at."""
    copy = tmp_path_factory.mktemp("damaged") / "main.mlpackage"
    shutil.copytree(sound, copy)
    content = bytearray((copy / MODEL).read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at] ^= data.draw(st.integers(1, 255))
    (copy / MODEL).write_bytes(bytes(content))
    try:
        session = CoreMLRuntime().open({"main": copy}, {"main": SIGNATURE})
        session.run({"x": np.ones((1, 64), np.float32)})
    except EdgeDeployError as error:
        assert "\n" not in str(error)
