"""``edgedeploy compare`` for a bundle that hears keywords; PyTorch with other weights stands in for the artifact."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from edgedeploy import archive
from edgedeploy.capture import EagerSession
from edgedeploy.cli.app import app
from edgedeploy.model import InputShape, load
from edgedeploy.recognition import comparison
from edgedeploy.tasks import Keywords, contract_of
from edgedeploy.tasks.babble import babble
from edgedeploy.tasks.fbank import Fbank

pytest.importorskip("torch")
soundfile: Any = pytest.importorskip("soundfile")

WORDS, RATE, FRAMES = ("no", "up", "yes"), 4000, 16
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.safetensors, clips/ that it hears right, and turned.safetensors that hears all of them wrong."""
    import torch

    from edgedeploy.models import native
    from edgedeploy.models.lmuformer import LMUFormer

    root = tmp_path_factory.mktemp("compare")
    options: dict[str, Any] = {"classes": 3, "bins": 16, "dim": 8, "memory": 4, "theta": 8, "frames": FRAMES}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = LMUFormer(**options).eval()
        torch.nn.init.normal_(network.head.weight, std=9.0)
    task = Keywords(WORDS, Fbank(sample_rate=RATE, bins=16), FRAMES, network.lookahead)
    sounds = [babble(number, 0.15, RATE) for number in range(36)]
    with torch.no_grad():
        logits = network(torch.from_numpy(np.concatenate([task.prepare(sound).tensors[0] for sound in sounds])))
        network.head.bias.copy_(-logits.mean(dim=0))
        heard = (logits - logits.mean(dim=0)).argmax(dim=1).tolist()
    record = {"architecture": "lmuformer", "options": options, "task": contract_of(task)}
    native.save(root / "tiny.safetensors", network, record)
    network.head.weight.data.neg_()
    network.head.bias.data.neg_()
    native.save(root / "turned.safetensors", network, record)
    listed = []
    for number, (sound, word) in enumerate(zip(sounds, heard, strict=True)):
        listed.append(f"{WORDS[word]}/s{number % 12}_nohash_{number}.wav")
        (root / "clips" / listed[-1]).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / "clips" / listed[-1], sound, RATE, subtype="FLOAT")
    (root / "clips" / "testing_list.txt").write_text("\n".join(listed))
    return root


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """``run("tiny", ...)``: compare tiny.safetensors with a bundle that computes as the one that is named."""

    def compare(stands_in: str, *arguments: str, kind: str = "keywords") -> Any:
        model = load(place / f"{stands_in}.safetensors", InputShape(streaming=True))
        session: Any = EagerSession(model)
        session = SimpleNamespace(
            run=session.run, reset=session.reset, close=session.close, facts={**session.facts, "computes_in": "fp32"}
        )
        source = dataclasses.replace(model.source, reference="elsewhere.safetensors")
        task = {**dict(model.task or {}), "kind": kind}
        artifact = SimpleNamespace(
            path=place / "tiny.edge",
            digest="d" * 64,
            signatures={name: graph.signature for name, graph in model.graphs.items()},
            manifest=SimpleNamespace(task=task, source=source, calibration=None),
        )
        for module in (archive, comparison):
            monkeypatch.setattr(module, "open_artifact", lambda path: artifact)
        monkeypatch.setattr(comparison, "open_artifact_here", lambda artifact, threads: session)
        given = ["compare", str(place / "tiny.safetensors"), str(place / "tiny.edge"), *arguments]
        return CliRunner().invoke(app, [*given, "--data", str(place / "clips")])

    yield compare
    shutil.rmtree(place / "tiny.changed", ignore_errors=True)


def test_the_same_model_is_equivalent_on_both_graphs(run: Run, place: Path) -> None:
    done = run("tiny", "--margin", "0.05")
    assert done.exit_code == 0, done.output
    for said in (
        "whole clip",
        "step by step",
        "0 clips heard otherwise",
        "published: Spiking",
        "12 speakers",
        "Equivalent",
    ):
        assert said in done.output, said
    if "drawn:" in done.output:
        assert (place / "tiny.changed" / "early.png").stat().st_size > 1000


def test_another_model_fails_with_what_changed(run: Run) -> None:
    done = run("turned", "--margin", "0.01", "--json", "--show", "0")
    assert done.exit_code == 4, done.output
    found = json.loads(done.stdout)
    main, stream = found["comparison"]["graphs"]
    assert (main["graph"], stream["graph"], found["pictures"]) == ("main", "stream", [])
    assert main["agreement"]["snr"] < 0
    assert (main["reference"]["right"], main["candidate"]["right"], len(main["changed"])) == (36, 0, 36)
    assert {row["clip"] for row in stream["changed"]} == {row["clip"] for row in main["changed"]}
    assert main["reference_early"] is None
    assert len(stream["candidate_early"]["curve"]) == FRAMES + 1
    assert "that of two models" in " ".join(found["comparison"]["doubts"])
    assert (main["difference"]["gained"], main["difference"]["lost"]) == (0, 36)


def test_a_limit_takes_clips_of_all_words(run: Run) -> None:
    found = json.loads(run("tiny", "--limit", "6", "--json", "--show", "0").stdout)["comparison"]["graphs"][0]
    assert found["reference"]["clips"] == 6
    assert {part["name"] for part in found["reference"]["words"]} == set(WORDS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--protocol", "coco"), "--protocol says how boxes are counted"),
        (("--max-detections", "10"), "--max-detections says how boxes are counted"),
        (("--margin", "nan"), "margin"),
        (("--split", "val"), "val"),
    ],
)
def test_what_does_not_apply_is_refused(run: Run, arguments: tuple[str, ...], said: str) -> None:
    done = run("tiny", *arguments)
    assert done.exit_code != 0
    assert said in str(done.exception)
