"""Two artifacts in turn: over real processes with a fake session, and over made-up answers."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedeploy.bench import versus as versus_module
from edgedeploy.bench.measurement import Measurement
from edgedeploy.bench.pair import Pair, joined
from edgedeploy.bench.run import BenchOptions, Progress, Where
from edgedeploy.bench.scenario import Scenario
from edgedeploy.bench.spawn import Call
from edgedeploy.bench.statistics.ratio import Ratio
from edgedeploy.bench.target import Job
from edgedeploy.bench.versus import Contestant, Versus, versus
from edgedeploy.bench.worker import Answer
from edgedeploy.errors import Incompatible, RunFailed, UsageError
from edgedeploy.records import canonical
from edgedeploy.testing import fake_environment, fake_measurement, fake_process
from edgedeploy.testing.fakes import fake_times

OPTIONS = BenchOptions(
    loader="edgedeploy.testing:load_fake", processes=2, duration=0.2, backend="fake", watch=0, silence=20.0
)


def _children() -> list[str]:
    """Command lines of the processes that this one, or one that it left behind, has started for a pair."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            mark = (folder / "environ").read_bytes()
        except OSError:
            continue
        if any(word.startswith(b"edgedeploy.bench.") for word in words) and f"PAIR_TEST={os.getpid()}".encode() in mark:
            found.append(b" ".join(words).decode())
    return found


def test_two_fakes_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIR_TEST", str(os.getpid()))
    seen: list[Progress] = []
    made = versus("x/a.edge", "x/b.edge", OPTIONS, seen.append)
    assert len(made.first.processes) == len(made.second.processes) == 2
    for sides, blocks in zip(zip(made.first.processes, made.second.processes, strict=True), made.blocks, strict=True):
        began = [np.asarray(side.samples.began) for side in sides]
        rounds = [len(at) // size for at, size in zip(began, blocks, strict=True)]
        assert rounds[0] == rounds[1] >= 8
        order = [at.reshape(rounds[0], -1)[:, 0] for at in began]  # one clock: turns do not overlap
        ends = [at.reshape(rounds[0], -1)[:, -1] for at in began]
        first = order[0] < order[1]
        assert np.all(np.where(first, ends[0] < order[1], ends[1] < order[0]))
        assert np.all(first[: rounds[0] // 2 * 2 : 2] != first[1::2])
        assert all(len(side.warmup) >= rounds[0] for side in sides)  # the first pass of each turn is kept there
    assert isinstance(made.ratio(), Ratio)
    assert set(made.parts) == {"prepare", "compute", "finish", "end-to-end"}
    assert "sampling" in [step.phase for step in seen]
    assert any("b.edge (the second of the two)" in step.phase for step in seen if step.process == 1)
    assert any("b.edge (the first of the two)" in step.phase for step in seen if step.process == 2)
    assert Versus.from_json(json.loads(canonical(made.to_json())), "here") == made
    assert _children() == []


@pytest.mark.parametrize(
    ("behaviour", "error", "told"),
    [
        ("kill", RunFailed, r"measuring b\.edge \(the second of the two\) was killed by SIGKILL while warming up"),
        ("abort", RunFailed, "and the other one was ended. Its last words:\n  vendor: assertion failed in kernel"),
        ("exit", RunFailed, "ended with status 7 while warming up"),
        ("refuse", Incompatible, r"b\.edge \(the second of the two\): This model wants another device"),
    ],
)
def test_a_side_that_dies(behaviour: str, error: type[Exception], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIR_TEST", str(os.getpid()))
    with pytest.raises(error, match=told):
        versus("x/a.edge", Contestant("x/b.edge", options={"behaviour": behaviour}), OPTIONS)
    assert _children() == []


def test_a_side_that_hangs_is_ended_with_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIR_TEST", str(os.getpid()))
    hanging = Contestant("x/b.edge", options={"behaviour": "hang"})
    with pytest.raises(RunFailed, match=r"said nothing for 3 s while warming up: b\.edge"):
        versus("x/a.edge", hanging, replace(OPTIONS, silence=3.0))
    deadline = time.monotonic() + 5
    while _children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _children() == []


def test_a_pair_is_named_after_both() -> None:
    job = joined(Job("here", "/a/b/one.edge/", backend="x"), Job("here", "/c/two.edge", backend="y"), 3.0)
    assert (job.path, job.backend, job.duration) == ("one.edge and two.edge", "x and y", 3.0)


def answer(made: Measurement, process: int) -> Answer:
    return Answer(made.conditions, made.environment, made.environment_after, made.processes[process])


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What `versus` makes of two measurements' processes; and the jobs that were sent."""
    calls: list[Job] = []

    def compared(first: Measurement, second: Measurement, *given: Any) -> Versus:
        def converse(call: Call[Pair], silence: float, follow: Any, way: Any) -> tuple[Pair, float]:
            calls.append(call.job)
            place = len(calls) - 1
            sides = [answer(first, place), answer(second, place)]
            if place % 2:
                sides.reverse()
            return Pair(sides[0], sides[1], (5, 5), len(sides[0].process.samples) // 5), 0.1

        monkeypatch.setattr(versus_module, "converse", converse)
        return versus("a.edge", "b.edge", replace(OPTIONS, processes=len(first.processes)), *given)

    compared.calls = calls  # type: ignore[attr-defined]
    return compared


def taking(factor: float, **changed: Any) -> Measurement:
    """Three processes of 300 passes around 20 ms times ``factor``, on a machine that changes its speed."""
    made = []
    for process in range(3):
        states = np.repeat(np.random.default_rng(process).choice([1.0, 1.25], 10), 30)
        own = np.asarray(fake_times(300, int(process + 100 * factor), 0.02, 0.01))
        made.append(fake_process([int(value) for value in own * factor * states]))
    return fake_measurement(*made, **changed)


def test_the_ratio_is_that_of_the_artifacts_and_not_of_the_machine(compared: Any) -> None:
    made = compared(taking(1.0), taking(1.1))
    ratio = made.ratio()
    assert ratio.low < 1.1 < ratio.high
    assert ratio.low > 1.05
    assert made.doubts() == ()
    assert not compared_again(made).decided


def compared_again(made: Versus) -> Ratio:
    same = Versus(made.first, made.first, made.blocks).ratio()
    assert isinstance(same, Ratio)
    return same


def test_who_is_loaded_first_changes_from_pair_to_pair(compared: Any) -> None:
    compared(taking(1.0), taking(1.1))
    paths = [[json.loads(str(job.options[name]))["path"] for name in ("first", "second")] for job in compared.calls]
    assert paths == [["a.edge", "b.edge"], ["b.edge", "a.edge"], ["a.edge", "b.edge"]]


def test_an_environment_that_was_another_for_the_second_is_found(compared: Any) -> None:
    made = compared(taking(1.0), taking(1.0, before=fake_environment(governor="powersave")))
    assert made.doubts() == ("The environment was not the same for both (governor: performance -> powersave).",)


def test_a_change_in_between_is_found_of_either(compared: Any) -> None:
    made = compared(taking(1.0), taking(1.0, after=fake_environment(turbo=True)))
    (sentence,) = made.doubts()
    assert sentence == "Of second: The environment changed while it was measured (turbo: False -> True)."


def test_other_backends_are_allowed_and_said(compared: Any) -> None:
    other = fake_environment(runtime="2.0", packages={"other": "2.0"})
    made = compared(taking(1.0), taking(1.0, backend="other", before=other))
    (sentence,) = made.doubts()
    assert sentence.startswith("Conditions differ, so that more than the model is compared (runtime: 1.0 -> 2.0; ")
    assert "backend: fake -> other" in sentence


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"scenario": Scenario("offline")}, "not as 'offline'"),
        ({"precision": 0.02}, "fixed duration"),
        ({"until_stable": 5.0}, "fixed duration"),
    ],
)
def test_what_turns_cannot_give(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        versus("a.edge", "b.edge", replace(OPTIONS, **changed))


def test_where_it_was_measured_is_kept(compared: Any) -> None:
    from edgedeploy.bench.measurement import Place
    from edgedeploy.bench.remote.transport import Local

    made = compared(taking(1.0), taking(1.0), None, Where(Local(), Place("jetson", "ssh://x", "bench")))
    assert made.first.place == made.second.place == Place("jetson", "ssh://x", "bench")
