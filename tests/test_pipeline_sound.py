"""A folder of recordings as evidence for an export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedeploy import pipeline
from edgedeploy.errors import UsageError
from edgedeploy.exporter import Evidence, Request
from edgedeploy.model import Model, Source
from edgedeploy.pipeline import Images, evidence_from, export_checkpoint, read_calibration_set
from edgedeploy.tasks import Detect, Keywords, contract_of
from edgedeploy.tasks.babble import babble
from edgedeploy.tasks.clips import ClipSet
from edgedeploy.tasks.fbank import Fbank

soundfile: Any = pytest.importorskip("soundfile")
pytest.importorskip("soxr")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three clips of two words at 8 kHz, without lists of parts."""
    for seed, name in enumerate(("yes/a_nohash_0.wav", "yes/b_nohash_0.wav", "no/a_nohash_0.wav")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, babble(seed, 0.5, 8000), 8000)
    return tmp_path


def used(task: Detect | Keywords, evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> Evidence:
    """The evidence that an export of a model with this task gets."""
    requests: list[Request] = []
    source = Source("some.safetensors", "native", "0" * 64)
    model = Model("some", {}, source, contract_of(task))
    monkeypatch.setattr(pipeline, "identify", lambda reference: source)
    monkeypatch.setattr(pipeline, "load", lambda reference, shape: model)
    monkeypatch.setattr(pipeline, "export", lambda model, request, directory, progress: requests.append(request))
    monkeypatch.setattr(pipeline, "still_true", lambda target, request: None)
    monkeypatch.setattr(Request, "digest", lambda request, source: "")
    export_checkpoint("some.safetensors", Request(None, evidence), Path())  # type: ignore[arg-type]
    return requests[0].evidence


def test_recordings_come_at_the_rate_of_the_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = read_calibration_set(folder, None)
    assert isinstance(data, ClipSet)
    assert (data.split, len(data)) == ("all", 3)  # nothing says which part is to train on
    evidence = evidence_from(data, 2)
    record = evidence.calibration
    assert record is not None
    assert (evidence.origin, evidence.labels, evidence.labelled) == (f"{folder.name}, 2 clips", ("no", "yes"), None)
    assert (record.count, record.classes_seen, record.classes) == (2, 2, 2)
    for rate in (8000, 16000):
        samples = used(Keywords(("yes", "no", "up"), Fbank(rate)), evidence, monkeypatch).samples
        assert [len(sample) for sample in samples] == [rate // 2, rate // 2]
    assert np.asarray(evidence.samples[0]).dtype == np.float32


def test_a_part_that_is_known_is_calibrated_on(folder: Path) -> None:
    (folder / "testing_list.txt").write_text("no/a_nohash_0.wav\n")
    assert len(read_calibration_set(folder, None)) == 2
    assert len(read_calibration_set(folder, "test")) == 1
    with pytest.raises(UsageError, match="0 calibration clips"):
        evidence_from(read_calibration_set(folder, None), 0)


def test_evidence_of_another_kind_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = evidence_from(read_calibration_set(folder, None), 3)
    images = Evidence(Images([]), "scenes, 3 images", labels=("yes", "no"))
    with pytest.raises(UsageError, match="takes images, and there is sound"):
        used(Detect(("yes", "no"), (32, 32)), sound, monkeypatch)
    with pytest.raises(UsageError, match="takes sound, and there are images in scenes, 3 images: give clips"):
        used(Keywords(("yes", "no")), images, monkeypatch)
    with pytest.raises(UsageError, match="classes"):
        used(Keywords(("left", "right")), sound, monkeypatch)
