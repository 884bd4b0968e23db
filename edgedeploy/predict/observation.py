"""What predictions are fitted on: graphs that were timed, here or by somebody who says how."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from edgedeploy.device import THIS_MACHINE, Device
from edgedeploy.errors import UsageError
from edgedeploy.predict.features import Features, Roofs
from edgedeploy.records import from_json, read_json, to_json

SCHEMA = 1


@dataclass(frozen=True)
class Setting:
    """What has to be alike for one measurement to say something of another, besides the graph.

    Args:
        device: name of its profile, or the chip of a machine that has none.
        arch: of its CPU.
        unit: ``cpu``, or the kind of the accelerator: ``gpu``, ``npu``, ``dla``.
        runtime: what ran the graph.
        precision: that it was exported in.
        threads: of the CPU; ``None`` is all.
        generation: of the accelerator, as ``sm 87``; empty for a CPU, and where it is unknown.
    """

    device: str
    arch: str
    unit: str
    runtime: str
    precision: str
    threads: int | None = None
    generation: str = ""

    @property
    def family(self) -> tuple[str, str, str]:
        """What a fit is made for."""
        return self.unit, self.runtime, self.precision

    def __str__(self) -> str:
        threads = "" if self.threads is None else f", {self.threads} thread{'s'[: self.threads != 1]}"
        return f"{self.device}, {self.unit}, {self.runtime} {self.precision}{threads}"


@dataclass(frozen=True)
class Observation:
    """A graph that was timed.

    Args:
        graph: its name.
        setting: what it ran on.
        roofs: of that unit, which ``features`` were taken with.
        features: of the graph.
        seconds: one pass of batch 1.
        source: who says so, and how it was measured.
    """

    graph: str
    setting: Setting
    roofs: Roofs
    features: Features
    seconds: float
    source: str


@dataclass(frozen=True)
class Calibration:
    """Everything that is known; `load` gives what comes with edgedeploy and what was learned on this machine."""

    schema: int
    observations: tuple[Observation, ...]

    @classmethod
    def load(cls) -> Calibration:
        """The packaged observations and the user's own, which count where both have the same graph and setting.

        Raises:
            UsageError: the user's file is damaged.
        """
        packaged = Path(str(files("edgedeploy.predict") / "observations.json"))
        return cls(SCHEMA, _merged([*_read(packaged), *_read(learned_path())]))


def learned_path() -> Path:
    """Where observations of this user are kept: ``edgedeploy/observations.json`` in ``XDG_DATA_HOME``."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "edgedeploy" / "observations.json"


def learn(observations: Sequence[Observation], path: Path | None = None) -> Path:
    """Add observations to a file (the user's own where ``None``), in one step; those of the same graph are replaced.

    Raises:
        UsageError: the file cannot be read or written.
    """
    path = path or learned_path()
    merged = _merged([*_read(path), *observations])
    lines = ",\n".join(json.dumps(to_json(one)) for one in merged)
    text = f'{{"schema": {SCHEMA}, "observations": [\n{lines}\n]}}\n'
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path


def name_of(device: Device) -> str:
    """What observations call a device: its profile, or its chip where it is just this machine."""
    return device.chip if device.name == THIS_MACHINE else device.name


def _read(path: Path) -> tuple[Observation, ...]:
    if not path.exists():
        return ()
    found = from_json(Calibration, read_json(path), str(path))
    if found.schema != SCHEMA:
        raise UsageError(f"{path} has schema {found.schema}, and this edgedeploy reads {SCHEMA}. Learn again.")
    return found.observations


def _merged(observations: Iterable[Observation]) -> tuple[Observation, ...]:
    """The last of each graph and setting."""
    kept = {(one.graph, one.setting): one for one in observations}
    return tuple(kept.values())
