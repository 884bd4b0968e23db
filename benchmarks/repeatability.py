"""How well a benchmark repeats: the same one several times, its medians, their spread, and the doubts that were raised.

    python benchmarks/repeatability.py out/NAME.edge --threads 1 --duration 10s

Doubts about a run know of the runs before it, as they would from the log beside the bundle; no log is written here.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from edgedeploy.bench.doubts import doubts
from edgedeploy.bench.measurement import Measurement
from edgedeploy.bench.run import BenchOptions, bench
from edgedeploy.bench.statistics.quantiles import TooFew
from edgedeploy.units import parse, show


def row(number: int, measurement: Measurement) -> str:
    """One run: the median with its interval, those of the processes, and what else happened."""
    between = measurement.interval()
    interval = "too few samples" if isinstance(between, TooFew) else " to ".join(show(v, "s") for v in between)
    each = ", ".join(show(median, "s") for median in measurement.process_medians())
    foreign = [p.telemetry.foreign for p in measurement.processes if p.telemetry.foreign is not None]
    others = f"{max(foreign):.0%}" if foreign else "unknown"
    compute = show(measurement.median("compute"), "s")
    return (
        f"run {number}: {show(measurement.latency, 's')} ({interval}), compute {compute}, n {measurement.count}, "
        f"processes {each}, foreign load up to {others}"
    )


def main() -> int:
    """Print a line per run and the spread of the medians."""
    parser = argparse.ArgumentParser(description="How well a benchmark repeats.")
    parser.add_argument("bundle")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--duration", default="10s", help="of sampling per run (10s)")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--backend")
    arguments = parser.parse_args()
    options = BenchOptions(
        backend=arguments.backend,
        threads=arguments.threads,
        duration=parse(arguments.duration, "s"),
        processes=arguments.processes,
    )
    done: list[Measurement] = []
    for number in range(1, arguments.runs + 1):
        measurement = bench(arguments.bundle, options)
        print(row(number, measurement), flush=True)
        for doubt in doubts(measurement, done):
            print(f"  {doubt}", flush=True)
        done.append(measurement)
    medians = [measurement.latency for measurement in done]
    low, high = min(medians), max(medians)
    print(
        f"{len(medians)} medians: {', '.join(show(median, 's') for median in medians)}; "
        f"{show(low, 's')} to {show(high, 's')}, largest over smallest {high / low - 1:.1%}, "
        f"standard deviation {np.std(medians, ddof=1 if len(medians) > 1 else 0) / np.mean(medians):.1%}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
