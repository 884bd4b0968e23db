"""``edgedeploy doctor``: what can be exported, run and measured here, and how to get the rest."""

from __future__ import annotations

from typing import Any

import typer

from edgedeploy.cli.terminal import Json, print_json, print_table

#: What each part needs: package, and the extra that brings it.
_PARTS = {
    "read and capture PyTorch": (("torch", "onnx", "onnxscript", "safetensors"), "export"),
    "read Ultralytics checkpoints": (("ultralytics",), "ultralytics"),
    "write fp16": (("onnxconverter-common",), "export"),
    "run ONNX": (("onnxruntime",), "onnxruntime"),
    "read images": (("opencv-python-headless|opencv-python|pillow",), "images"),
    "measure accuracy": (("faster-coco-eval|pycocotools",), "accuracy"),
}


def doctor(as_json: Json = False) -> None:
    """Show which parts work here, with versions, and the exact line that installs what is missing."""
    parts = [_part(what, packages, extra) for what, (packages, extra) in _PARTS.items()]
    plugins = _plugins()
    if as_json:
        print_json({"parts": parts, "plugins": plugins})
        return
    rows = [[p["part"], "ok" if p["ok"] else "missing", p["found"] if p["ok"] else p["install"]] for p in parts]
    print_table("this environment", ["part", "", "found, or how to get it"], rows)
    print_table("plug-ins", ["kind", "name", "state"], [[p["kind"], p["name"], p["state"]] for p in plugins])
    missing = [p for p in parts if not p["ok"]]
    typer.echo(
        "everything is there." if not missing else f"{len(missing)} part(s) missing; the rest works without them."
    )


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


def _plugins() -> list[dict[str, str]]:
    """Every registered plug-in, really imported: one that cannot be is named with its reason."""
    from edgedeploy import plugins
    from edgedeploy.errors import EdgeDeployError

    rows = []
    for group in (plugins.EXPORTERS, plugins.RUNTIMES, plugins.CHECKPOINTS):
        kind = group.rpartition(".")[2].removesuffix("s")
        for name in plugins.names(group):
            try:
                plugins.find(group, name)
                state = "ok"
            except EdgeDeployError as error:
                state = str(error)
            rows.append({"kind": kind, "name": name, "state": state})
    return rows
