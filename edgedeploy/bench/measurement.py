"""A measurement: every raw sample, the conditions and the environment it was taken in. Statistics are drawn from it.

Nothing is thrown away: warm-up passes are kept and marked, slow samples stay. Samples are whole nanoseconds, as the
clock gave them, the one exception to seconds; every property is in seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgedeploy.bench.environment import Environment, changes
from edgedeploy.bench.frames import Frames
from edgedeploy.bench.scenario import SINGLE_STREAM, Scenario
from edgedeploy.bench.statistics.quantiles import TooFew, needed, quantile
from edgedeploy.bench.statistics.uncertainty import between
from edgedeploy.bench.telemetry import Telemetry
from edgedeploy.errors import Incompatible, UsageError
from edgedeploy.records import canonical, from_json, to_json

SCHEMA = 2

#: The parts of one pass, in order. `END_TO_END` is their sum and the wait before them: query due, result out.
Part = Literal["wait", "prepare", "compute", "finish", "end-to-end"]
PARTS: tuple[Part, ...] = ("prepare", "compute", "finish")
WAIT: Part = "wait"
#: Nanoseconds that no pass takes.
LONGEST = 365 * 86400 * 10**9
END_TO_END: Part = "end-to-end"


@dataclass(frozen=True)
class Passes:
    """Consecutive passes, a column per part, in nanoseconds: sample to tensors, graph, outputs to result.

    Args:
        prepare: sample to tensors.
        compute: the graph.
        finish: outputs to result.
        wait: from when the query was due until its pass began; empty where none was due before it began. Of
            LoadGen, what its latency has more than the parts.
        began: when each pass began, counted from the begin of the run that it belongs to; empty where not recorded.
    """

    prepare: tuple[int, ...]
    compute: tuple[int, ...]
    finish: tuple[int, ...]
    wait: tuple[int, ...] = ()
    began: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        lengths = {len(column) for column in (self.prepare, self.compute, self.finish)}
        lengths |= {len(column) for column in (self.wait, self.began) if column}
        if len(lengths) != 1:
            raise UsageError("The columns of these passes have different lengths; the record is damaged.")
        columns = [c for c in (self.prepare, self.compute, self.finish, self.wait, self.began) if c]
        if any(min(column) < 0 or max(column) >= LONGEST for column in columns):
            raise UsageError("A pass took less than nothing or more than a year; the record is damaged.")

    def __len__(self) -> int:
        return len(self.compute)

    def seconds(self, part: Part = END_TO_END) -> npt.NDArray[np.float64]:
        """One part of every pass, in the order they were taken, in seconds."""
        names = (*PARTS, WAIT) if part == END_TO_END else (part,)
        columns = [column for name in names if (column := getattr(self, name))]
        total: npt.NDArray[np.int64] = np.asarray(columns, dtype=np.int64).reshape(-1, len(self)).sum(axis=0)
        return total / 1e9

    def own_seconds(self) -> npt.NDArray[np.float64]:
        """Seconds of each pass without its wait."""
        return self.seconds() - self.seconds(WAIT) if self.wait else self.seconds()

    def times(self) -> npt.NDArray[np.float64]:
        """Seconds from the begin of the run to the begin of each pass; as if back to back where not recorded."""
        if self.began:
            return np.asarray(self.began, dtype=np.int64) / 1e9
        spent = self.seconds()
        return np.cumsum(spent) - spent


@dataclass(frozen=True)
class Process:
    """What one worker process saw, from its start on.

    Args:
        start: seconds from spawning it until it was ready: interpreter, numpy, edgedeploy.
        runtime_import: seconds to import the vendor's runtime.
        load: seconds to open the session. The bundle was read before (its digests), so its pages are cached.
        first: the first pass of the session.
        warmup: the passes after it, until the steady state or the limit.
        steady: whether consecutive windows of the warm-up agreed.
        samples: the passes that count.
        telemetry: what else happened meanwhile.
        facts: what the session says is in force.
    """

    start: float
    runtime_import: float
    load: float
    first: Passes
    warmup: Passes
    steady: bool
    samples: Passes
    telemetry: Telemetry
    facts: Mapping[str, str | int | float]


@dataclass(frozen=True)
class Conditions:
    """What was asked for and what was run.

    Args:
        name: of the artifact; ``digest`` tells it from others of that name, ``model_size`` is its bytes on disk.
        backend: entry-point name of the runtime, with its ``options`` and ``threads`` (``None``: its default).
        graph: name of the graph.
        batch: samples per pass.
        inputs: shape of each graph input, batch included.
        sample_count: different samples that were cycled through.
        sample_shape: shape of the largest of them.
        includes: the parts that end-to-end is the sum of.
        duration: seconds of sampling that were asked for, over all processes.
        scenario: how queries arrived.
        mean_of: passes that each sample is the mean of: 1, but for runners that tell no single times.
        in_turn: whether another artifact was run between the passes, as in an A/B run.
        frames: what a pass is where the graph takes a stream; ``None`` where it takes samples one by one.
    """

    name: str
    digest: str
    model_size: int | None
    backend: str
    options: Mapping[str, str | int | float | bool]
    threads: int | None
    graph: str
    batch: int
    inputs: Mapping[str, tuple[int, ...]]
    sample_count: int
    sample_shape: tuple[int, ...]
    includes: tuple[str, ...]
    duration: float
    scenario: Scenario = SINGLE_STREAM
    mean_of: int = 1
    in_turn: bool = False
    frames: Frames | None = None

    @property
    def subject(self) -> str:
        """What was measured, for people: the artifact, and its graph where that is not the only usual one."""
        return self.name if self.graph == "main" else f"{self.name} ({self.graph})"

    @property
    def period(self) -> float | None:
        """Seconds in which an answer has to be there to keep up: of a frame of the stream, or of a paced query."""
        if self.frames is not None:
            return self.frames.period
        return 1 / self.scenario.rate if self.scenario.name == "paced" and self.scenario.rate else None

    @property
    def samples_per_pass(self) -> int:
        """Samples that each recorded pass worked on: a batch, or a query of multi-stream in however many batches."""
        return max(self.batch, self.scenario.samples_per_query)

    def comparable(self) -> dict[str, object]:
        """What must agree before two latencies may be subtracted: all but which model it was, and for how long."""
        keys = ("backend", "options", "threads", "graph", "batch", "inputs", "sample_shape", "includes")
        found: dict[str, object] = {key: getattr(self, key) for key in keys}
        if self.frames is not None:  # the fingerprints of all others stay what they were
            found["frames"] = to_json(self.frames)
        return found | {"scenario": to_json(self.scenario), "mean_of": self.mean_of, "in_turn": self.in_turn}


@dataclass(frozen=True)
class Place:
    """Where a measurement was taken: ``device`` is a profile's name, ``on`` how it was reached, ``target`` its name."""

    device: str = "this-machine"
    on: str = "local"
    target: str | None = None


HERE = Place()


@dataclass(frozen=True)
class Measurement:
    """One benchmark of one artifact.

    ``environment_after`` is the first one seen that differed from ``environment``, or else the last one: a change is
    not lost because the machine changed back.
    """

    schema: int
    created: str
    conditions: Conditions
    environment: Environment
    environment_after: Environment
    processes: tuple[Process, ...]
    place: Place = HERE

    def __post_init__(self) -> None:
        if not self.processes or not all(len(p.samples) and len(p.first) == 1 for p in self.processes):
            raise UsageError("A measurement needs at least one process, each with a first pass and samples.")

    def seconds(self, part: Part = END_TO_END) -> npt.NDArray[np.float64]:
        """One part of every sample of every process, in the order they were taken, in seconds."""
        return np.concatenate([process.samples.seconds(part) for process in self.processes])

    @property
    def count(self) -> int:
        """Number of samples, warm-up not counted."""
        return sum(len(process.samples) for process in self.processes)

    @property
    def latency(self) -> float:
        """The headline: median of end-to-end, seconds for one pass of ``batch`` samples."""
        return self.median()

    def median(self, part: Part = END_TO_END) -> float:
        """Median in seconds of all samples, however few there are (`percentile` refuses where they are too few)."""
        return float(np.median(self.seconds(part)))

    def mean(self, part: Part = END_TO_END) -> float:
        """Arithmetic mean in seconds."""
        return float(np.mean(self.seconds(part)))

    def percentile(self, q: float, part: Part = END_TO_END) -> float | TooFew:
        """The ``q`` quantile in seconds (0.5 is the median), or why there is none: too few samples, or only means."""
        return self._only_means(q) or quantile(self.seconds(part), q)

    def interval(
        self, q: float = 0.5, part: Part = END_TO_END, confidence: float = 0.95
    ) -> tuple[float, float] | TooFew:
        """Two times in seconds that have the ``q`` quantile between them, of processes started as these were.

        Order statistics take samples for independent of one another, and passes are less so; the interval is widened
        for the autocorrelation inside each process, and for how far the processes are apart: see
        `edgedeploy.bench.statistics.uncertainty`.
        """
        return self._only_means(q) or between([p.samples.seconds(part) for p in self.processes], q, confidence)

    def _only_means(self, q: float) -> TooFew | None:
        """The refusal where no single pass was timed."""
        return TooFew(q, 0, needed(q), self.conditions.mean_of) if self.conditions.mean_of > 1 else None

    def process_medians(self, part: Part = END_TO_END) -> tuple[float, ...]:
        """The median of each process in seconds, in the order they ran."""
        return tuple(float(np.median(process.samples.seconds(part))) for process in self.processes)

    @property
    def fps(self) -> float:
        """Samples per second of one stream back to back, everything included: batch / mean of end-to-end.

        Not the throughput of a pipeline, where the parts of different samples overlap.
        """
        return self.conditions.samples_per_pass / self.mean()

    @property
    def compute_throughput(self) -> float:
        """Samples per second of the graph alone, called back to back: batch / mean of compute."""
        return self.conditions.samples_per_pass / self.mean("compute")

    @property
    def real_time_factor(self) -> float | None:
        """Time that an answer takes, its wait not counted, over the time in which the next one is due; means.

        That time is the stream's own where a pass is a frame of one, at whatever rate the frames were fed, and else
        the period of paced queries; ``None`` where nothing sets a pace. Above 1 it cannot keep up.
        """
        period = self.conditions.period
        if period is None:
            return None
        return float(np.concatenate([process.samples.own_seconds() for process in self.processes]).mean()) / period

    @property
    def peak_memory(self) -> int | None:
        """Bytes: the largest resident memory of any worker, interpreter and numpy included."""
        return _largest(process.telemetry.memory_peak for process in self.processes)

    @property
    def model_memory(self) -> int | None:
        """Bytes: the most that loading and running the model added to a worker."""
        return _largest(process.telemetry.model_memory for process in self.processes)

    @property
    def cold_start(self) -> float:
        """Seconds, median of the processes: start, import of the runtime, load and first pass, one after another."""
        totals = [p.start + p.runtime_import + p.load + float(p.first.seconds()[0]) for p in self.processes]
        return float(np.median(totals))

    def comparable(self) -> dict[str, object]:
        """Every condition that must agree before this latency and another may be subtracted."""
        return {
            **self.environment.conditions(),
            **self.conditions.comparable(),
            "facts": dict(self.processes[0].facts),
        }

    def fingerprint(self) -> str:
        """A digest of `comparable`: equal for measurements under the same conditions, of whatever model."""
        return hashlib.sha256(canonical(to_json(self.comparable()))).hexdigest()[:16]

    def differences(self, other: Measurement) -> tuple[str, ...]:
        """Each condition in which ``other`` differs, as ``key: mine -> theirs``; empty where they may be subtracted."""
        return changes(self.comparable(), other.comparable())

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values of all of it."""
        plain: dict[str, Any] = to_json(self)
        return plain

    @classmethod
    def from_json(cls, data: object, where: str) -> Measurement:
        """The measurement that ``data`` describes; ``where`` names the file in messages.

        Raises:
            UsageError: not a measurement, or damaged.
            Incompatible: written by another version of the schema.
        """
        schema = data.get("schema") if isinstance(data, dict) else None
        if isinstance(schema, int) and schema != SCHEMA:
            raise Incompatible(f"{where} has schema {schema}; this edgedeploy reads schema {SCHEMA}. Measure again.")
        return from_json(cls, data, where)


def _largest(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return max(known, default=None)
