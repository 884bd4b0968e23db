"""How far off predictions are: on this machine for networks that the fit has not seen, and against public figures.

    python -m benchmarks.prediction --onnx DIR [--threads 1] [--duration 60] [--learn]

Every network of `benchmarks.zoo` is exported to DIR (unless it is there) and timed with ONNX Runtime in fp32, all of
them in turn. Predictions are fitted on those of `benchmarks.zoo.SEEN`, and made for all others. The public figures are
those that edgedeploy comes with; each is predicted from the other devices, and from the other networks on its own.

``--learn`` writes the observations, and those of the public figures, to the file that edgedeploy comes with.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.public import FIGURES, NETWORKS, SOURCE
from benchmarks.record import RESULTS, conditions, load_since, write
from benchmarks.zoo import NETWORKS as ZOO
from benchmarks.zoo import SEEN, export
from edgedeploy import device as devices
from edgedeploy.bench.interleave import interleave
from edgedeploy.bench.telemetry import read_counters
from edgedeploy.cost import GraphCost, graph_cost
from edgedeploy.device import Device
from edgedeploy.errors import Unavailable
from edgedeploy.plugins import RUNTIMES, find
from edgedeploy.predict.features import features
from edgedeploy.predict.fit import held_out
from edgedeploy.predict.observation import SCHEMA, Calibration, Observation, learn
from edgedeploy.predict.prediction import predict, roofs_of, setting_of
from edgedeploy.probe import probe
from edgedeploy.tensors import Signature, TensorSpec

PACKAGED = Path(__file__).parents[1] / "edgedeploy" / "predict" / "observations.json"


def timed(paths: dict[str, Path], threads: int | None, duration: float) -> dict[str, float]:
    """Median seconds of a pass of each ONNX file, all in turn."""
    runtime = find(RUNTIMES, "onnxruntime")(threads=threads)
    calls = {}
    for name, path in paths.items():
        side = int(path.stem.rpartition("-")[2])
        image = np.random.default_rng(0).random((1, 3, side, side), np.float32)
        spec = TensorSpec("image", "float32", image.shape)
        session = runtime.open({"main": path}, {"main": Signature(inputs=(spec,), outputs=())})
        calls[name] = lambda session=session, image=image: session.run({"image": image})
    return {name: float(np.median(taken)) for name, taken in interleave(calls, duration).items()}


def observed(machine: Device, paths: dict[str, Path], threads: int, duration: float) -> list[Observation]:
    """The zoo, measured here."""
    setting = setting_of(machine, "onnxruntime", "fp32", threads)
    roofs = roofs_of(machine, setting)
    seconds = timed(paths, threads, duration)
    source = f"{time.strftime('%Y-%m-%d', time.gmtime())}: python -m benchmarks.prediction, median of calls in turn"
    return [
        Observation(name, setting, roofs, features(graph_cost(path), roofs), seconds[name], source)
        for name, path in paths.items()
    ]


def published(folder: Path) -> Iterator[Observation]:
    """The public figures, with what their networks cost."""
    costs = {name: graph_cost(export(name, folder, 640)) for name in NETWORKS}
    for figure in FIGURES:
        profile = devices.load(figure.device)
        setting = setting_of(profile, figure.runtime, figure.precision)
        roofs = roofs_of(profile, setting)
        lowered = None if figure.precision == "fp32" else figure.precision
        found = features(costs[figure.network], roofs, lowered)
        yield Observation(f"{figure.network}-640", setting, roofs, found, figure.seconds, f"{figure.page}, {SOURCE}")


def unseen(observations: Sequence[Observation], costs: dict[str, GraphCost]) -> list[tuple[str, float, float, bool]]:
    """Name, measured, predicted and whether the interval holds it, of every graph that is not in `SEEN`."""
    seen = Calibration(SCHEMA, tuple(one for one in observations if one.graph in SEEN))
    machine = devices.this_machine()
    found = []
    for one in observations:
        if one.graph not in SEEN:
            made = predict(one.graph, costs[one.graph], machine, one.setting, seen)
            found.append((one.graph, one.seconds, made.seconds, made.low <= one.seconds <= made.high))
    return found


def public_errors(observations: Sequence[Observation]) -> Iterator[tuple[str, str, int, float, float]]:
    """Family, what was left out, how many, and the median and largest factor that a prediction is off by."""
    families = sorted({one.setting.family for one in observations})
    for family in families:
        alike = [one for one in observations if one.setting.family == family]
        for what, by_device in (("network", False), ("device", True)):
            try:
                errors = np.abs(held_out(alike, by_device))
            except Unavailable:
                continue
            if len(errors):
                yield " ".join(family), what, len(errors), math.exp(np.median(errors)), math.exp(errors.max())


def show(threads: int, rows: Sequence[tuple[str, float, float, bool]]) -> None:
    """Print what was measured and predicted, and by how much that is off."""
    print(f"\n{f'{threads} threads':<24} {'measured':>10} {'predicted':>10} {'ratio':>7}  within the interval")
    for name, measured, made, inside in rows:
        times = f"{measured * 1e3:8.2f}ms {made * 1e3:8.2f}ms {made / measured:7.2f}"
        print(f"{name:<24} {times}  {'yes' if inside else 'no'}")
    factors = [max(measured / made, made / measured) for _, measured, made, _ in rows]
    held = sum(inside for *_, inside in rows)
    print(f"fitted on {', '.join(SEEN)}; {len(rows)} unseen: off by {statistics.median(factors):.2f}x (median), "
          f"{max(factors):.2f}x (worst); {held} within their 80 % interval")  # fmt: skip


def main() -> int:
    """0, whatever the errors are: they are what is to be known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--duration", type=float, default=60.0)
    parser.add_argument("--learn", action="store_true")
    arguments = parser.parse_args()
    before = read_counters()
    paths = {name: export(name, arguments.onnx) for name in ZOO}
    costs = {name: graph_cost(path) for name, path in paths.items()}
    machine = probe(seconds=2.0)
    everything, tables = list(published(arguments.onnx)), {}
    for threads in arguments.threads:
        observations = observed(machine, paths, threads, arguments.duration)
        tables[threads] = unseen(observations, costs)
        show(threads, tables[threads])
        everything += observations
    table = list(public_errors(everything))
    print(f"\n{'public figures and this machine':<28} {'left out':<10} {'n':>3} {'median':>8} {'worst':>8}")
    for family, what, count, median, worst in table:
        print(f"{family:<31} {what:<10} {count:>3} {median:7.2f}x {worst:7.2f}x")
    write(RESULTS / "prediction.json", {
        **conditions("prediction"),
        "load": load_since(before),
        "seen": SEEN,
        "unseen": {
            threads: [dict(zip(("network", "measured", "predicted", "inside"), row, strict=True)) for row in rows]
            for threads, rows in tables.items()
        },
        "public": [dict(zip(("family", "left_out", "count", "median", "worst"), row, strict=True)) for row in table],
    })  # fmt: skip
    if arguments.learn:
        PACKAGED.unlink(missing_ok=True)
        print(f"learned: {learn(everything, PACKAGED).name}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
