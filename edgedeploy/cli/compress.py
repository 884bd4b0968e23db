"""``edgedeploy compress``: a trained detector becomes a smaller one, stage by stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgedeploy.cli.run import terminable
from edgedeploy.cli.terminal import Json, options_from, print_json, print_notes, print_table, progress

if TYPE_CHECKING:
    from edgedeploy.compress.recipe import Recipe
    from edgedeploy.compress.result import CompressionRun
    from edgedeploy.compress.stages import Request
    from edgedeploy.report.compression.records import CompressionTable

#: Columns of `edgedeploy.report.compression.text.rows` that a terminal has room for.
COLUMNS = ("network", "params", "MACs", "FLOPs", "file", "AP50", "- baseline", "AP50-95", "small/medium/large")


def compress(
    checkpoint: Annotated[Path, typer.Argument(help="A trained .pt of YOLOv8 or YOLO11, or a .safetensors of ours.")],
    recipe: Annotated[
        str, typer.Option(help="slim-prune-distill, prune-finetune, control or quick; or a file, NAME.toml.")
    ],
    data: Annotated[Path, typer.Option(help="data.yaml, VisDrone folder or COCO json to train on, and validate.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for all that comes out; gone on with.")],
    val: Annotated[Path | None, typer.Option(help="Data to validate on, where --data has no such part.")] = None,
    stage: Annotated[list[str] | None, typer.Option(help="Only this stage of the recipe; may be repeated.")] = None,
    prune: Annotated[float | None, typer.Option(help="Share of the channels that go, 0.5 for half.")] = None,
    policy: Annotated[str | None, typer.Option(help="How it is spread: uniform, global or latency.")] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Part that keeps its channels: detect, residual or inner; repeatable.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device that policy latency prunes for; else this machine.")
    ] = None,
    target_fps: Annotated[
        float | None, typer.Option(help="Search shares: the most accurate network that is so fast.")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Search shares: the fastest network that loses at most so much AP50.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Networks that a search tries.")] = 60,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of every training.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the input in pixels, a multiple of 32.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images per step.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of order and augmentation.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting of the recipe, as finetune.rate=0.002; repeatable.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="Rules of the evaluation: ultralytics, visdrone or coco.")
    ] = "ultralytics",
    deploy: Annotated[
        bool, typer.Option("--deploy/--no-deploy", help="Also export first and last network, judge and time them.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away what the folder has of an earlier run.")] = False,
    as_json: Json = False,
) -> None:
    """Train with a penalty on channels, prune, fine-tune, distil: OUTPUT/best.pt, and a row for every stage.

    Killed or stopped, the same command goes on with the epoch it was at. Under torchrun every process takes part.
    """
    from edgedeploy.compress.torch_work import assist, leading
    from edgedeploy.compress.training import ranks

    if not ranks.first():
        assist()
        return
    with terminable(), leading() as work, progress() as say:
        from edgedeploy.compress.recipe_file import Changes, read_recipe
        from edgedeploy.compress.run import run
        from edgedeploy.compress.searching.goal import Goal
        from edgedeploy.compress.stages import Request

        training = {"epochs": epochs, "size": size, "batch": batch, "seed": seed}
        pruning = {"ratio": prune, "policy": policy, "keep": keep or None, "device": device}
        changes = Changes(_given(training), _given(pruning), options_from(setting or []))
        chosen = read_recipe(recipe, changes)
        _check_settings(chosen)
        goal = None if target_fps is None and max_drop is None else Goal(target_fps, max_drop)
        request = Request(checkpoint, chosen, data, output, val, protocol, tuple(stage or ()), goal, trials, fresh)
        found = run(request, work, say)
        table = _table(request, found, deploy, say)
    if as_json:
        print_json({"folder": output, "run": found, "table": table.to_json()})
    else:
        _print(found, table, output)


def _check_settings(recipe: Recipe) -> None:
    """A setting that the last stage cannot take is refused before the first one is trained."""
    from edgedeploy.compress.recipe import Training
    from edgedeploy.compress.training.trainer import check_settings

    for name in recipe.stages:
        own = getattr(recipe, name)
        if isinstance(own, Training):
            check_settings(own)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _table(request: Request, found: CompressionRun, deployed: bool, say: Any) -> CompressionTable:
    """The table of a run, whose report is written beside it; with ``deployed`` the networks are exported, too."""
    from edgedeploy.compress.table import table_of
    from edgedeploy.report.compression.files import publish
    from edgedeploy.tasks.dataset import read_detection_set

    if deployed:
        from edgedeploy.compress.deploy import deploy

        table = deploy(request.folder, say=say)
    else:
        table = table_of(request.folder, found, found.rungs, read_detection_set(request.val or request.data, "val"))
    publish(table, request.folder)
    return table


def _print(found: CompressionRun, table: CompressionTable, output: Path) -> None:
    from edgedeploy.report.compression.text import doubts, missing, notes, rows

    height, width = found.used.size
    reused = [stage for stage, state in found.states.items() if state == "reused"]
    said = f"{found.used.checkpoint} by {found.used.recipe.name}, at {height}x{width}, {found.used.protocol}'s protocol"
    said += f" (was there already: {', '.join(reused)})" if reused else ""
    speeds = [f"FPS, {timing.threads} threads" for timing in table.timings]
    print_table(said, [*COLUMNS, *speeds], [[*row[: len(COLUMNS)], *row[len(COLUMNS) + 1 :]] for row in rows(table)])
    for line in (*notes(table), *missing(table)):
        typer.echo(line)
    print_notes(doubts(table))
    left = [stage for stage in found.used.recipe.stages if stage not in found.states]
    typer.echo(f"network: {output / found.best}" if found.best else f"still to do: {', '.join(left)}")
    typer.echo(f"report: {output / 'report.html'}")
