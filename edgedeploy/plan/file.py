"""A plan file: models, devices, precisions, backends and scenarios, and the rows that their combinations make."""

from __future__ import annotations

import dataclasses
import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgedeploy import targets
from edgedeploy.bench.scenario import MULTI_STREAM_SAMPLES, NAMES, Scenario
from edgedeploy.device import THIS_MACHINE
from edgedeploy.errors import UsageError, did_you_mean
from edgedeploy.records import from_json
from edgedeploy.units import parse, parse_share

PRECISIONS = ("fp32", "fp16", "int8-weights", "int8")
LOCAL = "local"


@dataclass(frozen=True)
class ModelEntry:
    """``[models.NAME]``: what ``edgedeploy export`` and ``compare`` take. Paths are relative to the plan file.

    Args:
        checkpoint: a file, or ``module:function``.
        calibrate: data set whose images calibrate int8; ``split`` is the part of it.
        accuracy: data set on which the artifact is compared with the checkpoint, on its first ``limit`` images;
            not compared where left out.
        imgsz: image size, 640 or ``"480x640"`` (height x width).
        head: layout of a detector's output, for an .onnx that does not say.
    """

    checkpoint: str
    calibrate: str | None = None
    split: str | None = None
    accuracy: str | None = None
    limit: int | None = None
    imgsz: int | str | None = None
    head: str | None = None


@dataclass(frozen=True)
class DeviceEntry:
    """``[devices.NAME]``.

    Args:
        profile: packaged profile, or a .yaml file beside the plan; its own name where left out.
        on: how to reach it: ``local``, ``ssh://user@host``, ``adb://serial``, or a target's name. Without it this
            machine is local, and any other device is exported for and not measured on.
        threads: threads inside one call.
    """

    profile: str | None = None
    on: str | None = None
    threads: int | None = None


@dataclass(frozen=True)
class ScenarioEntry:
    """``[scenarios.NAME]``: options of ``edgedeploy bench``, which has its own defaults for what is left out.

    ``scenario`` is the entry's name where left out.
    """

    scenario: str | None = None
    duration: str | None = None
    processes: int | None = None
    rate: str | None = None
    deadline: str | None = None
    samples_per_query: int | None = None
    engine: str | None = None
    precision: str | None = None
    until_stable: bool = False


@dataclass(frozen=True)
class Choice:
    """An entry of ``include`` or ``exclude``: what is left out stands for all there is."""

    model: str | None = None
    device: str | None = None
    precision: str | None = None
    backend: str | None = None
    scenario: str | None = None


@dataclass(frozen=True)
class Matrix:
    """``[matrix]``: what is combined with what. Models, devices and scenarios left out are all that the file has;
    precision and backend are then left to the device.
    """

    models: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    include: tuple[Choice, ...] = ()
    exclude: tuple[Choice, ...] = ()


@dataclass(frozen=True)
class PlanFile:
    """The whole file."""

    models: Mapping[str, ModelEntry]
    devices: Mapping[str, DeviceEntry] = field(default_factory=lambda: {THIS_MACHINE: DeviceEntry()})
    scenarios: Mapping[str, ScenarioEntry] = field(default_factory=lambda: {"single-stream": ScenarioEntry()})
    matrix: Matrix = Matrix()


@dataclass(frozen=True)
class Row:
    """One combination, by the names that the plan gives; ``None`` leaves it to the device."""

    model: str
    device: str
    precision: str | None
    backend: str | None
    scenario: str

    def __str__(self) -> str:
        return "/".join(part or "default" for part in dataclasses.astuple(self))


@dataclass(frozen=True)
class Plan:
    """A plan that makes sense: ``base`` is the folder that its paths are relative to."""

    name: str
    base: Path
    file: PlanFile
    rows: tuple[Row, ...]

    def profile(self, row: Row) -> str:
        """Name or path of the profile of the row's device: as the plan says, else that of its target, else its name."""
        entry = self.file.devices[row.device]
        if entry.profile is not None:
            return str(self.base / entry.profile) if entry.profile.endswith((".yaml", ".yml")) else entry.profile
        target = None if entry.on is None else targets.saved().get(entry.on)
        return row.device if target is None or target.profile is None else target.profile

    def machine(self, row: Row) -> str:
        """What the row is measured on: equal for two names of the same device; this machine where it is not measured.

        Raises:
            UsageError: the device is reached by way of a target that is not known here.
        """
        return targets.resolve(self.way(row) or LOCAL).on

    def way(self, row: Row) -> str | None:
        """How the row's device is reached; ``None`` where nobody says."""
        on = self.file.devices[row.device].on
        return LOCAL if on is None and self.profile(row) == THIS_MACHINE else on

    def path(self, text: str) -> str:
        """A path of the file, or a ``module:function`` as it is."""
        inside = self.base / text
        if re.fullmatch(r"[\w.]+:\w+", text) and not inside.exists():
            return text
        return f"./{inside}" if str(inside).startswith("-") else str(inside)  # no option of a command


def read_plan(path: Path) -> Plan:
    """The plan in a TOML file.

    Raises:
        UsageError: it cannot be read, has an unknown key or name, a value that cannot be, or makes no row.
    """
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # tomllib's error is one
        raise UsageError(f"{path} is not TOML that can be read: {error}.") from error
    return checked(data, path)


def checked(data: Mapping[str, Any], path: Path) -> Plan:
    """The plan that plain values describe; ``path`` is named in messages, and paths are relative to its folder.

    Raises:
        UsageError: see `read_plan`.
    """
    file = from_json(PlanFile, dict(data), str(path))
    for section, entries in (("models", file.models), ("devices", file.devices), ("scenarios", file.scenarios)):
        if not entries:
            raise UsageError(f"{path}: [{section}] is empty.")
        for name in entries:
            if not re.fullmatch(r"\w[\w.-]*", name):
                raise UsageError(f"{path}: {section}: '{name}' becomes a folder's name: use letters, digits, '-._'.")
    for backend in (*file.matrix.backends, *(choice.backend for choice in file.matrix.include)):
        if backend is not None and not re.fullmatch(r"\w[\w.-]*", backend):  # it becomes a folder's name, too
            raise UsageError(f"{path}: matrix: '{backend}' is the name of no backend: use letters, digits, '-._'.")
    for name, scenario in file.scenarios.items():
        _check_scenario(scenario, name, f"{path}: scenarios: {name}")
    return Plan(path.stem, path.parent, file, tuple(_rows(file, str(path))))


def scenario_of(entry: ScenarioEntry, name: str) -> Scenario:
    """The scenario of an entry with this name.

    Raises:
        UsageError: there is no such scenario or engine, or it has no such rate, deadline or query.
    """
    scenario = entry.scenario or name
    several = MULTI_STREAM_SAMPLES if scenario == "multi-stream" else 1
    if entry.engine not in (None, "edgedeploy", "loadgen"):
        raise UsageError(f"There is no engine '{entry.engine}': write edgedeploy or loadgen.")
    return Scenario(
        scenario,  # type: ignore[arg-type]  # it says itself where it is none
        rate=None if entry.rate is None else parse(entry.rate, "Hz"),
        deadline=None if entry.deadline is None else parse(entry.deadline, "s"),
        samples_per_query=several if entry.samples_per_query is None else entry.samples_per_query,
        engine=entry.engine or "edgedeploy",  # type: ignore[arg-type]  # checked above
    )


def _check_scenario(entry: ScenarioEntry, name: str, where: str) -> None:
    if entry.scenario is None and name not in NAMES:
        raise UsageError(f"{where} is no scenario by itself: say which it is, as scenario = 'single-stream'.")
    try:
        scenario_of(entry, name)
        if entry.duration is not None and not parse(entry.duration, "s") > 0:
            raise UsageError(f"A duration of {entry.duration} is none; give more than zero.")
        if entry.processes is not None and entry.processes < 1:
            raise UsageError(f"{entry.processes} processes measure nothing; give one or more.")
        if entry.precision is not None and not parse_share(entry.precision) > 0:
            raise UsageError(f"A precision of {entry.precision} is never reached; give more than zero.")
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _rows(file: PlanFile, where: str) -> Iterator[Row]:
    """Each combination once: those of the matrix but for the excluded ones, then the included ones."""
    matrix = file.matrix
    known: dict[str, tuple[str, ...]] = {"model": tuple(file.models), "device": tuple(file.devices)}
    known |= {"precision": PRECISIONS, "scenario": tuple(file.scenarios)}
    named = {"model": matrix.models, "device": matrix.devices, "precision": matrix.precisions}
    named |= {"scenario": matrix.scenarios}
    choices = [("include", i, c) for i, c in enumerate(matrix.include)]
    choices += [("exclude", i, c) for i, c in enumerate(matrix.exclude)]
    for key, names in named.items():
        for name in names:
            _known(name, known[key], f"{where}: matrix: {key}s")
    for kind, i, choice in choices:
        for key in known:
            if (name := getattr(choice, key)) is not None:
                _known(name, known[key], f"{where}: matrix: {kind}[{i}]: {key}")
    axes: dict[str, Sequence[str | None]] = {
        "model": matrix.models or tuple(file.models),
        "device": matrix.devices or tuple(file.devices),
        "precision": matrix.precisions or (None,),
        "backend": matrix.backends or (None,),
        "scenario": matrix.scenarios or tuple(file.scenarios),
    }
    combined = [Row(*values) for values in itertools.product(*axes.values())]  # type: ignore[arg-type]
    for i, choice in enumerate(matrix.exclude):
        if not any(_matches(choice, row) for row in combined):
            raise UsageError(f"{where}: matrix: exclude[{i}] excludes no row; take it out, or correct it.")
    rows = [row for row in combined if not any(_matches(choice, row) for choice in matrix.exclude)]
    for choice in matrix.include:
        chosen = {key: axis if getattr(choice, key) is None else (getattr(choice, key),) for key, axis in axes.items()}
        rows += [Row(*values) for values in itertools.product(*chosen.values())]
    if not rows:
        raise UsageError(f"{where}: everything is excluded: there is nothing to do.")
    yield from dict.fromkeys(rows)


def _known(name: str, names: Sequence[str], where: str) -> None:
    if name not in names:
        raise UsageError(f"{where}: there is no '{name}'.{did_you_mean(name, names)}")


def _matches(choice: Choice, row: Row) -> bool:
    wanted = {key: value for key, value in dataclasses.asdict(choice).items() if value is not None}
    return all(getattr(row, key) == value for key, value in wanted.items())
