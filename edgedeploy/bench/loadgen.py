"""MLPerf's own load generator as what issues the queries, over the same steps and session: single-stream and offline.

LoadGen keeps times of its own. Those of single queries go into the record: what its latency has more than the parts of
a pass, its own calls, is the wait of that pass. Its summary becomes readings, with its reasons where it calls the run
invalid.
"""

from __future__ import annotations

import re
import tempfile
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedeploy.bench.drive import Drive, Limits, Overlap, Progress, bottleneck
from edgedeploy.bench.sampling import LIMIT, Recorder, Report
from edgedeploy.bench.scenario import Scenario
from edgedeploy.bench.telemetry import Reading
from edgedeploy.errors import RunFailed, Unavailable

#: Queries up to which LoadGen is told to write down the time of each: a line of some 800 bytes.
TRACED = 50_000
#: LoadGen makes up its queries beforehand, and a run that needs more of them than expected is invalid. Offline, it
#: makes up a tenth more by itself.
MORE = 2.0
SUMMARY, TRACE = "mlperf_log_summary.txt", "mlperf_log_trace.json"

_SAMPLE = re.compile(r'"sample_seq":(\d+).*?"complete_ns":(\d+)')
_TIME = re.compile(
    r"^ *(?:\* )?(Early stopping )?([\d.]+)(?:th)? percentile (?:latency \(ns\)|estimate) *: *(\d+)", re.MULTILINE
)
_RATE = re.compile(r"^Samples per second: *([\d.]+)", re.MULTILINE)


def library() -> Any:
    """LoadGen's module.

    Raises:
        Unavailable: it is not installed.
    """
    try:
        import mlperf_loadgen
    except ImportError as error:
        raise Unavailable.extra("MLPerf's LoadGen", "loadgen") from error
    return mlperf_loadgen


@dataclass(frozen=True)
class Summary:
    """What LoadGen says of a run: whether it is valid, why not, and its readings."""

    valid: bool
    reasons: tuple[str, ...]
    readings: tuple[Reading, ...]

    @classmethod
    def read(cls, text: str) -> Summary:
        """From the text of `SUMMARY`.

        Raises:
            RunFailed: there is no result in it.
        """
        result = re.search(r"^Result is : (\w+)", text, re.MULTILINE)
        if result is None:
            raise RunFailed(f"LoadGen left no result in its {SUMMARY}.")
        unmet = re.findall(r"^ *(.+?) *: *NO *$", text, re.MULTILINE)
        advice = re.search(r"^Recommendations:\n((?: +.*\n?)*)", text, re.MULTILINE)
        words = re.sub(r"\s+", " ", advice[1]).strip(" *") if advice else ""
        reasons = (*(f"not {what[0].lower()}{what[1:]}" for what in unmet), *([words] if words else []))
        valid = result[1] == "VALID"
        found = [Reading("LoadGen: valid", float(valid), "", "exact", "; ".join(reasons) or SUMMARY)]
        if rate := _RATE.search(text):  # offline: its latencies are how long samples lay in the queue
            found.append(Reading("LoadGen: samples per second", float(rate[1]), "1/s", "exact", SUMMARY))
            return cls(valid, reasons, tuple(found))
        for early, q, nanoseconds in _TIME.findall(text):
            name = f"LoadGen: p{float(q):g}{' by early stopping' if early else ''}"
            found.append(Reading(name, int(nanoseconds) / 1e9, "s", "exact", SUMMARY))
        return cls(valid, reasons, tuple({one.name: one for one in found}.values()))


def drive(scenario: Scenario, recorder: Recorder, limits: Limits, report: Report = lambda share: None) -> Drive:
    """Take the samples that count, as LoadGen issues them. What a pass raises is raised when LoadGen is through.

    Raises:
        Unavailable: LoadGen is not installed.
        RunFailed: it left no result.
    """
    module = library()
    traced = scenario.name == "single-stream" and limits.duration < TRACED * recorder.typical()
    settings = _settings(module, scenario, recorder, limits)
    system = _System(module, recorder, Progress(recorder, limits, report), scenario.name == "offline")
    with tempfile.TemporaryDirectory() as folder:
        sut = module.ConstructSUT(system.issue, lambda: None)
        qsl = module.ConstructQSL(_SAMPLES, _SAMPLES, lambda samples: None, lambda samples: None)
        try:
            module.StartTestWithLogSettings(sut, qsl, settings, _log_settings(module, folder, traced), "")
        finally:
            module.DestroyQSL(qsl)
            module.DestroySUT(sut)
        if system.failure is not None:
            raise system.failure
        if traced:
            latencies = _latencies(Path(folder, TRACE).read_text("utf-8", "replace"))
            recorder.set_waits(_waits(recorder, latencies))
        summary = Summary.read(Path(folder, SUMMARY).read_text("utf-8", "replace"))
    return Drive((system.end - recorder.begun) / 1e9, summary.readings)


#: Samples that LoadGen picks from; the steps take them modulo those that there are.
_SAMPLES = 1024


class _System:
    """The system under test, as LoadGen calls it. An exception may not pass through LoadGen: it is kept."""

    def __init__(self, module: Any, recorder: Recorder, progress: Progress, offline: bool) -> None:
        self._module, self._recorder, self._progress = module, recorder, progress
        self._overlap = Overlap(recorder, progress, self._done) if offline else None
        self._response = array("B", [0])  # has to live until LoadGen has read it
        self._open: list[int] = []
        self._began = False
        self.end = 0
        self.failure: BaseException | None = None

    def issue(self, queries: Sequence[Any]) -> None:
        """Answer queries: one of single-stream, all of offline."""
        if not self._began:
            self._began = True
            self._recorder.begin()
        self._open = [query.id for query in queries][::-1]
        try:
            if self.failure is None:
                self._answer([query.index for query in queries])
            else:
                time.sleep(0.05)  # LoadGen cannot be stopped: let it ask seldom until its time is over
        except BaseException as error:
            self.failure = error
        self._complete(len(self._open))
        self._progress.look(self.end)

    def _answer(self, indices: list[int]) -> None:
        if self._overlap is not None:
            self._overlap.run(indices[:: self._recorder.steps.batch])
            return
        for index in indices:
            self._recorder.index = index
            self._recorder.once()

    def _done(self, number: int) -> None:
        self._complete(self._recorder.steps.batch)

    def _complete(self, count: int) -> None:
        module, address = self._module, self._response.buffer_info()[0]
        ids = [self._open.pop() for _ in range(min(count, len(self._open)))]
        if ids:
            module.QuerySamplesComplete([module.QuerySampleResponse(one, address, 1) for one in ids])
        self.end = self._recorder.clock()


def _settings(module: Any, scenario: Scenario, recorder: Recorder, limits: Limits) -> Any:
    made, batch = module.TestSettings(), recorder.steps.batch
    made.mode = module.TestMode.PerformanceOnly
    made.min_duration_ms = max(1, int(limits.duration * 1e3))
    made.min_query_count = limits.minimum
    if scenario.name == "single-stream":
        made.scenario = module.TestScenario.SingleStream
        made.single_stream_expected_latency_ns = max(1, int(recorder.typical() / MORE * 1e9))
        made.max_query_count = LIMIT
        return made
    made.scenario = module.TestScenario.Offline
    made.min_query_count = limits.minimum * batch
    made.offline_expected_qps = batch * min(1.1 / bottleneck(recorder), 0.9 * LIMIT / limits.duration)
    return made


def _log_settings(module: Any, folder: str, traced: bool) -> Any:
    output = module.LogOutputSettings()
    output.outdir, output.copy_summary_to_stdout = folder, False
    made = module.LogSettings()
    made.log_output, made.enable_trace = output, traced
    return made


def _latencies(trace: str) -> list[int]:
    """Nanoseconds of each query in the order of issue, as LoadGen saw them."""
    found = {int(number): int(nanoseconds) for number, nanoseconds in _SAMPLE.findall(trace)}
    return [found[number] for number in sorted(found)]


def _waits(recorder: Recorder, latencies: Sequence[int]) -> list[int]:
    """What each latency has more than the parts of its pass."""
    passes = recorder.passes(recorder.first)
    if len(latencies) != len(passes):
        raise RunFailed(f"LoadGen wrote down {len(latencies)} latencies of {len(passes)} queries.")
    parts = zip(latencies, passes.prepare, passes.compute, passes.finish, strict=True)
    return [max(0, latency - sum(rest)) for latency, *rest in parts]
