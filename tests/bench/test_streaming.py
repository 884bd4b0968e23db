"""Frames of an endless stream as passes: their order, their tensors, what they leave behind, and their pace."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgedeploy.bench import worker
from edgedeploy.bench.doubts import doubts
from edgedeploy.bench.frames import Frames, frames_of
from edgedeploy.bench.measurement import Measurement, Passes
from edgedeploy.bench.outcome import outcome
from edgedeploy.bench.remote.transport import Local
from edgedeploy.bench.run import BenchOptions, Where
from edgedeploy.bench.sampling import BatchSteps
from edgedeploy.bench.scenario import Scenario
from edgedeploy.bench.streaming import StreamSteps, steps_of
from edgedeploy.bench.target import Job, Target
from edgedeploy.bench.versus import Contestant, Versus, _job
from edgedeploy.errors import UsageError
from edgedeploy.tasks import STREAM, Keywords
from edgedeploy.tasks.fbank import Fbank
from edgedeploy.tensors import Signature, StateSpec, TensorSpec
from edgedeploy.testing import FakeClock, FakeSession, fake_measurement, fake_process, fake_target

MS = 1_000_000
TASK = Keywords(("yes", "no"), features=Fbank(bins=8))
FRAMES = Frames(sample_rate=16000, period=0.01, length=0.025, lookahead=5)
SIGNATURE = Signature(
    (TensorSpec("frame", "float32", (1, 8)), TensorSpec("end", "float32", (1, 1))),
    (TensorSpec("logits", "float32", (1, 2)), TensorSpec("heard", "float32", (1, 1))),
    (StateSpec("m", "m_next", "float32", (1, 4)),),
)


def clip(seed: int, count: int) -> Any:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, count).astype(np.float32)


def target(session: FakeSession, *samples: Any) -> Target:
    made = replace(fake_target(session), task=TASK, signature=SIGNATURE, graph=STREAM, frames=FRAMES)
    return replace(made, samples=samples or (clip(0, 1000), clip(1, 700)))


@pytest.mark.parametrize("lengths", [(1000, 700), (90,), (400, 401, 3)])
def test_passes_are_the_frames_of_the_samples_strung_together(lengths: tuple[int, ...]) -> None:
    samples = [clip(i, count) for i, count in enumerate(lengths)]
    session = FakeSession(signature=SIGNATURE)
    steps = steps_of(target(session, *samples), session)
    found = []
    for index in range(40):
        ready = steps.prepare(index)
        assert list(ready.inputs) == ["frame", "end"]
        assert ready.inputs["end"].tolist() == [[0.0]]  # the stream has no end
        found.append(ready.inputs["frame"])
        assert steps.finish(ready, steps.compute(ready)) is None  # the fake's outputs say that nothing was heard
    assert session.runs == 40
    assert session.resets == 0
    endless = np.resize(np.concatenate(samples), 39 * 160 + 400)
    np.testing.assert_array_equal(np.concatenate(found), TASK.features.normalise(TASK.features.extract(endless)))


def test_each_pass_feeds_one_hop_from_the_first_on(monkeypatch: pytest.MonkeyPatch) -> None:
    session = FakeSession(signature=SIGNATURE)
    pushed: list[int] = []
    feed = TASK.feed()
    push = feed.push

    def counted(piece: Any) -> Any:
        pushed.append(len(piece))
        return push(piece)

    monkeypatch.setattr(feed, "push", counted)
    monkeypatch.setattr(Keywords, "feed", lambda self: feed)
    steps = StreamSteps(target(session), session)
    assert pushed == [240]  # of a frame of 400: the hop that completes it is the first pass's
    for index in range(30):
        steps.prepare(index)
    assert pushed[1:] == [160] * 30


def test_nothing_is_kept_of_a_frame() -> None:
    session = FakeSession(signature=SIGNATURE)
    steps = StreamSteps(target(session), session)

    def run(count: int) -> tuple[int, int]:
        for index in range(count):
            ready = steps.prepare(index)
            steps.finish(ready, steps.compute(ready))
        gc.collect()
        return len(gc.get_objects()), tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        found = [run(200) for _ in range(6)]
    finally:
        tracemalloc.stop()
    objects, size = np.diff(found, axis=0).min(axis=0)  # a table of the interpreter's own grows now and then
    assert objects < 20
    assert size < 2_400  # a float of each frame would be 4,800, every time


def test_sound_that_is_no_stream() -> None:
    session = FakeSession(signature=SIGNATURE)
    with pytest.raises(UsageError, match="has the shape 2x160: a stream has one channel"):
        StreamSteps(target(session, np.zeros((2, 160), np.float32)), session)
    with pytest.raises(UsageError, match="The 1 samples of fake are empty"):
        StreamSteps(target(session, np.zeros(0, np.float32)), session)
    with pytest.raises(UsageError, match="The graph 'main' of fake takes samples one by one"):
        StreamSteps(fake_target(session), session)
    assert isinstance(steps_of(fake_target(session), session), BatchSteps)


def test_frames_are_those_of_the_contract() -> None:
    task = Keywords(("a",), features=Fbank(sample_rate=8000, bins=8, frame=0.032, hop=0.016), lookahead=0)
    found = frames_of(task, STREAM)
    assert found == Frames(8000, 0.016, 0.032, 0)
    assert (found.hop, found.before, found.wait) == (128, 128, 0.032)
    assert FRAMES.wait == pytest.approx(0.075)
    assert frames_of(task, "main") is None
    with pytest.raises(UsageError, match="the record is damaged"):
        Frames(16000, 0.0, 0.025, 5)


@pytest.mark.parametrize("scenario", [Scenario(), Scenario("paced", rate=100.0)])
def test_a_worker_measures_frames(monkeypatch: pytest.MonkeyPatch, scenario: Scenario) -> None:
    monkeypatch.setattr("edgedeploy.bench.drive.SPIN", 0)
    clock = FakeClock()
    session = FakeSession(clock, lambda run: 2 * MS, SIGNATURE)
    monkeypatch.setattr(worker, "load", lambda job: target(session))
    answer = worker.measure(
        Job("here", "net.edge", duration=0.5, scenario=scenario), lambda event, fields: None, clock, clock.sleep
    )
    assert answer.conditions.graph == STREAM
    assert answer.conditions.frames == FRAMES
    assert answer.conditions.inputs == {"frame": (1, 8), "end": (1, 1)}
    assert (answer.conditions.sample_count, answer.conditions.sample_shape) == (2, (1000,))
    assert set(answer.process.samples.compute) == {2 * MS}
    assert len(answer.process.samples) == (250 if scenario.rate is None else 50)
    made = replace(fake_measurement(answer.process), conditions=answer.conditions)
    assert made.real_time_factor == pytest.approx(0.2)


def measured(scenario: Scenario, *took: int, frames: Frames | None = FRAMES) -> Measurement:
    wait = (0,) * len(took) if scenario.rate else ()
    began = tuple(int(i * 1e9 / (scenario.rate or 100.0)) for i in range(len(took)))
    passes = Passes((0,) * len(took), took, (0,) * len(took), wait, began)
    graph = "main" if frames is None else STREAM
    return fake_measurement(fake_process([], samples=passes), scenario=scenario, graph=graph, frames=frames)


def test_the_factor_is_over_the_period_of_the_stream_and_not_of_the_queries() -> None:
    took = (2 * MS, 4 * MS) * 300
    for rate, load in ((None, None), (100.0, 0.3), (50.0, 0.15)):
        found = outcome(measured(Scenario() if rate is None else Scenario("paced", rate=rate), *took))
        assert found.real_time_factor is not None
        assert found.real_time_factor.value == pytest.approx(0.3)
        assert (found.schedule.load if found.schedule else None) == pytest.approx(load)
    camera = outcome(measured(Scenario("paced", rate=50.0), *took, frames=None))
    assert camera.real_time_factor is not None
    assert camera.real_time_factor.value == pytest.approx(0.15)
    assert outcome(measured(Scenario(), *took, frames=None)).real_time_factor is None
    assert measured(Scenario("server", rate=50.0), *took, frames=None).real_time_factor is None


def test_the_range_of_the_factor_is_that_of_stretches() -> None:
    found = outcome(measured(Scenario(), *(2 * MS,) * 300, *(4 * MS,) * 300)).real_time_factor
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.2, 0.4))


def test_doubts_about_the_pace() -> None:
    paced = Scenario("paced", rate=100.0)
    assert not [d for d in doubts(measured(paced, *(7 * MS,) * 600)) if "real-time" in d or "per second:" in d]
    (near,) = [d for d in doubts(measured(paced, *(9 * MS,) * 600)) if "real-time factor" in d]
    assert near.endswith("a real-time factor of 0.90 leaves little time for anything else.")
    (late,) = [d for d in doubts(measured(Scenario(), *(12 * MS,) * 600)) if "real-time factor" in d]
    assert late.startswith("A frame takes 12.0 ms on average and the next one is due after 10.0 ms")
    assert late.endswith("does not keep up with the stream.")
    (other,) = [d for d in doubts(measured(Scenario("paced", rate=50.0), *(7 * MS,) * 600)) if "Frames came" in d]
    assert "the stream has 100 per second" in other
    camera = measured(Scenario("paced", rate=105.0), *(9 * MS,) * 600, frames=None)
    assert not [d for d in doubts(camera) if "real-time" in d]


def test_frames_are_a_condition_and_others_keep_their_fingerprint() -> None:
    made = fake_measurement()
    assert "frames" not in made.comparable()
    streams = fake_measurement(frames=FRAMES)
    assert streams.fingerprint() != made.fingerprint()
    assert Measurement.from_json(streams.to_json(), "here") == streams
    old = made.to_json()
    del old["conditions"]["frames"]  # as it was written before there were any
    assert Measurement.from_json(old, "here") == made


def test_two_graphs_of_one_bundle_in_turn() -> None:
    step = fake_measurement(graph=STREAM, frames=FRAMES, inputs={"frame": (1, 8)})
    window = fake_measurement(inputs={"features": (1, 128, 8)})
    assert Versus(step, window, ((5, 5),) * 3).differences() == ()
    other = replace(window, conditions=replace(window.conditions, digest="e" * 64))
    assert any(text.startswith("graph: ") for text in Versus(step, other, ((5, 5),) * 3).differences())
    where = Where(Local())
    assert _job(Contestant("net.edge", graph="main"), BenchOptions(graph=STREAM), where).graph == "main"
    assert _job("net.edge", BenchOptions(), where).graph is None
