"""``edgedeploy export --backend auto``: every backend that runs here is tried, and the fastest good one is taken."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgedeploy.errors import UsageError

if TYPE_CHECKING:
    from edgedeploy.artifact import Artifact
    from edgedeploy.exporter import Evidence
    from edgedeploy.fastest import Candidate, Judge
    from edgedeploy.model import InputShape

#: The loss of AP50-95 that does not matter where the user does not say.
MAX_DROP = 0.01
#: How far golden results may move (0 to 1) where there are no labels to measure a loss with.
MAX_DISTANCE = 0.15


@dataclass(frozen=True)
class Wanted:
    """What to export, and how it is asked of each backend: ``arguments`` are those of ``edgedeploy export``."""

    checkpoint: str
    arguments: tuple[str, ...]
    precisions: tuple[str, ...]
    evidence: Evidence
    shape: InputShape
    max_drop: float | None
    output: Path


def export_fastest(wanted: Wanted, say: Callable[[str], None]) -> tuple[Path, tuple[Candidate, ...]]:
    """Export to every backend of this machine, rank what came out, and put the fastest good one into ``output``.

    Every export runs in a process of its own, so that one that crashes is one candidate less. Candidates stay in
    ``output``/candidates: the next run takes up those that are still true.

    Raises:
        UsageError: no backend is installed.
        Unavailable: none keeps the accuracy.
    """
    from edgedeploy import plugins
    from edgedeploy.artifact import replace_directory
    from edgedeploy.device import this_machine
    from edgedeploy.fastest import candidates_of, rank

    installed = {software.name for software in this_machine().runtimes}
    backends = [name for name in plugins.names(plugins.EXPORTERS) if name in installed]
    if not backends:
        raise UsageError("No backend that runs on this machine is installed; 'edgedeploy doctor' says how to get one.")
    made: dict[str, Artifact | str] = {}
    for backend, precision in candidates_of(backends, wanted.precisions):
        say(f"exporting to {backend} in {precision}")
        made[f"{backend} {precision}"] = _exported(wanted, backend, precision)
    ranked = rank(made, _judge(wanted, say), say=say)
    chosen = Path(str(ranked[0].path))
    target = wanted.output / chosen.name
    copy = wanted.output / f".{chosen.name}.copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(chosen, copy)
    replace_directory(copy, target)
    return target, ranked


def _exported(wanted: Wanted, backend: str, precision: str) -> Artifact | str:
    """The bundle for one backend, or the sentence why there is none."""
    from edgedeploy.artifact import Artifact

    folder = wanted.output / "candidates" / f"{backend}-{precision}"
    command = [sys.executable, "-m", "edgedeploy", "export", wanted.checkpoint, *wanted.arguments]
    command += ["--backend", backend, "--precision", precision, "--output", str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Artifact.open(json.loads(done.stdout)["path"])
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith("error:")), lines[-1] if lines else "")
    return said.removeprefix("error:").strip() or f"the export ended with status {done.returncode}"


def _judge(wanted: Wanted, say: Callable[[str], None]) -> Judge:
    from edgedeploy.exporter import scorer
    from edgedeploy.fastest import Judge, golden_distance

    by_golden = Judge(golden_distance, MAX_DISTANCE, "golden results move too far (0 is none, 1 is all)")
    if wanted.evidence.labelled is None:
        return by_golden
    from edgedeploy.capture import reference_session
    from edgedeploy.model import load
    from edgedeploy.tasks import from_contract

    model = load(wanted.checkpoint, wanted.shape)
    task = None if model.task is None else from_contract(model.task)
    score = None if task is None else scorer(wanted.evidence, task, model.graphs["main"].signature)
    if score is None:
        return by_golden
    say("AP of the FP32 checkpoint")
    reference = score(reference_session(model))
    allowed = MAX_DROP if wanted.max_drop is None else wanted.max_drop
    return Judge(lambda _, session: reference - score(session), allowed, "loss of AP50-95 on the labelled images")


def candidate_rows(candidates: Sequence[Candidate]) -> list[list[str]]:
    """Rows of a table: name, outcome, loss, time of a call, that over the chosen one's, what it computes in."""
    from edgedeploy.units import show

    return [
        [
            one.name,
            one.outcome,
            "" if one.loss is None else f"{one.loss:.4f}",
            "" if one.seconds is None else show(one.seconds, "s"),
            "" if one.slower is None else f"{one.slower:.2f}",
            one.reason or one.computes_in,
        ]
        for one in candidates
    ]


def passed_on(options: Mapping[str, object]) -> tuple[str, ...]:
    """Command-line arguments for those of ``options`` (flag to value) that are set."""
    return tuple(part for flag, value in options.items() if value not in (None, "") for part in (flag, str(value)))
