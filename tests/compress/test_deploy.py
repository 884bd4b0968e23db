"""The last rungs: exported, judged by the same code, timed in turn, and not done twice."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from edgedeploy.accuracy import Assessment
from edgedeploy.artifact import Artifact
from edgedeploy.compress import deploy as module
from edgedeploy.compress import speed as speed_module
from edgedeploy.compress.deploy import Deployment, Form, deploy
from edgedeploy.compress.folder import JUDGED, RUN, write_record
from edgedeploy.compress.judgements import Judgements
from edgedeploy.compress.recipe import Recipe
from edgedeploy.compress.result import CompressionRun, Used, judge_key, read_run
from edgedeploy.compress.speed import threads_here, time_in_turn
from edgedeploy.demo.scenes import write_dataset
from edgedeploy.errors import UsageError
from edgedeploy.model import file_digest
from edgedeploy.report.compression.files import kept
from edgedeploy.report.compression.records import CompressionTable, Rung
from edgedeploy.tasks.dataset import read_detection_set

SIZE = (160, 160)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a compression that did nothing: the small detector that comes with the package, before and after."""
    made = tmp_path_factory.mktemp("run")
    data = made.parent / "scenes" / "data.yaml"
    write_dataset(data.parent, train=6, val=8)
    with as_file(files("edgedeploy") / "demo" / "aerial.safetensors") as packaged:
        for stage in ("baseline", "distill"):
            shutil.copyfile(packaged, made / f"{stage}.safetensors")
    digest = file_digest(made / "baseline.safetensors")
    rungs = tuple(
        Rung(name, "PyTorch fp32", stage, f"{stage}.safetensors", digest, 1000, 100, 2000, SIZE, "coco")
        for name, stage in (("baseline", "baseline"), ("distilled", "distill"))
    )
    train, val = (read_detection_set(data, part).digest() for part in ("train", "val"))
    used = Used("aerial.safetensors", digest, str(data), train, val, "coco", SIZE, Recipe("test"))
    write_record(made / RUN, CompressionRun(used, rungs, {}))
    return made


@pytest.fixture(scope="module")
def table(folder: Path) -> CompressionTable:
    forms = (Form("onnxruntime"), Form("tensorrt", "fp16"))
    return deploy(folder, Deployment(forms, images=6, threads=(1,), duration=0.2))


def test_a_row_for_every_form_of_both_networks(table: CompressionTable) -> None:
    assert [rung.name for rung in table.rungs] == [
        *("baseline", "distilled"),
        *("baseline, ONNX fp32", "baseline, TensorRT fp16", "distilled, ONNX fp32", "distilled, TensorRT fp16"),
    ]


def test_bundles_are_judged_at_the_size_and_by_the_protocol_of_the_run(folder: Path, table: CompressionTable) -> None:
    rung = table.rungs[-2]
    assert rung.accuracy is not None
    assert rung.accuracy.metric.protocol == "coco"
    assert rung.accuracy.metric.max_detections == 100
    assert rung.accuracy.size == SIZE
    assert rung.accuracy.metric.ap50 is not None
    assert rung.accuracy.metric.ap50 > 0.1  # it finds something, so that agreement means something
    for found in (rung.difference, rung.against_previous):
        assert found is not None
        assert abs(found.ap50.estimate) < 1e-3  # fp32 computes what PyTorch does
        assert found.ap50.images == 8
    assert (rung.params, rung.macs, rung.flops, rung.previous) == (100, 2000, 4000, "distilled")
    assert rung.bytes == Artifact.open(folder / rung.file).model_size
    assert "onnxruntime" in rung.run_by


def test_speeds_are_ratios_to_the_fp32_baseline_of_one_run(table: CompressionTable) -> None:
    first, last = (next(r for r in table.rungs if r.name == f"{n}, ONNX fp32") for n in ("baseline", "distilled"))
    assert [(one.threads, one.ratio, one.low) for one in first.speed] == [(1, 1.0, 1.0)]
    (speed,) = last.speed
    assert speed.fps == pytest.approx(1 / speed.latency)
    assert speed.samples >= 15
    (timing,) = table.timings
    assert (timing.reference, timing.threads) == ("baseline, ONNX fp32", 1)
    assert "logical core" in timing.device
    assert "network alone" in timing.includes
    assert all(rung.untimed for rung in table.rungs if not rung.speed)


def test_what_cannot_run_here_says_why(table: CompressionTable) -> None:
    rung = table.rungs[-1]
    if rung.accuracy is not None:
        pytest.skip("there is an NVIDIA GPU here")
    assert rung.unmeasured.startswith("not possible on this machine: ")
    assert rung.untimed == rung.unmeasured
    assert (rung.bytes, rung.speed, rung.difference) == (0, (), None)


def test_the_table_is_kept_and_a_second_time_only_times(
    folder: Path, table: CompressionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kept(folder) == table

    def never(*_: object) -> Assessment:
        raise AssertionError("it was judged again")

    monkeypatch.setattr(module, "assess", never)
    said: list[str] = []
    again = deploy(folder, Deployment((Form("onnxruntime"),), images=6, duration=0), said.append)
    assert not any("FP32 reference" in one for one in said)  # nothing was exported
    assert [rung.accuracy for rung in again.rungs if "ONNX" in rung.name] == [
        rung.accuracy for rung in table.rungs if "ONNX" in rung.name
    ]
    assert again.timings == ()
    assert again.rungs[-1].untimed == "not asked for"


def test_other_data_are_refused(folder: Path, table: CompressionTable, tmp_path: Path) -> None:
    write_dataset(tmp_path, train=2, val=3)
    with pytest.raises(UsageError, match="is not the data set"):
        deploy(folder, Deployment(data=tmp_path / "data.yaml"))


@pytest.mark.parametrize("text", ["", ":int8", "onnxruntime:int8:2"])
def test_what_is_no_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="BACKEND:PRECISION"):
        Form.parse(text)


def test_the_first_form_is_the_reference_and_in_fp32() -> None:
    assert Form.parse("onnxruntime") == Form("onnxruntime", "fp32")
    with pytest.raises(UsageError, match="fp32"):
        Deployment((Form("onnxruntime", "int8"),))
    with pytest.raises(UsageError, match="at least 1"):
        Deployment(threads=(0,))


def test_a_bundle_that_cannot_be_opened_is_not_timed_and_the_others_are(
    folder: Path, table: CompressionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = Artifact.open(folder / table.rungs[-2].file)
    exporter = replace(sound.manifest.exporter, runtime="qnn", rehearsal="onnxruntime")
    other = replace(sound, manifest=replace(sound.manifest, exporter=exporter))
    found = time_in_turn({"a": sound, "b": other}, "a", 1, 0.05, "image to boxes")
    assert list(found.speeds) == ["a"]
    assert list(found.untimed) == ["b"]  # what is rehearsed is not timed
    assert "suppression" in found.timing.includes
    with pytest.raises(UsageError, match="no bundle 'c'"):
        time_in_turn({"a": sound}, "c", 1, 0.05)
    assert threads_here()[0] == 1


def test_twice_as_fast_is_a_ratio_of_two(
    folder: Path, table: CompressionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = 1 + 0.2 * np.random.default_rng(0).random(200)  # what slows both alike drops out
    monkeypatch.setattr(speed_module, "interleave", lambda *_: {"a": 0.02 * noise, "b": 0.01 * noise, "c": noise[:5]})
    sound = Artifact.open(folder / table.rungs[-2].file)
    found = time_in_turn({"a": sound, "b": sound, "c": sound}, "a", 2, 1.0).speeds
    assert found["b"].ratio == pytest.approx(2.0)
    assert found["b"].low == pytest.approx(2.0)
    assert found["a"].ratio == 1.0
    assert found["c"].ratio is None  # five calls say nothing


def test_a_judgement_is_kept_whole_or_made_again(folder: Path, table: CompressionTable) -> None:
    run = read_run(folder)
    kept_ones = Judgements(folder / JUDGED)
    key = judge_key(run.rungs[0].sha256, run.used.val, "coco", SIZE)

    def never() -> Assessment:
        raise LookupError

    before = kept_ones.judge(key, never)
    assert before.matches.right.dtype == np.bool_
    assert before.accuracy.metric.protocol == "coco"
    for path in (folder / JUDGED).iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(LookupError):
        kept_ones.judge(key, never)
