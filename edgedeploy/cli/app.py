"""The ``edgedeploy`` command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from edgedeploy.cli import (
    bench,
    compare,
    compress,
    demo,
    devices,
    doctor,
    export,
    history,
    listen,
    pack,
    predict,
    regress,
    report,
    run,
    train,
    verify,
    why,
)
from edgedeploy.cli.terminal import plain
from edgedeploy.errors import EdgeDeployError

#: Exit status after Ctrl-C, as shells have it.
INTERRUPTED = 130

app = typer.Typer(
    name="edgedeploy",
    help="A trained model in; an artifact for a named device out, with measured latency, memory and accuracy.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("export")(export.export)
app.command("bench")(bench.bench)
app.command("compare")(compare.compare)
app.command("listen")(listen.listen)
app.command("verify")(verify.verify)
app.command("why")(why.why)
app.command("predict")(predict.predict)
app.add_typer(history.app, name="history")
app.command("regress")(regress.regress)
app.command("report")(report.report)
app.command("run")(run.run)
app.command("train")(train.train)
app.command("compress")(compress.compress)
app.add_typer(devices.app, name="devices")
app.command("doctor")(doctor.doctor)
app.command("pack")(pack.pack)
app.command("demo")(demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"edgedeploy {version('edgedeploy')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Options before the command."""


def main() -> None:
    """Run the command line; deliberate errors become one sentence on standard error and their exit status."""
    try:
        app()
    except EdgeDeployError as error:
        typer.echo(f"error: {plain(str(error))}", err=True)
        sys.exit(error.exit_status)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # typer has made this of the interrupt already
            typer.echo("stopped; nothing half-written is left, and the same command goes on where it can.", err=True)
        elif isinstance(ended.__context__, BrokenPipeError):  # the reader of a pipe went away, as `head` does
            sys.exit(0)
        raise
