"""How long an export takes from the shell: the whole command, once with nothing there and again with nothing changed.

    python -m benchmarks.export_time CHECKPOINT

Each export is a process of its own, timed from start to exit. The first goes to an empty folder, the second to the same
folder. The files of Python packages are in the system's cache after the first command, which is told apart below.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.record import Row, Timing, finish, load_since
from edgedeploy.bench.telemetry import read_counters

COMMAND = (sys.executable, "-c", "from edgedeploy.cli.app import main; main()")


def seconds(arguments: Sequence[str]) -> float:
    """Wall time of one command; it has to succeed."""
    start = time.perf_counter()
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    taken = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"edgedeploy {' '.join(arguments)} failed: {done.stderr.strip()[-500:]}")
    return taken


def main() -> int:
    """Print the slowest of several of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--size", type=int, default=640, help="height and width of the input (640)")
    parser.add_argument("--repeat", type=int, default=5, help="exports to an empty folder, each done again (5)")
    parser.add_argument("--json", type=Path, help="where the result goes (benchmarks/results/export_time.json)")
    arguments = parser.parse_args()
    fresh, again, before = [], [], read_counters()
    for _ in range(arguments.repeat):
        with tempfile.TemporaryDirectory() as folder:
            words = ["export", str(arguments.checkpoint), "--precision", "fp32", "--imgsz", str(arguments.size)]
            fresh.append(seconds([*words, "--output", folder]))
            again.append(seconds([*words, "--output", folder]))
    timing = Timing(
        "commands", {"fresh": np.asarray(fresh), "again": np.asarray(again)}, load_since(before, children=True)
    )
    rows = [
        Row("export to fp32, first of all", fresh[0], "s", "at most", 30.0),
        Row("export to fp32, slowest", max(fresh), "s", "at most", 30.0),
        Row("export to fp32, median", timing.median("fresh"), "s"),
        Row("again, nothing changed, slowest", max(again), "s", "at most", 2.0),
        Row("again, nothing changed, median", timing.median("again"), "s"),
    ]
    return finish(
        arguments,
        rows,
        [timing],
        open_questions=[
            "a first command after a restart: the files of the Python packages were in the system's cache, or partly",
            "int8, whose time is that of calibrating and of looking for the layers to keep in float",
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
