"""What a scenario may be, and when its queries are due."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.bench.scenario import FASTEST, Scenario
from edgedeploy.errors import UsageError
from edgedeploy.records import canonical, from_json, to_json


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"name": "ofline"}, "no scenario 'ofline'. Did you mean 'offline'"),
        ({"name": "paced"}, "'paced' needs a rate"),
        ({"name": "server", "deadline": 0.1}, "'server' needs a rate"),
        ({"deadline": 0.1}, "'single-stream' has no deadline"),
        ({"name": "offline", "rate": 30.0}, "'offline' has no rate"),
        ({"name": "paced", "rate": 0.0}, "rate of 0"),
        ({"name": "paced", "rate": float("inf")}, "rate of inf"),
        ({"name": "paced", "rate": 30.0, "deadline": -1.0}, "deadline of -1"),
        ({"name": "paced", "rate": 1e6}, r"cannot be issued on time at 1\.00 MHz: 20\.0 kHz is the most"),
        ({"samples_per_query": 8}, "'single-stream' cannot have 8 samples"),
        ({"name": "multi-stream", "samples_per_query": 0}, "cannot have 0 samples"),
        ({"name": "paced", "rate": 30.0, "engine": "loadgen"}, "LoadGen drives single-stream and offline"),
    ],
)
def test_requests_that_cannot_be_right(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Scenario(**wrong)


def test_the_deadline_of_a_pace_is_its_period() -> None:
    assert Scenario("paced", rate=50.0).limit == pytest.approx(0.02)
    assert Scenario("paced", rate=50.0, deadline=0.1).limit == 0.1
    assert Scenario("server", rate=50.0).limit is None
    assert Scenario().limit is None


@given(st.floats(0.001, FASTEST))
def test_a_pace_does_not_drift(rate: float) -> None:
    due = Scenario("paced", rate=rate).due()
    first = list(islice(due, 3))
    assert first[0] == 0
    assert abs(first[2] - 2e9 / rate) <= max(1, 1e-12 * first[2])
    thousandth = next(islice(due, 997, None))
    assert abs(thousandth - 1e12 / rate) <= max(1, 1e-12 * thousandth)


def test_arrivals_are_a_poisson_process_that_can_be_repeated() -> None:
    server = Scenario("server", rate=200.0, seed=3)
    due = list(islice(server.due(), 20_000))
    gaps = np.diff([0, *due]) / 1e9
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 200, rel=0.05)  # an exponential distribution has both the same
    counts = np.bincount((np.array(due) // 100_000_000).astype(int))[:-1]
    assert counts.var() == pytest.approx(counts.mean(), rel=0.15)
    assert list(islice(server.due(), 20_000)) == due
    assert list(islice(Scenario("server", rate=200.0, seed=4).due(), 10)) != due[:10]


def test_a_scenario_survives_json() -> None:
    made = Scenario("server", rate=30.0, deadline=0.1, seed=7)
    assert from_json(Scenario, json.loads(canonical(to_json(made))), "here") == made
