"""What `benchmarks.papers.lmuformer` trains: systems, experiments, and the order of their importance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgedeploy.tasks.speech_files import read_clips

#: Folds of the speakers of Speech Commands.
FOLDS = 5


@dataclass(frozen=True)
class System:
    """What is trained: an architecture of `edgedeploy.train`, and what it changes in the recipe."""

    name: str
    architecture: str
    changes: Mapping[str, Any] = field(default_factory=dict)


LMUFORMER = System("lmuformer", "lmuformer")
DS_CNN = System("ds-cnn", "ds-cnn")
LINEAR = System("linear", "mean-fbank")
SPIKING = System("spiking", "lmuformer", {"network.spiking": True})
CAUSAL = System("causal", "lmuformer", {"network.causal": True})
SYSTEMS = (LMUFORMER, DS_CNN, LINEAR, SPIKING, CAUSAL)


@dataclass(frozen=True)
class Experiment:
    """One way to divide a data set: every fold is tested on by networks that were trained without it.

    ``held`` are the speakers of each fold as `edgedeploy.train.splits.split` reads them; one empty name stands for the
    parts that the data set has itself. ``changes`` to the recipe are for all systems alike.
    """

    name: str
    data: str
    title: str
    held: Callable[[Path], tuple[str, ...]]
    changes: Mapping[str, Any] = field(default_factory=dict)


SPEAKERS = Experiment(
    "fsdd-speakers",
    "fsdd",
    "Free Spoken Digit Dataset, each of the speakers left out once",
    lambda folder: read_clips(folder, "all").speakers,
)
OFFICIAL = Experiment(
    "fsdd-official", "fsdd", "Free Spoken Digit Dataset, takes 0 to 4 of every speaker", lambda _: ("",)
)
COMMANDS = Experiment(
    "commands-speakers",
    "speech_commands",
    f"Speech Commands, {FOLDS} folds of speakers",
    lambda _: tuple(f"{number}/{FOLDS}" for number in range(1, FOLDS + 1)),
    # clips of a second, in the paper's window; and a tenth of the clips, so more passes over them
    {
        "network.frames": 128,
        "network.theta": 128,
        "augmentation.time_mask": 48,
        "augmentation.roll": 10,
        "training.epochs": 200,
    },
)
EXPERIMENTS = (SPEAKERS, OFFICIAL, COMMANDS)

#: What is trained, the most important first.
ORDER = (
    (SPEAKERS, LINEAR),
    (SPEAKERS, LMUFORMER),
    (SPEAKERS, DS_CNN),
    (OFFICIAL, LINEAR),
    (OFFICIAL, LMUFORMER),
    (OFFICIAL, DS_CNN),
    (COMMANDS, LINEAR),
    (COMMANDS, LMUFORMER),
    (COMMANDS, DS_CNN),
    (SPEAKERS, SPIKING),
    (OFFICIAL, SPIKING),
    (COMMANDS, SPIKING),
    (SPEAKERS, CAUSAL),
    (OFFICIAL, CAUSAL),
)


@dataclass(frozen=True)
class Job:
    """One network to train, and where it is kept."""

    experiment: Experiment
    system: System
    held: str
    folder: Path

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.experiment.name} {self.system.name} {self.held or 'official'}"


def jobs(data: Path, runs: Path, only: Sequence[str] = (), systems: Sequence[str] = ()) -> Iterator[Job]:
    """All that are asked for, in the order of importance; nothing given is everything."""
    for experiment, system in ORDER:
        if (only and experiment.name not in only) or (systems and system.name not in systems):
            continue
        for held in experiment.held(data / experiment.data):
            place = runs / experiment.name / system.name / (held.replace("/", "of") or "official")
            yield Job(experiment, system, held, place)
