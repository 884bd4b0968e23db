"""``edgedeploy export``: a checkpoint becomes an artifact for a device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from edgedeploy.cli.auto import Wanted, candidate_rows, export_fastest, passed_on
from edgedeploy.cli.child import in_child, protected
from edgedeploy.cli.ladder import after_export
from edgedeploy.cli.terminal import Json, image_size, options_from, print_json, print_notes, print_table, progress

if TYPE_CHECKING:
    from edgedeploy.artifact import Artifact, Manifest
    from edgedeploy.device import Device
    from edgedeploy.exporter import Evidence, Request

#: Modules kept in float that are listed; the manifest has all of them.
MOST_SHOWN = 10


def export(
    checkpoint: Annotated[str, typer.Argument(help="A .pt, .safetensors, .onnx or .pt2 file, or module:function.")],
    device: Annotated[str | None, typer.Option(help="A device by name; this machine if not given.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16, int8-weights or int8; else what suits the device.")
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="What calibrates int8: data.yaml or COCO json of images, or a folder of clips.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the bundle.")] = Path("out"),
    backend: Annotated[
        str | None, typer.Option(help="Exporter by name, or 'auto' for the fastest good one; else the device's.")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="AP50-95 that a lower precision may cost, measured on the --calibrate images.")
    ] = None,
    imgsz: Annotated[str | None, typer.Option(help="Image size, as 640 or 480x640 (height x width).")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch size.")] = 1,
    dynamic: Annotated[str, typer.Option(help="What stays dynamic: 'batch', 'size' or 'batch,size'.")] = "",
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Also the graph that takes a stream step by step, and carries state.")
    ] = False,
    head: Annotated[str | None, typer.Option(help="yolov8, yolox or end2end, for an .onnx that does not say.")] = None,
    calibration_images: Annotated[int, typer.Option(help="At most so many images, or clips, to calibrate on.")] = 200,
    split: Annotated[str | None, typer.Option(help="Split of the data set; else train, else val.")] = None,
    option: Annotated[list[str] | None, typer.Option("--option", help="An exporter option, key=value.")] = None,
    isolated: Annotated[
        bool, typer.Option("--isolated", help="In an environment made for this backend, kept in the cache.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Export a checkpoint for a device: OUTPUT/NAME.edge, checked against the checkpoint on real samples."""
    profile = _device(device)
    protected(output, _environment(_backend(backend, profile)) if isolated and not in_child() else None)
    from edgedeploy.exporter import Request
    from edgedeploy.model import InputShape
    from edgedeploy.pipeline import export_checkpoint

    evidence = _evidence(calibrate, split, calibration_images)
    shape = InputShape(batch, image_size(imgsz), _dynamic(dynamic), streaming)
    options = options_from(option or [])
    if max_drop is not None:
        options["max_drop"] = max_drop
    if backend == "auto":
        _refuse_auto(profile, options)
        flags: dict[str, Any] = {
            "--calibrate": calibrate,
            "--split": split,
            "--calibration-images": calibration_images,
            "--head": head,
        }
        flags |= {"--imgsz": imgsz, "--batch": batch, "--dynamic": dynamic, "--max-drop": max_drop}
        floats = ("fp32",) if evidence.calibration is None else ("fp32", "int8")
        precisions = floats if precision is None else (precision,)
        passed = (*passed_on(flags), *(("--streaming",) if streaming else ()))
        _auto(Wanted(checkpoint, passed, precisions, evidence, shape, max_drop, output), as_json)
        return
    exporter = _exporter(backend, profile, precision, evidence.calibration is not None, options)
    request = Request(exporter, evidence, shape, profile, head)
    with progress() as say:
        exported = export_checkpoint(checkpoint, request, output, say)
        wrong = after_export(checkpoint, exported.artifact, say)
    notes = [*exported.artifact.manifest.notes, *_about(evidence, request, exported.artifact), *wrong]
    if as_json:
        manifest = exported.artifact.manifest
        print_json({"path": exported.artifact.path, "reused": exported.reused, "manifest": manifest, "notes": notes})
        return
    _print(exported.artifact, exported.reused)
    print_notes(notes)


def _refuse_auto(device: Device | None, options: dict[str, Any]) -> None:
    from edgedeploy.device import THIS_MACHINE
    from edgedeploy.errors import UsageError

    if device is not None and device.name != THIS_MACHINE:
        raise UsageError(
            f"--backend auto measures, so it can choose for this machine only, not for {device.name}: name a backend."
        )
    if options.keys() - {"max_drop"}:
        raise UsageError("--backend auto tries several exporters, and --option is for one: name a backend.")


def _auto(wanted: Wanted, as_json: bool) -> None:
    with progress() as say:
        path, candidates = export_fastest(wanted, say)
    if as_json:
        print_json({"path": path, "candidates": candidates})
        return
    columns = ["candidate", "", "loss", "one call", "x", "computed in, or why not"]
    print_table("tried, on the same samples, timed in turn", columns, candidate_rows(candidates))
    typer.echo(f"taken: {candidates[0].name}, {path}")


def _device(name: str | None) -> Device | None:
    if name is None:
        return None
    from edgedeploy.device import load

    return load(name)


def _backend(backend: str | None, device: Device | None) -> str:
    return backend or (device.backend if device else None) or "onnxruntime"


def _environment(backend: str) -> Path:
    """The interpreter of an environment that has this backend; says what was made, as that takes minutes and space."""
    from edgedeploy.errors import UsageError
    from edgedeploy.isolate import prepare

    if backend == "auto":
        raise UsageError("--isolated is for one backend, and --backend auto tries all that are here: name one.")
    with progress() as say:
        environment = prepare(backend, say)
    return environment.python


def _exporter(
    backend: str | None, device: Device | None, precision: str | None, data: bool, options: dict[str, Any]
) -> Any:
    from edgedeploy import plugins
    from edgedeploy.errors import Unavailable

    name = _backend(backend, device)
    known = plugins.names(plugins.EXPORTERS)
    if backend is None and device is not None and name not in known:
        others = [software.name for software in device.runtimes if software.name in known]
        advice = f" It also runs {others[0]}: add --backend {others[0]}." if others else ""
        raise Unavailable(f"{device.name} prefers {name}, for which no exporter is installed here.{advice}")
    if precision is None:
        wanted = device.precision if device else None
        precision = "fp32" if wanted is None or (wanted == "int8" and not data) else wanted
    return plugins.find(plugins.EXPORTERS, name).for_device(device, precision, options)


def _evidence(data: Path | None, split: str | None, most: int) -> Evidence:
    """Samples of the user's data set; synthetic aerial scenes stand in for golden vectors where there is none."""
    from edgedeploy.demo.scenes import Rendered
    from edgedeploy.exporter import Evidence
    from edgedeploy.pipeline import evidence_from, read_calibration_set

    if data is None:
        return Evidence(Rendered(count=4), "4 synthetic aerial scenes", stand_in=True)
    return evidence_from(read_calibration_set(data, split), most)


def _dynamic(text: str) -> tuple[Literal["batch", "size"], ...]:
    from edgedeploy.errors import UsageError, did_you_mean

    found: list[Literal["batch", "size"]] = []
    for part in filter(None, text.split(",")):
        if part == "batch":
            found.append("batch")
        elif part == "size":
            found.append("size")
        else:
            raise UsageError(f"'{part}' cannot be dynamic.{did_you_mean(part, ['batch', 'size'])}")
    return tuple(found)


def _about(evidence: Evidence, request: Request, artifact: Artifact) -> list[str]:
    """What the user should know about this export besides what the exporter said."""
    from edgedeploy.device import unmet

    notes = []
    record = evidence.calibration
    keywords = (artifact.manifest.task or {}).get("kind") == "keywords"
    own = "clips" if keywords else "images"
    if record is None:
        origin = artifact.manifest.golden_origin
        advice = f"give --calibrate to check on {own} of your own" if artifact.manifest.task else "not on real data"
        notes.append(f"golden vectors are {origin}: {advice}")
    elif record.classes_seen is not None and record.classes is not None and record.classes_seen < record.classes:
        notes.append(f"the calibration {own} show {record.classes_seen} of {record.classes} classes")
    if request.device is not None:
        preferred = request.device.precision
        if record is None and preferred == "int8" and request.exporter.precision != "int8":
            needs = (
                "clips: give --calibrate with a folder of them" if keywords else "images: give --calibrate data.yaml"
            )
            notes.append(f"{request.device.name} prefers int8, which needs {needs}")
        notes += [str(reason) for reason in unmet(artifact.manifest.requires, request.device)]
        notes += list(request.device.notes) if request.exporter.name == request.device.backend else []
    return notes


def _print_curve(decided: Mapping[str, Any]) -> None:
    """What was lost at every share of parts lowered that was tried, and the parts that add most noise."""
    curve = [[f"{share:.1%}", f"{lost:+.4f}"] for share, lost in decided["curve"]]
    print_table("AP50-95 lost, by share of parts lowered", ["share", "lost"], curve)
    noisiest = [[unit, f"{noise:.2g}"] for unit, noise in decided["sensitivity"][:MOST_SHOWN]]
    print_table("parts that add most noise", ["part", "noise to signal"], noisiest)


def _against(manifest: Manifest, graph: str) -> str:
    golden = [one for one in manifest.golden if one.graph == graph]
    agreed = [one for vector in golden for one in vector.agreement]
    moved = [vector.distance for vector in golden if vector.distance is not None]
    if not golden:
        return "not compared: the task has no samples for it"
    if not agreed or not moved:
        return "not known: nothing here can run it"
    worst = min(one.snr for one in agreed)
    return f"SNR {worst:.0f} dB, results moved by {max(moved):.3f} (0 is none, 1 is all)"


def _graph_rows(artifact: Artifact) -> list[list[str]]:
    """How each graph fares against FP32; with its name, size and state where there are several."""
    from edgedeploy.units import show

    manifest = artifact.manifest
    if list(manifest.graphs) == ["main"]:
        return [["against FP32", _against(manifest, "main")]]
    files = [graph.file for graph in manifest.graphs.values()]
    rows = []
    for name, graph in manifest.graphs.items():
        beside = graph.file.rpartition(".")[0] + "."  # weights, or a build plan, beside the graph
        size = sum(record.size for file, record in manifest.files.items() if file.startswith(beside))
        shared = "one file with others, " if files.count(graph.file) > 1 else ""
        carried = sum(math.prod(spec.shape) for spec in graph.signature.state)
        state = f", carries {carried:,} values in {len(graph.signature.state)} tensors" if carried else ""
        rows += [
            [f"graph '{name}'", f"{shared}{show(size, 'B')}{state}"],
            ["  against FP32", _against(manifest, name)],
        ]
    return rows


def _print(artifact: Artifact, reused: bool) -> None:
    from edgedeploy.units import show

    manifest = artifact.manifest
    rows = [
        ["artifact", str(artifact.path) + (" (was there already, and is still true)" if reused else "")],
        ["model", f"{manifest.source.reference} (sha256 {manifest.source.sha256[:12]})"],
        ["for", f"{manifest.device or 'this machine'}, {manifest.exporter.name} {manifest.exporter.precision}"],
        ["size", show(artifact.model_size, "B")],
        ["took", show(manifest.seconds, "s")],
        *_graph_rows(artifact),
        ["run by", manifest.golden_by],
        ["golden", manifest.golden_origin],
        ["needs", ", ".join(manifest.requires)],
    ]
    for graph, decided in manifest.exporter.decisions.items():
        if "kept_in_float" not in decided:
            continue
        kept = decided["kept_in_float"]
        shown = [*kept[:MOST_SHOWN], f"{len(kept) - MOST_SHOWN} more"] if len(kept) > MOST_SHOWN else kept
        rows.append(
            [
                manifest.exporter.precision + (f" '{graph}'" if len(manifest.graphs) > 1 else ""),
                f"{decided['lowered']} of {decided['units']} parts; "
                f"in float: {', '.join(shown) or 'none'}; "
                f"all lowered would move results by {decided['distance_all_lowered']:.3f}",
            ]
        )
    print_table(f"exported {manifest.name}", ["", ""], rows)
    for decided in manifest.exporter.decisions.values():
        if decided.get("curve"):
            _print_curve(decided)
