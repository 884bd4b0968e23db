"""``edgedeploy report``: measurements as one page to send around, as Markdown, or as CSV."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedeploy.cli.terminal import Json, print_json, writable
from edgedeploy.errors import UsageError

if TYPE_CHECKING:
    from edgedeploy.bench.measurement import Place
    from edgedeploy.report.inputs import Given

#: What a report can be written as.
FORMS = (".html", ".md", ".csv")


def report(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Logs (NAME.bench.jsonl), exports, --json output; else the history.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="A .html, .md or .csv file.")] = Path("report.html"),
    model: Annotated[str | None, typer.Option(help="Only measurements of this model.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Only those on this device: a profile's or a target's name.")
    ] = None,
    last: Annotated[int, typer.Option(min=1, help="The newest so many of them.")] = 20,
    as_json: Json = False,
) -> None:
    """Make a report of measurements: one HTML page that needs no network, Markdown, or CSV."""
    if output.suffix.lower() not in FORMS:
        raise UsageError(f"A report is a .html, .md or .csv file, and '{output}' is none of them.")
    given = _given(files or [], model, device, last)
    with writable(output):
        text = _written(given, output.suffix.lower())
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("xb") as stream:  # where others may write, no link of theirs is followed
                stream.write(text.encode("utf-8"))
            temporary.replace(output)
        finally:
            temporary.unlink(missing_ok=True)
    for note in given.notes:
        typer.echo(f"  {note}", err=True)
    if as_json:
        from edgedeploy.report.entry import rows

        found = rows(given.entries)
        print_json({"path": output, "size": output.stat().st_size, "rows": found, "notes": given.notes})
    else:
        typer.echo(f"{output}: {len(given.entries)} measurement{'s'[: len(given.entries) != 1]}")


def _given(files: list[Path], model: str | None, device: str | None, last: int) -> Given:
    from edgedeploy.history import History
    from edgedeploy.report.inputs import from_files, from_history

    if not files:
        history = History()
        given = from_history(history, model, device, last)
        if not given.entries:
            which = " that fits" if model or device else ""
            raise UsageError(f"{history.path} has no measurement{which}. 'edgedeploy bench BUNDLE' makes one.")
        return given
    given = from_files(files)
    fit = [
        entry
        for entry in given.entries
        if (model is None or entry.measurement.conditions.name == model)
        and (device is None or device in _named(entry.measurement.place))
    ]
    if not fit and (given.entries or not (given.explained or given.versus or given.predictions)):
        if not given.entries:
            raise UsageError("There is no measurement in these files: give what edgedeploy bench --json prints, too.")
        raise UsageError(f"No measurement in these files fits what was asked for; they have {len(given.entries)}.")
    newest = sorted(fit, key=lambda entry: entry.measurement.created)[-last:]
    given.entries = [entry for entry in fit if any(entry is one for one in newest)]
    return given


def _named(place: Place) -> tuple[str | None, ...]:
    """What a device may be called: see `History.find`."""
    return place.device, place.target, place.on


def _written(given: Given, form: str) -> str:
    from edgedeploy.history import now

    created = now().isoformat(timespec="seconds")
    if form == ".csv":
        from edgedeploy.report.tables import table

        return table(given.entries)
    if form == ".md":
        from edgedeploy.report.markdown import markdown

        return markdown(given.entries, created, given.predictions)
    from edgedeploy.report.html import Besides, page

    return page(given.entries, created, Besides(given.predictions, given.explained, given.versus))
