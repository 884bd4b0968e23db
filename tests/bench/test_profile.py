"""The profiling worker, in this process: what it times, and that it refuses what cannot be profiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from edgedeploy.bench.profile import Answer, profile
from edgedeploy.bench.target import Job, Target
from edgedeploy.errors import Unavailable
from edgedeploy.records import from_json, to_json
from edgedeploy.runtime import PROFILED_PASSES, UNCOUNTED_PASSES, NodeTime, Profile
from edgedeploy.tensors import Array
from edgedeploy.testing import FakeSession, fake_target

MADE = Profile.of([NodeTime("a", "Conv", 2e-3)], [4e-3, 5e-3, 9e-3], [3e-3, 2e-3, 10e-3], "a test")
SESSION = FakeSession()
ASKED: list[tuple[int, dict[str, tuple[int, ...]], str]] = []


def made(inputs: Mapping[str, Array], graph: str) -> Profile:
    ASKED.append((SESSION.runs, {name: array.shape for name, array in inputs.items()}, graph))
    return MADE


def profiled(job: Job) -> Target:
    return replace(fake_target(SESSION), profile=made)


def unprofiled(job: Job) -> Target:
    return fake_target(SESSION)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SESSION", FakeSession(facts={"threads": 1}))
    ASKED.clear()


def ask(loader: str, **changed: Any) -> tuple[Answer, list[str]]:
    phases: list[str] = []
    job = Job(loader=f"{__name__}:{loader}", path="net.edge", **changed)
    from edgedeploy.bench import profile as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load", globals()[loader])
        answer = profile(job, lambda event, fields: phases.append(fields["phase"]))
    return answer, phases


def test_passes_without_the_profiler_are_on_either_side_of_it() -> None:
    answer, phases = ask("profiled", batch=3)
    ((before, shapes, graph),) = ASKED
    assert (shapes, graph) == ({"image": (3, 3, 4, 4)}, "main")
    assert before >= PROFILED_PASSES + UNCOUNTED_PASSES
    assert SESSION.runs >= before + PROFILED_PASSES + UNCOUNTED_PASSES
    assert answer.passes == SESSION.runs - 2 * UNCOUNTED_PASSES
    assert answer.inputs == shapes
    assert answer.seconds > 0
    assert (answer.profile, answer.facts["threads"], answer.version) == (MADE, 1, "1.0")
    assert SESSION.closed
    assert phases[-1] == "timing passes without the profiler again"


def test_the_answer_crosses_as_json() -> None:
    answer, _ = ask("profiled")
    assert from_json(Answer, to_json(answer), "here") == answer


def test_a_runtime_without_a_profiler() -> None:
    with pytest.raises(Unavailable, match="fake has no profiler"):
        ask("unprofiled")


def test_a_profile_is_medians() -> None:
    assert (MADE.seconds, MADE.passes) == (5e-3, 3)
    assert MADE.outside == pytest.approx(1e-3)  # of 1, 3 and, as nodes cannot take longer than their pass, 0 ms
