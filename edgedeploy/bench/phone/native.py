"""Measuring with a native runner on an Android device: which one, what it is told to do, and what becomes a record.

Each process of the record is one start of the runner. Where it tells the time of every pass, those are the samples;
where it tells means only, each start gives one sample, and ``Conditions.mean_of`` says of how many passes. What it does
not tell is not made up: there is no time of its start, and prepare and finish are left out of ``includes``.
"""

from __future__ import annotations

import datetime
import hashlib
import math
import secrets
import shlex
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgedeploy.archive import open_artifact
from edgedeploy.artifact import Artifact
from edgedeploy.bench.bundle import graph_of
from edgedeploy.bench.environment import changes
from edgedeploy.bench.measurement import SCHEMA, Measurement, Passes, Place, Process
from edgedeploy.bench.phone import android, programs
from edgedeploy.bench.phone.adb import ROOT, AdbDevice
from edgedeploy.bench.phone.native_output import Output, fill, read
from edgedeploy.bench.phone.native_plan import NativeRunner, Work, plan
from edgedeploy.bench.run import BenchOptions, Progress
from edgedeploy.bench.statistics.quantiles import needed
from edgedeploy.bench.telemetry import Reading, Telemetry
from edgedeploy.device import Device
from edgedeploy.errors import RunFailed, UsageError
from edgedeploy.fate import last_words
from edgedeploy.model import file_digest
from edgedeploy.records import canonical

#: Passes of the run that tells how long one takes.
TRIAL = 3
#: Passes of one start at most.
MOST = 100_000
#: Medians of so many consecutive windows of passes agree within `AGREEMENT` in the steady state; a window has a
#: twentieth of the passes, and at least `WINDOW` of them.
WINDOWS, WINDOW, AGREEMENT = 3, 5, 0.05
#: Seconds between two looks at a device that cools down.
LOOK = 5.0


def bench_native(
    path: str | Path,
    options: BenchOptions,
    runner: NativeRunner,
    device: AdbDevice,
    profile: Device,
    progress: Callable[[Progress], None] | None = None,
) -> Measurement:
    """Measure the bundle at ``path`` on ``device``, which ``profile`` describes, with ``runner``.

    Raises:
        UsageError: the runner cannot do what ``options`` ask for.
        Incompatible: its program, or the profile, is for another processor than the device has.
        Unavailable: the device cannot be used, or has no room.
        RunFailed: the device went away, the runner failed, or what it printed cannot be read.
    """
    artifact = open_artifact(path)
    work = plan(artifact, options, runner.runner)
    with device.held():
        bench = _Bench(device, runner, options, progress)
        bench.bring(artifact, profile)
        packages = {runner.runner.name: bench.digest[:12]}
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        before = android.environment(device, packages)
        processes, mean_of = bench.processes(work)
        after = android.environment(device, packages)
    conditions = replace(work.conditions, mean_of=mean_of)
    changed = bool(changes(before.conditions(), after.conditions()))
    return Measurement(
        schema=SCHEMA,
        created=created,
        conditions=conditions,
        environment=before,
        environment_after=after if changed else before,
        processes=processes,
        place=Place(device=profile.name, on=device.on),
    )


# --- doing it ------------------------------------------------------------------------------------------------------


class _Bench:
    """One benchmark on one device: what was brought there, and the starts of the runner."""

    def __init__(
        self,
        device: AdbDevice,
        native: NativeRunner,
        options: BenchOptions,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._device, self._native, self._options, self._progress = device, native, options, progress
        self._runner = native.runner
        self._values: dict[str, str | None] = {}
        self._libraries, self.digest = "", ""
        self._number, self._total = 1, options.processes

    def bring(self, artifact: Artifact, profile: Device) -> None:
        """Check and send the program, then the graph; `UsageError`, `Incompatible`, `Unavailable` or `RunFailed`."""
        self._say("sending", None)
        programs.check_profile(self._device, profile)
        name, path = self._runner.name, self._native.path
        if path is None:
            programs.check(programs.head(self._device, self._runner.path), self._device, self._runner.path)
            program = self._runner.path
            self.digest = programs.digest(self._device, program)
            self._libraries = str(Path(program).parent)
        else:
            files = programs.files(path, name)
            programs.check(files[name].read_bytes(), self._device, str(path))
            self.digest = hashlib.sha256(canonical({n: file_digest(f) for n, f in files.items()})).hexdigest()
            self._libraries = self._device.deliver(files, executable=True)
            program = f"{self._libraries}/{name}"
        asked = graph_of(artifact, self._options.graph)
        members, graph = artifact.members(asked), artifact.manifest.graphs[asked].file
        if graph not in members:
            raise UsageError(f"{artifact.manifest.name} is a folder in its format, which {name} does not take.")
        model = "model" + "".join(Path(graph).suffixes[-1:])
        self._values = {
            "runner": shlex.quote(program),
            "model": shlex.quote(f"{self._device.deliver({model: artifact.path / graph})}/{model}"),
        }

    def processes(self, work: Work) -> tuple[tuple[Process, ...], int]:
        """One process per start, and of how many passes each sample is the mean."""
        self._values |= work.places
        self._say("calibrating", None)
        trial = self._once(TRIAL, self._options.silence)
        if trial.each:
            return self._singly(trial), 1
        return self._in_means(trial)

    def _singly(self, trial: Output) -> tuple[Process, ...]:
        """Starts of a runner that tells each pass. As many as the duration has are samples; the warm-up is on top."""
        typical = min(trial.each)
        wanted = max(needed(0.5), math.ceil(self._options.duration / self._total / typical))
        passes = min(MOST, wanted + max(wanted // 4, (WINDOWS + 1) * WINDOW) + 1)
        return tuple(self._start(number, passes, passes * typical) for number in range(1, self._total + 1))

    def _in_means(self, trial: Output) -> tuple[tuple[Process, ...], int]:
        """Starts of a runner that tells means: as many as a median needs, for as long together as asked for."""
        self._total = max(self._options.processes, needed(0.5))
        passes = min(MOST, max(2, math.ceil(self._options.duration / self._total / trial.mean)))
        expected = passes * trial.mean
        return tuple(self._start(number, passes, expected) for number in range(1, self._total + 1)), passes

    def _start(self, number: int, passes: int, expected: float) -> Process:
        self._number = number
        self._cool()
        before = android.state(self._device)
        began = time.monotonic()
        output = self._once(passes, self._options.silence + 4 * expected, expected)
        wall = time.monotonic() - began
        after = android.state(self._device)
        first, apart = output.first, output.first is not None
        if not output.each and first is None:
            first = self._once(1, self._options.silence).mean
        process = record(output, first)
        facts: dict[str, str | int | float] = {
            "runner": self._runner.name,
            "program": self.digest[:12],
            "inputs": "made by the runner",
            "not told": ", ".join(["start", "import", *(["load"] if output.load is None else [])]),
        }
        if not output.each:
            facts["samples"] = "means of one start each" + ("" if apart else ", its first pass included")
        readings = (*before.readings("before"), *after.readings("after"), _memory(output), _wall(wall))
        telemetry = replace(process.telemetry, readings=readings)
        return replace(process, telemetry=telemetry, facts=facts)

    def _cool(self) -> None:
        """Wait until the device is as cool as it says it can be, or as long as allowed."""
        until = time.monotonic() + self._native.cool_down
        while self._native.cool_down and time.monotonic() < until:
            self._say("cooling down", None)
            status = android.state(self._device).thermal
            if not status:
                return
            time.sleep(min(LOOK, max(0.0, until - time.monotonic())))

    def _once(self, passes: int, limit: float, expected: float = 0.0) -> Output:
        """One start of the runner; its folder there is removed whatever becomes of it."""
        folder = f"{ROOT}/run-{secrets.token_hex(4)}"
        given = {"passes": str(passes), "limit": str(math.ceil(limit)), "result": f"{folder}/result"}
        command = fill(self._runner, {**self._values, **given})
        libraries = shlex.quote(self._libraries) + "${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
        script = f"mkdir -p {folder} && cd {folder} && export LD_LIBRARY_PATH={libraries} && exec {command}"
        log = (
            f"logcat -d -v raw --pid=$r -s {shlex.quote(self._runner.log)}:V 2>/dev/null; " if self._runner.log else ""
        )
        after = f"echo; {log}cat {folder}/result 2>/dev/null; cd /; rm -rf {folder};"

        def tick(seconds: float) -> None:
            if expected:
                self._say("sampling", min(1.0, seconds / expected))

        said = self._device.run(script, after, limit, tick)
        if said.status:
            raise RunFailed(f"{self._runner.name} on {self._device.on} {_ended(said.status)}. {last_words(said.text)}")
        reads = self._runner.reads
        assert reads is not None
        return read(said.text, reads, passes)

    def _say(self, phase: str, share: float | None) -> None:
        if self._progress is not None:
            self._progress(Progress(self._number, self._total, phase, share))


def record(output: Output, first: float | None) -> Process:
    """The process that ``output`` tells of; ``first`` is its first pass where that is none of ``output.each``.

    The passes before the medians of windows agree are its warm-up (`steady_from`).
    """
    times = list(output.each)
    if times and first is None:
        first = times.pop(0)
    assert first is not None
    warm, steady = steady_from(times) if times else (0, False)
    samples = times[warm:] if times else [output.mean]
    return Process(
        start=0.0,
        runtime_import=0.0,
        load=output.load or 0.0,
        first=_passes([first]),
        warmup=_passes(times[:warm]),
        steady=steady,
        samples=_passes(samples),
        telemetry=Telemetry(
            wall=max(1e-9, math.fsum(samples) * (1 if times else output.count)),
            resolution=output.resolution,
            memory_peak=output.memory,
        ),
        facts={},
    )


def steady_from(times: list[float]) -> tuple[int, bool]:
    """How many passes at the begin are warm-up, and whether they became steady after those.

    Half of them at most; of a few passes more, as long as there are enough left for a median.
    """
    window, count = max(WINDOW, len(times) // 20), len(times)
    longest = max(count // 2, min(count - needed(0.5), (WINDOWS + 1) * WINDOW))
    medians: list[float] = []
    for end in range(window, longest + 1, window):
        medians.append(float(np.median(times[end - window : end])))
        last = medians[-WINDOWS:]
        if len(last) == WINDOWS and max(last) <= min(last) * (1 + AGREEMENT):
            return end, True
    return longest, False


def _passes(seconds: list[float]) -> Passes:
    zeros = (0,) * len(seconds)
    return Passes(zeros, tuple(round(time * 1e9) for time in seconds), zeros)


def _memory(output: Output) -> Reading:
    if output.memory is None:
        return Reading("peak memory of the runner", None, "B", "absent", "the runner does not tell it")
    return Reading("peak memory of the runner", output.memory, "B", "sampled", "the runner's own output")


def _wall(seconds: float) -> Reading:
    source = "from this computer, the way there and back included"
    return Reading("time of the whole start", seconds, "s", "sampled", source)


def _ended(status: int) -> str:
    if status == 126 or status == 127:
        return f"could not be started (status {status})"
    try:
        return f"was killed by {signal.Signals(status - 128).name}" if status > 128 else f"ended with status {status}"
    except ValueError:
        return f"ended with status {status}"
