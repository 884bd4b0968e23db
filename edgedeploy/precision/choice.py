"""What stays in float: the search over modules that every backend and every low precision shares.

A stream is a sample like any other: what the graph `STREAM` gives after its last step is the result.

Two goals. By default, task results on a few real samples may move by at most `Exporter.limit` (group testing, see
`search`). With `Exporter.max_drop`, the task metric on labelled images may fall by at most that: the units are ranked
by the noise that lowering them adds, and as few of the noisiest as are needed stay in float.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgedeploy.compare import agreement
from edgedeploy.errors import ExportFailed, UsageError
from edgedeploy.exporter import ENOUGH_SAMPLES, Exporter, Job
from edgedeploy.golden import Ready, streams
from edgedeploy.precision.search import keep_in_float
from edgedeploy.runtime import Outputs, Session, inputs_of
from edgedeploy.tasks.task import Prepared
from edgedeploy.tensors import Array, Signature

#: Samples on which a trial is compared with float.
TRIAL_SAMPLES = 8
#: How far results may move (0 to 1) where the user does not say: fp16 has no excuse to change them.
LIMITS: Mapping[str, float] = {"int8": 0.15, "int8-weights": 0.1, "fp16": 0.03, "bf16": 0.1, "fp8": 0.15}
#: A group that adds less than this share of all noise is not looked into.
NEGLIGIBLE = 0.01
#: Neighbouring pixels of a photograph are alike (correlation near 1), those of noise are not (near 0).
MIN_CORRELATION = 0.3


class Lowering(Protocol):
    """A graph whose units (PyTorch module paths, or ONNX node names) can each be computed in the low precision."""

    @property
    def units(self) -> Sequence[str]:
        """All units that can be lowered, in topological order."""
        ...

    def open(self, lowered: frozenset[str]) -> Session:
        """A session in which exactly these units are in the low precision."""
        ...

    def settle(self, kept: frozenset[str]) -> frozenset[str]:
        """``kept``, and the units that are then not worth lowering, or cannot be."""
        ...


@dataclass(frozen=True)
class Point:
    """One point of the curve: the share of units lowered, and what the task metric lost by it."""

    share: float
    drop: float


@dataclass(frozen=True)
class Choice:
    """What the search found.

    Args:
        lowered, kept: units in the low precision, and in float.
        distance, distance_all: how far results move (0 to 1) as chosen, and with every unit lowered.
        limit: how far they may.
        trials: sessions opened.
        drop: what the task metric lost on the labelled images, where that was the goal.
        curve: points visited, by share.
        sensitivity: noise-to-signal power that a unit adds alone (an equal part of its group's, if that was not split).
    """

    lowered: frozenset[str]
    kept: tuple[str, ...]
    distance: float
    distance_all: float
    limit: float
    trials: int
    drop: float | None = None
    curve: tuple[Point, ...] = ()
    sensitivity: tuple[tuple[str, float], ...] = ()

    def record(self) -> dict[str, Any]:
        """For `edgedeploy.exporter.Written.decisions`."""
        plain = {
            "units": len(self.lowered) + len(self.kept),
            "lowered": len(self.lowered),
            "kept_in_float": list(self.kept),
            "distance": round(self.distance, 4),
            "distance_all_lowered": round(self.distance_all, 4),
            "trials": self.trials,
        }
        if self.drop is None:
            return plain
        return {
            **plain,
            "drop": round(self.drop, 5),
            "curve": [[round(p.share, 4), round(p.drop, 5)] for p in self.curve],
            "sensitivity": [[unit, float(f"{noise:.3g}")] for unit, noise in self.sensitivity],
        }

    def notes(self, precision: str) -> list[str]:
        """What the user should know of it."""
        if self.distance <= self.limit or self.drop is not None:
            return []
        return [
            f"{precision} moves the results on calibration samples by {self.distance:.2f}, over the limit of "
            f"{self.limit:g}: run 'edgedeploy compare' before you use it"
        ]


def choose(lowering: Lowering, job: Job, graph: str, exporter: Exporter) -> Choice:
    """The units to lower so that results stay within the exporter's limit, or the task metric within its max_drop.

    The task metric is that of ``main``. A module to be kept that is in ``main`` need not be in other graphs.

    Raises:
        UsageError: ``keep_float`` names a module that is not there; there is nothing to measure on.
        ExportFailed: no choice keeps the results.
    """
    trials = Trials(lowering, job, graph)
    if graph != "main":
        kept = [module for module in exporter.keep_float if any(_below(unit, module) for unit in lowering.units)]
        return _by_distance(trials, forced_units(lowering.units, kept), exporter)
    forced = forced_units(lowering.units, exporter.keep_float)
    if exporter.max_drop is not None:
        return _by_metric(trials, job, forced, exporter)
    return _by_distance(trials, forced, exporter)


def forced_units(units: Sequence[str], keep: Sequence[str]) -> frozenset[str]:
    """The units that are, or lie below, the module paths of ``keep``.

    Raises:
        UsageError: nothing does.
    """
    forced: set[str] = set()
    for module in keep:
        below = {unit for unit in units if _below(unit, module)}
        if not below:
            raise UsageError(f"No part of the graph belongs to a module '{module}', so it cannot be kept in float.")
        forced |= below
    return frozenset(forced)


def _below(unit: str, module: str) -> bool:
    return unit == module or unit.startswith(module + ".")


class ReadySamples(Sequence[Ready]):
    """The calibration samples of an export as one of its graphs takes them, made when asked for.

    Raises:
        UsageError: the task has no samples for this graph.
    """

    def __init__(self, job: Job, graph: str) -> None:
        self._job, self._graph, self._signature = job, graph, job.model.graphs[graph].signature
        self._streams = streams(job.task, graph)
        if graph != "main" and not self._streams:
            raise UsageError(
                f"The task '{job.task.kind}' has no samples for graph '{graph}', so that what a lower precision does "
                "to it cannot be seen: export in fp32."
            )

    def __len__(self) -> int:
        return len(self._job.samples if self._streams else self._job.calibration)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if self._streams:
            return Ready.of(self._job.task, self._graph, self._signature, self._job.samples[index])
        prepared = self._job.calibration[index]
        return Ready(self._job.task, self._graph, self._signature, (prepared.tensors,), prepared.context)


class Trials:
    """Opens lowered forms of a graph and says how far their results are from those of float."""

    def __init__(self, lowering: Lowering, job: Job, graph: str) -> None:
        self.lowering, self._job = lowering, job
        self.units = list(lowering.units)
        samples = ReadySamples(job, graph)
        if not len(samples):
            raise UsageError("A lower precision needs real samples to be checked on: give a data set with --calibrate.")
        picks = np.linspace(0, len(samples) - 1, min(TRIAL_SAMPLES, len(samples))).astype(int)
        self._samples: list[Ready] = [samples[i] for i in picks]
        self._wanted = [one.run(job.reference) for one in self._samples]
        self.opened = 0
        self._known: dict[frozenset[str], tuple[float, float]] = {}

    def distance(self, lowered: frozenset[str]) -> float:
        """How far task results move with these units lowered, 0 to 1, averaged over the samples."""
        return self._measured(lowered)[0]

    def noise(self, lowered: frozenset[str]) -> float:
        """Noise-to-signal power that lowering these units adds to the worst output; that of several about adds up."""
        return self._measured(lowered)[1]

    def drop(self, lowered: frozenset[str], reference: float) -> float:
        """What the task metric loses against ``reference`` with these units lowered."""
        assert self._job.score is not None
        session = self._open(lowered)
        lost = reference - self._job.score(session)
        session.close()
        self._say(lowered, f"AP {'lost' if lost >= 0 else 'won'} {abs(lost):.4f}")
        return lost

    def _measured(self, lowered: frozenset[str]) -> tuple[float, float]:
        if lowered not in self._known:
            self._known[lowered] = self._measure(lowered)
            self._say(lowered, f"distance {self._known[lowered][0]:.3f}")
        return self._known[lowered]

    def _measure(self, lowered: frozenset[str]) -> tuple[float, float]:
        session, task = self._open(lowered), self._job.task
        moved, noise = [], []
        for sample, wanted in zip(self._samples, self._wanted, strict=True):
            got = sample.run(session, "main")
            moved.append(sample.distance(wanted, got))
            agreed = agreement(task.comparable(wanted), task.comparable(got))
            noise.append(10 ** (-min(one.snr for one in agreed) / 10))
        session.close()
        return float(np.mean(moved)), float(np.mean(noise))

    def _open(self, lowered: frozenset[str]) -> Session:
        self.opened += 1
        return self.lowering.open(lowered)

    def _say(self, lowered: frozenset[str], what: str) -> None:
        self._job.progress(f"trial {self.opened}: {len(lowered)} of {len(self.units)} parts lowered, {what}")


def first_row_of(session: Session, signature: Signature, prepared: Prepared) -> Outputs:
    """The outputs for one prepared sample, from the state at the start, batch 1, in the order of the graph."""
    session.reset()
    outputs = session.run(inputs_of(signature, prepared.tensors))
    return {spec.name: outputs[spec.name][:1] for spec in signature.outputs}


def _by_distance(trials: Trials, forced: frozenset[str], exporter: Exporter) -> Choice:
    limit = LIMITS[exporter.precision] if exporter.limit is None else exporter.limit
    units = [unit for unit in trials.units if unit not in forced]
    found = keep_in_float(units, trials.distance, limit, lambda kept: trials.lowering.settle(kept | forced) - forced)
    if found.chosen > max(4 * limit, 0.5):
        raise ExportFailed(
            f"{exporter.precision} moves the results by {found.chosen:.2f} (0 is none, 1 is all) even with "
            f"{len(found.kept)} of {len(units)} parts in float. Check the calibration samples, or export in fp32."
        )
    kept = found.kept | forced
    lowered = frozenset(trials.units) - kept
    if not lowered:
        raise ExportFailed(
            f"No part of the graph can be in {exporter.precision} without moving the results by more than {limit:g} "
            "(0 is none, 1 is all). Check the calibration samples, or export in fp32."
        )
    kept_in_order = tuple(unit for unit in trials.units if unit in kept)
    return Choice(lowered, kept_in_order, found.chosen, found.everything, limit, trials.opened)


def _by_metric(trials: Trials, job: Job, forced: frozenset[str], exporter: Exporter) -> Choice:
    """Bisection over how many of the noisiest units stay in float; the metric is taken to fall with the share."""
    assert exporter.max_drop is not None
    if job.score is None:
        raise UsageError("A largest loss of AP needs a detector and labelled images; use limit for other models.")
    job.progress("AP of the float model on the labelled images")
    reference = job.score(job.reference)
    base = trials.lowering.settle(forced)
    units = [unit for unit in trials.units if unit not in base]
    noise = _sensitivities(units, trials)
    ranked = sorted(units, key=lambda unit: -noise[unit])
    seen: dict[int, tuple[float, frozenset[str]]] = {}

    def drop(count: int) -> float:
        kept = trials.lowering.settle(base | frozenset(ranked[:count]))
        lowered = frozenset(trials.units) - kept
        if count not in seen:
            seen[count] = (trials.drop(lowered, reference) if lowered else 0.0, lowered)
        return seen[count][0]

    low, high = -1, 0
    while high < len(ranked) and drop(high) > exporter.max_drop:
        low, high = high, min(len(ranked), max(1, 2 * high))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if drop(middle) <= exporter.max_drop else (middle, high)
    lost, lowered = drop(high), seen[high][1]
    if not lowered:
        raise ExportFailed(
            f"{exporter.precision} of any part costs more than {exporter.max_drop:g} of AP on these images. "
            "Allow more, give more images, or export in fp32."
        )
    points = sorted({Point(len(chosen) / len(trials.units), d) for d, chosen in seen.values()}, key=lambda p: p.share)
    return Choice(
        lowered=lowered,
        kept=tuple(unit for unit in trials.units if unit not in lowered),
        distance=trials.distance(lowered),
        distance_all=trials.distance(frozenset(units)),
        limit=exporter.max_drop,
        trials=trials.opened,
        drop=lost,
        curve=tuple(points),
        sensitivity=tuple((unit, noise[unit]) for unit in ranked),
    )


def _sensitivities(units: Sequence[str], trials: Trials) -> dict[str, float]:
    """The noise that each unit adds. Noise powers of independent parts add up, so a quiet group needs no splitting."""
    negligible = NEGLIGIBLE * trials.noise(frozenset(units))
    noise: dict[str, float] = {}

    def split(group: Sequence[str]) -> None:
        power = trials.noise(frozenset(group))
        if len(group) == 1 or power <= negligible:
            noise.update(dict.fromkeys(group, power / len(group)))
            return
        split(group[: len(group) // 2])
        split(group[len(group) // 2 :])

    if units:
        split(units)
    return noise


def refuse_noise(samples: Sequence[Prepared]) -> None:
    """Ranges from random arrays look fine and ruin the model, so images must look like images.

    Raises:
        UsageError: neighbouring pixels have nothing to do with each other.
    """
    correlations = []
    for prepared in samples:
        for tensor in prepared.tensors:
            if tensor.ndim == 4 and min(tensor.shape[2:]) >= 16:
                correlations.append(_correlation(tensor[0].astype(np.float64)))
    found = [c for c in correlations if c is not None]
    if found and float(np.median(found)) < MIN_CORRELATION:
        raise UsageError(
            f"the calibration images look like noise (neighbouring pixels correlate by {np.median(found):.2f}; "
            "photographs by 0.9 and more). Calibrate on real images of the kind that the device will see."
        )


def _correlation(plane: Array) -> float | None:
    left, right = plane[:, :, :-1].ravel(), plane[:, :, 1:].ravel()
    if left.std() == 0 or right.std() == 0:
        return None
    return float(np.corrcoef(left.astype(np.float64), right.astype(np.float64))[0, 1])


def few_samples(job: Job) -> list[str]:
    """The note for calibration on too few samples, if there are too few."""
    if len(job.calibration) >= ENOUGH_SAMPLES:
        return []
    return [
        f"calibrated on {len(job.calibration)} samples; give {ENOUGH_SAMPLES} or more of the kind the device will see"
    ]


def weights_note(graph: str) -> str:
    """The note for a graph with state in a bundle in int8."""
    return f"graph '{graph}' carries state: its weights are int8, its activations and its state stay in float"


@contextmanager
def working_directory() -> Iterator[Path]:
    """A scratch folder for float models, ranges and trials."""
    with tempfile.TemporaryDirectory(prefix="edgedeploy-precision-") as folder:
        yield Path(folder)
