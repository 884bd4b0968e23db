from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from edgedeploy.capture import reference_session
from edgedeploy.errors import UsageError
from edgedeploy.model import InputShape, load
from edgedeploy.recognition.hearing import Hearing, Prefixes, Steps, Whole, hear, seconds_of
from edgedeploy.tasks.clips import ClipSet
from edgedeploy.tasks.speech_files import read_clips
from edgedeploy.tensors import Array

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def clips(keywords: Any) -> ClipSet:
    return read_clips(keywords.clips, "test")


@pytest.fixture(scope="module")
def ears(keywords: Any) -> dict[str, Any]:
    model = load(keywords.checkpoint, InputShape(streaming=True))
    session, graphs = reference_session(model), model.graphs

    def prefixes(features: Array) -> Array:
        with torch.inference_mode():
            found: Array = graphs["main"].network.prefixes(torch.from_numpy(features))[0].numpy()
        return found

    return {
        "whole": Whole(keywords.task, session, graphs["main"].signature),
        "prefixes": Prefixes(keywords.task, prefixes),
        "steps": Steps(keywords.task, session, graphs["stream"].signature),
    }


def test_a_clip_is_heard_the_same_whole_by_prefixes_and_step_by_step(
    keywords: Any, clips: ClipSet, ears: dict[str, Any]
) -> None:
    whole, prefixes, steps = (hear(ear, keywords.task, clips) for ear in ears.values())
    frames = keywords.task.frames
    assert prefixes.heard.tolist() == steps.heard.tolist() == list(range(frames + 1))
    assert whole.heard.tolist() == [frames]
    np.testing.assert_allclose(steps.logits, prefixes.logits, atol=2e-5)
    np.testing.assert_allclose(steps.logits[:, -1:], whole.logits, atol=2e-5)
    assert float(np.ptp(steps.logits[:, 1:], axis=1).min()) > 1e-3  # the answer does change from frame to frame
    assert whole.frames[:3].tolist() == [10, 18, frames]  # 0.12 s, 0.2 s, and a longer one cut
    assert (steps.words_heard[:, 0] == -1).all()  # before the first frame nothing was heard
    assert whole.right.shape == (12, 1)


def test_words_are_matched_by_name(keywords: Any, clips: ClipSet, ears: dict[str, Any]) -> None:
    turned = dataclasses.replace(
        clips,
        labels=("yes", "up", "extra", "no", "down"),
        clips=tuple(dataclasses.replace(c, word=(4, 3, 1, 0)[c.word]) for c in clips.clips),
    )
    one, other = (hear(ears["whole"], keywords.task, data) for data in (clips, turned))
    assert one.words.tolist() == other.words.tolist()
    strange = dataclasses.replace(clips, labels=("down", "no", "left", "yes"))
    with pytest.raises(UsageError, match=r"does not know 1 of the words .* 'left'"):
        hear(ears["whole"], keywords.task, strange)
    with pytest.raises(UsageError, match="no clip in the split 'test'"):
        hear(ears["whole"], keywords.task, clips.subset([]))


def test_a_clip_that_cannot_be_heard_is_named(
    keywords: Any, clips: ClipSet, ears: dict[str, Any], tmp_path: Any
) -> None:
    soundfile: Any = pytest.importorskip("soundfile")
    short = tmp_path / "short.wav"
    soundfile.write(short, np.zeros(20, np.float32), 4000)
    data = dataclasses.replace(clips, clips=(dataclasses.replace(clips.clips[0], path=short),))
    with pytest.raises(UsageError, match=r"short\.wav: A clip of 20 samples"):
        hear(ears["prefixes"], keywords.task, data)


def test_folds_are_joined_and_others_refused(keywords: Any, clips: ClipSet, ears: dict[str, Any]) -> None:
    half = [hear(ears["whole"], keywords.task, clips.subset(part)) for part in (range(5), range(5, 12))]
    both, whole = half[0].join(half[1]), hear(ears["whole"], keywords.task, clips)
    for field in dataclasses.fields(Hearing):
        np.testing.assert_array_equal(getattr(both, field.name), getattr(whole, field.name))
    with pytest.raises(UsageError, match="same classes and answers"):
        whole.join(hear(ears["prefixes"], keywords.task, clips))


def test_an_answer_that_is_no_number_is_wrong_and_frames_are_seconds(keywords: Any, clips: ClipSet) -> None:
    broken = Prefixes(keywords.task, lambda features: np.full((keywords.task.frames, 4), np.nan, np.float32))
    found = hear(broken, keywords.task, clips)
    assert not found.right.any()
    features = keywords.task.features
    assert features.count(features.samples(7)) == 7
    assert features.count(features.samples(7) - 1) == 6
    assert seconds_of(features, 87) == pytest.approx(0.885)  # as the paper's 87 frames
