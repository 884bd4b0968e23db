"""``edgedeploy bench``: how fast is it, really, and can that be trusted?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedeploy.cli.place import Found, Phone, found_at
from edgedeploy.cli.running import Backend, Batch, Bundle, Graph, ImageSize, Options, Samples, Threads
from edgedeploy.cli.terminal import Json, image_size, options_from, print_json, print_notes, print_table, progress
from edgedeploy.errors import UsageError

if TYPE_CHECKING:
    from edgedeploy.bench.measurement import Measurement
    from edgedeploy.bench.run import BenchOptions, Progress
    from edgedeploy.bench.scenario import Scenario
    from edgedeploy.device import Device
    from edgedeploy.history import Remembered
    from edgedeploy.verdict import Budget, Verdict

#: Seconds of sampling where nobody says how long: usually; until an interval is narrow; sustained, and of an A/B run.
DURATION, LONGEST, SUSTAINED, BOTH = 10.0, 120.0, 600.0, 20.0
#: The percentile that a budget is about where nobody says.
MEDIAN = 0.5
#: Seconds that --until-stable goes on for at most.
STABLE = 300.0

_LOAD, _GOAL, _WHERE, _BUDGET = "How queries arrive", "How long", "Where", "What is allowed"


def bench(
    bundle: Bundle,
    graph: Graph = None,
    against: Annotated[Path | None, typer.Option(help="Another bundle, timed in turn with it: the ratio.")] = None,
    against_graph: Annotated[str | None, typer.Option(help="The graph of that one; else the same.")] = None,
    threads: Threads = None,
    batch: Batch = 1,
    imgsz: ImageSize = None,
    samples: Samples = None,
    backend: Backend = None,
    option: Options = None,
    scenario: Annotated[
        str,
        typer.Option(help="single-stream, multi-stream, offline, server, paced, sustained.", rich_help_panel=_LOAD),
    ] = "single-stream",
    rate: Annotated[str | None, typer.Option(help="Of server and paced, as 30Hz.", rich_help_panel=_LOAD)] = None,
    deadline: Annotated[
        str | None, typer.Option(help="Of server and paced, as 33ms; paced: else the period.", rich_help_panel=_LOAD)
    ] = None,
    samples_per_query: Annotated[
        int | None, typer.Option(min=1, help="Of multi-stream.", rich_help_panel=_LOAD)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the arrivals of server.", rich_help_panel=_LOAD)] = 0,
    engine: Annotated[
        str, typer.Option(help="edgedeploy, or loadgen: MLPerf's own.", rich_help_panel=_LOAD)
    ] = "edgedeploy",
    duration: Annotated[
        str | None, typer.Option(help="Time of sampling over all processes, as 10s or 2min.", rich_help_panel=_GOAL)
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Worker processes, one after the other.", rich_help_panel=_GOAL)
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Stop when p50 and p90 are known to so much either way, as 2%.", rich_help_panel=_GOAL),
    ] = None,
    until_stable: Annotated[
        bool, typer.Option("--until-stable", help="Go on until processes agree, 5 min at most.", rich_help_panel=_GOAL)
    ] = False,
    on: Annotated[
        str | None,
        typer.Option(help="A target's name, ssh://user@host[:port] or adb://serial.", rich_help_panel=_WHERE),
    ] = None,
    runner: Annotated[
        str | None, typer.Option(help="Native runner on a phone: NAME, PATH or NAME=PATH.", rich_help_panel=_WHERE)
    ] = None,
    cool_down: Annotated[
        str, typer.Option(help="Longest wait for a phone to cool down before each start.", rich_help_panel=_WHERE)
    ] = "0s",
    watch: Annotated[
        str, typer.Option(help="Time between two readings of sensors; 0s reads none.", rich_help_panel=_WHERE)
    ] = "1s",
    device: Annotated[
        str | None, typer.Option(help="Judge against this device's profile as well.", rich_help_panel=_BUDGET)
    ] = None,
    max_latency: Annotated[str | None, typer.Option(help="End to end, as 50ms.", rich_help_panel=_BUDGET)] = None,
    min_fps: Annotated[float | None, typer.Option(help="One stream back to back.", rich_help_panel=_BUDGET)] = None,
    max_memory: Annotated[str | None, typer.Option(help="Of the process, as 300MiB.", rich_help_panel=_BUDGET)] = None,
    percentile: Annotated[
        float, typer.Option(help="That --max-latency is about, as 0.5 or 0.99.", rich_help_panel=_BUDGET)
    ] = MEDIAN,
    history: Annotated[bool, typer.Option(help="Keep the raw samples in the history.")] = True,
    telemetry: Annotated[bool, typer.Option("--telemetry", help="Print every reading of the sensors.")] = False,
    as_json: Json = False,
) -> None:
    """Measure a bundle in worker processes of its own: start, load, first inference, latency, memory, doubts."""
    from edgedeploy.bench.run import BenchOptions
    from edgedeploy.device import load
    from edgedeploy.units import parse, parse_share

    load_pattern = _scenario(scenario, rate, deadline, samples_per_query, seed, engine)
    usual = _usual(scenario, precision is not None, against is not None)
    options = BenchOptions(
        backend=backend,
        threads=threads,
        batch=batch,
        size=image_size(imgsz),
        duration=usual[0] if duration is None else parse(duration, "s"),
        processes=usual[1] if processes is None else processes,
        options=options_from(option or []),
        graph=graph,
        samples=None if samples is None else str(samples),
        scenario=load_pattern,
        precision=None if precision is None else parse_share(precision),
        until_stable=STABLE if until_stable else None,
        watch=parse(watch, "s"),
    )
    budget = _budget(max_latency, min_fps, max_memory, percentile)
    profile = None if device is None else load(device)  # refused before it takes time
    place, phone = found_at(on, device), Phone(runner, parse(cool_down, "s"))
    if against is not None:
        from edgedeploy.cli.versus import Asked, run_versus

        if budget is not None:
            raise UsageError("Two bundles are compared with each other: leave the budget out.")
        if place.native or phone != Phone():
            raise UsageError("Two bundles take turns where Python runs, not on phones: leave out what those take.")
        if profile is not None and on is None:
            raise UsageError(f"Two bundles are compared with each other, not with {profile.name}: leave --device out.")
        run_versus(Asked(bundle, against, history, as_json, against_graph), options, place)
        return
    if against_graph is not None:
        raise UsageError("--against-graph is of the bundle that --against names: give both.")
    measurement = _measured(bundle, options, place, phone)
    kept = _kept(measurement, bundle, history)
    verdicts = [] if budget is None else [_judged(measurement, budget)]
    if profile is not None:
        verdicts.append(_fit(measurement, bundle, profile))
    if as_json:
        from edgedeploy.report.measurement import summary

        document = {"summary": summary(measurement), "doubts": kept.doubts, "verdicts": verdicts}
        print_json({**document, "measurement": measurement, "history": {"path": kept.path, "id": kept.id}})
        if kept.trouble is not None:
            typer.echo(kept.trouble, err=True)
    else:
        _print(measurement, kept, verdicts, telemetry)
    if any(verdict.outcome != "pass" for verdict in verdicts):
        raise typer.Exit(4)


def _scenario(
    name: str, rate: str | None, deadline: str | None, samples: int | None, seed: int, engine: str
) -> Scenario:
    from edgedeploy.bench.scenario import MULTI_STREAM_SAMPLES, Scenario
    from edgedeploy.units import parse

    if engine not in ("edgedeploy", "loadgen"):
        raise UsageError(f"There is no engine '{engine}': write edgedeploy or loadgen.")
    several = MULTI_STREAM_SAMPLES if name == "multi-stream" else 1
    return Scenario(
        name=name,  # type: ignore[arg-type]  # it refuses what it does not know
        rate=None if rate is None else parse(rate, "Hz"),
        deadline=None if deadline is None else parse(deadline, "s"),
        samples_per_query=several if samples is None else samples,
        seed=seed,
        engine=engine,  # type: ignore[arg-type]  # checked above
    )


def _usual(scenario: str, precise: bool, pair: bool) -> tuple[float, int]:
    """Seconds and processes where nobody says. A device that gets hot must not rest between two processes."""
    from edgedeploy.bench.versus import PAIRS

    if pair:
        return BOTH, PAIRS
    if scenario == "sustained":
        return SUSTAINED, 1
    return (LONGEST if precise else DURATION), 3


def _measured(bundle: Path, options: BenchOptions, place: Found, phone: Phone) -> Measurement:
    with progress() as say:

        def follow(step: Progress) -> None:
            say(f"process {step.process} of {step.processes}: {step.phase}")

        return place.measure(bundle, options, follow, phone)


def _kept(measurement: Measurement, bundle: Path, history: bool) -> Remembered:
    from edgedeploy.bench.doubts import doubts
    from edgedeploy.history import Remembered, default_path, origin_of, remember

    if history:
        return remember(measurement, origin_of(bundle))
    return Remembered(doubts(measurement), default_path(), None)


def _budget(latency: str | None, fps: float | None, memory: str | None, percentile: float) -> Budget | None:
    from edgedeploy.units import parse
    from edgedeploy.verdict import Budget

    if latency is None and percentile != MEDIAN:
        raise UsageError("--percentile says what --max-latency is about: give both, as in --max-latency 50ms.")
    if latency is None and fps is None and memory is None:
        return None
    return Budget(
        latency=None if latency is None else parse(latency, "s"),
        fps=fps,
        memory=None if memory is None else parse(memory, "B"),
        percentile=percentile,
    )


def _judged(measurement: Measurement, budget: Budget) -> Verdict:
    from edgedeploy.verdict import judge

    return judge(measurement, budget)


def _fit(measurement: Measurement, bundle: Path, device: Device) -> Verdict:
    from edgedeploy.archive import open_artifact
    from edgedeploy.verdict import judge_fit

    return judge_fit(measurement, open_artifact(bundle).manifest.requires, device)


def _print(measurement: Measurement, kept: Remembered, verdicts: list[Verdict], telemetry: bool) -> None:
    from edgedeploy.report.measurement import HEADER, fact_rows, headline, latency_rows
    from edgedeploy.report.telemetry import READING_HEADER, SERIES_HEADER, reading_rows, series_rows

    typer.echo(headline(measurement))
    print_table("latency", HEADER, latency_rows(measurement))
    print_table("besides", ["", ""], fact_rows(measurement))
    if telemetry:
        each = [process.telemetry for process in measurement.processes]
        print_table("telemetry", READING_HEADER, reading_rows(each))
        print_table("over time", SERIES_HEADER, series_rows(each))
    print_notes(kept.doubts)
    if not kept.doubts:
        typer.echo("no doubts.")
    if kept.trouble is not None:
        typer.echo(kept.trouble)
    elif kept.id is not None:
        typer.echo(f"kept as {kept.id} in {kept.path}")
    for verdict in verdicts:
        typer.echo(f"{verdict.outcome}: {' '.join(verdict.reasons)}")
