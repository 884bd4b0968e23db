"""An artifact against itself, again and again: how often the interval of the ratio holds 1, as it should.

    python -m benchmarks.ab_self out/NAME.edge

Each run starts processes of its own; both sides take turns in it (`edgedeploy.bench.versus`). Intervals are of 95 %,
and 19 of 20 are to hold.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from benchmarks.record import Row, finish
from edgedeploy.bench.run import BenchOptions
from edgedeploy.bench.statistics.quantiles import TooFew
from edgedeploy.bench.versus import PAIRS, versus
from edgedeploy.units import parse


def main() -> int:
    """Print a line per run, and how many of their intervals hold 1."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("bundle")
    made.add_argument("--runs", type=int, default=20, help="how many (20)")
    made.add_argument("--duration", default="10s", help="of sampling per run, both sides together (10s)")
    made.add_argument("--processes", type=int, default=PAIRS, help=f"pairs of processes per run ({PAIRS})")
    made.add_argument("--threads", type=int, default=1, help="inside one call (1)")
    made.add_argument("--backend")
    made.add_argument("--json", type=Path, help="where the result goes (benchmarks/results/NAME.json)")
    arguments = made.parse_args()
    options = BenchOptions(
        backend=arguments.backend,
        threads=arguments.threads,
        duration=parse(arguments.duration, "s"),
        processes=arguments.processes,
    )
    rows, details, digest = [], [], ""
    for number in range(1, arguments.runs + 1):
        found = versus(arguments.bundle, arguments.bundle, options)
        ratio, digest = found.ratio(), found.first.conditions.digest
        if isinstance(ratio, TooFew):
            raise SystemExit(f"{ratio}. Give a longer --duration.")
        row = Row(f"run {number}: second / first at p50, 95 % interval", ratio.value, low=ratio.low, high=ratio.high)
        print(f"{row.name} {ratio.value:.4f} ({ratio.low:.4f} to {ratio.high:.4f})", file=sys.stderr, flush=True)
        rows.append(row)
        details.append({"ratio": ratio, "doubts": found.doubts(), "samples": (found.first.count, found.second.count)})
    held = sum(not one["ratio"].decided for one in details)  # type: ignore[attr-defined]
    limit = math.ceil(0.95 * arguments.runs)
    rows.append(Row(f"95 % intervals of {arguments.runs} that hold 1", held, "runs", "at least", limit))
    return finish(arguments, rows, inputs={"bundle": digest}, details={"runs": details})


if __name__ == "__main__":
    sys.exit(main())
