"""The process beside the measured one: a real one on this machine, and its loop with a clock of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from edgedeploy.bench.sensors import watch as module
from edgedeploy.bench.sensors.watch import Watch, Watched, attend
from edgedeploy.bench.spawn import run_worker
from edgedeploy.bench.target import Job
from edgedeploy.bench.telemetry import ENERGY, Reading

linux = pytest.mark.skipif(sys.platform != "linux", reason="sensors are read on Linux")


def by_name(watch: Watch | Watched) -> dict[str, Reading]:
    readings = watch.readings if isinstance(watch, Watched) else watch.readings()
    return {reading.name: reading for reading in readings}


def children() -> set[int]:
    """The processes that this one has started."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def gone(pid: int) -> bool:
    """Whether a process has ended, within ten seconds."""
    for _ in range(1000):
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z":
                time.sleep(0.01)
                continue
        return True
    return False


def test_an_interval_of_zero_reads_nothing_and_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    with Watch(0.0) as watch:
        pass
    assert (watch.readings(), watch.series()) == ((), ())


@linux
def test_this_process_is_watched_from_beside_it() -> None:
    threads, before = threading.active_count(), children()
    with Watch(0.05) as watch:
        assert len(children() - before) == 1
        assert threading.active_count() == threads
        assert watch.readings() == ()
        pages = bytearray(os.urandom(1)) * (64 << 20)
        time.sleep(0.5)
    assert children() == before
    found = by_name(watch)
    assert (found["memory resident, highest"].value or 0) > len(pages)
    assert (found["proportional memory"].value or 0) > 0
    assert found["watch, processor time"].trust == "exact"
    assert (found["watch, processor time"].value or 0) > 0
    assert ENERGY in found
    series = {one.name: one for one in watch.series()}["memory resident"]
    assert len(series.times) >= 2
    assert list(series.times) == sorted(series.times)
    assert series.times[0] >= 0


@linux
def test_every_reading_has_a_value_or_a_reason() -> None:
    with Watch(0.05) as watch:
        time.sleep(0.2)
    for reading in watch.readings():
        assert (reading.value is None) == (reading.trust == "absent")
        assert reading.source


@linux
def test_it_ends_when_the_block_is_left_by_an_exception() -> None:
    before = children()
    with pytest.raises(KeyError), Watch(10.0) as watch:
        raise KeyError
    assert children() == before
    assert watch.readings() == ()


@linux
def test_it_ends_when_its_parent_does() -> None:
    script = (
        "import os, time\n"
        "from edgedeploy.bench.sensors.watch import Watch\n"
        "with Watch(10.0) as watch:\n"
        "    print(watch._process.pid, flush=True)\n"
        "    os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 9
    assert gone(int(done.stdout))


@linux
def test_it_is_light() -> None:
    script = (
        "import sys\n"
        "sys.argv = ['watch', str(__import__('os').getpid()), '0.01']\n"
        "from edgedeploy.bench.sensors import watch\n"
        "watch.attend(1, 0.01, lambda wait: True)\n"
        "heavy = {'numpy', 'pynvml', 'torch', 'jtop'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@linux
def test_it_is_politer_than_the_measured_process_and_runs_elsewhere() -> None:
    mine = os.sched_getaffinity(0)
    one = {min(mine)}
    with contextlib.ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, mine)
        os.sched_setaffinity(0, one)
        watch = stack.enter_context(Watch(10.0))
        assert watch._process is not None
        pid = watch._process.pid
        nice = os.getpriority(os.PRIO_PROCESS, pid)
        assert nice == min(19, os.getpriority(os.PRIO_PROCESS, 0) + module.NICE)
        if (os.cpu_count() or 1) > 1:
            assert not os.sched_getaffinity(pid) & one


@linux
def test_a_watcher_that_dies_is_told_and_stops_nothing() -> None:
    with Watch(10.0) as watch:
        assert watch._process is not None
        watch._process.terminate()
        watch._process.wait()
    (found,) = watch.readings()
    assert (found.name, found.value, found.trust) == ("sensors", None, "absent")
    assert "status -15" in found.source


@linux
def test_a_watcher_that_cannot_start_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no such interpreter >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with Watch(1.0) as watch:
        pass
    assert by_name(watch)["sensors"].source == "their process ended with status 3: no such interpreter"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with Watch(1.0) as watch:
        pass
    assert "cannot be started" in by_name(watch)["sensors"].source


@linux
def test_one_that_does_not_answer_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    silent.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(silent))
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    before = children()
    with Watch(1.0) as watch:
        pass
    assert children() == before
    assert "longer than 0.1 s" in by_name(watch)["sensors"].source


def test_elsewhere_it_says_that_it_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with Watch(1.0) as watch:
        pass
    assert "this is darwin" in by_name(watch)["sensors"].source


class Waiting:
    """Stands in for waiting: time passes at once, and after ``ends`` seconds somebody says ``last``."""

    def __init__(self, ends: float, last: bool | None = True) -> None:
        self.now, self._ends, self._last = 1000.0, 1000.0 + ends, last
        self.waits: list[float] = []

    def __call__(self, wait: float) -> bool | None:
        self.waits.append(wait)
        if self.now + wait >= self._ends:
            self.now = self._ends
            return self._last
        self.now += wait
        return False


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A recorded machine with one cluster, whose process is number 7."""
    policy = tmp_path / "sys/devices/system/cpu/cpufreq/policy0"
    policy.mkdir(parents=True)
    (policy / "related_cpus").write_text("0 1")
    (policy / "scaling_cur_freq").write_text("1500000")
    return tmp_path


def attended(
    waiting: Waiting, root: Path, monkeypatch: pytest.MonkeyPatch, interval: float = 1.0, cost: float = 0.0
) -> Watched | None:
    """A watch of process 7 with the clock of ``waiting``, in which each reading of the clock's file takes ``cost``."""
    monkeypatch.setattr(time, "monotonic", lambda: waiting.now)
    read = Path.read_text

    def slow(path: Path, *args: str) -> str:
        waiting.now += cost if path.name == "scaling_cur_freq" else 0.0
        return read(path, *args)

    monkeypatch.setattr(Path, "read_text", slow)
    return attend(7, interval, waiting, root)


def test_it_reads_in_the_middle_of_each_interval(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Waiting(ends=4.2)
    watched = attended(waiting, machine, monkeypatch)
    assert watched is not None
    (clock,) = [one for one in watched.series if one.name == "clock cpu0-1"]
    assert clock.times == (0.5, 1.5, 2.5, 3.5)
    assert waiting.waits[0] == 0.0  # says that it is ready, and does not wait
    found = by_name(watched)
    assert found["clock cpu0-1, median"].value == 1.5e9
    assert found["memory resident"].value is None  # there is no process 7
    assert "No such file" in found["memory resident"].source


def test_where_reading_takes_long_it_reads_less_often(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = attended(Waiting(ends=30.0), machine, monkeypatch, cost=0.25)
    assert watched is not None
    (clock,) = [one for one in watched.series if one.name == "clock cpu0-1"]
    steps = [b - a for a, b in zip(clock.times, clock.times[1:], strict=False)]
    assert steps
    assert min(steps) >= 0.25 / module.SHARE - 1e-6


def test_nobody_is_answered_where_nobody_is_left(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert attended(Waiting(ends=3.0, last=None), machine, monkeypatch) is None


@linux
def test_a_worker_tells_what_it_counted_what_was_watched_and_the_energy() -> None:
    job = Job(loader="edgedeploy.testing.fakes:load_fake", path="net.edge", duration=0.3, watch=0.1)
    telemetry = run_worker(job, 30.0).process.telemetry
    names = {reading.name for reading in telemetry.readings}
    assert {"major page faults", "memory resident, highest", "energy per inference"} <= names
    unwatched = run_worker(replace(job, watch=0.0), 30.0).process.telemetry
    assert "major page faults" in {reading.name for reading in unwatched.readings}
    assert not any(reading.name.startswith("memory resident") for reading in unwatched.readings)
