"""What a worker measures, in this process and under a fake clock."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from edgedeploy.bench import worker
from edgedeploy.bench.scenario import Scenario
from edgedeploy.bench.target import Job, Target, load
from edgedeploy.bench.worker import Answer, measure
from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.records import canonical, from_json, to_json
from edgedeploy.testing import FakeClock, FakeSession, fake_target

MS = 1_000_000
CLOCK = FakeClock()
SESSION = FakeSession()


def prepared_target(job: Job) -> Target:
    return replace(fake_target(SESSION), load_runtime=_load_runtime, open=_open)


def empty_target(job: Job) -> Target:
    return replace(fake_target(SESSION), samples=())


def _load_runtime() -> str:
    CLOCK.advance(100 * MS)
    return "1.2.3"


def _open() -> FakeSession:
    CLOCK.advance(50 * MS)
    return SESSION


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Measure a session whose run i takes ``cost(i)``; the answer and the events."""

    def run(cost: Any, **changed: Any) -> tuple[Answer, list[tuple[str, dict[str, Any]]]]:
        clock = FakeClock()
        monkeypatch.setattr(sys.modules[__name__], "CLOCK", clock)
        monkeypatch.setattr(sys.modules[__name__], "SESSION", FakeSession(clock, cost, facts={"threads": 1}))
        monkeypatch.setattr(worker, "load", prepared_target)
        events: list[tuple[str, dict[str, Any]]] = []
        job = Job(**{"loader": "here", "path": "net.edge", "duration": 3.0, **changed})
        return measure(job, lambda event, fields: events.append((event, fields)), clock, clock.sleep), events

    return run


def test_everything_is_measured_separately(run: Any) -> None:
    answer, events = run(lambda i: 500 * MS if i == 0 else max(20, 60 - i) * MS)
    process = answer.process
    assert process.runtime_import == pytest.approx(0.1)
    assert process.load == pytest.approx(0.05)
    assert process.first.compute == (500 * MS,)
    assert process.warmup.compute[:2] == (59 * MS, 58 * MS)
    assert process.steady
    assert set(process.samples.compute) == {20 * MS}
    assert len(process.samples) == 150
    assert answer.before.runtime == "1.2.3"
    assert [fields["phase"] for event, fields in events if event == "phase"] == [
        "reading the bundle",
        "importing the runtime",
        "loading",
        "running the first inference",
        "warming up",
        "sampling",
    ]
    assert [event for event, _ in events].count("progress") == 2
    assert SESSION.closed


def test_an_unsteady_model_is_measured_and_marked(run: Any) -> None:
    answer, _ = run(lambda i: int(MS * 1.02**i))
    assert not answer.process.steady
    assert len(answer.process.samples) >= 7


def test_the_minimum_is_kept_however_long_it_takes(run: Any) -> None:
    answer, _ = run(lambda i: 5000 * MS, minimum=9)
    assert len(answer.process.samples) == 9


def test_conditions_are_those_that_were_run(run: Any) -> None:
    answer, _ = run(lambda i: 20 * MS, batch=3, threads=1, options={"fast": True})
    conditions = answer.conditions
    assert conditions.inputs == {"image": (3, 3, 4, 4)}
    assert (conditions.batch, conditions.threads, conditions.options) == (3, 1, {"fast": True})
    assert (conditions.sample_count, conditions.sample_shape) == (2, (3, 4, 4))


def test_an_answer_survives_json(run: Any) -> None:
    answer, _ = run(lambda i: 20 * MS)
    assert from_json(Answer, json.loads(canonical(to_json(answer))), "here") == answer


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sleep to the very end: a clock that does not move by itself cannot be waited for."""
    monkeypatch.setattr("edgedeploy.bench.drive.SPIN", 0)


@pytest.mark.usefixtures("exact")
def test_paced(run: Any) -> None:
    answer, events = run(lambda i: 5 * MS, scenario=Scenario("paced", rate=50.0))
    samples = answer.process.samples
    assert samples.began == tuple(i * 20 * MS for i in range(150))
    assert set(samples.wait) == {0}
    assert answer.conditions.includes == ("wait", "prepare", "compute", "finish")
    assert answer.process.telemetry.wall == pytest.approx(2.985)
    assert answer.process.warmup.wait == ()
    assert [event for event, _ in events].count("progress") >= 2


def test_multi_stream(run: Any) -> None:
    answer, _ = run(lambda i: 20 * MS, scenario=Scenario("multi-stream", samples_per_query=4))
    assert (answer.conditions.batch, answer.conditions.samples_per_pass) == (4, 4)
    assert answer.conditions.inputs == {"image": (4, 3, 4, 4)}
    answer, _ = run(lambda i: 20 * MS, scenario=Scenario("multi-stream", samples_per_query=4), batch=2)
    assert (answer.conditions.batch, answer.conditions.samples_per_pass) == (2, 4)
    assert set(answer.process.samples.compute) == {40 * MS}
    assert answer.conditions.inputs == {"image": (2, 3, 4, 4)}


def test_offline(run: Any) -> None:
    answer, _ = run(lambda i: 20 * MS, scenario=Scenario("offline"))
    assert answer.conditions.includes == ("prepare", "compute", "finish")
    assert len(answer.process.samples) == 150
    assert answer.process.telemetry.wall == pytest.approx(3.0)


def test_a_sustained_run_is_warmed_up_for_a_short_time(run: Any) -> None:
    answer, _ = run(lambda i: 100 * MS, duration=600.0, scenario=Scenario("sustained"))
    assert len(answer.process.warmup) <= 16
    assert len(answer.process.samples) == 6000


def test_precision_ends_sampling(run: Any) -> None:
    answer, _ = run(lambda i: 20 * MS, duration=100.0, precision=0.05)
    assert len(answer.process.samples) < 500


def test_an_engine_that_is_not_installed_is_said_before_anything_is_opened(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(Unavailable, match=r"pip install 'edgedeploy\[loadgen\]'"):
        run(lambda i: 20 * MS, scenario=Scenario(engine="loadgen"))
    assert SESSION.runs == 0


def test_the_session_is_closed_after_a_failure(run: Any) -> None:
    def fail(i: int) -> int:
        raise ValueError("vendor")

    with pytest.raises(ValueError, match="vendor"):
        run(fail)
    assert SESSION.closed


@pytest.mark.parametrize("loader", ["nowhere:load", "edgedeploy.testing:nothing", "edgedeploy.testing", ""])
def test_a_loader_that_is_not_there(loader: str) -> None:
    with pytest.raises(UsageError, match="cannot be used"):
        load(Job(loader, "net.edge"))


def test_a_target_without_samples_is_refused() -> None:
    sys.modules["made_up"] = sys.modules[__name__]
    try:
        with pytest.raises(UsageError, match="fake has no samples"):
            load(Job("made_up:empty_target", "net.edge"))
    finally:
        del sys.modules["made_up"]


def test_the_worker_imports_numpy_and_nothing_heavier() -> None:
    """With the loader of bundles, as on a device: standard library, numpy, edgedeploy."""
    code = "import sys, edgedeploy.bench.worker, edgedeploy.bench.bundle; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    tops = {name.partition(".")[0] for name in done.stdout.split()}
    heavy = {"torch", "onnx", "onnxruntime", "yaml", "typer", "rich", "cv2", "PIL", "scipy", "packaging"}
    assert tops & heavy == set()
    assert "numpy" in tops
