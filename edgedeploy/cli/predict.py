"""``edgedeploy predict``: what will it take on a device that is not here? An interval, and what it rests on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedeploy.cli.terminal import Json, print_json, print_notes, print_table, progress
from edgedeploy.errors import Unavailable, UsageError

if TYPE_CHECKING:
    from edgedeploy.device import Device
    from edgedeploy.predict import Observation, Prediction
    from edgedeploy.predict.subject import Subject


def predict(
    graph: Annotated[Path, typer.Argument(help="A NAME.edge folder or archive, or an .onnx file.")],
    device: Annotated[list[str] | None, typer.Option(help="A device's profile; may be given several times.")] = None,
    runtime: Annotated[str | None, typer.Option(help="What would run it there; else what it was exported for.")] = None,
    precision: Annotated[str | None, typer.Option(help="What it was exported in, for an .onnx file.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads, where it runs on the CPU.")] = None,
    learn: Annotated[
        bool, typer.Option("--learn", help="Measure the bundle here, and let later predictions rest on it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Predict the latency of a graph from what was measured elsewhere; never a substitute for measuring there."""
    from edgedeploy.device import THIS_MACHINE, load
    from edgedeploy.predict import prediction as predicting
    from edgedeploy.predict.subject import Subject

    if not device and not learn:
        raise UsageError("Say for which device, as in --device raspberry-pi-5; 'edgedeploy devices' lists them.")
    profiles = [load(name) for name in device or []]  # refused before it takes time
    subject = Subject.of(graph)
    if learn:
        _learn(graph, subject, threads)
    profiles = [_probed() if profile.name == THIS_MACHINE else profile for profile in profiles]
    made, refused = [], []
    for profile in profiles:
        try:
            setting = predicting.setting_of(
                profile, runtime or subject.runtime, precision or subject.precision, threads
            )
            made.append(predicting.predict(subject.name, subject.cost, profile, setting))
        except Unavailable as error:
            if len(profiles) == 1:
                raise Unavailable(f"{profile.name}: {error}") from error
            refused.append(f"{profile.name}: {error}")
    if as_json:
        print_json({"predictions": made, "refused": refused})
    elif made or refused:
        _print(made, refused)


def _probed() -> Device:
    from edgedeploy.probe import probe

    with progress() as say:
        say("measuring the peaks of this machine")
        return probe(seconds=1.0)


def _print(made: list[Prediction], refused: list[str]) -> None:
    from edgedeploy.report.prediction import HEADER, notes, rows

    print_table("predicted, not measured", HEADER, rows(made))
    print_notes([*notes(made), *refused])


def _learn(path: Path, subject: Subject, threads: int | None) -> None:
    from edgedeploy.predict.observation import learn

    if subject.digest is None:
        raise UsageError("Only bundles are measured: export the model first, and give the bundle with --learn.")
    with progress() as say:
        say("measuring this machine and the bundle")
        observation = _observed(path, subject, threads)
    where = learn([observation])
    typer.echo(f"learned: {observation.graph} takes {observation.seconds * 1e3:.3g} ms on {observation.setting}")
    typer.echo(f"kept in {where}")


def _observed(path: Path, subject: Subject, threads: int | None) -> Observation:
    from edgedeploy.bench.run import BenchOptions, bench
    from edgedeploy.predict import Observation
    from edgedeploy.predict.features import features
    from edgedeploy.predict.observation import Calibration
    from edgedeploy.predict.prediction import roofs_of, setting_of
    from edgedeploy.probe import probe

    machine = probe(seconds=1.0)
    setting = setting_of(machine, subject.runtime, subject.precision, threads)
    known = [one.roofs for one in Calibration.load().observations if one.setting == setting]
    roofs = known[-1] if known else roofs_of(machine, setting)
    measured = bench(path, BenchOptions(threads=threads, graph="main", duration=5.0, processes=2))
    source = f"{time.strftime('%Y-%m-%d', time.gmtime())}: edgedeploy predict --learn, median of compute"
    return Observation(subject.name, setting, roofs, features(subject.cost, roofs), measured.median("compute"), source)
