"""``edgedeploy bench``: how fast is it, really, and can that be trusted?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedeploy.cli.terminal import Json, image_size, options_from, print_json, print_notes, print_table, progress

if TYPE_CHECKING:
    from edgedeploy.bench.measurement import Measurement
    from edgedeploy.device import Device
    from edgedeploy.verdict import Budget, Verdict


def bench(
    bundle: Annotated[Path, typer.Argument(help="A NAME.edge folder or archive.")],
    device: Annotated[str | None, typer.Option(help="Judge against this device's profile as well.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads inside one call.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch size.")] = 1,
    imgsz: Annotated[str | None, typer.Option(help="Image size, for a bundle whose size is dynamic.")] = None,
    duration: Annotated[str, typer.Option(help="Time of sampling over all processes, as 10s or 2min.")] = "10s",
    processes: Annotated[int, typer.Option(min=1, help="Worker processes, one after the other.")] = 3,
    samples: Annotated[Path | None, typer.Option(help="Image or folder of images; else the bundle's own.")] = None,
    backend: Annotated[str | None, typer.Option(help="Runtime by name; else the bundle's.")] = None,
    option: Annotated[list[str] | None, typer.Option("--option", help="A runtime option, key=value.")] = None,
    max_latency: Annotated[str | None, typer.Option(help="Budget end to end, as 50ms.")] = None,
    min_fps: Annotated[float | None, typer.Option(help="Budget, one stream back to back.")] = None,
    max_memory: Annotated[str | None, typer.Option(help="Budget of the process, as 300MiB.")] = None,
    percentile: Annotated[float, typer.Option(help="Percentile that --max-latency is about, as 0.5 or 0.99.")] = 0.5,
    record: Annotated[bool, typer.Option(help="Append the raw samples to NAME.bench.jsonl beside the bundle.")] = True,
    as_json: Json = False,
) -> None:
    """Measure a bundle in worker processes of its own: start, load, first inference, latency, memory, doubts."""
    from edgedeploy.bench.doubts import doubts
    from edgedeploy.bench.earlier import append, log_path, read
    from edgedeploy.bench.run import BenchOptions, Progress
    from edgedeploy.bench.run import bench as run
    from edgedeploy.device import load
    from edgedeploy.units import parse
    from edgedeploy.verdict import judge

    options = BenchOptions(
        backend=backend,
        threads=threads,
        batch=batch,
        size=image_size(imgsz),
        duration=parse(duration, "s"),
        processes=processes,
        options=options_from(option or []),
        samples=None if samples is None else str(samples),
    )
    budget = _budget(max_latency, min_fps, max_memory, percentile)
    profile = None if device is None else load(device)  # refused before it takes time
    with progress() as say:

        def follow(step: Progress) -> None:
            say(f"process {step.process} of {step.processes}: {step.phase}")

        measurement = run(bundle, options, follow)
    log = log_path(bundle)
    earlier = read(log) if record else None
    found = doubts(measurement, earlier.measurements if earlier else ())
    if record:
        append(log, measurement)
    verdicts = [] if budget is None else [judge(measurement, budget)]
    if profile is not None:
        verdicts.append(_fit(measurement, bundle, profile))
    if as_json:
        from edgedeploy.report.measurement import summary

        print_json({"summary": summary(measurement), "doubts": found, "verdicts": verdicts, "measurement": measurement})
    else:
        _print(measurement, found, verdicts, log if record else None)
    if any(verdict.outcome != "pass" for verdict in verdicts):
        raise typer.Exit(4)


def _budget(latency: str | None, fps: float | None, memory: str | None, percentile: float) -> Budget | None:
    from edgedeploy.units import parse
    from edgedeploy.verdict import Budget

    if latency is None and fps is None and memory is None:
        return None
    return Budget(
        latency=None if latency is None else parse(latency, "s"),
        fps=fps,
        memory=None if memory is None else parse(memory, "B"),
        percentile=percentile,
    )


def _fit(measurement: Measurement, bundle: Path, device: Device) -> Verdict:
    from edgedeploy.archive import open_artifact
    from edgedeploy.verdict import judge_fit

    return judge_fit(measurement, open_artifact(bundle).manifest.requires, device)


def _print(measurement: Measurement, doubts: tuple[str, ...], verdicts: list[Verdict], log: Path | None) -> None:
    from edgedeploy.report.measurement import HEADER, fact_rows, headline, latency_rows

    typer.echo(headline(measurement))
    print_table("latency", HEADER, latency_rows(measurement))
    print_table("besides", ["", ""], fact_rows(measurement))
    print_notes(doubts)
    if not doubts:
        typer.echo("no doubts.")
    if log is not None:
        typer.echo(f"raw samples: {log}")
    for verdict in verdicts:
        typer.echo(f"{verdict.outcome}: {' '.join(verdict.reasons)}")
