"""``edgedeploy doctor``: what can be exported, built, run and measured here, and how to get the rest."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgedeploy.cli.terminal import Json, print_json, print_notes, print_table, progress

if TYPE_CHECKING:
    from edgedeploy.trial import Finding, Look, Tried

#: What each part needs: package, and the extra that brings it.
_PARTS = {
    "read and capture PyTorch": (("torch", "onnx", "onnxscript", "safetensors"), "export"),
    "read Ultralytics checkpoints": (("ultralytics",), "ultralytics"),
    "write fp16": (("onnxconverter-common",), "export"),
    "run ONNX": (("onnxruntime",), "onnxruntime"),
    "read images": (("opencv-python-headless|opencv-python|pillow",), "images"),
    "measure accuracy": (("faster-coco-eval|pycocotools",), "accuracy"),
}
#: What stands in the table for a state that is not called so.
_WORDS = {"none": "-"}


def doctor(
    backends: Annotated[list[str] | None, typer.Argument(help="Try only these; else all that are registered.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only import the libraries: export and run nothing.")] = False,
    limit: Annotated[str, typer.Option(help="Time that one backend may take, as 90s.")] = "2min",
    as_json: Json = False,
) -> None:
    """Show what works here, tried on a tiny network, with versions, and the line that installs what is missing.

    Each backend is tried in a process of its own: it exports (writes what its devices take), builds (opens that here)
    and runs.
    """
    from edgedeploy.trial import look
    from edgedeploy.units import parse

    names, seconds = _names(backends or []), parse(limit, "s")
    parts = [_part(what, packages, extra) for what, (packages, extra) in _PARTS.items()]
    with progress() if sys.stderr.isatty() else nullcontext(lambda _: None) as say:
        say(f"trying {', '.join(names)}")
        found = look(names, seconds, quick)
    if as_json:
        backends_found = [_record(one) for one in found.backends]
        print_json({"parts": parts, "backends": backends_found, "checkpoints": found.readers})
        return
    rows = [[p["part"], "ok" if p["ok"] else "missing", p["found"] if p["ok"] else p["install"]] for p in parts]
    print_table("this environment", ["part", "", "found, or how to get it"], rows)
    columns = ["backend", "version", "export", "build", "run"]
    print_table(f"backends, as {'imported' if quick else 'tried'}", columns, [_row(one) for one in found.backends])
    print_table("checkpoints", ["format", ""], [[reader.name, reader.found.state] for reader in found.readers])
    print_notes(_notes(found))
    missing = [p for p in parts if not p["ok"]]
    typer.echo(
        "every part is there." if not missing else f"{len(missing)} part(s) missing; the rest works without them."
    )


def _names(asked: list[str]) -> list[str]:
    from edgedeploy import plugins
    from edgedeploy.errors import UsageError, did_you_mean

    known = sorted({*plugins.names(plugins.EXPORTERS), *plugins.names(plugins.RUNTIMES)})
    for name in asked:
        if name not in known:
            raise UsageError(f"There is no backend '{name}'.{did_you_mean(name, known)}")
    return asked or known


def _part(what: str, packages: tuple[str, ...], extra: str) -> dict[str, Any]:
    found = [_found(names) for names in packages]
    ok = all(found)
    return {
        "part": what,
        "ok": ok,
        "found": ", ".join(filter(None, found)),
        "install": f"pip install 'edgedeploy[{extra}]'",
    }


def _found(names: str) -> str:
    """The first installed of several packages that do the same, with its version."""
    from importlib.metadata import PackageNotFoundError, version

    for name in names.split("|"):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return ""


def _steps(one: Tried) -> dict[str, Finding]:
    from edgedeploy.trial import STEPS

    return {step: getattr(one, step) for step in STEPS}


def _row(one: Tried) -> list[str]:
    states = [finding.state for finding in _steps(one).values()]
    return [one.name, one.version or "-", *(_WORDS.get(state, state) for state in states)]


def _record(one: Tried) -> dict[str, Any]:
    return {"name": one.name, "version": one.version, **_steps(one), "install": _install(one)}


def _install(one: Tried) -> str:
    """The line that brings what is missing; empty where nothing is, or where no extra of ours brings it."""
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        known = metadata("edgedeploy").get_all("Provides-Extra") or []
    except PackageNotFoundError:
        known = []
    if one.name not in known or "missing" not in {finding.state for finding in _steps(one).values()}:
        return ""
    return f"pip install 'edgedeploy[{','.join(dict.fromkeys([one.name, 'export']))}]'"


def _notes(found: Look) -> list[str]:
    """Why a step is not plainly ok, once per reason; with the line that brings what is missing."""
    notes = []
    for one in found.backends:
        said: dict[str, list[str]] = {}
        for step, finding in _steps(one).items():
            if finding.said:
                said.setdefault(finding.said, []).append(step)
        notes += [f"{one.name} ({', '.join(steps)}): {text}" for text, steps in said.items()]
        if (line := _install(one)) and not any("pip install" in text for text in said):
            notes.append(f"{one.name}: {line}")
    lost: dict[str, list[str]] = {}
    for reader in found.readers:
        if reader.found.said:
            lost.setdefault(reader.found.said, []).append(reader.name)
    return notes + [f"checkpoints ({', '.join(formats)}): {text}" for text, formats in lost.items()]
