"""LMUFormer on real clips, against a linear classifier and a DS-CNN of equal training, on speakers that were held out.

Liu et al., "LMUFormer" (ICLR 2024). Trains every network that is not in RUNS yet, the most important first; it can be
killed and called again:

    python -m benchmarks.papers.lmuformer --data DATA --runs RUNS [--only fsdd-speakers ...] [--systems lmuformer ...]

and makes the tables and pictures of what is there, as far as it is there:

    python -m benchmarks.papers.lmuformer --data DATA --runs RUNS --out OUT --evaluate [--mlperf WEIGHTS]

DATA holds the folders ``fsdd`` (Free Spoken Digit Dataset) and ``speech_commands``. Each network is a folder of
``edgedeploy train`` below RUNS: RUNS/EXPERIMENT/SYSTEM/FOLD.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.papers.lmuformer_plan import EXPERIMENTS, SYSTEMS, jobs
from edgedeploy.cli.terminal import options_from
from edgedeploy.records import to_json


def train_all(arguments: argparse.Namespace) -> None:
    """Train what is not there yet."""
    import torch

    from edgedeploy.train.folder import RESULT
    from edgedeploy.train.recipe import read_recipe
    from edgedeploy.train.run import Request, run

    torch.set_num_threads(arguments.threads)
    asked = dict(options_from(arguments.set))
    if arguments.epochs is not None:
        asked["training.epochs"] = arguments.epochs
    for job in jobs(arguments.data, arguments.runs, arguments.only, arguments.systems):
        if (job.folder / RESULT).is_file():
            continue
        recipe = read_recipe(arguments.recipe, {**job.experiment.changes, **job.system.changes, **asked})
        began = time.monotonic()
        request = Request(job.system.architecture, recipe, arguments.data / job.experiment.data, job.folder, job.held)
        found = run(request, _say(job.name))
        test = "" if found.test is None else f", test {found.test.right} of {found.test.clips}"
        _log(f"{job.name}: val {found.val.accuracy:.3f}{test}, {time.monotonic() - began:.0f} s")


def evaluate_all(arguments: argparse.Namespace) -> None:
    """Print the tables of what is there, and write them."""
    import torch

    from benchmarks.papers.lmuformer_results import evaluate, table, write

    torch.set_num_threads(arguments.threads)
    wanted = jobs(arguments.data, arguments.runs, arguments.only, arguments.systems)
    found = evaluate(wanted, arguments.data, arguments.mlperf, _log)
    print(json.dumps(to_json(found), indent=1) if arguments.json else table(found))
    if arguments.out is not None:
        for path in write(found, arguments.out):
            _log(f"written: {path}")


def _say(name: str) -> Callable[[str], None]:
    return lambda text: _log(f"{name}: {text}")


def _log(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Train, or evaluate what was trained."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=Path, required=True, help="holds fsdd/ and speech_commands/")
    made.add_argument("--runs", type=Path, required=True, help="folder of the trained networks")
    made.add_argument("--only", nargs="+", default=[], choices=[one.name for one in EXPERIMENTS])
    made.add_argument("--systems", nargs="+", default=[], choices=[one.name for one in SYSTEMS])
    made.add_argument("--recipe", default="small", help="packaged name or file of the recipe")
    made.add_argument("--set", nargs="+", default=[], metavar="TABLE.KEY=VALUE", help="changes to the recipe")
    made.add_argument("--epochs", type=int, help="instead of the recipe's")
    made.add_argument("--threads", type=int, default=1, help="of torch")
    made.add_argument("--evaluate", action="store_true", help="evaluate what is in RUNS; nothing is trained")
    made.add_argument("--out", type=Path, help="folder for lmuformer.json, .md and .png")
    made.add_argument("--mlperf", type=Path, help="folder with MLPerf Tiny's keyword model, to stand beside")
    made.add_argument("--json", action="store_true", help="print the record instead of tables")
    arguments = made.parse_args()
    if arguments.evaluate:
        evaluate_all(arguments)
    else:
        train_all(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
