"""A keyword model frame by frame, on one thread: time of a frame, against the whole window, and what a long run leaves.

    python -m benchmarks.streaming [BUNDLE_OR_CHECKPOINT ...] [--samples FOLDER] [--soak 100000]

Without an argument it builds LMUFormer in full size, plain and spiking, with weights and batch statistics from a seed:
what a frame takes does not depend on them. A frame is a hop of sound made into features, one step of the graph and its
answer; *window* is the same for a whole clip, its features and the graph `main`, which is what a model without state
would have to do for each frame. A recording of a second has 98 frames of features, the bundle's own samples have as
many as the network takes. Window and step take turns in processes of their own. The soak is a process of its own too,
with frames back to back: what is resident after each tenth of them, and then the same with Python's allocations traced.
Sound is the bundle's own samples unless --samples names recordings.
"""

from __future__ import annotations

import argparse
import functools
import gc
import multiprocessing
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.record import Row, Timing, finish, in_turn
from edgedeploy import plugins
from edgedeploy.artifact import Artifact
from edgedeploy.bench.bundle import load
from edgedeploy.bench.measurement import END_TO_END, Measurement, Part
from edgedeploy.bench.outcome import Metric, outcome
from edgedeploy.bench.run import BenchOptions, bench
from edgedeploy.bench.scenario import Scenario
from edgedeploy.bench.statistics.quantiles import TooFew
from edgedeploy.bench.streaming import steps_of
from edgedeploy.bench.target import Job, Target
from edgedeploy.bench.telemetry import resident_memory
from edgedeploy.bench.versus import Contestant, Versus, versus
from edgedeploy.exporter import Evidence, Request
from edgedeploy.model import InputShape
from edgedeploy.pipeline import export_checkpoint
from edgedeploy.tasks import STREAM, Keywords, contract_of
from edgedeploy.tasks.keywords import stand_ins

#: Of the time between two frames, that one may take; of the time of a window, how many steps at least fit into it.
FACTOR, CHEAPER = 0.05, 20.0
#: Frames that growth is told for, and parts of a soak, of which the first is warm-up.
UNIT, PARTS = 10_000, 10
#: Bytes that `UNIT` frames may leave behind, resident or of Python's: less than two of each, which no object is.
LEFT = 16_384.0
CONFIDENCE = 0.9
LABELS = 35


@dataclass(frozen=True)
class Soak:
    """Bytes after each tenth of so many ``frames``: ``resident``, and ``traced`` of Python in another run as long."""

    frames: int
    resident: tuple[int, ...]
    traced: tuple[int, ...]

    def growth(self, values: Sequence[int]) -> float:
        """Bytes per `UNIT` frames: median of what each tenth but the first added.

        What is kept of each frame adds to every tenth. A table of the interpreter that becomes larger once does not.
        """
        return float(np.median(np.diff(values))) / (self.frames / PARTS) * UNIT


def build(folder: Path, name: str, spiking: bool) -> Path:
    """A checkpoint of the full-size network, its weights and batch statistics from a seed."""
    import torch

    from edgedeploy.models import native
    from edgedeploy.models.lmuformer import LMUFormer

    torch.manual_seed(0)
    options = {"classes": LABELS, "spiking": spiking}
    network = LMUFormer(**options)  # type: ignore[arg-type]  # a bool is an int here
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]  # where there is one there is the other
    task = Keywords(tuple(f"word {i}" for i in range(LABELS)))
    native.save(
        folder / f"{name}.safetensors",
        network,
        {"architecture": "lmuformer", "options": options, "task": contract_of(task)},
    )
    return folder / f"{name}.safetensors"


def exported(checkpoint: Path, precision: str, folder: Path) -> Path:
    """The streaming bundle of a checkpoint, for ONNX Runtime."""
    from edgedeploy.model import safetensors_metadata
    from edgedeploy.tasks import from_contract

    task = from_contract(safetensors_metadata(checkpoint)["task"])
    if not isinstance(task, Keywords):
        raise SystemExit(f"{checkpoint} is no keyword model.")
    exporter = plugins.find(plugins.EXPORTERS, "onnxruntime").for_device(None, precision, {})
    request = Request(exporter, Evidence(stand_ins(task), "synthetic sounds"), InputShape(streaming=True))
    return export_checkpoint(str(checkpoint), request, folder, _say).artifact.path


def measure(bundle: Path, arguments: argparse.Namespace) -> tuple[list[Row], dict[str, object], Timing]:
    """Rows of one bundle, what they were drawn from, and its steps on sound and on silence in turn."""
    name = Artifact.open(bundle).manifest.name
    samples = None if arguments.samples is None else str(arguments.samples)
    options = BenchOptions(threads=1, duration=arguments.duration, graph=STREAM, samples=samples)
    _say(f"{name}: back to back")
    steady = bench(bundle, options)
    frames = steady.conditions.frames
    assert frames is not None
    _say(f"{name}: paced")
    paced = bench(bundle, replace(options, scenario=Scenario("paced", rate=1 / frames.period)))
    _say(f"{name}: step and window in turn")
    both = versus(
        Contestant(bundle),
        Contestant(bundle, graph="main"),
        replace(options, duration=2 * arguments.duration, processes=5),
    )
    timing = silence(name, load(_job(bundle, samples)), arguments.duration)
    rows = [*_times(name, steady, paced), *_ratios(name, both), _silence_row(name, timing)]
    details: dict[str, object] = {"back to back": _told(steady), "paced": _told(paced), "in turn": _doubts(both)}
    if arguments.soak:
        _say(f"{name}: soak")
        found = _alone(functools.partial(soak, _job(bundle, samples), arguments.soak))
        rows += _soak_rows(name, found)
        details["soak"] = found
    return rows, {name: details}, timing


def _times(name: str, steady: Measurement, paced: Measurement) -> list[Row]:
    rows = []
    for how, measurement in (("back to back", steady), ("paced", paced)):
        found, p99 = outcome(measurement), measurement.percentile(0.99)
        between = measurement.interval(0.5, confidence=CONFIDENCE)
        low, high = (None, None) if isinstance(between, TooFew) else between
        factor = found.real_time_factor or Metric("", None, "")
        rows += [
            Row(f"{name}: real-time factor, {how}", _told_of(factor), "", "at most", FACTOR, factor.low, factor.high),
            Row(f"  a frame, p50, {how}", measurement.latency, "s", low=low, high=high),
            *([] if isinstance(p99, TooFew) else [Row(f"  a frame, p99, {how}", p99, "s")]),
        ]
    missed = outcome(paced).headline
    rows.append(
        Row("  share of frames later than their period", _told_of(missed), "", "", None, missed.low, missed.high)
    )
    rows.append(Row("  memory of the model", float(steady.model_memory or 0), "B"))
    return rows


def _told_of(metric: Metric) -> float:
    """No number where nothing was measured, which meets no target."""
    return float("nan") if metric.value is None else metric.value


def _ratios(name: str, both: Versus) -> list[Row]:
    rows = []
    parts: tuple[tuple[Part, str], ...] = (("compute", "the graph alone"), (END_TO_END, "end to end"))
    for part, what in parts:
        ratio = both.ratio(0.5, part, CONFIDENCE)
        if isinstance(ratio, TooFew):
            raise SystemExit(f"{name}: {ratio}. Give a longer --duration.")
        rows.append(Row(f"{name}: window / step, {what}", ratio.value, "", "at least", CHEAPER, ratio.low, ratio.high))
        rows.append(Row(f"  a window, p50, {what}", both.second.median(part), "s"))
    return rows


def silence(name: str, target: Target, duration: float) -> Timing:
    """Steps of the graph on sound, and on digital silence that has lasted for long, in turn."""
    target.load_runtime()
    quiet = replace(target, samples=tuple(np.zeros_like(sample) for sample in target.samples))
    calls: dict[str, Callable[[], object]] = {}
    for what, one in (("sound", target), ("silence", quiet)):
        steps = steps_of(one, one.open())
        for index in range(2000):  # what decays has decayed
            steps.compute(steps.prepare(index))
        ready = steps.prepare(0)
        calls[what] = functools.partial(steps.compute, ready)
    return in_turn(f"{name}, steps", calls, duration / 2)


def _silence_row(name: str, timing: Timing) -> Row:
    value, low, high = timing.ratio("silence", "sound")
    return Row(f"{name}: step in silence / on sound", value, "", "", None, low, high)


def soak(job: Job, frames: int) -> Soak:
    """What so many frames leave behind, in this process."""
    target = load(job)
    target.load_runtime()
    session = target.open()
    steps = steps_of(target, session)

    def after_each(read: Callable[[], int | None]) -> tuple[int, ...]:
        told = []
        for part in range(PARTS):
            for index in range(part * frames // PARTS, (part + 1) * frames // PARTS):
                ready = steps.prepare(index)
                steps.finish(ready, steps.compute(ready))
            del ready
            gc.collect()
            found = read()
            if found is None:
                raise SystemExit("This system does not tell what is resident: soak elsewhere.")
            told.append(found)
        return tuple(told)

    resident = after_each(resident_memory)
    tracemalloc.start()
    traced = after_each(lambda: tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    session.close()
    return Soak(frames, resident, traced)


def _soak_rows(name: str, found: Soak) -> list[Row]:
    each, rows = f"growth per {UNIT} of {found.frames} frames", []
    for what, values in (("resident", found.resident), ("Python's", found.traced)):
        rows += [
            Row(f"{name}: {what} {each}", found.growth(values), "B", "at most", LEFT),
            Row(f"  {what}, after all of them more than after a tenth", float(values[-1] - values[0]), "B"),
        ]
    return rows


def _alone(work: Callable[[], Soak]) -> Soak:
    """``work`` in a fresh process, which has imported nothing that an export needs."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work).result()


def _job(bundle: Path, samples: str | None) -> Job:
    return Job("edgedeploy.bench.bundle:load", str(bundle), threads=1, graph=STREAM, samples=samples)


def _told(measurement: Measurement) -> dict[str, object]:
    from edgedeploy.bench.doubts import doubts
    from edgedeploy.report.measurement import summary

    return {**summary(measurement), "doubts": doubts(measurement)}


def _doubts(both: Versus) -> dict[str, object]:
    from edgedeploy.report.versus import summary

    return {**summary(both), "doubts": both.doubts()}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Print the rows of each model."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "models", type=Path, nargs="*", help="bundles or checkpoints; built from a seed where none is given"
    )
    made.add_argument("--samples", type=Path, help="folder of recordings; else the bundle's own samples")
    made.add_argument("--precision", default="fp32", help="of what is exported (fp32)")
    made.add_argument("--duration", type=float, default=20.0, help="seconds of each measurement (20)")
    made.add_argument("--soak", type=int, default=0, help="frames of the soak (none)")
    made.add_argument("--json", type=Path, help="where the result goes (benchmarks/results/streaming.json)")
    arguments = made.parse_args()
    if 0 < arguments.soak < PARTS:
        raise SystemExit(f"A soak of {arguments.soak} frames shows nothing; give {UNIT} or more.")
    rows: list[Row] = []
    timings: list[Timing] = []
    details: dict[str, object] = {}
    inputs: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        models = arguments.models or [build(place, "LMUFormer", False), build(place, "Spiking LMUFormer", True)]
        for model in models:
            bundle = exported(model, arguments.precision, place) if model.suffix == ".safetensors" else model
            found, told, timing = measure(bundle, arguments)
            rows += found
            details |= told
            timings.append(timing)
            inputs[model.name] = Artifact.open(bundle).digest
    return finish(
        arguments,
        rows,
        timings,
        inputs,
        details,
        [
            "any Arm board or phone: there the caches are smaller than the weights of a step",
            "whether answers stay right over a long stream, which is another benchmark's",
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
