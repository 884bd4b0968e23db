"""A plan goes on where it was stopped, does one job at a time on each machine, and one bad row spoils no other."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.bench.measurement import Measurement
from edgedeploy.errors import UsageError
from edgedeploy.plan import (
    MEASUREMENTS,
    STATE,
    Children,
    Done,
    Journal,
    Plan,
    Row,
    RowResult,
    Settings,
    Stopped,
    alone,
    checked,
    children,
    pending,
    read_plan,
    run_plan,
)
from edgedeploy.plan.children import Say
from edgedeploy.plan.commands import bench_command, bundle_folder, compare_command, export_command
from edgedeploy.report import plan as report
from edgedeploy.testing import fake_measurement, fake_process

MODEL = {"checkpoint": "net.safetensors"}
BOARD = {"profile": "raspberry-pi-5", "on": "ssh://pi"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a checkpoint, as far as anybody looks into it here."""
    (tmp_path / "net.safetensors").write_bytes(b"weights")
    return tmp_path


def make(place: Path, **sections: Any) -> Plan:
    return checked({"models": {"net": MODEL}} | sections, place / "plan.toml")


def rows(plan: Plan) -> list[str]:
    return [str(row) for row in plan.rows]


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_smallest_plan_is_one_row(place: Path) -> None:
    (place / "plan.toml").write_text('[models.net]\ncheckpoint = "net.safetensors"\n')
    plan = read_plan(place / "plan.toml")
    assert plan.rows == (Row("net", "this-machine", None, None, "single-stream"),)
    assert plan.name == "plan"


def test_rows_are_every_combination_once_in_order(place: Path) -> None:
    matrix = {
        "precisions": ["fp32", "int8"],
        "backends": ["onnxruntime", "openvino"],
        "exclude": [{"precision": "int8", "backend": "openvino"}],
        "include": [{"precision": "fp16", "backend": "openvino"}, {"precision": "fp32", "backend": "openvino"}],
    }
    assert rows(make(place, matrix=matrix)) == [
        "net/this-machine/fp32/onnxruntime/single-stream",
        "net/this-machine/fp32/openvino/single-stream",
        "net/this-machine/int8/onnxruntime/single-stream",
        "net/this-machine/fp16/openvino/single-stream",
    ]


def test_axes_left_out_are_all_there_is(place: Path) -> None:
    devices = {"here": {"profile": "this-machine"}, "pi": BOARD}
    scenarios = {"single-stream": {}, "camera": {"scenario": "paced", "rate": "30Hz"}}
    plan = make(place, models={"a": MODEL, "b": MODEL}, devices=devices, scenarios=scenarios)
    assert len(plan.rows) == 8
    chosen = make(place, models={"a": MODEL, "b": MODEL}, devices=devices, matrix={"models": ["b"], "devices": ["pi"]})
    assert rows(chosen) == ["b/pi/default/default/single-stream"]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"model": {}}, "unknown key 'model'. Did you mean 'models'?"),
        ({"models": {"net": {"checkpont": "x"}}}, "unknown key 'checkpont'. Did you mean 'checkpoint'?"),
        ({"models": {"net": {}}}, "models: net: the key 'checkpoint' is missing"),
        ({"models": {"net": {"checkpoint": 3}}}, "expected text, found int"),
        ({"models": {}}, "[models] is empty"),
        ({"models": {"a/b": MODEL}}, "'a/b' becomes a folder's name"),
        ({"models": {"..": MODEL}}, "'..' becomes a folder's name"),
        ({"matrix": {"backends": ["../../x"]}}, "'../../x' is the name of no backend"),
        ({"matrix": {"include": [{"backend": "a/b"}]}}, "'a/b' is the name of no backend"),
        ({"devices": {}}, "[devices] is empty"),
        ({"matrix": {"devices": ["this-machin"]}}, "matrix: devices: there is no 'this-machin'. Did you mean"),
        ({"matrix": {"precisions": ["int7"]}}, "matrix: precisions: there is no 'int7'. Did you mean 'int8'?"),
        ({"matrix": {"include": [{"model": "nat"}]}}, "include[0]: model: there is no 'nat'. Did you mean 'net'?"),
        ({"matrix": {"exclude": [{"precision": "int8"}]}}, "exclude[0] excludes no row"),
        ({"matrix": {"exclude": [{"model": "net"}]}}, "everything is excluded"),
        ({"matrix": {"exclude": [{"modl": "net"}]}}, "unknown key 'modl'"),
        ({"scenarios": {"fast": {}}}, "scenarios: fast is no scenario by itself"),
        ({"scenarios": {"fast": {"scenario": "singel-stream"}}}, "Did you mean 'single-stream'?"),
        ({"scenarios": {"paced": {}}}, "scenarios: paced: The scenario 'paced' needs a rate"),
        ({"scenarios": {"paced": {"rate": "30"}}}, "'30' has no unit"),
        ({"scenarios": {"offline": {"duration": "0s"}}}, "scenarios: offline: A duration of 0s is none"),
        ({"scenarios": {"offline": {"processes": 0}}}, "0 processes measure nothing"),
        ({"scenarios": {"offline": {"precision": "0%"}}}, "A precision of 0% is never reached"),
        ({"scenarios": {"offline": {"engine": "mlperf"}}}, "There is no engine 'mlperf'"),
        ({"scenarios": {"offline": {"samples_per_query": 3}}}, "cannot have 3 samples"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(place: Path, sections: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        make(place, **sections)
    assert str(place / "plan.toml") in str(refused.value)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "text", [b"[models", b"\xff", b'[models.a]\ncheckpoint="x"\n[models.a]\n', b"a = " + b"[" * 5000]
)
def test_a_file_that_is_no_toml_is_one_sentence(place: Path, text: bytes) -> None:
    (place / "plan.toml").write_bytes(text)
    with pytest.raises(UsageError, match="is not TOML"):
        read_plan(place / "plan.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        read_plan(place / "none.toml")


# --- the commands -----------------------------------------------------------------------------------------------------


def test_each_step_is_a_public_command(place: Path) -> None:
    model = MODEL | {"calibrate": "data.yaml", "accuracy": "data.yaml", "limit": 9, "imgsz": 320, "split": "train"}
    scenario = {
        "scenario": "paced",
        "rate": "30Hz",
        "deadline": "20ms",
        "duration": "1min",
        "processes": 2,
        "precision": "2%",
    }
    plan = make(
        place,
        models={"net": model},
        devices={"pi": BOARD | {"threads": 2}},
        scenarios={"camera": scenario | {"until_stable": True}},
        matrix={"precisions": ["int8"], "backends": ["onnxruntime"]},
    )
    (row,) = plan.rows
    net, data = str(place / "net.safetensors"), str(place / "data.yaml")
    folder = bundle_folder(plan, row, Path("out"))
    assert folder == Path("out/bundles/net/raspberry-pi-5/onnxruntime-int8")
    assert " ".join(export_command(plan, row, folder)) == (
        f"export {net} --device raspberry-pi-5 --precision int8 --backend onnxruntime --calibrate {data} "
        f"--split train --imgsz 320 --output {folder} --json"
    )
    assert " ".join(bench_command(plan, row, Path("b.edge"), history=False)) == (
        "bench b.edge --on ssh://pi --device raspberry-pi-5 --threads 2 --scenario paced --duration 1min "
        "--processes 2 --rate 30Hz --deadline 20ms --precision 2% --until-stable --no-history --json"
    )
    command = compare_command(plan, row, Path("b.edge"), history=False)
    assert command is not None
    assert " ".join(command) == f"compare {net} b.edge --data {data} --limit 9 --show 0 --no-history --json"


def test_this_machine_and_targets_need_no_address(place: Path) -> None:
    plan = make(place, devices={"this-machine": {}, "nano": {"on": "bench-nano"}, "pi": {"profile": "pi.yaml"}})
    here, nano, pi = plan.rows
    assert bench_command(plan, here, Path("b")) == ("bench", "b", "--json")
    assert bench_command(plan, nano, Path("b")) == ("bench", "b", "--on", "bench-nano", "--json")
    assert (plan.way(here), plan.way(nano), plan.way(pi)) == ("local", "bench-nano", None)
    assert plan.profile(pi) == str(place / "pi.yaml")
    assert bundle_folder(plan, pi, Path("o")) == Path("o/bundles/net/pi/default-default")


def test_a_target_knows_its_profile_and_its_machine(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgedeploy import targets

    monkeypatch.setenv("XDG_CONFIG_HOME", str(place / "config"))
    targets.add("bench-nano", "jetson-orin-nano", "ssh://jetson@nano.local")
    devices = {"nano": {"on": "bench-nano"}, "again": {"profile": "jetson-nano", "on": "ssh://jetson@nano.local"}}
    plan = make(place, devices=devices)
    nano, again = plan.rows
    assert (plan.profile(nano), plan.profile(again)) == ("jetson-orin-nano", "jetson-nano")
    assert plan.machine(nano) == plan.machine(again)
    here = make(place)
    assert here.machine(here.rows[0]) == "local"


def test_a_target_that_nobody_added_is_told_before_any_work(place: Path) -> None:
    runner = FakeRunner()
    with pytest.raises(UsageError, match="bench-nano"):
        work(make(place, devices={"this-machine": {}, "nano": {"on": "bench-nano"}}), place, runner)
    assert runner.calls == []


def test_a_factory_is_no_path(place: Path) -> None:
    assert make(place).path("package.module:function") == "package.module:function"
    assert make(place).path("net.pt") == str(place / "net.pt")


def test_a_path_is_no_option_of_a_command(place: Path) -> None:
    beside = dataclasses.replace(make(place), base=Path())  # as in `edgedeploy run plan.toml`
    assert beside.path("--output=elsewhere") == "./--output=elsewhere"
    assert beside.path("net.pt") == "net.pt"


# --- working it off ---------------------------------------------------------------------------------------------------

Answer = Callable[[Sequence[str]], "Done | None"]


class FakeRunner:
    """Answers as the commands do, and writes the bundles that they write; ``answer`` may answer instead."""

    def __init__(self, answer: Answer = lambda argv: None, stop_at: int | None = None) -> None:
        self.answer, self.stop_at = answer, stop_at
        self.calls: list[tuple[str, ...]] = []
        self.stopped = False

    def __call__(self, argv: Sequence[str], say: Say) -> Done:
        if self.stopped or len(self.calls) == self.stop_at:
            raise Stopped
        self.calls.append(tuple(argv))
        say("at work")
        found = self.answer(argv)
        if found is None:
            make = {"export": self._export, "bench": self._bench, "compare": self._compare}[argv[0]]
            found = Done(0, json.dumps(make(argv)), "")
        return found

    def stop(self) -> None:
        self.stopped = True

    @property
    def steps(self) -> list[str]:
        return [argv[0] for argv in self.calls]

    @staticmethod
    def _export(argv: Sequence[str]) -> dict[str, Any]:
        bundle = Path(argv[argv.index("--output") + 1]) / "net.edge"
        bundle.mkdir(parents=True, exist_ok=True)
        digest = f"{abs(hash(str(bundle))):064x}"
        (bundle / "digest").write_text(digest)
        return {"path": str(bundle), "reused": False, "manifest": {"digest": digest}}

    @staticmethod
    def _bench(argv: Sequence[str]) -> dict[str, Any]:
        assert (Path(argv[1]) / "digest").exists()
        made = fake_measurement(fake_process([10_000_000] * 50))
        return {"measurement": made.to_json(), "doubts": ["It was hot."]}

    @staticmethod
    def _compare(argv: Sequence[str]) -> dict[str, Any]:
        assert (Path(argv[2]) / "digest").exists()
        return {"comparison": comparison()}


def comparison() -> dict[str, Any]:
    """The JSON of one."""
    from edgedeploy.tasks.coco import DetectionAccuracy

    metric: dict[str, Any] = {field.name: None for field in dataclasses.fields(DetectionAccuracy)}
    metric |= {"ap50_95": 0.5, "ap50": 0.7, "recall": 0.6, "images": 4, "instances": 9, "classes": []}
    metric |= {"evaluator": "some", "max_detections": 300, "ious": [0.5], "protocol": "", "ignored": False, "schema": 1}
    accuracy: dict[str, Any] = {
        "metric": metric,
        "model": "m",
        "data": "d",
        "split": "val",
        "data_digest": "e",
        "size": [64, 64],
    }
    accuracy |= {"confidence": 0.25, "iou": 0.7, "images_by": "PIL"}
    difference: dict[str, Any] = {"estimate": -0.01, "low": -0.02, "high": 0.0, "sd": 0.1, "images": 4, "replicates": 9}
    difference |= {"confidence": 0.9, "seed": 0}
    return {
        "schema": 1,
        "checkpoint": {"reference": "net", "format": "native", "sha256": "m"},
        "artifact": "net.edge",
        "artifact_digest": "a",
        "run_by": "fake",
        "reference": accuracy,
        "candidate": accuracy,
        "difference": {"ap50_95": difference, "ap50": difference},
        "equivalence": {"outcome": "pass", "margin": 0.02, "images_needed": None, "sentence": "same"},
        "agreement": [],
        "changed": [],
        "doubts": [],
    }


@pytest.fixture(autouse=True)
def _bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle is whole as long as its folder has the digest that it was made with."""

    @dataclasses.dataclass(frozen=True)
    class Opened:
        digest: str

        @classmethod
        def open(cls, path: Path) -> Opened:
            return cls((path / "digest").read_text())

    monkeypatch.setattr("edgedeploy.plan.run.Artifact", Opened)


def work(plan: Plan, place: Path, runner: FakeRunner, **settings: Any) -> tuple[RowResult, ...]:
    (place / "out").mkdir(exist_ok=True)
    return run_plan(plan, Settings(place / "out", **settings), runner, lambda _: None, lambda _: None)


def states(results: Sequence[RowResult]) -> list[str]:
    return [result.state for result in results]


def full(place: Path) -> Plan:
    """Two precisions, two scenarios, one of two devices without a way; with accuracy."""
    return make(
        place,
        models={"net": MODEL | {"accuracy": "data.yaml"}},
        devices={"this-machine": {}, "pi": {"profile": "raspberry-pi-5"}},
        scenarios={"single-stream": {}, "offline": {}},
        matrix={"precisions": ["fp32", "int8"], "exclude": [{"device": "pi", "scenario": "offline"}]},
    )


def test_a_row_is_exported_measured_and_compared(place: Path) -> None:
    runner = FakeRunner()
    (result,) = work(make(place, models={"net": MODEL | {"accuracy": "data.yaml"}}), place, runner)
    assert runner.steps == ["export", "bench", "compare"]
    assert (result.state, result.why) == ("done", None)
    assert result.latency is not None
    assert result.latency["median"] == pytest.approx(0.010002)
    assert (result.latency["count"], result.latency["doubts"]) == (50, ["It was hot."])
    assert result.accuracy is not None
    assert (result.accuracy["ap50_95"], result.accuracy["difference"]) == (0.5, -0.01)
    (line,) = (place / "out" / MEASUREMENTS).read_text().splitlines()
    assert Measurement.from_json(json.loads(line), "it").count == 50


def test_what_rows_share_is_done_once(place: Path) -> None:
    runner = FakeRunner()
    results = work(full(place), place, runner)
    assert states(results) == ["done", "done", "done", "done", "exported", "exported"]
    assert sorted(runner.steps) == ["bench"] * 4 + ["compare"] * 4 + ["export"] * 4
    assert results[4].why is not None
    assert "Nobody says how pi is reached" in results[4].why


def test_the_same_command_again_does_nothing(place: Path) -> None:
    first = work(full(place), place, FakeRunner())
    again = FakeRunner()
    results = work(full(place), place, again)
    assert again.calls == []
    assert states(results) == ["reused"] * 4 + ["exported"] * 2
    assert [r.latency for r in results] == [r.latency for r in first]
    assert all(steps == () for _, steps in pending(full(place), Settings(place / "out")))


@pytest.mark.parametrize("point", range(12))
def test_a_plan_stopped_anywhere_goes_on_there(place: Path, point: int) -> None:
    with pytest.raises(Stopped):
        work(full(place), place, FakeRunner(stop_at=point))
    planned = sum(len(steps) for _, steps in pending(full(place), Settings(place / "out")))
    assert planned >= 12 - point  # what rows share is planned for each of them
    rest = FakeRunner()
    results = work(full(place), place, rest)
    assert len(rest.calls) == 12 - point
    assert "failed" not in states(results)
    assert all(result.accuracy is not None for result in results)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 0.6, 0.8, 0.99])
def test_a_journal_torn_anywhere_costs_only_the_torn_line(place: Path, share: float) -> None:
    work(full(place), place, FakeRunner())
    state = place / "out" / STATE
    whole = state.read_bytes()
    state.write_bytes(whole[: int(share * len(whole))])
    kept = state.read_bytes().count(b"\n")
    rest = FakeRunner()
    assert states(work(full(place), place, rest)).count("exported") == 2
    assert len(rest.calls) == 12 - kept
    last = FakeRunner()
    work(full(place), place, last)
    assert last.calls == []


def test_a_row_that_fails_stops_no_other(place: Path) -> None:
    def answer(argv: Sequence[str]) -> Done | None:
        broken = argv[0] == "bench" and "int8" in argv[1]
        return Done(1, "", "  process 1 of 3\nerror: The worker was killed.\n") if broken else None

    plan = make(place, matrix={"precisions": ["int8", "fp32"]})
    results = work(plan, place, FakeRunner(answer))
    assert states(results) == ["failed", "done"]
    assert results[0].why == "The worker was killed."
    assert results[0].bundle is not None
    rest = FakeRunner()
    assert states(work(plan, place, rest)) == ["done", "reused"]
    assert rest.steps == ["bench"]


def test_an_export_that_fails_is_not_tried_again_for_each_scenario(place: Path) -> None:
    runner = FakeRunner(lambda argv: Done(1, "", "error: The converter refused.\n"))
    plan = make(place, scenarios={"single-stream": {}, "offline": {}})
    results = work(plan, place, runner)
    assert runner.steps == ["export"]
    assert [(r.state, r.why) for r in results] == [("failed", "The converter refused.")] * 2


def test_what_cannot_be_done_here_is_skipped_with_its_reason(place: Path) -> None:
    runner = FakeRunner(lambda argv: Done(3, "", "error: openvino is not installed here.\n"))
    (result,) = work(make(place), place, runner)
    assert (result.state, result.why) == ("skipped", "openvino is not installed here.")


def test_a_comparison_that_cannot_be_done_here_costs_only_itself(place: Path) -> None:
    plan = make(place, models={"net": MODEL | {"accuracy": "data.yaml"}})
    (result,) = work(
        plan, place, FakeRunner(lambda argv: Done(3, "", "error: no.\n") if argv[0] == "compare" else None)
    )
    assert (result.state, result.why, result.accuracy) == ("done", "Not compared: no.", None)
    assert result.latency is not None


def test_a_verdict_is_no_failure(place: Path) -> None:
    def answer(argv: Sequence[str]) -> Done | None:
        return Done(4, json.dumps(FakeRunner._bench(argv)), "") if argv[0] == "bench" else None

    assert states(work(make(place), place, FakeRunner(answer))) == ["done"]


@pytest.mark.parametrize(
    ("done", "words"),
    [
        (Done(0, "", ""), "the command ended with status 0."),
        (Done(0, "{}", ""), "What 'edgedeploy export' said cannot be read: 'path'"),
        (Done(0, "[1]", "warning\n"), "the command ended with status 0: warning"),
        (Done(-11, "", ""), "was ended by SIGSEGV"),
        (Done(1, "", "Traceback\nKeyError: 'x'\n"), "the command ended with status 1: KeyError: 'x'"),
    ],
)
def test_an_answer_that_is_none_is_said(place: Path, done: Done, words: str) -> None:
    (result,) = work(make(place), place, FakeRunner(lambda argv: done))
    assert result.state == "failed"
    assert result.why is not None
    assert words in result.why


def test_a_change_of_the_request_is_a_new_one(place: Path) -> None:
    work(make(place), place, FakeRunner())

    def steps(**sections: Any) -> list[str]:
        runner = FakeRunner()
        work(make(place, **sections), place, runner)
        return runner.steps

    assert steps() == []
    assert steps(scenarios={"single-stream": {"duration": "20s"}}) == ["bench"]
    assert steps(scenarios={"the-same": {"scenario": "single-stream"}}) == []
    assert steps(devices={"this-machine": {"threads": 1}}) == ["bench"]
    assert steps(models={"net": MODEL | {"imgsz": 320}}) == ["export"]  # to the same digest here
    (place / "net.safetensors").write_bytes(b"other weights")
    assert steps() == ["export"]


def test_a_bundle_that_has_gone_is_made_again_only_if_it_is_needed(place: Path) -> None:
    (result,) = work(make(place), place, FakeRunner())
    assert result.bundle is not None
    (Path(result.bundle) / "digest").unlink()
    nothing = FakeRunner()
    work(make(place), place, nothing)
    assert nothing.steps == []
    more = FakeRunner()
    work(make(place, scenarios={"single-stream": {}, "offline": {}}), place, more)
    assert more.steps == ["export", "bench"]


def test_fresh_measures_again_and_exports_nothing(place: Path) -> None:
    work(full(place), place, FakeRunner())
    runner = FakeRunner()
    assert states(work(full(place), place, runner, fresh=True)) == ["done"] * 4 + ["exported"] * 2
    assert runner.steps == ["bench"] * 4
    assert len((place / "out" / MEASUREMENTS).read_text().splitlines()) == 8


def test_changed_images_are_another_request(place: Path, scenes: Path) -> None:
    import shutil

    data = shutil.copytree(scenes.parent, place / "scenes") / scenes.name
    plan = make(place, models={"net": MODEL | {"accuracy": f"scenes/{data.name}", "calibrate": f"scenes/{data.name}"}})
    work(plan, place, FakeRunner())
    again = FakeRunner()
    work(plan, place, again)
    assert again.steps == []
    image = next((place / "scenes").glob("images/val/*.png"))
    os.utime(image, ns=(1, 1))
    changed = FakeRunner()
    work(plan, place, changed)
    assert changed.steps == ["compare"]


# --- machines ---------------------------------------------------------------------------------------------------------


class Watched(FakeRunner):
    """Takes a while over each command, and remembers what ran at the same time."""

    def __init__(self, machine: Callable[[Sequence[str]], str]) -> None:
        super().__init__()
        self.machine, self.busy, self.clashes = machine, set[str](), list[str]()
        self.together = 0

    def __call__(self, argv: Sequence[str], say: Say) -> Done:
        name = self.machine(argv)
        if name in self.busy:
            self.clashes.append(name)
        self.busy.add(name)
        self.together = max(self.together, len(self.busy))
        time.sleep(0.01)
        try:
            return super().__call__(argv, say)
        finally:
            self.busy.discard(name)


def machine(argv: Sequence[str]) -> str:
    return argv[argv.index("--on") + 1] if "--on" in argv else "local"


def test_one_job_at_a_time_on_each_machine(place: Path) -> None:
    devices = {"a": BOARD, "b": BOARD | {"on": "ssh://other"}, "same-as-a": BOARD, "this-machine": {}}
    scenarios: dict[str, Any] = {"single-stream": {}, "offline": {}, "multi-stream": {}}
    runner = Watched(machine)
    results = work(make(place, devices=devices, scenarios=scenarios), place, runner)
    assert set(states(results)) == {"done"}
    assert runner.clashes == []


def test_devices_are_measured_side_by_side(place: Path) -> None:
    both = threading.Barrier(2, timeout=20)

    def answer(argv: Sequence[str]) -> Done | None:
        if argv[0] == "bench":
            both.wait()  # raises where the other one does not come
        return None

    devices = {"a": BOARD, "b": BOARD | {"on": "ssh://other"}}
    assert states(work(make(place, devices=devices), place, FakeRunner(answer))) == ["done", "done"]


def test_an_interrupt_stops_the_commands_and_keeps_what_is_done(place: Path) -> None:
    stopped = threading.Event()

    class Stuck(FakeRunner):
        def __call__(self, argv: Sequence[str], say: Say) -> Done:
            if argv[0] == "bench":
                assert stopped.wait(20)
                raise Stopped
            return super().__call__(argv, say)

        def stop(self) -> None:
            super().stop()
            stopped.set()

    timer = threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGINT))
    timer.start()
    plan = make(place, devices={"a": BOARD, "b": BOARD | {"profile": "jetson-orin-nano", "on": "ssh://other"}})
    with pytest.raises(KeyboardInterrupt):
        work(plan, place, Stuck())
    timer.join()
    rest = FakeRunner()
    assert states(work(plan, place, rest)) == ["done", "done"]
    assert rest.steps == ["bench", "bench"]


def test_a_full_disk_ends_the_plan_with_a_sentence(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make(place)
    (place / "out").mkdir()
    (place / "out" / MEASUREMENTS).mkdir()
    with pytest.raises(UsageError, match=f"{MEASUREMENTS} cannot be written: Is a directory"):
        work(plan, place, FakeRunner())


# --- journal and folder -----------------------------------------------------------------------------------------------


def test_a_journal_has_the_last_word_under_each_key(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state.jsonl")
    journal.add("a", "bench", "row", {"median": 1})
    journal.add("b", "bench", "row", {"median": 2})
    journal.add("a", "bench", "row", {"median": 3})
    again = Journal(tmp_path / "state.jsonl")
    assert [again.get(key) for key in ("a", "b", "c", None)] == [{"median": 3}, {"median": 2}, None, None]


@pytest.mark.parametrize("garbage", [b"{", b"\xff\xfe", b"[]", b'{"key": 1}', b'{"key": "a", "result": 3}'])
def test_garbage_in_a_journal_is_passed_over(tmp_path: Path, garbage: bytes) -> None:
    state = tmp_path / "state.jsonl"
    state.write_bytes(garbage)
    Journal(state).add("a", "bench", "row", {"x": 1})
    assert Journal(state).get("a") == {"x": 1}
    assert state.read_bytes().startswith(garbage + b"\n")


def test_a_folder_is_worked_in_by_one_at_a_time(tmp_path: Path) -> None:
    refused = pytest.raises(UsageError, match="Another 'edgedeploy run' is at work")
    with alone(tmp_path / "new" / "out"), refused, alone(tmp_path / "new" / "out"):
        pass
    with alone(tmp_path / "new" / "out"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"), alone(tmp_path / "file" / "out"):
        pass


# --- children ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let children run other code than the command line, after what they do first in any case."""
    head = children._LAUNCH.partition("from edgedeploy")[0]
    return lambda code: monkeypatch.setattr(children, "_LAUNCH", f"{head}\n{code}")


def test_a_command_runs_in_a_child() -> None:
    done = Children()(["--version"], lambda _: None)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("edgedeploy ")
    refused = Children()(["devices", "show", "nothing"], lambda _: None)
    assert refused.status == 2
    assert refused.sentence.startswith("There is no device 'nothing'.")


def test_progress_is_passed_on_and_words_are_kept(launched: Callable[[str], None]) -> None:
    launched("print('  half', file=sys.stderr); print('word', file=sys.stderr); print('{\"a\": 1}' + ' ' * 200000)")
    said: list[str] = []
    done = Children()([], said.append)
    assert said == ["half"]
    assert done.document == {"a": 1}
    assert done.err == "  half\nword\n"


@pytest.mark.parametrize("stubborn", [False, True])
def test_stop_ends_children_and_lets_none_begin(
    launched: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, stubborn: bool
) -> None:
    monkeypatch.setattr(children, "GRACE", 0.3)
    heed = "signal.signal(signal.SIGINT, signal.SIG_IGN)" if stubborn else ""
    launched(f"import time; {heed}\nprint('  ready', os.getpid(), file=sys.stderr, flush=True); time.sleep(60)")
    runner, ready, pids = Children(), threading.Event(), list[int]()

    def say(text: str) -> None:
        if text.startswith("ready"):  # and not the traceback of the interrupt
            pids.append(int(text.split()[1]))
            ready.set()

    ended: list[type[BaseException]] = []

    def run() -> None:
        try:
            runner([], say)
        except Stopped as stopped:
            ended.append(type(stopped))

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(20)
    runner.stop()
    thread.join(20)
    assert ended == [Stopped]
    assert not Path(f"/proc/{pids[0]}").exists()
    with pytest.raises(Stopped):
        runner([], say)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
def test_children_of_a_parent_that_was_killed_end() -> None:
    code = """
from edgedeploy.plan import Children, children
children._LAUNCH = children._LAUNCH.partition("from edgedeploy")[0] + '''
import time
print("  ready", os.getpid(), file=sys.stderr, flush=True)
time.sleep(60)'''
Children()([], lambda text: print(text, flush=True))
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline().split()[1])
    parent.kill()
    parent.communicate()
    for _ in range(200):
        if not _alive(child):
            break
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


# --- the table --------------------------------------------------------------------------------------------------------


def result(state: Any, why: str | None = None, latency: Mapping[str, Any] | None = None) -> RowResult:
    return RowResult(Row("net", "pi", "int8", None, "offline"), state, why, latency=latency)


def test_the_table_has_a_state_and_a_reason_for_each_row() -> None:
    measured = {"median": 0.01, "low": 0.0099, "high": 0.0102, "p90": None, "count": 9, "doubts": ["=1+1"]}
    results = [result("done", latency=measured), result("failed", "It | broke.")]
    name = "net/pi/int8/default/offline"
    assert report.result_rows(results) == [
        (name, "done", "10.0 ms ±2.0%", "-", "-", "1", ""),
        (name, "failed", "-", "-", "-", "-", "It | broke."),
    ]
    assert report.summary(results) == "2 rows: 1 done, 1 failed"
    assert report.summary(results[:1]) == "1 row: 1 done"
    assert "| failed | - | - | - | - | It \\| broke. |" in report.markdown(results)
    header, first, second = report.table(results).splitlines()
    assert header.startswith("model,device,precision,backend,scenario,state,p50_s")
    assert first.startswith("net,pi,int8,,offline,done,0.01,0.0099,0.0102,,9,'=1+1,")
    assert second.endswith(",It | broke.")


def test_the_example_has_every_key_and_makes_sense() -> None:
    from edgedeploy.plan.file import DeviceEntry, Matrix, ModelEntry, ScenarioEntry

    path = Path(__file__).resolve().parents[1] / "benchmarks" / "plans" / "example.toml"
    plan = read_plan(path)
    assert len(plan.rows) == 10
    assert Path(plan.path(plan.file.models["aerial"].checkpoint)).is_file()
    words = path.read_text().replace("=", " = ").replace("{", " ").split()
    for kind in (ModelEntry, DeviceEntry, ScenarioEntry, Matrix):
        for field in dataclasses.fields(kind):
            assert field.name in words, f"{kind.__name__}.{field.name}"
