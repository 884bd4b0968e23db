"""``edgedeploy devices``: which are known, what this machine is, and the ones at hand, by the names given to them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgedeploy.cli.terminal import Json, print_json, print_notes, print_table, progress

if TYPE_CHECKING:
    from edgedeploy.bench.remote.ssh import Findings
    from edgedeploy.device import Device
    from edgedeploy.facts import Fact, Features
    from edgedeploy.targets import Target

app = typer.Typer(name="devices", help="Devices: what is known of each, with sources, and what this machine is.")


@app.callback(invoke_without_command=True)
def table(context: typer.Context, as_json: Json = False) -> None:
    """List the packaged devices."""
    if context.invoked_subcommand is not None:
        return
    from edgedeploy import device

    found = [device.load(name) for name in device.names()]
    if as_json:
        print_json([_summary(item) for item in found])
        return
    columns = ("name", "chip", "memory", "bandwidth", "backend", "precision")
    rows = [
        (item.name, item.chip, _size(item), str(item.memory.bandwidth), item.backend or "-", item.precision or "-")
        for item in found
    ]
    print_table("Devices; 'edgedeploy devices show NAME' prints all facts of one", columns, rows)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A device, this-machine, or the path of a .yaml file.")],
    as_json: Json = False,
) -> None:
    """Print all facts of a device, each with its kind and source."""
    from edgedeploy import device

    _print(device.load(name), as_json)


@app.command()
def probe(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write a profile to this .yaml file.")] = None,
    seconds: Annotated[float, typer.Option(help="How long each measurement lasts.", min=0.0, max=60.0)] = 3.0,
    as_json: Json = False,
) -> None:
    """Measure this machine: arithmetic peaks, copy bandwidth and timer. Let nothing else run meanwhile."""
    from edgedeploy import device
    from edgedeploy.errors import UsageError
    from edgedeploy.probe import probe as measure

    name = device.THIS_MACHINE
    if output is not None:  # refuse before measuring
        name = output.stem
        if output.suffix not in (".yaml", ".yml") or not output.parent.is_dir():
            raise UsageError(f"{output} is no .yaml file in a folder that exists.")
        device.check(dataclasses.replace(device.this_machine(), name=name), str(output))
    with progress() as say:
        say("measuring this machine")
        found = dataclasses.replace(measure(seconds=seconds), name=name)
    if output is not None:
        device.dump(found, output)
    _print(found, as_json)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    profile: Annotated[str, typer.Option(help="The device that it is, or the path of a .yaml file.")],
    on: Annotated[str, typer.Option(help="How it is reached: ssh://user@host:port or adb://serial.")],
    python: Annotated[str | None, typer.Option(help="The interpreter there, such as ~/venv/bin/python.")] = None,
    as_json: Json = False,
) -> None:
    """Give a device at hand a name, for --on; one of that name is replaced. Nothing is connected yet."""
    from edgedeploy import targets

    target = targets.add(name, profile, on, python)
    if as_json:
        print_json(target)
    else:
        typer.echo(f"{target.name}: {target.profile} on {target.on}")


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="A name that was given with 'devices add'.")], as_json: Json = False
) -> None:
    """Forget the name of a device."""
    from edgedeploy import targets

    removed = targets.remove(name)
    if as_json:
        print_json(removed)
    else:
        typer.echo(f"{removed.name}: removed")


@app.command(name="targets")
def list_targets(as_json: Json = False) -> None:
    """List the devices that were given a name."""
    from edgedeploy import targets

    found = list(targets.saved().values())
    if as_json:
        print_json(found)
    elif not found:
        typer.echo("No device has a name yet: edgedeploy devices add NAME --profile PROFILE --on ssh://user@host")
    else:
        rows = [(target.name or "", target.profile or "", target.on) for target in found]
        print_table("Targets, for --on", ("name", "profile", "on"), rows)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A target, or ssh://user@host:port.")],
    as_json: Json = False,
) -> None:
    """Connect to a device, and say what is there and what is missing."""
    from edgedeploy import targets

    target = targets.resolve(name)
    with progress() as say:
        say(f"connecting to {target.on}")
        found = targets.look(target)
    if as_json:
        print_json({"target": target, "found": found})
    else:
        _print_findings(target, found)


def _print_findings(target: Target, found: Findings) -> None:
    from edgedeploy.bench.remote.ssh import install_line
    from edgedeploy.units import show

    runtimes = [f"{name} {version}" for name, version in found.distributions.items()]
    lines = {
        "device": f"{target.name or 'without a name'}, {target.profile or 'without a profile'}",
        "on": target.on,
        "system": f"{found.system}, {found.machine}",
        "python": f"{found.python}, {found.executable}",
        "numpy": "installed" if found.numpy else "missing",
        "runtimes": ", ".join(runtimes) or "none",
        "room": f"{show(found.free, 'B')} for {found.cache}",
    }
    for key, value in lines.items():
        typer.echo(f"{key}: {value}")
    notes = ["The processor is emulated: what is computed is right, and no time means anything."] * found.emulated
    line = install_line(["numpy"], found.executable, found.managed)
    print_notes(notes if found.numpy else [*notes, f"Without numpy nothing runs there. Install it with: {line}"])


def _summary(item: Device) -> dict[str, Any]:
    """The row of a table as plain values: sizes in bytes, bandwidth in bytes per second, null where unknown."""
    row = {key: getattr(item, key) for key in ("name", "title", "chip", "arch", "backend", "precision")}
    return row | {"memory": item.memory.size.si, "bandwidth": item.memory.bandwidth.si}


def _size(item: Device) -> str:
    smallest = item.memory.smallest
    return str(item.memory.size) if smallest is None else f"{smallest} to {item.memory.size}"


def _print(item: Device, as_json: bool) -> None:
    if as_json:
        print_json({"device": item, "digest": item.digest, "int8": item.int8})
        return
    dot_product = {True: "with a dot product", False: "without a dot product", None: "dot product unknown"}
    lines = {
        item.name: item.title,
        "chip": item.chip,
        "system": f"{item.os}, {item.arch}",
        "try first": f"{item.backend}, {item.precision}" if item.backend else "unknown",
        "INT8 on CPU": f"{item.int8.activations} activations, {dot_product[item.int8.dot_product]}",
        "digest": item.digest,
    }
    for key, value in lines.items():
        typer.echo(f"{key}: {value}")
    for software in item.runtimes:
        if software.note:
            typer.echo(f"{software.name}: {software.note}")
    rows = [(path, _value(fact), fact.kind, fact.source) for path, fact in item.facts()]
    print_table("", ("fact", "value", "kind", "source"), rows)
    print_notes(item.notes)


def _value(fact: Fact | Features) -> str:
    from edgedeploy.facts import Features, Quantity

    if isinstance(fact, Features):
        lists = {"has": fact.has, "lacks": fact.lacks}
        return "; ".join(f"{word} {' '.join(names)}" for word, names in lists.items() if names)
    if isinstance(fact, Quantity) and fact.low is not None:
        return f"{fact} ({fact.low} to {fact.high})"
    return str(fact)
