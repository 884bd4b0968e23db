"""``edgedeploy history``: what was measured here before."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from edgedeploy.cli.terminal import Json, print_json, print_notes, print_table
from edgedeploy.errors import UsageError

app = typer.Typer(name="history", help="Earlier measurements: list, show, export, name as a baseline, delete.")

Model = Annotated[str | None, typer.Option(help="Of this model only.")]
Device = Annotated[str | None, typer.Option(help="On this device, target or ssh:// address only.")]
Artifact = Annotated[str | None, typer.Option(help="Of this artifact only: a digest, or how it begins.")]
Scenario = Annotated[str | None, typer.Option(help="Of this scenario only.")]
Last = Annotated[int | None, typer.Option(min=1, help="The newest so many only.")]
#: Seconds in the units that units.parse leaves out.
_AGES = {"d": 86400.0, "w": 7 * 86400.0}


@app.callback(invoke_without_command=True)
def table(
    context: typer.Context,
    model: Model = None,
    device: Device = None,
    artifact: Artifact = None,
    scenario: Scenario = None,
    last: Last = 20,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with all columns, in SI units.")] = False,
    as_json: Json = False,
) -> None:
    """List what was measured, oldest first: the newest 20, or as --last says."""
    if context.invoked_subcommand is not None:
        return
    from edgedeploy.history import History

    history = History()
    rows = history.find(model=model, device=device, artifact=artifact, scenario=scenario, limit=last)
    if as_json:
        print_json({"path": history.path, "measurements": rows, "baselines": history.baselines()})
        return
    from edgedeploy.report import history as report

    if as_csv:
        typer.echo(report.table(rows), nl=False)
        return
    if rows:
        print_table("measured end to end; times are in UTC", report.HEADER, report.listing(rows))
    else:
        typer.echo("nothing was measured yet, or nothing that these filters let pass.")
    for name, number in history.baselines().items():
        typer.echo(f"baseline {name}: {number}")
    typer.echo(f"history: {history.path}")


@app.command()
def show(number: Annotated[int, typer.Argument(help="Its id in the list.")], as_json: Json = False) -> None:
    """Print one measurement; as JSON with every raw sample."""
    from edgedeploy.bench.doubts import doubts
    from edgedeploy.history import History

    history = History()
    measurement = history.load(number)
    if as_json:
        print_json(measurement)
        return
    from edgedeploy.report.history import when
    from edgedeploy.report.measurement import HEADER, fact_rows, headline, latency_rows

    typer.echo(headline(measurement))
    typer.echo(f"measured {when(measurement.created)} UTC; artifact {measurement.conditions.digest[:12]}")
    print_table("latency", HEADER, latency_rows(measurement))
    print_table("besides", ["", ""], fact_rows(measurement))
    print_notes(doubts(measurement))
    typer.echo(f"history: {history.path}")


@app.command()
def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="File of JSON lines; one that is there is replaced.")],
    numbers: Annotated[list[int] | None, typer.Argument(help="Ids; else all that the filters let pass.")] = None,
    model: Model = None,
    device: Device = None,
    artifact: Artifact = None,
    scenario: Scenario = None,
    last: Last = None,
    as_json: Json = False,
) -> None:
    """Write whole measurements to a file, one JSON line each: what a repository keeps as a baseline."""
    from edgedeploy.history import History

    history = History()
    if not numbers:
        found = history.find(model=model, device=device, artifact=artifact, scenario=scenario, limit=last)
        numbers = [row.id for row in found]
    if not numbers:
        raise UsageError(f"{history.path} has no measurement that these filters let pass; nothing was written.")
    history.export(numbers, output)
    if as_json:
        print_json({"path": history.path, "written": output, "ids": numbers})
        return
    typer.echo(f"{len(numbers)} measurement{'s'[: len(numbers) != 1]} from {history.path}: {output}")


@app.command()
def baseline(
    name: Annotated[str, typer.Argument(help="A word, as 'release'; it may have meant another one before.")],
    number: Annotated[int, typer.Argument(help="The id that it is to mean.")],
    as_json: Json = False,
) -> None:
    """Give a measurement a name, for ``edgedeploy regress --against NAME``."""
    from edgedeploy.history import History

    history = History()
    history.set_baseline(name, number)
    if as_json:
        print_json({"path": history.path, "baselines": history.baselines()})
        return
    typer.echo(f"baseline {name}: {number}, in {history.path}")


@app.command()
def prune(
    older_than: Annotated[str, typer.Option(help="Age, as 90d, 8w or 12h.")],
    as_json: Json = False,
) -> None:
    """Delete what is older; baselines stay."""
    import datetime

    from edgedeploy.history import History, now

    history = History()
    age = _age(older_than)
    try:
        gone = history.prune(now() - datetime.timedelta(seconds=age))
    except OverflowError:
        raise UsageError(f"'{older_than}' is longer ago than there are dates.") from None
    left = len(history.find())
    if as_json:
        print_json({"path": history.path, "deleted": gone, "left": left})
        return
    typer.echo(f"deleted {gone}; {left} measurements are left in {history.path}")


def _age(text: str) -> float:
    """Seconds of ``90d``, ``8w`` and of every time that `edgedeploy.units.parse` knows."""
    from edgedeploy.units import parse

    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([dw])\s*", text)
    seconds = float(found[1]) * _AGES[found[2]] if found else parse(text, "s")
    if seconds < 0:
        raise UsageError(f"'{text}' is no age: write 90d, 8w or 12h.")
    return seconds
