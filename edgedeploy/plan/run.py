"""A plan is worked off: a thread per device, a job at a time on each machine, and nothing done twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from edgedeploy.artifact import Artifact
from edgedeploy.bench.measurement import Measurement
from edgedeploy.bench.statistics.quantiles import TooFew
from edgedeploy.comparison import Comparison
from edgedeploy.errors import EdgeDeployError
from edgedeploy.plan.children import Done, Say, Stopped
from edgedeploy.plan.commands import Argv, Stamps, bench_command, bundle_folder, compare_command, export_command
from edgedeploy.plan.file import LOCAL, Plan, Row
from edgedeploy.plan.journal import Journal, append
from edgedeploy.records import from_json

T = TypeVar("T")

State = Literal["done", "reused", "exported", "failed", "skipped"]
#: Exit statuses of commands: right, but not here; everything ran, and a verdict is not 'pass'.
NOT_HERE, JUDGED = 3, 4
#: Files in the output folder: results by key, and every measurement whole, one per line.
STATE, MEASUREMENTS = "plan-state.jsonl", "measurements.jsonl"


class Runner(Protocol):
    """Runs a command and says how it ended; `edgedeploy.plan.children.Children` is one."""

    def __call__(self, argv: Sequence[str], say: Say) -> Done:
        """Run ``edgedeploy ARGV`` to its end."""
        ...

    def stop(self) -> None:
        """End what runs, in whatever thread, and let nothing else begin."""
        ...


@dataclass(frozen=True)
class RowResult:
    """What became of a row.

    Args:
        row: the row.
        state: *done*, or *reused* where nothing had to be run; *exported* where there is no way to the device;
            *failed*; *skipped* where it cannot be done here, or on that device.
        why: a sentence for the last three.
        bundle: where it is.
        artifact: its digest.
        latency: what was measured: ``median``, ``low``, ``high``, ``p90`` in seconds end to end (``None`` where the
            samples do not support it), ``count``, and ``doubts`` in sentences.
        accuracy: what the comparison gave: ``ap50_95``, ``reference``, ``difference``, ``low``, ``high``.
    """

    row: Row
    state: State
    why: str | None = None
    bundle: str | None = None
    artifact: str | None = None
    latency: Mapping[str, Any] | None = None
    accuracy: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Settings:
    """How to work a plan off: into which folder, ``fresh`` if what was measured is measured again, and whether
    results also go into the history.
    """

    output: Path
    fresh: bool = False
    history: bool = True


class _Refused(Exception):
    def __init__(self, state: State, why: str) -> None:
        super().__init__(why)
        self.state, self.why = state, why


@dataclass
class _Bundle:
    path: Path
    artifact: str


@dataclass
class _Work:
    """The threads' common ground. Whoever runs a command holds the lock of the machine that it runs on."""

    plan: Plan
    settings: Settings
    runner: Runner
    say: Say
    journal: Journal
    stamps: Stamps = field(default_factory=Stamps)
    locks: dict[str, threading.Lock] = field(default_factory=dict)
    writing: threading.Lock = field(default_factory=threading.Lock)
    refused: dict[str, _Refused] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)

    def row(self, row: Row) -> RowResult:
        """Whatever has to be done for a row, and what came out."""
        found: dict[str, Any] = {}
        fresh = False
        try:
            bundle, ran = self._export(row)
            found |= {"bundle": str(bundle.path), "artifact": bundle.artifact}
            fresh |= ran
            if self.plan.way(row) is not None:
                found["latency"], ran = self._bench(row, bundle)
                fresh |= ran
            found["accuracy"], why, ran = self._compare(row, bundle)
            fresh |= ran
        except _Refused as refused:
            return RowResult(row, refused.state, refused.why, **found)
        if self.plan.way(row) is None:
            why = f"Nobody says how {row.device} is reached, so nothing was measured: give it 'on' in the plan."
            return RowResult(row, "exported", why, **found)
        return RowResult(row, "done" if fresh else "reused", why, **found)

    def _export(self, row: Row) -> tuple[_Bundle, bool]:
        """The bundle, which need not be there where all that is wanted of it is known; whether it was just made."""
        with self.locks[LOCAL]:
            key = self.stamps.export_key(self.plan, row)
            if key in self.refused:
                raise self.refused[key]
            known, folder = self.journal.get(key), bundle_folder(self.plan, row, self.settings.output)
            if known is not None:
                bundle = _Bundle(Path(known["path"]), str(known["artifact"]))
                if self._all_known(row, bundle.artifact) or _intact(bundle):
                    return bundle, False
            try:
                bundle, made = self._run(row, export_command(self.plan, row, folder), _exported)
            except _Refused as refused:
                self.refused[key] = refused
                raise
            self._keep(key, "export", row, {"path": str(bundle.path), "artifact": bundle.artifact})
            return bundle, made

    def _all_known(self, row: Row, artifact: str) -> bool:
        measured = self.plan.way(row) is not None and self._measured(row, artifact) is not None
        compared = self.stamps.compare_key(self.plan, row, artifact)
        return measured and (compared is None or self.journal.get(compared) is not None)

    def _measured(self, row: Row, artifact: str) -> Mapping[str, Any] | None:
        key = self.stamps.bench_key(self.plan, row, artifact)
        return None if self.settings.fresh and key not in self.made else self.journal.get(key)

    def _bench(self, row: Row, bundle: _Bundle) -> tuple[Mapping[str, Any], bool]:
        with self.locks[self.plan.machine(row)]:
            known = self._measured(row, bundle.artifact)
            if known is not None:
                return known, False
            command = bench_command(self.plan, row, bundle.path, self.settings.history)
            measurement, result = self._run(row, command, _latency)
            key = self.stamps.bench_key(self.plan, row, bundle.artifact)
            with self.writing:
                append(self.settings.output / MEASUREMENTS, measurement.to_json())
                self.made.add(key)
            self._keep(key, "bench", row, result)
            return result, True

    def _compare(self, row: Row, bundle: _Bundle) -> tuple[Mapping[str, Any] | None, str | None, bool]:
        """Accuracy, else why there is none, and whether it was just measured."""
        command = compare_command(self.plan, row, bundle.path, self.settings.history)
        key = self.stamps.compare_key(self.plan, row, bundle.artifact)
        if command is None or key is None:
            return None, None, False
        with self.locks[LOCAL]:
            known = self.journal.get(key)
            if known is not None:
                return known, None, False
            try:
                result = self._run(row, command, _accuracy)
            except _Refused as refused:
                if refused.state != "skipped":
                    raise
                return None, f"Not compared: {refused.why}", False
            self._keep(key, "compare", row, result)
            return result, None, True

    def _run(self, row: Row, argv: Argv, read: Callable[[dict[str, Any]], T]) -> T:
        """What ``read`` makes of the JSON that a command prints."""
        self.say(f"{row}: {argv[0]}")
        done = self.runner(argv, lambda text: self.say(f"{row}: {argv[0]}: {text}"))
        document = done.document
        if done.status not in (0, JUDGED) or document is None:
            raise _Refused("skipped" if done.status == NOT_HERE else "failed", done.sentence)
        try:
            return read(document)
        except (EdgeDeployError, KeyError, TypeError) as error:
            raise _Refused("failed", f"What 'edgedeploy {argv[0]}' said cannot be read: {error}") from error

    def _keep(self, key: str, step: str, row: Row, result: Mapping[str, Any]) -> None:
        with self.writing:
            self.journal.add(key, step, str(row), result)


def run_plan(
    plan: Plan, settings: Settings, runner: Runner, say: Say, follow: Callable[[RowResult], None]
) -> tuple[RowResult, ...]:
    """Work off every row of ``plan`` that is not done, and return what became of each, in the plan's order.

    Devices are worked on side by side, rows of one device one after the other. When interrupted it ends the commands
    that run, and what they have done until then counts the next time.

    Args:
        plan: what to do.
        settings: where, and what to do again.
        runner: runs the commands.
        say: told what is going on, from several threads.
        follow: told of each row that has ended, one at a time.

    Raises:
        UsageError: the output folder cannot be written, or a target is not known here.
    """
    work = _Work(plan, settings, runner, say, Journal(settings.output / STATE))
    work.locks = {name: threading.Lock() for name in {LOCAL, *(plan.machine(row) for row in plan.rows)}}
    found: dict[Row, RowResult] = {}

    def device(rows: Sequence[Row]) -> None:
        for row in rows:
            result = work.row(row)
            with work.writing:
                found[row] = result
                follow(result)

    names = list(dict.fromkeys(row.device for row in plan.rows))
    with ThreadPoolExecutor(len(names)) as pool:
        futures = [pool.submit(device, [row for row in plan.rows if row.device == name]) for name in names]
        try:
            _gather(futures)
        except BaseException:
            runner.stop()
            raise
    return tuple(found[row] for row in plan.rows)


def _gather(futures: Sequence[Future[None]]) -> None:
    """Wait for all, in short turns, so that a signal is heeded; raise what one of them raised at once."""
    waiting = set(futures)
    while waiting:
        ended, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
        for future in ended:
            future.result()


def pending(plan: Plan, settings: Settings) -> tuple[tuple[Row, tuple[str, ...]], ...]:
    """For each row the steps that a run would take now, as far as can be told; empty where everything is there."""
    work = _Work(plan, settings, _Nobody(), lambda _: None, Journal(settings.output / STATE))
    return tuple((row, _steps(work, row)) for row in plan.rows)


def _steps(work: _Work, row: Row) -> tuple[str, ...]:
    plan, stamps = work.plan, work.stamps
    measure, compare = plan.way(row) is not None, plan.file.models[row.model].accuracy is not None
    known = work.journal.get(stamps.export_key(plan, row))
    if known is None:
        return tuple(step for step, wanted in (("export", True), ("bench", measure), ("compare", compare)) if wanted)
    artifact = str(known["artifact"])
    missing = []
    if measure and work._measured(row, artifact) is None:
        missing.append("bench")
    if compare and work.journal.get(stamps.compare_key(plan, row, artifact)) is None:
        missing.append("compare")
    if (missing or not measure) and not _intact(_Bundle(Path(known["path"]), artifact)):
        missing.insert(0, "export")
    return tuple(missing)


class _Nobody:
    def __call__(self, argv: Sequence[str], say: Say) -> Done:
        raise Stopped

    def stop(self) -> None: ...


def _intact(bundle: _Bundle) -> bool:
    try:
        return Artifact.open(bundle.path).digest == bundle.artifact
    except (EdgeDeployError, OSError):
        return False


def _exported(document: dict[str, Any]) -> tuple[_Bundle, bool]:
    return _Bundle(Path(document["path"]), str(document["manifest"]["digest"])), not document["reused"]


def _latency(document: dict[str, Any]) -> tuple[Measurement, dict[str, Any]]:
    measurement = Measurement.from_json(document["measurement"], "the measurement")
    between, p90 = measurement.interval(), measurement.percentile(0.9)
    low, high = (None, None) if isinstance(between, TooFew) else between
    return measurement, {
        "median": measurement.latency,
        "low": low,
        "high": high,
        "p90": None if isinstance(p90, TooFew) else p90,
        "count": measurement.count,
        "doubts": list(document["doubts"]),
    }


def _accuracy(document: dict[str, Any]) -> dict[str, Any]:
    comparison = from_json(Comparison, document["comparison"], "the comparison")
    difference = comparison.difference.ap50_95
    return {
        "ap50_95": comparison.candidate.metric.ap50_95,
        "reference": comparison.reference.metric.ap50_95,
        "difference": difference.estimate,
        "low": difference.low,
        "high": difference.high,
        "outcome": comparison.equivalence.outcome,
    }
