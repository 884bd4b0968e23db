"""A head for other classes: rows of equal names are kept, the rest is as before."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from edgedeploy.compress.detector import Detector
from edgedeploy.compress.lineage import Lineage
from edgedeploy.errors import UsageError

pytest.importorskip("ultralytics")
OLD, NEW = ("person", "bicycle", "car"), ("Car", "tram", "person ", "boat", "bus")


@pytest.fixture(scope="module", params=["yolov8n.yaml", "yolo11n.yaml"])
def detector(request: pytest.FixtureRequest) -> Detector:
    from edgedeploy.models.yolo import quietly

    with quietly():
        from ultralytics.nn.tasks import DetectionModel
    torch.manual_seed(0)
    network: Any = DetectionModel(request.param, nc=3, verbose=False).eval()
    network.names = dict(enumerate(OLD))
    return Detector(network, OLD, (64, 64), Lineage("x.pt", "0" * 64))


def test_adapt(detector: Detector) -> None:
    from edgedeploy.compress.training.adapt import adapt

    before = {name: tensor.clone() for name, tensor in detector.network.state_dict().items()}
    random = torch.get_rng_state()
    adapted = adapt(detector, NEW)
    assert torch.equal(random, torch.get_rng_state())
    network = adapted.network
    head = network.model[-1]
    assert adapted.labels == NEW
    assert network.names == dict(enumerate(NEW))
    assert (head.nc, head.no, network.nc, network.yaml["nc"]) == (5, 5 + 64, 5, 5)
    assert adapted.lineage.steps[-1].settings == {"labels": list(NEW), "kept": ["Car", "person "]}
    last = [f"model.{len(network.model) - 1}.cv3.{level}.2." for level in range(3)]
    for name, tensor in network.state_dict().items():
        old = before[name]
        if not name.startswith(tuple(last)):
            assert torch.equal(tensor, old)
        else:
            assert torch.equal(tensor[0], old[2])
            assert torch.equal(tensor[2], old[0])
    for level, stride in enumerate((8, 16, 32)):
        bias = head.cv3[level][-1].bias
        assert bias[[1, 3, 4]].tolist() == pytest.approx([math.log(5 / 5 / (640 / stride) ** 2)] * 3)
        assert head.cv3[level][-1].weight[1].std() > 0
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 64, 64))[0].shape == (1, 4 + 5, 84)
        assert all(torch.equal(before[name], tensor) for name, tensor in detector.network.state_dict().items())
    again = adapt(detector, NEW).network.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in network.state_dict().items())
    assert adapt(detector, OLD) is detector


@pytest.mark.parametrize(("labels", "said"), [((), "no classes"), (("Bus", "bus "), "two are 'bus '")])
def test_labels_that_cannot_be(detector: Detector, labels: tuple[str, ...], said: str) -> None:
    from edgedeploy.compress.training.adapt import adapt

    with pytest.raises(UsageError, match=said):
        adapt(detector, labels)
