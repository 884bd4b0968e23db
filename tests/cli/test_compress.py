"""``edgedeploy compress``: its options, and one small network all the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from edgedeploy.cli.compress import compress
from edgedeploy.compress.recipe_file import presets
from edgedeploy.compress.searching.goal import Goal
from edgedeploy.compress.stages import Request
from edgedeploy.errors import UsageError

app = typer.Typer()
app.command()(compress)

LABELS = ("car", "van", "truck", "bus")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def asked(monkeypatch: pytest.MonkeyPatch, *options: object) -> Request:
    """The request that a command line comes to."""
    found: list[Request] = []

    def stop(request: Request, work: object, say: object) -> None:
        found.append(request)
        raise UsageError("far enough")

    monkeypatch.setattr("edgedeploy.compress.run.run", stop)
    result = invoke("net.pt", "--recipe", "quick", "--data", "data.yaml", "-o", "out", *options)
    assert isinstance(result.exception, UsageError)
    assert str(result.exception) == "far enough", result.exception
    return found[0]


def test_every_option_reaches_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = asked(monkeypatch)
    assert (plain.checkpoint, plain.data, plain.folder) == (Path("net.pt"), Path("data.yaml"), Path("out"))
    assert (plain.val, plain.protocol, plain.stages, plain.goal, plain.fresh) == (None, "ultralytics", (), None, False)
    training = ("--epochs", 5, "--size", 96, "--batch", 2, "--seed", 7, "--set", "finetune.rate=0.002")
    pruning = ("--prune", 0.25, "--policy", "global", "--keep", "detect", "--keep", "residual", "--device", "rpi5")
    other = ("--stage", "prune", "--stage", "finetune", "--protocol", "visdrone", "--val", "other", "--fresh")
    made = asked(monkeypatch, *training, *pruning, *other, "--max-drop", 0.02, "--trials", 9)
    assert made.recipe.sparse is not None
    assert made.recipe.finetune is not None
    assert made.recipe.prune is not None
    sparse, finetune, prune = made.recipe.sparse, made.recipe.finetune, made.recipe.prune
    assert (sparse.epochs, sparse.size, sparse.batch, sparse.seed, sparse.rate) == (5, 96, 2, 7, 0.01)
    assert (finetune.epochs, finetune.rate) == (5, 0.002)
    assert (prune.ratio, prune.policy, prune.keep, prune.device) == (0.25, "global", ("detect", "residual"), "rpi5")
    assert (made.stages, made.protocol, made.val, made.fresh) == (
        ("prune", "finetune"),
        "visdrone",
        Path("other"),
        True,
    )
    assert (made.goal, made.trials) == (Goal(max_drop=0.02), 9)


def test_help_names_the_packaged_recipes() -> None:
    options = {option.name: option for option in typer.main.get_command(app).params}
    assert all(name in str(getattr(options["recipe"], "help", "")) for name in presets())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--recipe", "quik"], ["no recipe 'quik'", "Did you mean 'quick'?"]),
        (["--recipe", "quick", "--prune", "1"], ["quick: [prune]: ratio is 1.0"]),
        (["--recipe", "quick", "--set", "sparse"], ["'sparse' is not an option: write key=value"]),
        (["--recipe", "quick", "--max-drop", "0.1", "--target-fps", "30"], ["one goal"]),
        (["--recipe", "quick", "--set", "finetune.overrides.foo=1"], ["Ultralytics refuses", "'foo'"]),
        (["--recipe", "quick", "--set", "distill.optimizer=Sgd"], ["no optimizer 'Sgd'", "SGD"]),
        (["--recipe", "quick"], ["net.pt does not exist"]),
    ],
)
def test_what_cannot_be_is_one_sentence(options: list[str], words: list[str], tmp_path: Path) -> None:
    result = invoke(tmp_path / "net.pt", "--data", tmp_path / "data.yaml", "-o", tmp_path / "out", *options)
    assert isinstance(result.exception, UsageError)
    for word in words:
        assert word in str(result.exception)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network of random weights, ``net.pt``, and a few scenes."""
    for package in ("torch", "ultralytics", "torch_pruning", "faster_coco_eval", "PIL"):
        pytest.importorskip(package)
    import torch

    from edgedeploy.compress.checkpoint import write_ultralytics
    from edgedeploy.compress.detector import Detector
    from edgedeploy.compress.lineage import Lineage
    from edgedeploy.demo.scenes import write_dataset
    from edgedeploy.models.yolo import quietly

    folder = tmp_path_factory.mktemp("compress")
    with quietly():
        from ultralytics.nn.tasks import DetectionModel
    torch.manual_seed(0)
    network = DetectionModel("yolov8n.yaml", nc=4, verbose=False).eval()
    network.names = dict(enumerate(LABELS))
    write_ultralytics(folder / "net.pt", Detector(network, LABELS, (64, 64), Lineage("random", "")))
    write_dataset(folder / "scenes", train=6, val=3, size=96)
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_network_goes_all_the_way_and_is_not_made_twice(place: Path) -> None:
    from edgedeploy.compress.checkpoint import read

    command = (place / "net.pt", "--recipe", "quick", "--epochs", 1, "--size", 64, "--batch", 4, "--json")
    where = ("--data", place / "scenes" / "data.yaml", "-o", place / "out", "--set", "finetune.epochs=0")
    first = invoke(*command, *where)
    assert first.exit_code == 0, (first.exception, first.stderr)
    document = json.loads(first.stdout)
    rungs = document["run"]["rungs"]
    assert [rung["name"] for rung in rungs] == ["baseline", "sparse", "pruned", "distilled"]
    assert rungs[0]["params"] == rungs[1]["params"]
    assert rungs[2]["params"] == rungs[3]["params"] < 0.4 * rungs[0]["params"]
    assert rungs[3]["macs"] < 0.5 * rungs[0]["macs"]
    assert all(rung["accuracy"]["metric"]["images"] == 3 for rung in rungs)
    assert rungs[3]["difference"]["ap50"]["images"] == 3
    assert "sparse: epoch 1 of 1" in first.stderr
    last = read(place / "out" / "best.safetensors")
    assert [step.stage for step in last.lineage.steps] == ["sparse", "prune", "distill"]
    assert last.lineage.source == "random"
    assert last.labels == LABELS
    theirs = read(place / "out" / "best.pt")
    assert sum(p.numel() for p in theirs.network.parameters()) == rungs[3]["params"]
    assert "| distilled |" in (place / "out" / "table.md").read_text("utf-8")

    again = invoke(*command, *where)
    document = json.loads(again.stdout)
    assert set(document["run"]["states"].values()) == {"reused"}
    assert document["run"]["rungs"] == rungs
    assert "epoch" not in again.stderr
