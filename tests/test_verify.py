"""Verification: a bundle that computes something else says so, and names the rung that broke."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx

from edgedeploy import plugins
from edgedeploy.archive import pack
from edgedeploy.artifact import MANIFEST, Artifact, Manifest, seal
from edgedeploy.errors import EdgeDeployError, Incompatible, UsageError
from edgedeploy.exporter import Evidence, Request, export
from edgedeploy.model import load
from edgedeploy.verify import Verification, verify

Exported = Callable[..., Artifact]
RUNGS = ("files", "requires", "load", "prepare", "outputs", "results")


def resealed(artifact: Artifact, folder: Path, change: Callable[[Path, Manifest], Manifest | None]) -> Path:
    """A copy of a bundle that was changed by somebody who also put every digest right again."""
    path = folder / artifact.path.name
    shutil.copytree(artifact.path, path)
    manifest = change(path, artifact.manifest) or artifact.manifest
    (path / MANIFEST).unlink()
    seal(path, manifest)
    return path


def broken(result: Verification) -> str:
    assert not result.passed
    assert [rung.passed for rung in result.rungs] == [True] * (len(result.rungs) - 1) + [False]
    assert [rung.name for rung in result.rungs] == list(RUNGS[: len(result.rungs)])
    return result.rungs[-1].name


def graph_of(path: Path, manifest: Manifest) -> Path:
    return path / manifest.graphs["main"].file


def perturbed(amount: float, place: float = 0.5) -> Callable[[Path, Manifest], None]:
    """One weight of one convolution, in the middle of the graph or elsewhere (0 to 1), off by ``amount``."""

    def change(path: Path, manifest: Manifest) -> None:
        proto = onnx.load(graph_of(path, manifest))
        names = [n.input[1] for n in proto.graph.node if n.op_type == "Conv"]
        (weight,) = [i for i in proto.graph.initializer if i.name == names[int(place * len(names))]]
        values = onnx.numpy_helper.to_array(weight).copy()
        values.flat[0] += amount
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        onnx.save(proto, graph_of(path, manifest))

    return change


def contract(**changed: Any) -> Callable[[Path, Manifest], Manifest]:
    return lambda path, manifest: dataclasses.replace(manifest, task={**(manifest.task or {}), **changed})


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_bundle_as_it_was_written_passes(precision: str, exported: Exported) -> None:
    artifact = exported(precision)
    result = verify(artifact.path)
    assert result.passed, result.rungs
    assert tuple(rung.name for rung in result.rungs) == RUNGS
    assert all(rung.seen for rung in result.rungs)
    assert result.digest == artifact.digest


def test_an_archive_passes_too(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    archive = pack(exported("fp32"), tmp_path / "aerial.edge.zip")
    assert verify(archive).passed


def test_a_copy_that_was_sealed_again_passes(exported: Exported, tmp_path: Path) -> None:
    """So that the tests below see what was changed, and not that something was."""
    assert verify(resealed(exported("fp32"), tmp_path, lambda path, manifest: None)).passed


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_planted_miscompilation_breaks_the_outputs(precision: str, exported: Exported, tmp_path: Path) -> None:
    result = verify(resealed(exported(precision), tmp_path, perturbed(0.5)))
    assert broken(result) == "outputs"
    assert "output 'detections' of golden sample" in result.rungs[-1].seen
    assert "dB, at export" in result.rungs[-1].seen


def test_a_change_that_changes_nothing_is_no_alarm(exported: Exported, tmp_path: Path) -> None:
    assert verify(resealed(exported("fp32"), tmp_path, perturbed(1e-9))).passed


@pytest.mark.parametrize(
    "changed",
    [
        {"color": "BGR"},
        {"mean": [123.0, 116.0, 103.0]},
        {"std": [1.0, 1.0, 1.0]},
        {"size": [320, 352]},
    ],
)
def test_other_preprocessing_breaks_the_preparation(
    changed: dict[str, Any], exported: Exported, tmp_path: Path
) -> None:
    result = verify(resealed(exported("fp32"), tmp_path, contract(**changed)))
    assert broken(result) == "prepare"
    assert "at export mean" in result.rungs[-1].seen


def test_graphs_with_swapped_outputs_break_the_outputs(exported: Exported, tmp_path: Path) -> None:
    """The last node, its two inputs exchanged: the same numbers in other places."""

    def swap(path: Path, manifest: Manifest) -> None:
        proto = onnx.load(graph_of(path, manifest))
        (last,) = [n for n in proto.graph.node if manifest.graphs["main"].signature.outputs[0].name in n.output]
        assert len(last.input) == 2
        inputs = list(reversed(last.input))
        del last.input[:]
        last.input.extend(inputs)
        onnx.save(proto, graph_of(path, manifest))

    assert broken(verify(resealed(exported("fp32"), tmp_path, swap))) == "outputs"


def test_results_that_move_where_tensors_were_never_close_break_the_results(exported: Exported, tmp_path: Path) -> None:
    """A manifest that claims int8 was never near as a tensor, so that only what is found can tell."""

    def change(path: Path, manifest: Manifest) -> Manifest:
        perturbed(3, place=0)(path, manifest)
        golden = tuple(
            dataclasses.replace(
                g, agreement=tuple(dataclasses.replace(a, snr=-100.0, worst_snr=-100.0) for a in g.agreement)
            )
            for g in manifest.golden
        )
        return dataclasses.replace(manifest, golden=golden)

    result = verify(resealed(exported("fp32"), tmp_path, change))
    assert broken(result) == "results"
    assert "moved by" in result.rungs[-1].seen


@pytest.mark.parametrize(
    ("requires", "said"), [(("onnxruntime>=99.0",), "onnxruntime>=99.0 is needed"), (("arch=riscv64",), "riscv64")]
)
def test_what_this_machine_does_not_have_breaks_the_requirements(
    requires: tuple[str, ...], said: str, exported: Exported, tmp_path: Path
) -> None:
    path = resealed(exported("fp32"), tmp_path, lambda p, manifest: dataclasses.replace(manifest, requires=requires))
    result = verify(path)
    assert broken(result) == "requires"
    assert said in result.rungs[-1].seen


def garbage(path: Path, manifest: Manifest) -> None:
    graph_of(path, manifest).write_bytes(b"garbage")


def teleport(path: Path, manifest: Manifest) -> None:
    proto = onnx.load(graph_of(path, manifest))
    proto.graph.node[3].op_type = "Teleport"
    onnx.save(proto, graph_of(path, manifest))


@pytest.mark.parametrize("change", [garbage, teleport])
def test_a_graph_that_the_runtime_refuses_breaks_the_loading(
    change: Callable[[Path, Manifest], None], exported: Exported, tmp_path: Path
) -> None:
    result = verify(resealed(exported("fp32"), tmp_path, change))
    assert broken(result) == "load"
    assert "main.onnx" in result.rungs[-1].seen


def other_input(path: Path, manifest: Manifest) -> Manifest:
    graph = manifest.graphs["main"]
    inputs = (dataclasses.replace(graph.signature.inputs[0], name="pictures"),)
    changed = dataclasses.replace(graph, signature=dataclasses.replace(graph.signature, inputs=inputs))
    return dataclasses.replace(manifest, graphs={"main": changed})


def test_a_signature_that_lies_breaks_the_outputs(exported: Exported, tmp_path: Path) -> None:
    result = verify(resealed(exported("fp32"), tmp_path, other_input))
    assert broken(result) == "outputs"
    assert "\n" not in result.rungs[-1].seen


def changes_golden(**changed: Any) -> Callable[[Path, Manifest], Manifest]:
    return lambda path, manifest: dataclasses.replace(
        manifest, golden=tuple(dataclasses.replace(g, **changed) for g in manifest.golden)
    )


@pytest.mark.parametrize(
    "change",
    [
        changes_golden(outputs={}),
        changes_golden(outputs={"detections": "graphs/main.onnx"}),
        changes_golden(sample=("graphs/main.onnx",)),
        changes_golden(sample=()),
        changes_golden(prepared=()),
        changes_golden(agreement=()),
        changes_golden(graph="other"),
        contract(kind="fly"),
        contract(labels=[]),
        contract(head="yolox"),
        lambda path, manifest: dataclasses.replace(manifest, golden=()),
        lambda path, manifest: dataclasses.replace(
            manifest, exporter=dataclasses.replace(manifest.exporter, runtime="elsewhere")
        ),
    ],
    ids=[
        "no outputs",
        "no array",
        "no sample",
        "empty sample",
        "no fingerprint",
        "no agreement",
        "no graph",
        "no task",
        "no labels",
        "another head",
        "no golden vectors",
        "another runtime",
    ],
)
def test_a_record_that_makes_no_sense_is_no_traceback(
    change: Callable[[Path, Manifest], Manifest], exported: Exported, tmp_path: Path
) -> None:
    path = resealed(exported("fp32"), tmp_path, change)
    try:
        assert not verify(path).passed
    except EdgeDeployError as error:
        assert "\n" not in str(error)


def test_damage_is_named_before_anything_is_run(exported: Exported, tmp_path: Path) -> None:
    path = tmp_path / "aerial.edge"
    shutil.copytree(exported("fp32").path, path)
    graph = path / "graphs" / "main.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    with pytest.raises(UsageError, match=r"graphs/main\.onnx is not what was written"):
        verify(path)


def test_a_bundle_of_a_newer_edgedeploy_is_not_judged(exported: Exported, tmp_path: Path) -> None:
    path = tmp_path / "aerial.edge"
    shutil.copytree(exported("fp32").path, path)
    record = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps({**record, "schema": 99}))
    with pytest.raises(Incompatible, match="newer edgedeploy"):
        verify(path)


def test_outputs_are_matched_by_name_whatever_their_order(tmp_path: Path) -> None:
    """Names that do not sort as the graph gives them, and outputs that agree differently well."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["zebra"]), helper.make_node("Exp", ["x"], ["ant"])],
        "two",
        [helper.make_tensor_value_info("x", kind, [1, 4])],
        [helper.make_tensor_value_info(name, kind, [1, 4]) for name in ("zebra", "ant")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "two.onnx")
    exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, "fp16", {})
    sample = np.array([[0.1, 1.7, 3.3, 5.9]], np.float32)
    artifact = export(load(tmp_path / "two.onnx"), Request(exporter, Evidence([sample], "one")), tmp_path)
    assert [a.output for a in artifact.manifest.golden[0].agreement] == ["zebra", "ant"]
    result = verify(artifact.path)
    assert result.passed, result.rungs
