"""A detector in memory is judged as what is exported from it, and is afterwards as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from edgedeploy.models import yolo  # noqa: E402

with yolo.quietly():
    pytest.importorskip("ultralytics")
    from ultralytics.nn.tasks import DetectionModel

from edgedeploy.accuracy import assess  # noqa: E402
from edgedeploy.compress.checkpoint import read  # noqa: E402
from edgedeploy.compress.detector import Detector  # noqa: E402
from edgedeploy.compress.evaluation import digest, evaluate  # noqa: E402
from edgedeploy.compress.lineage import Lineage  # noqa: E402
from edgedeploy.demo.scenes import LABELS  # noqa: E402
from edgedeploy.errors import UsageError  # noqa: E402
from edgedeploy.tasks.dataset import read_coco, read_yolo  # noqa: E402
from edgedeploy.tasks.detect import Detect  # noqa: E402
from edgedeploy.tasks.protocol import COCO  # noqa: E402

NOWHERE = Lineage("made here", "")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_network_is_left_as_it_was(scenes: Path) -> None:
    """Its weights, the mode of every module, and what its head remembers; training goes on with it."""
    torch.manual_seed(0)
    network = DetectionModel("yolov8n.yaml", nc=len(LABELS), verbose=False).train()
    network.model[0].bn.eval()  # frozen
    before = digest(network), [module.training for module in network.modules()], dict(network.model[-1].__dict__)
    data = read_yolo(scenes).subset(range(2))
    threads = torch.get_num_threads()
    found = evaluate(Detector(network, LABELS, (64, 64), NOWHERE), data, COCO, (96, 96))
    after = digest(network), [module.training for module in network.modules()], dict(network.model[-1].__dict__)
    assert before[:2] == after[:2]
    assert before[2].keys() == after[2].keys()
    assert torch.get_num_threads() == threads
    assert found.accuracy.size == (96, 96)
    assert found.accuracy.model == before[0]
    assert found.accuracy.metric.protocol == "coco"
    assert found.accuracy.metric.max_detections == 100
    with torch.inference_mode():
        network(torch.zeros(1, 3, 64, 64))
    assert isinstance(network(torch.zeros(1, 3, 64, 64)), dict)


def test_sizes_and_classes_that_cannot_be(scenes: Path) -> None:
    """Both are said before anything is run."""
    network = DetectionModel("yolov8n.yaml", nc=2, verbose=False)
    data = read_yolo(scenes).subset(range(1))
    with pytest.raises(UsageError, match="96x100 is not a multiple of 32"):
        evaluate(Detector(network, ("a", "b"), (96, 100), NOWHERE), data)
    with pytest.raises(UsageError, match="Wrong number of classes"):
        evaluate(Detector(network, ("a", "b"), (96, 96), NOWHERE), data)


def test_a_real_detector_equals_what_is_exported_from_it(shared: Path, tmp_path: Path) -> None:
    """AP of photographs, eager with batch normalisation against ONNX without."""
    runtime = pytest.importorskip("onnxruntime")
    from edgedeploy.model import InputShape, load

    data = read_coco(next((shared / "data" / "coco_val128" / "annotations").glob("*.json"))).subset(range(8))
    model = load(str(shared / "weights" / "yolov8n.pt"), InputShape(size=(320, 320)))
    fused = model.graphs["main"].network
    torch.onnx.export(fused, (torch.zeros(1, 3, 320, 320),), tmp_path / "n.onnx", dynamo=False)
    session = runtime.InferenceSession(tmp_path / "n.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    detector = read(shared / "weights" / "yolov8n.pt")
    exported = assess(
        Detect(detector.labels, (320, 320)), lambda inputs: session.run(None, {name: inputs[0]}), data, ""
    )
    eager = evaluate(detector, data, size=(320, 320))
    assert (exported.accuracy.metric.ap50_95 or 0) > 0.3
    # Not AP50: of so few objects, one pair of detections whose scores differ by rounding moves it further than that.
    for metric in ("ap50_95", "ap75", "recall"):
        assert abs(getattr(exported.accuracy.metric, metric) - getattr(eager.accuracy.metric, metric)) < 1e-3
    for one, other in zip(eager.detections, exported.detections, strict=True):
        assert Detect(detector.labels, (320, 320)).distance(one, other) < 1e-3
