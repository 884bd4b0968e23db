"""The aerial detector: shapes, geometry of its output, export with dynamic sizes, and the shipped weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from edgedeploy.demo import train as training  # noqa: E402
from edgedeploy.demo.loss import CANDIDATES, assign, corners, loss, overlap  # noqa: E402
from edgedeploy.demo.scenes import LABELS, Scene, render, seeds  # noqa: E402
from edgedeploy.errors import UsageError  # noqa: E402
from edgedeploy.models.aerial import STRIDES, AerialNet  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Maps this small gain nothing from threads, and lose much where another process has the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> AerialNet:
    torch.manual_seed(0)
    return AerialNet().eval()


def anchors(height: int, width: int) -> int:
    return sum((height // s) * (width // s) for s in STRIDES)


@pytest.mark.parametrize("size", [(32, 32), (320, 320), (96, 256)])
@pytest.mark.parametrize("classes", [1, 4])
def test_the_output_has_a_column_per_anchor(size: tuple[int, int], classes: int) -> None:
    with torch.inference_mode():
        output = AerialNet(classes=classes).eval()(torch.rand(2, 3, *size))
    assert output.shape == (2, 4 + classes, anchors(*size))
    assert output.dtype == torch.float32
    assert torch.all(output[:, 2:4] > 0)
    assert torch.all((output[:, 4:] >= 0) & (output[:, 4:] <= 1))


def test_the_network_is_small(model: AerialNet) -> None:
    assert 300_000 < sum(p.numel() for p in model.parameters()) < 900_000


def test_anchors_cover_the_image_evenly(model: AerialNet) -> None:
    with torch.inference_mode():
        found = model.predict(torch.rand(1, 3, 64, 96))
    for stride in STRIDES:
        x, y = found.centres[:, found.strides == stride]
        assert (x.min(), x.max()) == (stride / 2, 96 - stride / 2)
        assert (y.min(), y.max()) == (stride / 2, 64 - stride / 2)
        assert x.mean() == 48
        assert y.mean() == 32
    assert torch.equal(found.centres[:, :2], torch.tensor([[4.0, 12.0], [4.0, 4.0]]))  # along a row first


def test_a_box_reaches_its_sides_from_its_anchor(model: AerialNet) -> None:
    with torch.inference_mode():
        found = model.predict(torch.rand(1, 3, 64, 96))
    box = corners(found.boxes[0].T)
    assert torch.all(box[:, :2] < found.centres.T)
    assert torch.all(box[:, 2:] > found.centres.T)


def test_it_exports_with_any_batch_and_size(model: AerialNet) -> None:
    batch = torch.export.Dim("batch", max=64)
    height, width = (32 * torch.export.Dim(name, min=2, max=64) for name in ("rows", "columns"))
    sizes = ({0: batch, 2: height, 3: width},)
    exported = torch.export.export(model, (torch.rand(2, 3, 96, 128),), dynamic_shapes=sizes).module()
    with torch.inference_mode():
        for shape in [(1, 3, 320, 320), (3, 3, 64, 224)]:
            images = torch.rand(shape)
            torch.testing.assert_close(exported(images), model(images), rtol=1e-4, atol=1e-4)


def test_overlap_of_known_boxes() -> None:
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    b = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [4.0, 0.0, 6.0, 2.0]])
    iou, generalised = overlap(a, b)
    torch.testing.assert_close(iou, torch.tensor([1.0, 1 / 3, 0.0]))
    torch.testing.assert_close(generalised, torch.tensor([1.0, 1 / 3, -1 / 3]))


def test_every_box_gets_an_anchor_even_a_narrow_one() -> None:
    torch.manual_seed(0)
    found = AerialNet().predict(torch.rand(1, 3, 64, 64))
    truth, classes = torch.tensor([[1.0, 9.0, 3.0, 40.0], [20.0, 20.0, 50.0, 40.0]]), torch.tensor([0, 3])
    boxes, scores = corners(found.boxes[0].T).detach(), found.logits[0].T.sigmoid().detach()
    owner, belief = assign(boxes, scores, found.centres.T, found.strides, truth, classes)
    assert set(owner.tolist()) == {-1, 0, 1}
    assert torch.all(belief[owner < 0] == 0)
    assert torch.all((belief >= 0) & (belief <= 1))
    assert max((owner == 0).sum(), (owner == 1).sum()) <= CANDIDATES


def test_the_loss_falls_and_bears_an_empty_image() -> None:
    torch.manual_seed(0)
    model, scene = AerialNet(), render(6, 160)
    images = torch.stack([torch.from_numpy(scene.image).permute(2, 0, 1) / 255, torch.zeros(3, 160, 160)])
    nothing = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    truths = [(torch.from_numpy(scene.boxes), torch.from_numpy(scene.classes)), nothing]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(12):
        box, kind = loss(model.predict(images), truths)
        total = box + kind
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        history.append(total.item())
    assert history[-1] < 0.8 * history[0]
    box, kind = loss(model.predict(images), [nothing, nothing])
    assert box.item() == 0
    assert kind.item() >= 0


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("quarter", range(4))
def test_a_turned_box_stays_on_its_object(quarter: int, mirror: bool) -> None:
    image = torch.zeros(3, 64, 64)
    image[:, 10:20, 30:55] = 1
    image, boxes = training.turn(image, torch.tensor([[30.0, 10.0, 55.0, 20.0]]), quarter, mirror)
    rows, columns = image[0].nonzero().unbind(1)
    assert boxes[0].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_a_stopped_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    scenes = [render(seed, 64) for seed in range(4)]
    recipe = training.Recipe(epochs=2, scenes=4, batch=2, bfloat16=False)
    whole = training.train(recipe, scenes, tmp_path / "whole.pt").state_dict()

    class Killed(Exception):
        pass

    def killed(scenes: list[Scene], recipe: training.Recipe, epoch: int):  # type: ignore[no-untyped-def]
        if epoch == 1:
            raise Killed
        return real(scenes, recipe, epoch)

    real = training.batches
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "batches", killed)
        with pytest.raises(Killed):
            training.train(recipe, scenes, tmp_path / "state.pt")
    again = training.train(recipe, scenes, tmp_path / "state.pt").state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    with pytest.raises(UsageError, match="another run"):
        training.train(training.Recipe(seed=9, batch=2), scenes, tmp_path / "state.pt")
    with pytest.raises(UsageError, match="give at least 16 scenes"):
        training.train(training.Recipe(), scenes, tmp_path / "new.pt")


def test_saved_weights_load_to_the_same_output(tmp_path: Path, model: AerialNet) -> None:
    pytest.importorskip("safetensors")
    training.save(model, tmp_path / "a.safetensors", {"seed": 0})
    again = training.load(tmp_path / "a.safetensors")
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(again(images), model(images), rtol=0.02, atol=0.05)


needs_weights = pytest.mark.skipif(not training.CHECKPOINT.exists(), reason="no weights were trained here")


@needs_weights
def test_the_shipped_weights_say_what_they_are() -> None:
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(training.CHECKPOINT, framework="pt") as file:
        record = json.loads(file.metadata()["edgedeploy"])
    assert record["schema"] == 1
    assert record["architecture"] == "aerial"
    assert record["task"]["labels"] == list(LABELS)
    assert record["task"]["strides"] == list(STRIDES)
    assert record["training"]["AP50"] > 0.8
    assert training.CHECKPOINT.stat().st_size < 2 * 1024**2


@needs_weights
def test_the_shipped_weights_find_vehicles_in_new_scenes() -> None:
    pytest.importorskip("faster_coco_eval")
    scenes = training.draw_scenes(seeds("val", 48), workers=1)
    assert training.average_precision(training.load(training.CHECKPOINT), scenes)["AP50"] > 0.8
