"""``edgedeploy train``: its options, its answer, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

pytest.importorskip("torch")
pytest.importorskip("soundfile")

from edgedeploy.cli.train import train
from edgedeploy.errors import EdgeDeployError, UsageError
from edgedeploy.model import InputShape, Source
from edgedeploy.models import native
from edgedeploy.train.recipe import Recipe
from edgedeploy.train.run import Request
from tests.train.conftest import TINY, soundfile, tones

__all__ = ["tones"]  # a fixture

app = typer.Typer()
app.command()(train)
SMALL = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def refused(*arguments: object) -> str:
    result = invoke(*arguments)
    assert isinstance(result.exception, EdgeDeployError), result.output
    return str(result.exception)


def test_every_option_reaches_the_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found: list[Request] = []

    def stop(request: Request, say: object) -> None:
        found.append(request)
        raise UsageError("far enough")

    monkeypatch.setattr("edgedeploy.train.run.run", stop)
    folder = tmp_path / "out"
    refused("lmuformer", "--data", "d", "-o", folder)
    options = ("--spiking", "--causal", "--epochs", 7, "--seed", 3, "--set", "training.rate=0.001", "--fresh")
    refused("ds-cnn", "--data", "d", "-o", folder, "--recipe", "small", "--hold-out", "a,b", *options)
    plain, made = found
    assert plain == Request("lmuformer", Recipe("paper"), Path("d"), folder)
    assert (made.architecture, made.recipe.name, made.held, made.fresh) == ("ds-cnn", "small", "a,b", True)
    network, training = made.recipe.network, made.recipe.training
    assert (network.spiking, network.causal, training.epochs, training.seed, training.rate) == (True, True, 7, 3, 0.001)


def test_a_training_all_the_way_to_a_model_that_can_be_exported(tones: Path, tmp_path: Path) -> None:
    arguments = ("lmuformer", "--data", tones, "-o", tmp_path / "run", "--threads", 1, *SMALL)
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    run: dict[str, Any] = json.loads(result.stdout)["run"]
    assert (run["parts"]["train"]["clips"], run["test"]["clips"]) == (30, 15)
    assert run["parameters"] > 100
    assert run["test"]["accuracy"] == run["test"]["right"] / 15
    assert run["test"]["speakers"] == {"cy": [run["test"]["right"], 15]}
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == run
    assert "epoch 3 of 3" in result.stderr
    checkpoint = tmp_path / "run" / "best.safetensors"
    record, network, task = native.read(checkpoint)
    assert record["training"]["epoch"] == run["best"]
    assert (task.labels, task.frames, task.lookahead, task.features.bins) == (("high", "low", "middle"), 24, 5, 20)
    assert sum(p.numel() for p in network.parameters()) == run["parameters"]
    model = native.load(Source(str(checkpoint), "native", ""), InputShape(streaming=True))
    assert set(model.graphs) == {"main", "stream"}
    before = checkpoint.read_bytes()
    shown = invoke(*arguments)
    assert "epoch 1 of 3" not in shown.stderr, "it was done already"
    assert checkpoint.read_bytes() == before
    for said in ("lmuformer", f"{run['parameters']:,} parameters", "95 % interval"):
        assert said in shown.stdout
    (row,) = [line for line in shown.stdout.splitlines() if re.search(r"\btest\b.*%", line)]
    assert f"{run['test']['accuracy']:.1%}" in row
    assert "held-out speakers" not in shown.stdout
    assert "Test clips of 1 speaker: the 95 % interval is over clips" in " ".join(shown.stdout.split())
    assert "another recipe" in refused(*arguments, "--seed", 1)


@pytest.mark.parametrize("model", ["ds-cnn", "mean-fbank"])
def test_what_it_is_held_against_is_trained_on_the_same_and_told_by_speaker(
    tones: Path, tmp_path: Path, model: str
) -> None:
    result = invoke(
        model, "--data", tones, "-o", tmp_path / "run", "--hold-out", "cy,dee", *SMALL, "--set", "training.epochs=1"
    )
    assert result.exit_code == 0, result.output
    assert "held-out speakers" in result.stdout
    assert "that are not trained on: one in 10" in " ".join(result.stdout.split())
    model_found = native.load(Source(str(tmp_path / "run" / "best.safetensors"), "native", ""), InputShape())
    assert set(model_found.graphs) == {"main"}


def test_a_folder_of_words_without_lists_is_trained_on(tones: Path, tmp_path: Path) -> None:
    data = tmp_path / "own"
    for number, path in enumerate(sorted(tones.glob("*/*.wav"))):
        (data / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, data / path.parent.name / f"{number}.wav")
    result = invoke("mean-fbank", "--data", data, "-o", tmp_path / "run", *SMALL, "--json")
    assert result.exit_code == 0, result.output
    run = json.loads(result.stdout)["run"]
    assert (run["parts"]["train"]["clips"], run["parts"]["val"]["clips"], run["test"]) == (54, 6, None)
    assert any("own has no clips to test on" in note for note in run["notes"])


@pytest.mark.parametrize("fault", ["network", "clip"])
def test_what_is_refused_leaves_nothing_in_the_way_of_what_is_right(tones: Path, tmp_path: Path, fault: str) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(tones, data)
    once = ("-o", run, *SMALL, "--set", "training.epochs=1", "--threads", 1)
    if fault == "network":
        said = refused("lmuformer", "--data", data, *once, "--set", "network.dim=5000")
        assert "'dim' has to be" in said
    else:
        stereo = data / "low" / "ann_nohash_9.wav"
        soundfile.write(stereo, np.zeros((800, 2), np.float32), 4000)
        assert "2 channels" in refused("lmuformer", "--data", data, *once)
        stereo.unlink()
    assert not (run / "training.json").exists()
    assert invoke("mean-fbank", "--data", data, *once).exit_code == 0
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    said = refused("lmuformer", "--data", data, *once, "--set", "network.dim=5000", "--fresh")
    assert "'dim' has to be" in said
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before, "--fresh throws nothing away for that"
    assert "another architecture" in refused("lmuformer", "--data", data, *once)


def test_a_mark_without_an_epoch_is_in_nobodys_way(tones: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "training.json").write_text("{}")
    result = invoke("mean-fbank", "--data", tones, "-o", run, *SMALL)
    assert result.exit_code == 0, result.output
    assert json.loads((run / "training.json").read_text())["architecture"] == "mean-fbank"


def test_requests_that_cannot_be_right(tones: Path, tmp_path: Path) -> None:
    data, out = ("--data", tones), ("-o", tmp_path / "run", *SMALL)
    assert "Did you mean 'lmuformer'" in refused("lmufomer", *data, *out)
    assert "There is no spiking form of ds-cnn" in refused("ds-cnn", *data, *out, "--spiking")
    assert "is no folder" in refused("lmuformer", "--data", tmp_path / "none", *out)
    assert "no speaker 'eve'" in refused("lmuformer", *data, *out, "--hold-out", "eve")
    assert "Did you mean" in refused("lmuformer", *data, *out, "--set", "training.epoch=3")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    assert "holds something else (letter.txt)" in refused("lmuformer", *data, "-o", tmp_path / "full", *SMALL)
    assert (tmp_path / "full" / "letter.txt").read_text() == "mine"
