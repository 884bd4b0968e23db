"""A network with a teacher: what its loss adds, who sees it, and that nothing of it is left afterwards."""

from __future__ import annotations

import io
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("ultralytics")

from edgedeploy.compress.recipe import Distillation
from edgedeploy.compress.training import distilled, losses
from edgedeploy.errors import UsageError
from edgedeploy.models.yolo import quietly

with quietly():
    from ultralytics.nn.tasks import DetectionModel, yaml_model_load

HEAD_INPUTS = (15, 18, 21)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(width: float = 0.25, classes: int = 4, seed: int = 0, family: str = "yolov8n.yaml") -> Any:
    """A small YOLOv8 with random weights, and normalisation statistics that are not those of a new network."""
    torch.manual_seed(seed)
    description = yaml_model_load(family)
    description["scales"]["n"][1] = width
    network = DetectionModel(description, nc=classes, verbose=False)
    network.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return network


@pytest.fixture(scope="module")
def teacher() -> Any:
    return build(seed=1).eval()


@pytest.fixture(scope="module")
def made() -> Any:
    return build(width=0.125)


@pytest.fixture
def student(made: Any) -> Any:
    return deepcopy(made).train()


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "img": torch.rand(2, 3, 64, 64, generator=generator),
        "batch_idx": torch.tensor([0.0, 1.0]),
        "cls": torch.tensor([[1.0], [3.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.3, 0.4], [0.4, 0.6, 0.5, 0.2]]),
    }


def pickled(network: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(network, buffer)
    return buffer.getvalue()


def features(network: Any, images: torch.Tensor, layers: tuple[int, ...]) -> dict[int, Any]:
    with distilled._outputs(network, layers) as seen:
        network(images)
    return seen


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("method", ["cwd", "mse", "logit"])
def test_the_term_is_the_distance_to_the_teacher_times_the_batch(
    student: Any, teacher: Any, batch: dict[str, torch.Tensor], method: Any, normalize: bool
) -> None:
    plain = deepcopy(student)
    expected, plain_items = plain.loss(batch)
    distillation = Distillation(method, temperature=2.0, weight=3.0, normalize=normalize)
    distilled.begin(student, teacher, distillation)
    total, items = student.loss(batch)
    assert torch.equal(total[:3], expected)
    assert list(items) == [*plain_items, method]
    torch.testing.assert_close(total.detach(), 2 * torch.stack(list(items.values())))

    layers = (22,) if method == "logit" else HEAD_INPUTS
    images = batch["img"]
    with torch.no_grad():
        ours, theirs = features(plain, images, layers), features(deepcopy(teacher), images, layers)
        if method == "logit":
            term = losses.logit(ours[22]["scores"], theirs[22][1]["scores"], 2.0)
        else:
            term = torch.zeros(())
            for layer in layers:
                pair = [student.connectors[str(layer)](ours[layer]), theirs[layer]]
                if normalize:
                    pair = [nn.BatchNorm2d(x.shape[1], affine=False, track_running_stats=False)(x) for x in pair]
                term = term + (losses.cwd(pair[0], pair[1], 2.0) if method == "cwd" else losses.mse(*pair))
    torch.testing.assert_close(items[method], 3 * term)


def test_connectors_stand_only_where_the_widths_differ(student: Any, teacher: Any) -> None:
    block = student.model[15]  # alone at its full width, as pruning may leave one
    width = block.cv2.conv.in_channels
    block.cv2 = deepcopy(teacher.model[15].cv2)
    block.cv2.conv = nn.Conv2d(width, 64, 1, bias=False)
    for consumer in (student.model[16].conv, student.model[22].cv2[0][0].conv, student.model[22].cv3[0][0].conv):
        consumer.weight, consumer.in_channels = nn.Parameter(consumer.weight.repeat(1, 2, 1, 1)), 64
    state = torch.random.get_rng_state()
    distilled.begin(student, teacher, Distillation())
    widths = {name: (c.in_channels, c.out_channels, c.bias) for name, c in student.connectors.items()}
    assert widths == {"18": (64, 128, None), "21": (128, 256, None)}
    assert torch.equal(torch.random.get_rng_state(), state)
    again = deepcopy(student)
    distilled.end(again)
    distilled.begin(again, teacher, Distillation())
    assert torch.equal(again.connectors["21"].weight, student.connectors["21"].weight)
    assert 0 < student.connectors["21"].weight.std() < 0.2


def test_optimiser_and_average_see_the_connectors_and_not_the_teacher(
    student: Any, teacher: Any, batch: dict[str, torch.Tensor]
) -> None:
    from ultralytics.engine.trainer import BaseTrainer
    from ultralytics.utils.torch_utils import ModelEMA

    keys, parameters = set(student.state_dict()), len(list(student.parameters()))
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    distilled.begin(student, teacher, Distillation())
    added = {f"connectors.{layer}.weight" for layer in HEAD_INPUTS}
    assert set(student.state_dict()) == keys | added
    assert len(list(student.parameters())) == parameters + 3

    optimizer = BaseTrainer.build_optimizer(None, student, "SGD", 0.01, 0.9, 1e-3)
    group = {entry["param_group"]: {id(p) for p in entry["params"]} for entry in optimizer.param_groups}["weight"]
    assert {id(connector.weight) for connector in student.connectors.values()} <= group
    average = ModelEMA(student)
    first = student.connectors["15"].weight.detach().clone()
    student.loss(batch)[0].sum().backward()
    optimizer.step()
    average.update(student)
    assert not torch.equal(student.connectors["15"].weight, first)
    assert not torch.equal(average.ema.connectors["15"].weight, first)

    its = student.lesson.teacher
    assert its is not teacher
    assert not any(module.training for module in its.modules())
    assert not any(parameter.requires_grad for parameter in its.parameters())
    assert all(torch.equal(value, before[key]) for key, value in its.state_dict().items())
    assert teacher.model[0].conv.weight.requires_grad


def test_nothing_is_left_after_the_end(student: Any, teacher: Any, batch: dict[str, torch.Tensor]) -> None:
    before = pickled(student)
    distilled.begin(student, teacher, Distillation())
    middle = pickled(student)
    assert len(middle) < 1.5 * len(before) < 1.5 * len(pickled(teacher)) / 2  # no teacher inside
    distilled.end(student)
    assert type(student) is DetectionModel
    assert pickled(student) == before

    distilled.begin(student, teacher, Distillation())
    keys = set(build(width=0.125).state_dict())
    student.loss(batch)[0].sum().backward()
    average = deepcopy(student).eval()  # also with gradients and after a pass
    distilled.end(average)
    distilled.end(student)
    for network in (student, average):
        assert type(network) is DetectionModel
        assert set(network.state_dict()) == keys
        assert not any(module._forward_hooks for module in network.modules())
        assert network.loss(batch)[0].shape == (3,)
        distilled.end(network)  # nothing to do


def test_validation_and_weight_zero_leave_the_teacher_alone(
    student: Any, teacher: Any, batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    distilled.begin(student, teacher, Distillation())
    ran: list[torch.Size] = []
    student.lesson.teacher.model[0].register_forward_hook(lambda module, inputs, output: ran.append(output.shape))
    distilled.set_weight(student, 0)
    total, items = student.loss(batch)
    assert (total[3], items["cwd"], ran) == (0, 0, [])

    distilled.set_weight(student, 0.5)
    assert student.loss(batch)[1]["cwd"] > 0
    assert len(ran) == 1
    student.eval()
    with torch.no_grad():
        total, items = student.loss(batch, student(batch["img"]))
    assert (total[3], items["cwd"], len(ran)) == (0, 0, 1)

    student.train()
    with pytest.raises(UsageError, match="compile=False"):
        student.loss(batch, student(batch["img"]))
    with pytest.raises(UsageError, match="copy without its teacher"):
        deepcopy(student).loss(batch)


def test_the_teacher_follows_the_student_and_skips_its_head(
    student: Any, teacher: Any, batch: dict[str, torch.Tensor]
) -> None:
    distilled.begin(student.to(memory_format=torch.channels_last), teacher, Distillation())
    ran: list[bool] = []
    its = student.lesson.teacher.model
    its[22].register_forward_hook(lambda module, inputs, output: ran.append(True))
    its[1].register_forward_hook(
        lambda module, inputs, output: ran.append(output.is_contiguous(memory_format=torch.channels_last))
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = student.loss(batch)
    assert ran == [True]
    assert total.dtype == torch.float32
    assert total[3].isfinite()


def test_it_trains_inside_the_parallel_wrapper(
    student: Any, teacher: Any, batch: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    distilled.begin(student, teacher, Distillation())
    alone = deepcopy(student)
    alone.lesson.teacher = student.lesson.teacher
    alone.loss(batch)[0].sum().backward()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(student, find_unused_parameters=True)
        wrapped(batch)[0].sum().backward()
        weights = [
            (mine.grad.clone(), other.grad)
            for mine, other in zip(student.parameters(), alone.parameters(), strict=True)
            if other.grad is not None
        ]
        student.zero_grad()
        distilled.set_weight(student, 0)  # the connectors take no part in this step
        wrapped(batch)[0].sum().backward()
        wrapped(batch)[0].sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert len(weights) > 180
    for found, expected in weights:
        torch.testing.assert_close(found, expected)


def test_a_student_moves_towards_its_teacher(student: Any, teacher: Any, batch: dict[str, torch.Tensor]) -> None:
    distilled.begin(student, teacher, Distillation())
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3)
    found = []
    for _ in range(15):
        optimizer.zero_grad()
        total, items = student.loss(batch)
        total[3].backward()
        optimizer.step()
        found.append(float(items["cwd"]))
    assert found[-1] < 0.5 * found[0]


def test_layers_can_be_chosen(student: Any, teacher: Any, batch: dict[str, torch.Tensor]) -> None:
    every = (2, 4, 6, 8, 12, 15, 18, 21)
    distilled.begin(student, teacher, Distillation(layers=every[::-1]))
    assert student.lesson.layers == every
    assert student.loss(batch)[1]["cwd"] > 0
    distilled.end(student)
    with pytest.raises(UsageError, match=r"Layer 22 .* 0 to 21"):
        distilled.begin(student, teacher, Distillation(layers=(15, 22)))


@pytest.mark.parametrize("method", ["cwd", "logit"])
def test_the_newer_family_too(batch: dict[str, torch.Tensor], method: Any) -> None:
    student, teacher = (build(width, family="yolo11n.yaml") for width in (0.125, 0.25))
    distilled.begin(student, teacher, Distillation(method))
    assert student.lesson.layers == ((16, 19, 22) if method == "cwd" else (23,))
    assert student.loss(batch)[1][method] > 0


def test_networks_that_cannot_be_compared_are_refused(student: Any, teacher: Any) -> None:
    def refused(message: str, student: Any, teacher: Any) -> None:
        with pytest.raises(UsageError, match=message):
            distilled.begin(student, teacher, Distillation())
        assert type(student) is not distilled.Distilled or message.startswith("This network already")

    refused("4 classes and the teacher 3", student, build(classes=3))
    named = [deepcopy(network) for network in (student, teacher)]
    for network, names in zip(named, (["car", "bus"], ["bus", "car"]), strict=True):
        network.names = dict(enumerate([*names, "van", "truck"]))
    refused("Class 0 is 'car'", named[0], named[1])
    refused("23 layers and the teacher 24", student, build(family="yolo11n.yaml"))
    shallow = deepcopy(teacher)
    shallow.model[0].conv.stride = (1, 1)
    refused("At layer 15 .* 8x8 positions and the teacher 16x16", student, shallow)
    shallow.stride = shallow.stride / 2
    refused("strides are", student, shallow)
    refused("teacher is a Linear", student, nn.Linear(1, 1))
    with pytest.raises(UsageError, match="no teacher"):
        distilled.set_weight(student, 1)
    distilled.begin(student, teacher, Distillation())
    refused("This network already has a teacher", student, teacher)
    with pytest.raises(UsageError, match="weight of distillation is -1"):
        distilled.set_weight(student, -1)
