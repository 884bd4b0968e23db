"""A history keeps what it is given, whatever happens to the process, the disk or the file."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.accuracy import Accuracy, Difference, Equivalence, PairedDifference
from edgedeploy.bench.measurement import Measurement, Place
from edgedeploy.bench.scenario import Scenario
from edgedeploy.errors import EdgeDeployError, Incompatible, UsageError
from edgedeploy.history import History, Origin, database, default_path, read_lines, remember, write_lines
from edgedeploy.testing import fake_environment, fake_measurement, fake_process

NOON = "2025-03-01T12:00:00+00:00"


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "data" / "history.db")


def run(name: str = "net", at: str = NOON, on: Place | None = None, **changed: Any) -> Measurement:
    """A measurement of that model, taken then and there; ``changed`` are its conditions."""
    made = fake_measurement(fake_process([20_000_000] * 60), name=name, **changed)
    return dataclasses.replace(made, created=at, place=on or Place())


# --- what is kept and found -------------------------------------------------------------------------------------------


def test_what_is_recorded_is_there_whole(history: History) -> None:
    measurement = fake_measurement()
    number = history.record(measurement, Origin("b" * 64, "int8", "c" * 64), doubts=2)
    assert history.load(number) == measurement
    (row,) = history.find()
    assert (row.id, row.model, row.artifact, row.bundle) == (number, "net", "d" * 64, "b" * 64)
    assert (row.precision, row.doubts) == ("int8", 2)
    assert (row.device, row.reached, row.target, row.scenario) == ("this-machine", "local", None, "single-stream")
    assert (row.count, row.fingerprint) == (600, measurement.fingerprint())
    assert row.median == measurement.latency
    assert (row.low, row.high) == measurement.interval()
    assert row.p90 == measurement.percentile(0.9)


def test_what_the_samples_do_not_support_is_not_there(history: History) -> None:
    history.record(fake_measurement(fake_process([20_000_000] * 5)))
    (row,) = history.find()
    assert (row.low, row.high, row.p90, row.count) == (None, None, None, 5)


def test_each_filter_finds_its_own(history: History) -> None:
    board = Place("jetson-orin-nano", "ssh://jetson", "nano")
    history.record(run("a"))
    history.record(run("b", on=board, digest="ab" + "0" * 62))
    history.record(run("b", at="2025-04-01T00:00:00+00:00", backend="other", scenario=Scenario("offline")))

    history.record(run("c", at="2024-01-01T00:00:00+00:00"), Origin(bundle="cd" + "0" * 62))

    def ids(**filters: object) -> list[int]:
        return [row.id for row in history.find(**filters)]  # type: ignore[arg-type]

    assert ids() == [4, 1, 2, 3]
    assert ids(model="b") == [2, 3]
    assert ids(device="nano") == ids(device="jetson-orin-nano") == ids(device="ssh://jetson") == [2]
    assert ids(device="this-machine") == [4, 1, 3]
    assert ids(artifact="ab") == [2]
    assert ids(artifact="cd") == [4]
    assert ids(artifact="a%") == ids(artifact="a_") == []
    assert ids(backend="other") == ids(scenario="offline") == [3]
    assert ids(since=datetime.datetime(2025, 3, 31, tzinfo=datetime.UTC)) == [3]
    assert ids(model="b", device="nano") == [2]
    assert ids(limit=2) == [2, 3]
    assert ids(model="'; DROP TABLE measurement; --") == []


def test_the_oldest_comes_first_whatever_was_recorded_first(history: History) -> None:
    history.record(run(at="2025-03-02T00:00:00+00:00"))
    history.record(run(at="2025-03-01T00:00:00+00:00"))
    assert [row.id for row in history.find()] == [2, 1]
    assert [row.id for row in history.find(limit=1)] == [1]


def test_earlier_runs_are_those_of_the_same_artifact_under_the_same_conditions(history: History) -> None:
    history.record(run(at="2025-03-01T00:00:01+00:00"))
    history.record(run(digest="e" * 64))
    history.record(run(threads=2))
    history.record(dataclasses.replace(run(), environment=fake_environment(governor="powersave")))
    history.record(run(at="2025-03-01T00:00:02+00:00"))
    assert [m.created[-8:-6] for m in history.earlier(run())] == ["01", "02"]
    assert [m.created[-8:-6] for m in history.earlier(run(), 1)] == ["02"]


def test_an_absent_history_is_empty_and_stays_absent(history: History) -> None:
    assert not [*history.find(), *history.accuracies(), *history.earlier(run())]
    assert history.baselines() == {}
    with pytest.raises(UsageError, match="has no measurement 1"):
        history.load(1)
    with pytest.raises(UsageError, match="has no measurement 1"):
        history.load(10**20)
    assert not history.path.parent.exists()


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEDEPLOY_HISTORY", str(tmp_path / "mine.db"))
    assert default_path() == tmp_path / "mine.db"
    monkeypatch.delenv("EDGEDEPLOY_HISTORY")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_path() == tmp_path / "edgedeploy" / "history.db"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_path() == Path("/home/me/.local/share/edgedeploy/history.db")


# --- remembering ------------------------------------------------------------------------------------------------------


def test_a_run_that_differs_from_the_last_one_is_doubted(history: History) -> None:
    first = fake_measurement(fake_process([20_000_000] * 200))
    slower = fake_measurement(fake_process([24_000_000] * 200))
    assert remember(first, history=history).doubts == ()
    kept = remember(slower, Origin(precision="fp32"), history)
    assert any("runs under the same conditions" in doubt for doubt in kept.doubts)
    assert (kept.id, kept.path, kept.trouble) == (2, history.path, None)
    assert history.find()[-1].doubts == 1


def test_a_history_in_trouble_does_not_cost_the_measurement(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    history = History(tmp_path / "file" / "history.db")
    kept = remember(fake_measurement(fake_process([20_000_000] * 5)), history=history)
    assert kept.id is None
    assert kept.trouble is not None
    assert str(history.path) in kept.trouble
    assert kept.trouble.startswith("This run is not in the history: ")
    assert any("support no p90" in doubt for doubt in kept.doubts)


# --- comparisons ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class FakeComparison:
    """As `edgedeploy.comparison.Comparison`, in as far as a history reads it."""

    artifact: str
    artifact_digest: str
    reference: Accuracy
    candidate: Accuracy
    difference: PairedDifference
    equivalence: Equivalence
    doubts: tuple[str, ...] = ()


def comparison(digest: str = "d" * 64) -> FakeComparison:
    from edgedeploy.tasks.coco import DetectionAccuracy

    def accuracy(ap: float, model: str) -> Accuracy:
        values = {f.name: None for f in dataclasses.fields(DetectionAccuracy)}
        values |= {"ap50_95": ap, "images": 30}  # type: ignore[dict-item]
        metric = DetectionAccuracy(**values)  # type: ignore[arg-type]
        return Accuracy(metric, model, "scenes", "val", "e" * 64, (64, 64), 0.25, 0.7, "PIL")

    difference = Difference(-0.01, -0.02, 0.005, 0.006, 30, 1000, 0.95, 0)
    return FakeComparison(
        artifact="out/net.edge",
        artifact_digest=digest,
        reference=accuracy(0.51, "c" * 64),
        candidate=accuracy(0.50, digest),
        difference=PairedDifference(difference, difference),
        equivalence=Equivalence("pass", 0.03, None, "the same"),
    )


def test_a_comparison_is_found_by_the_digest_of_its_bundle(history: History) -> None:
    history.record_comparison(comparison("d" * 64), "2025-03-01T00:00:00+00:00")
    history.record_comparison(comparison("f" * 64), "2025-03-02T00:00:00+00:00")
    (row,) = history.accuracies(bundle="d" * 64)
    assert (row.model, row.checkpoint, row.data, row.images) == ("net", "c" * 64, "scenes", 30)
    assert (row.ap50_95, row.reference, row.difference, row.low, row.high) == (0.50, 0.51, -0.01, -0.02, 0.005)
    assert row.outcome == "pass"
    assert len(history.accuracies(model="net")) == 2
    assert history.accuracies(model="other") == ()
    assert [row.bundle[0] for row in history.accuracies(limit=1)] == ["f"]


def test_a_real_comparison_has_all_that_is_read() -> None:
    from edgedeploy.comparison import Comparison

    assert {f.name for f in dataclasses.fields(FakeComparison)} <= {f.name for f in dataclasses.fields(Comparison)}


# --- baselines, lines, deleting ---------------------------------------------------------------------------------------


def test_a_baseline_is_a_name_for_an_id(history: History) -> None:
    first, second = history.record(run("a")), history.record(run("b"))
    history.set_baseline("release", first)
    assert history.baseline("release") == first
    history.set_baseline("release", second)
    assert history.baselines() == {"release": second}
    with pytest.raises(UsageError, match="Did you mean 'release'"):
        history.baseline("relase")
    with pytest.raises(UsageError, match="has no measurement 9"):
        history.set_baseline("other", 9)


@pytest.mark.parametrize("name", ["", "7", "a/b", "old.jsonl"])
def test_a_baseline_cannot_be_taken_for_something_else(history: History, name: str) -> None:
    number = history.record(run())
    with pytest.raises(UsageError, match="cannot be called"):
        history.set_baseline(name, number)


def test_lines_are_read_as_they_were_written(history: History, tmp_path: Path) -> None:
    made = [run("a"), run("b"), run("c")]
    numbers = [history.record(measurement) for measurement in made]
    history.export([numbers[0], numbers[2]], tmp_path / "some.jsonl")
    assert read_lines(tmp_path / "some.jsonl") == (made[0], made[2])
    assert len((tmp_path / "some.jsonl").read_bytes().splitlines()) == 2
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_lines_replace_a_file_whole_or_not_at_all(history: History, tmp_path: Path) -> None:
    number = history.record(run())
    write_lines([run("before")], tmp_path / "some.jsonl")
    with pytest.raises(UsageError, match="has no measurement 99"):
        history.export([number, 99], tmp_path / "some.jsonl")
    assert [m.conditions.name for m in read_lines(tmp_path / "some.jsonl")] == ["before"]
    with pytest.raises(UsageError, match="cannot be written"):
        history.export([number], tmp_path / "nowhere" / "some.jsonl")


def test_a_link_that_others_have_put_there_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("untouched")
    (tmp_path / f".some.jsonl.{os.getpid()}.tmp").symlink_to(tmp_path / "mine")
    with pytest.raises(UsageError, match="cannot be written: File exists"):
        write_lines([run()], tmp_path / "some.jsonl")
    assert (tmp_path / "mine").read_text() == "untouched"
    write_lines([run()], tmp_path / "some.jsonl")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "holds no measurement"),
        (b"\n\n", "holds no measurement"),
        (b"\xff\xfe", "not UTF-8"),
        (b"{}\n", "line 1: the key 'schema' is missing"),
        (b"\n[1]\n", "line 2: expected a mapping"),
        (b'{"schema": 2\n', "line 1 is not JSON"),
    ],
)
def test_a_file_of_something_else_is_refused_by_line(tmp_path: Path, text: bytes, words: str) -> None:
    (tmp_path / "x.jsonl").write_bytes(text)
    with pytest.raises(UsageError) as refused:
        read_lines(tmp_path / "x.jsonl")
    assert words in str(refused.value)


def test_lines_of_another_schema_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(run().to_json() | {"schema": 1}))
    with pytest.raises(Incompatible, match="line 1 has schema 1"):
        read_lines(tmp_path / "x.jsonl")
    with pytest.raises(UsageError, match="cannot be read"):
        read_lines(tmp_path / "none.jsonl")


def test_pruning_deletes_what_is_old_and_no_baseline(history: History) -> None:
    for day in range(1, 6):
        history.record(run(at=f"2025-03-0{day}T00:00:00+00:00"))
    history.record_comparison(comparison(), "2025-03-01T00:00:00+00:00")
    history.set_baseline("first", 1)
    assert history.prune(datetime.datetime(2025, 3, 4, tzinfo=datetime.UTC)) == 3
    assert [row.id for row in history.find()] == [1, 4, 5]
    assert history.accuracies() == ()
    assert history.record(run()) == 6  # an id never means something else


# --- what can happen to the file --------------------------------------------------------------------------------------


def test_a_new_history_has_a_version_and_is_ours(history: History) -> None:
    history.record(run())
    with sqlite3.connect(history.path) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == len(database.MIGRATIONS)
        assert db.execute("PRAGMA application_id").fetchone()[0] == database.APPLICATION
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    db.close()
    assert sorted(path.name for path in history.path.parent.iterdir()) == ["history.db"]


def test_an_older_history_is_brought_up_to_date(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    history.record(run())
    newer = (*database.MIGRATIONS, ("ALTER TABLE measurement ADD COLUMN note TEXT",))
    monkeypatch.setattr(database, "MIGRATIONS", newer)
    history.record(run("b"))
    assert [row.model for row in history.find()] == ["net", "b"]
    with sqlite3.connect(history.path) as db:
        assert db.execute("SELECT note FROM measurement").fetchall() == [(None,), (None,)]
        assert db.execute("PRAGMA user_version").fetchone()[0] == len(newer)


def test_a_migration_that_fails_changes_nothing(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    history.record(run())
    broken = (*database.MIGRATIONS, ("CREATE TABLE note (text TEXT)", "ALTER TABLE absent ADD COLUMN a"))
    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", broken)
        with pytest.raises(UsageError, match="no such table"):
            history.find()
    assert [row.model for row in history.find()] == ["net"]
    with sqlite3.connect(history.path) as db:
        assert db.execute("SELECT name FROM sqlite_master WHERE name = 'note'").fetchall() == []


def test_a_newer_history_is_left_to_newer_programs(history: History) -> None:
    history.record(run())
    with sqlite3.connect(history.path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(Incompatible, match="version 99"):
        history.record(run())


@pytest.mark.parametrize("size", [1, 50, 99, 100, 5000])
def test_a_file_of_something_else_is_left_alone(history: History, size: int) -> None:
    history.path.parent.mkdir()
    history.path.write_bytes(b"x" * size)
    for use in (history.find, lambda: history.record(run())):
        with pytest.raises(UsageError, match="is no history"):
            use()
    assert history.path.read_bytes() == b"x" * size


def test_a_database_of_somebody_else_is_left_alone(history: History) -> None:
    history.path.parent.mkdir()
    with sqlite3.connect(history.path) as db:
        db.execute("CREATE TABLE mine (a)")
    db.close()
    before = history.path.read_bytes()
    for use in (history.find, lambda: history.record(run())):
        with pytest.raises(UsageError, match="another program"):
            use()
    assert history.path.read_bytes() == before
    assert [path.name for path in history.path.parent.iterdir()] == ["history.db"]


@pytest.mark.parametrize("keep", [100, 4096, 8192])
def test_a_history_that_is_cut_off_is_one_sentence(history: History, keep: int) -> None:
    for _ in range(5):
        history.record(fake_measurement(fake_process([20_000_000 + i * 977 for i in range(3000)])))
    cut = history.path.read_bytes()[:keep]
    history.path.write_bytes(cut)
    with pytest.raises(UsageError, match=r"damaged|is no history"):
        history.record(run())
    assert history.path.read_bytes() == cut


@pytest.mark.parametrize("seed", range(12))
def test_damage_anywhere_is_one_sentence_or_no_matter(history: History, seed: int) -> None:
    for name in "abc":
        history.record(fake_measurement(fake_process([20_000_000 + i * 977 for i in range(3000)]), name=name))
    chance = random.Random(seed)
    damaged = bytearray(history.path.read_bytes())
    for _ in range(40):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    history.path.write_bytes(damaged)
    try:
        for row in history.find():
            history.load(row.id)
        history.record(run())
    except EdgeDeployError as error:
        assert str(history.path) in str(error)
        assert "\n" not in str(error)


def test_an_empty_file_becomes_a_history(history: History) -> None:
    history.path.parent.mkdir()
    history.path.touch()
    assert history.find() == ()
    history.record(run())
    assert len(history.find()) == 1


def test_a_folder_in_its_place_is_one_sentence(history: History) -> None:
    history.path.mkdir(parents=True)
    with pytest.raises(UsageError, match="cannot be opened: Is a directory"):
        history.record(run())


def test_a_history_that_is_never_let_go_of_is_one_sentence(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    history.record(run())
    monkeypatch.setattr(database, "PATIENCE", 0.05)
    other = sqlite3.connect(history.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UsageError, match="is in use"):
        history.record(run())
    assert len(history.find()) == 1  # reading does not wait
    other.close()
    history.record(run())


# --- processes --------------------------------------------------------------------------------------------------------

WRITER = """
import resource, sys
from pathlib import Path
from edgedeploy.history import History
from edgedeploy.testing import fake_measurement, fake_process
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
history = History(Path(sys.argv[1]))
process = fake_process([20_000_000 + (i * 977) % 100_003 for i in range(500)])
for i in range(int(sys.argv[2])):
    print(history.record(fake_measurement(process, name=f"run-{i}")), flush=True)
"""


def start(history: History, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(history.path), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_write_at_once_from_the_first_moment_on(history: History) -> None:
    writers = [start(history, 15) for _ in range(3)]
    said = [writer.communicate() for writer in writers]
    assert [error for _, error in said] == [""] * 3
    numbers = [int(word) for out, _ in said for word in out.split()]
    assert sorted(numbers) == list(range(1, 46))
    assert [row.id for row in history.find()] == list(range(1, 46))


def test_a_writer_that_is_killed_leaves_what_it_had_written(history: History) -> None:
    for round_ in range(3):
        writer = start(history, 100_000)
        assert writer.stdout is not None
        told = [int(writer.stdout.readline()) for _ in range(3)]
        time.sleep(0.007 * round_)
        writer.kill()
        told += [int(line) for line in writer.communicate()[0].splitlines() if line]
        found = [row.id for row in history.find()]
        assert set(told) <= set(found)
        assert len(found) - found.index(told[0]) <= len(told) + 1  # one may have been written and not told
        history.load(found[-1])
    history.record(run())


def test_a_writer_that_is_killed_inside_a_write_leaves_nothing_of_it(history: History) -> None:
    history.record(run("before"))
    code = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 1")  # pages go to the disk before the end of the transaction
db.execute("BEGIN IMMEDIATE")
columns = [row[1] for row in db.execute("PRAGMA table_info(measurement)")][1:-1]
for _ in range(200):
    names = ", ".join(columns)
    db.execute(f"INSERT INTO measurement ({names}, record) SELECT {names}, randomblob(20000) FROM measurement LIMIT 1")
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, str(history.path)], check=False)
    assert done.returncode == -9
    assert Path(f"{history.path}-wal").stat().st_size > 1_000_000
    assert [row.model for row in history.find()] == ["before"]
    history.record(run("after"))
    assert [row.model for row in history.find()] == ["before", "after"]


def test_a_full_disk_is_one_sentence_and_costs_only_the_new(history: History) -> None:
    history.record(run("before"))
    writer = start(history, 1000, 200_000)
    out, error = writer.communicate()
    assert writer.returncode != 0
    assert "UsageError: The history" in error.splitlines()[-1]
    assert "is the disk full?" in error.splitlines()[-1]
    kept = len(out.split())
    assert 0 < kept < 1000
    assert len(history.find()) == kept + 1
    assert history.load(1) == run("before")
    history.record(run("after"))
