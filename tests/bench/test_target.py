"""How samples become passes and queries, and what a scenario cannot be asked of."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest

from edgedeploy.bench.frames import Frames
from edgedeploy.bench.scenario import Scenario
from edgedeploy.bench.target import Job, Target, load, split
from edgedeploy.errors import UsageError
from edgedeploy.tensors import Signature, StateSpec, TensorSpec
from edgedeploy.testing import SIGNATURE, FakeSession, fake_target

STATE = (StateSpec("h", "h_next", "float32", (1, 8)),)
FRAMES = Frames(16000, 0.01, 0.025, 5)
EIGHT = Scenario("multi-stream", samples_per_query=8)


def fixed(batch: int) -> Signature:
    return Signature((TensorSpec("x", "float32", (batch, 3)),), ())


def job(scenario: Scenario = EIGHT, **changed: Any) -> Job:
    return Job("here", "net.edge", scenario=scenario, **changed)


@pytest.mark.parametrize(
    ("made", "signature", "found"),
    [
        (job(Scenario(), batch=4), SIGNATURE, (4, 1)),
        (job(Scenario("offline"), batch=16), SIGNATURE, (16, 1)),
        (job(), SIGNATURE, (8, 1)),
        (job(batch=2), SIGNATURE, (2, 4)),
        (job(), fixed(1), (1, 8)),
        (job(), fixed(4), (4, 2)),
        (job(), replace(SIGNATURE, state=STATE), (1, 8)),
    ],
)
def test_a_query_is_one_batch_where_the_graph_takes_it(made: Job, signature: Signature, found: tuple[int, int]) -> None:
    assert split(made, signature, "net") == found


@pytest.mark.parametrize(("made", "signature"), [(job(), fixed(3)), (job(batch=3), SIGNATURE)])
def test_a_query_that_is_no_whole_number_of_batches(made: Job, signature: Signature) -> None:
    with pytest.raises(UsageError, match="A query of 8 samples is no whole number of batches of 3, which net is run"):
        split(made, signature, "net")


def streaming(job: Job) -> Target:
    return replace(stateful(job), frames=FRAMES)


def stateful(job: Job) -> Target:
    return replace(fake_target(FakeSession()), signature=replace(SIGNATURE, state=STATE))


@pytest.mark.parametrize(
    ("scenario", "told"),
    [
        (Scenario("offline"), "those of 'offline' may be taken in any order: measure it single-stream, paced"),
        (Scenario(engine="loadgen"), "LoadGen picks them at random: leave --engine out"),
    ],
)
def test_state_needs_an_order(monkeypatch: pytest.MonkeyPatch, scenario: Scenario, told: str) -> None:
    monkeypatch.setitem(sys.modules, "made_up", sys.modules[__name__])
    with pytest.raises(UsageError, match=f"fake carries state from one sample to the next, and {told}"):
        load(Job("made_up:stateful", "net.edge", scenario=scenario))


@pytest.mark.parametrize("name", ["single-stream", "multi-stream", "sustained"])
def test_state_is_carried_where_samples_follow_one_another(monkeypatch: pytest.MonkeyPatch, name: Any) -> None:
    monkeypatch.setitem(sys.modules, "made_up", sys.modules[__name__])
    assert load(Job("made_up:stateful", "net.edge", scenario=Scenario(name))).signature.state == STATE


@pytest.mark.parametrize("scenario", [Scenario("server", rate=100.0), EIGHT])
def test_frames_of_a_stream_come_by_its_clock(monkeypatch: pytest.MonkeyPatch, scenario: Scenario) -> None:
    monkeypatch.setitem(sys.modules, "made_up", sys.modules[__name__])
    with pytest.raises(UsageError, match=f"by its own clock, and not as '{scenario.name}': measure it single-stream"):
        load(Job("made_up:streaming", "net.edge", scenario=scenario))
    assert load(Job("made_up:streaming", "net.edge", scenario=Scenario("paced", rate=100.0))).frames == FRAMES


def test_loadgen_stops_at_no_precision() -> None:
    made = Job("edgedeploy.testing:load_fake", "net.edge", scenario=Scenario(engine="loadgen"), precision=0.02)
    with pytest.raises(UsageError, match="cannot stop at a precision"):
        load(made)
