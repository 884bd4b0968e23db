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
from edgedeploy.cli.app import app, main
from edgedeploy.errors import UsageError
from edgedeploy.model import InputShape, load
from edgedeploy.recognition import comparison
from edgedeploy.tasks import Keywords, contract_of
from edgedeploy.tasks.babble import babble
from edgedeploy.tasks.fbank import Fbank

pytest.importorskip("torch")
soundfile: Any = pytest.importorskip("soundfile")

WORDS, RATE, FRAMES = ("no", "up", "yes"), 4000, 16
Run = Callable[..., Any]
FACTORIES = """
import dataclasses
from edgedeploy.model import load

def whole():
    return load({path!r})  # takes no stream, and is not asked for one

def bare():
    return dataclasses.replace(whole(), task=None)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.safetensors, clips/ that it hears right, turned.safetensors that hears all of them wrong, and two with the
    weights of the first and another task: permuted.safetensors and renormalised.safetensors.
    """
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
    features = dataclasses.replace(task.features, mean=-1.5)
    for name, other in (
        ("permuted", dataclasses.replace(task, labels=WORDS[1:] + WORDS[:1])),
        ("renormalised", dataclasses.replace(task, features=features)),
    ):
        native.save(root / f"{name}.safetensors", network, {**record, "task": contract_of(other)})
    (root / "keyword_factories.py").write_text(FACTORIES.format(path=str(root / "tiny.safetensors")))
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
    """``run("tiny", ...)``: compare tiny.safetensors, or ``checkpoint``, with a bundle that computes as the one that is
    named; its contract has ``changes``.
    """
    monkeypatch.syspath_prepend(str(place))

    def compare(stands_in: str, *arguments: str, checkpoint: str = "", **changes: Any) -> Any:
        model = load(place / f"{stands_in}.safetensors", InputShape(streaming=True))
        session: Any = EagerSession(model)
        session = SimpleNamespace(
            run=session.run, reset=session.reset, close=session.close, facts={**session.facts, "computes_in": "fp32"}
        )
        source = dataclasses.replace(model.source, reference="elsewhere.safetensors")
        task = {**dict(model.task or {}), **changes}
        artifact = SimpleNamespace(
            path=place / "tiny.edge",
            digest="d" * 64,
            signatures={name: graph.signature for name, graph in model.graphs.items()},
            manifest=SimpleNamespace(task=task, source=source, calibration=None),
        )
        for module in (archive, comparison):
            monkeypatch.setattr(module, "open_artifact", lambda path: artifact)
        monkeypatch.setattr(comparison, "open_artifact_here", lambda artifact, threads: session)
        given = ["compare", checkpoint or str(place / "tiny.safetensors"), str(place / "tiny.edge"), *arguments]
        return CliRunner().invoke(app, [*given, "--data", str(place / "clips")])

    yield compare
    shutil.rmtree(place / "tiny.changed", ignore_errors=True)


def test_the_same_model_is_equivalent_on_both_graphs(run: Run, place: Path) -> None:
    done = run("tiny", "--margin", "0.1")
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


def test_that_nothing_changed_in_few_clips_decides_nothing_at_a_small_margin(run: Run) -> None:
    done = run("tiny", "--margin", "0.01")
    assert done.exit_code == 4, done.output
    assert "none of 36 clips changed" in done.output
    assert "299 clips in all" in done.output
    assert run("tiny").exit_code == 0  # the same verdict, and nobody asked for a margin


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
    assert stream["candidate_early"]["saving"] is None
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


@pytest.mark.parametrize(
    ("checkpoint", "changes", "said"),
    [
        ("permuted", {}, "in labels (the same 3 in another order)."),
        ("renormalised", {}, "in features (mean -1.5 and -6.845978)."),
        ("tiny", {"labels": [*WORDS, "down"]}, "in labels (3 in the checkpoint, 4 in the artifact)."),
        ("tiny", {"frames": 20, "lookahead": 3}, "in frames (16 and 20); in look-ahead (5 and 3)."),
    ],
)
def test_a_checkpoint_of_another_task_is_refused_before_anything_is_heard(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: str, changes: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(comparison, "hear", lambda *given: pytest.fail("a clip was heard"))
    done = run("tiny", checkpoint=str(place / f"{checkpoint}.safetensors"), **changes)
    assert isinstance(done.exception, UsageError)
    assert said in str(done.exception)
    assert "Compare with the checkpoint that the bundle was made of (elsewhere.safetensors)." in str(done.exception)


def test_another_task_is_one_sentence_and_status_2(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("tiny", "--split", "val")  # what stands in for the bundle is in place from here on
    given = ["compare", str(place / "permuted.safetensors"), str(place / "tiny.edge"), "--data", str(place / "clips")]
    monkeypatch.setattr("sys.argv", ["edgedeploy", *given])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "another order" in last


def test_a_checkpoint_without_a_stream_is_compared_on_whole_clips(run: Run) -> None:
    found = json.loads(run("tiny", "--json", "--show", "0", checkpoint="keyword_factories:whole").stdout)["comparison"]
    assert [graph["graph"] for graph in found["graphs"]] == ["main"]
    assert found["graphs"][0]["reference"]["right"] == 36
    assert "Only whole clips were compared" in " ".join(found["doubts"])
    assert "labels and features" not in " ".join(found["doubts"])


def test_a_checkpoint_without_a_contract_is_held_to_its_shapes(run: Run) -> None:
    found = json.loads(run("tiny", "--json", "--show", "0", checkpoint="keyword_factories:bare").stdout)["comparison"]
    assert found["graphs"][0]["reference"]["right"] == 36
    assert "does not say what its labels and features are" in " ".join(found["doubts"])
    done = run("tiny", checkpoint="keyword_factories:bare", frames=20, labels=[*WORDS, "down"])
    assert "in frames (16 and 20); in labels (3 and 4)." in str(done.exception)
