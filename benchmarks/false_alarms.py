"""How often a benchmark doubts a run that nothing was wrong with, how often it finds what was, and how often its
intervals hold the truth: all on simulated runs of three processes each.

    python -m benchmarks.false_alarms

Clean runs are log-normal: light (1 %, no outliers), and as machines give them (5 %, and one pass in a hundred takes
half as long again or more). A run counts as doubted where any doubt is raised, whatever it is about.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from benchmarks.record import Row, finish
from edgedeploy.bench.doubts import doubts
from edgedeploy.bench.measurement import Measurement
from edgedeploy.bench.statistics.ratio import Ratio, compare_groups, compare_pairs
from edgedeploy.bench.statistics.uncertainty import between
from edgedeploy.testing.fakes import fake_environment, fake_measurement, fake_process, fake_times

PROCESSES = 3
SIZES = (20, 50, 100, 200, 1000, 5000)
#: Processes and samples of runs that many starts are made for.
MANY = (24, 100)
KINDS = {"light": (0.01, 0.0), "with outliers": (0.05, 0.01)}
MS = 1_000_000

Times = npt.NDArray[np.float64]
#: Changes the nanoseconds of one process: times, number of the process.
Fault = Callable[[Times, int], Times]


def measured(
    size: int, seed: int, kind: str, fault: Fault = lambda times, process: times, processes: int = PROCESSES
) -> Measurement:
    """A run of ``processes`` processes of ``size`` samples each."""
    found = []
    for process in range(processes):
        times = np.asarray(fake_times(size, seed * processes + process, *KINDS[kind]), np.float64)
        found.append(fake_process([int(value) for value in fault(times, process)]))
    return fake_measurement(*found)


def drifted(times: Times, process: int) -> Times:
    """10 % slower at the end of each process."""
    slower: Times = times * np.linspace(1, 1.1, len(times))
    return slower


def drifted_over_all(times: Times, process: int) -> Times:
    """10 % slower at the end of the last process than at the begin of the first."""
    slower: Times = times * np.linspace(1 + 0.1 * process / PROCESSES, 1 + 0.1 * (process + 1) / PROCESSES, len(times))
    return slower


def two_states(times: Times, process: int) -> Times:
    """23 % slower for a third of the run at a time, as a host that changes its clock."""
    slow = (np.arange(len(times)) * 3 // len(times) + process) % 2 == 1
    return np.where(slow, 1.23 * times, times)


def two_speeds(times: Times, process: int) -> Times:
    """23 % slower in three of ten passes, at random."""
    return np.where(np.random.default_rng(process).random(len(times)) < 0.3, 1.23 * times, times)


def spikes(times: Times, process: int) -> Times:
    """70 ms in each 500th of all passes; the passes take 2 ms."""
    times = times / 10
    times[(np.arange(len(times)) + process * len(times)) % 500 == 499] = 70 * MS
    return times


def neighbour(times: Times, process: int) -> Times:
    """Three bursts of eight passes each that take twice as long."""
    times = times.copy()
    for start in (len(times) // 5, len(times) // 2, len(times) * 4 // 5):
        times[start : start + 8] *= 2
    return times


FAULTS: dict[str, tuple[Fault, str]] = {
    "drift of 10 % in each process": (drifted, "drifted"),
    "drift of 10 % over the run": (drifted_over_all, ""),
    "two states that last": (two_states, "two speeds|alike"),
    "two speeds, mixed": (two_speeds, "two speeds"),
    "70 ms each 500 calls": (spikes, "one in 500"),
    "three bursts": (neighbour, "bursts"),
}


def false_alarms(runs: int) -> list[Row]:
    """The share of clean runs with a doubt, per kind and size, and over all."""
    rows, alarms = [], 0
    for kind in KINDS:
        for size in SIZES:
            raised = sum(bool(doubts(measured(size, seed, kind))) for seed in range(runs))
            alarms += raised
            rows.append(Row(f"doubted, {kind}, {PROCESSES} x {size} samples", raised / runs))
        processes, size = MANY
        raised = sum(bool(doubts(measured(size, seed, kind, processes=processes))) for seed in range(runs))
        alarms += raised
        rows.append(Row(f"doubted, {kind}, {processes} x {size} samples", raised / runs))
    return [*rows, Row("doubted, all clean runs", alarms / (runs * len(rows)), "", "at most", 0.05)]


def found(runs: int) -> list[Row]:
    """The share of runs with a fault in which a doubt names it."""
    rows = []
    for size in (200, 1000, 5000):
        for name, (fault, told) in FAULTS.items():
            seen = 0
            for seed in range(runs):
                said = doubts(measured(size, seed, "with outliers", fault))
                seen += any(re.search(told, sentence) for sentence in said)
            rows.append(Row(f"found, {name}, {PROCESSES} x {size} samples", seen / runs))
    few = sum(any("p99" in one for one in doubts(measured(100, seed, "light"), asked=(0.99,))) for seed in range(runs))
    changed = replace(measured(200, 0, "light"), environment_after=fake_environment(governor="powersave"))
    seen = any("governor" in sentence for sentence in doubts(changed))
    return [*rows, Row("found, too few samples for p99", few / runs), Row("found, a changed governor", float(seen))]


def alike(size: int, likeness: float, draw: np.random.Generator) -> Times:
    """A series of standard normal numbers with that correlation of neighbours."""
    steps = draw.normal(size=size + 200) * math.sqrt(1 - likeness**2)
    for i in range(1, len(steps)):
        steps[i] += likeness * steps[i - 1]
    return steps[200:]


def coverage(runs: int) -> list[Row]:
    """How often 95 % intervals hold the truth. ``apart``: variance between processes over that of a process's mean."""
    draw, rows = np.random.default_rng(0), []
    for size, likeness in ((100, 0.0), (500, 0.0), (500, 0.5), (500, 0.9)):
        for apart in (0.0, 5.0, 50.0):
            inside = (1 + likeness) / (1 - likeness) / size
            total = math.sqrt(1 + apart * inside)
            for q in (0.5, 0.9):
                truth, kept = math.exp(0.05 * total * NormalDist().inv_cdf(q)), 0
                for _ in range(runs):
                    shifts = draw.normal(size=PROCESSES) * math.sqrt(apart * inside)
                    groups = [np.exp(0.05 * (alike(size, likeness, draw) + shift)) for shift in shifts]
                    ends = between(groups, q)
                    kept += isinstance(ends, tuple) and ends[0] <= truth <= ends[1]
                name = f"p{100 * q:.0f}, {PROCESSES} x {size}, correlation {likeness:g}, apart {apart:g}"
                rows.append(Row(f"interval holds {name}", kept / runs))
    return rows


def ratios(runs: int) -> list[Row]:
    """How often the interval of the ratio of two alike holds 1, and how often the rank test tells them apart at 5 %.

    For turns, the machine changes between two states 20 % apart, for both sides at once.
    """
    draw, rows = np.random.default_rng(1), []
    for apart in (0.0, 0.005):
        kept = tested = paired = 0
        for _ in range(runs):
            first, second = (
                [np.exp(draw.normal(0, 0.05, 200) + draw.normal(0, apart)) for _ in range(PROCESSES)] for _ in range(2)
            )
            both = compare_groups(first, second)
            if isinstance(both, Ratio):
                kept += not both.decided
                tested += both.p < 0.05
            states = [np.exp(np.repeat(0.2 * (draw.random(8) < 0.5), 25)) for _ in range(PROCESSES)]
            pairs = [
                (np.split(one * state, 40), np.split(other * state, 40))
                for one, other, state in zip(first, second, states, strict=True)
            ]
            turns = compare_pairs(pairs)
            paired += isinstance(turns, Ratio) and not turns.decided
        name = f"processes {apart:.1%} apart"
        rows.append(Row(f"ratio of groups holds 1, {name}", kept / runs))
        rows.append(Row(f"rank test finds a difference at 5 %, {name}", tested / runs))
        rows.append(Row(f"ratio of turns holds 1, host of two states, {name}", paired / runs))
    return rows


def main() -> int:
    """Print all rates."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--runs", type=int, default=200, help="simulated runs per line (200)")
    made.add_argument("--json", type=Path, help="where the result goes (benchmarks/results/NAME.json)")
    arguments = made.parse_args()
    runs = arguments.runs
    rows = [*false_alarms(runs), *found(max(1, runs // 4)), *coverage(runs), *ratios(runs)]
    return finish(arguments, rows)


if __name__ == "__main__":
    sys.exit(main())
