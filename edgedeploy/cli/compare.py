"""``edgedeploy compare``: did the export keep the accuracy?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedeploy.cli.compare_keywords import Asked as Spoken
from edgedeploy.cli.compare_keywords import refuse, run_keywords
from edgedeploy.cli.ladder import Asked, run_ladder
from edgedeploy.cli.terminal import Json, print_json, print_notes, print_table, progress
from edgedeploy.errors import UsageError

if TYPE_CHECKING:
    from edgedeploy.comparison import Compared
    from edgedeploy.tasks.protocol import Protocol

#: The equivalence margin where the user states none: one point of AP50-95.
MARGIN = 0.01
#: An image whose detections moved by less, which prints as 0.000, did not change.
MOVED = 0.0005


def compare(
    checkpoint: Annotated[str, typer.Argument(help="The checkpoint that the bundle was exported from.")],
    bundle: Annotated[Path, typer.Argument(help="A NAME.edge folder or archive.")],
    data: Annotated[
        Path | None, typer.Option(help="What to measure on: data.yaml, COCO json, or a folder of clips.")
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help=f"AP50-95 (accuracy) that does not matter [{MARGIN}]; given, 4 is the status of 'no'."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of the data set [val; of clips: test].")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use so many images or clips only.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder for pictures; else NAME.changed beside it.")] = None,
    show: Annotated[int, typer.Option(min=0, help="How many of the most changed images or clips to show.")] = 4,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the artifact's runtime.")] = None,
    history: Annotated[bool, typer.Option(help="Keep a detector's result in the history, for reports.")] = True,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Rules: ultralytics [default], coco or visdrone; visdrone@640 looks in windows of 640 pixels."
        ),
    ] = None,
    max_detections: Annotated[int | None, typer.Option(min=1, help="Detections per image, instead of rules.")] = None,
    ladder: Annotated[bool, typer.Option("--ladder", help="Instead: where it goes wrong, form by form.")] = False,
    fix: Annotated[bool, typer.Option("--fix", help="The ladder; what breaks is exported again and checked.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for what --fix exports; else fixed/ beside it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare an artifact with its FP32 checkpoint: AP or accuracy, paired interval, equivalence, what changed."""
    spoken = _task_of(bundle) == "keywords"
    split = split or ("test" if spoken else "val")
    if ladder or fix:
        run_ladder(Asked(checkpoint, bundle, data, split, limit, threads, fix, output, as_json))
        return
    if data is None:
        raise UsageError("To compare accuracy there has to be a data set: give --data data.yaml, or --ladder.")
    changed = pictures or bundle.with_name(bundle.name.partition(".edge")[0] + ".changed")
    if spoken:
        refuse(protocol=protocol, max_detections=max_detections)
        run_keywords(Spoken(checkpoint, bundle, data, split, limit, margin, threads, changed, show, as_json))
        return
    from edgedeploy.comparison import Options
    from edgedeploy.comparison import compare as run
    from edgedeploy.tasks.dataset import read_detection_set

    dataset = read_detection_set(data, split)
    if limit is not None:
        dataset = dataset.subset(range(min(limit, len(dataset))))
    rules = _rules(protocol, max_detections)
    options = Options(margin=MARGIN if margin is None else margin, protocol=rules, threads=threads)
    with progress() as say:
        compared = run(checkpoint, bundle, dataset, options, say)
        say("drawing what changed most")
        drawn = _draw(compared, changed, show)
    trouble = _kept(compared) if history else None
    if as_json:
        print_json({"comparison": compared.comparison, "pictures": drawn})
    else:
        _print(compared, drawn)
    if trouble is not None:
        typer.echo(trouble, err=as_json)
    if margin is not None and compared.comparison.equivalence.outcome != "pass":
        raise typer.Exit(4)


def _task_of(bundle: Path) -> str | None:
    """What the model in a bundle is for; ``None`` where it does not say."""
    from edgedeploy.archive import open_artifact

    contract = open_artifact(bundle).manifest.task
    return None if contract is None else str(contract.get("kind"))


def _rules(protocol: str | None, max_detections: int | None) -> Protocol:
    from edgedeploy.tasks.protocol import ULTRALYTICS, limited, protocol_of

    if protocol is not None and max_detections is not None:
        raise UsageError("A protocol says how many detections are kept: give --protocol or --max-detections, not both.")
    if max_detections is not None:
        return limited(max_detections)
    return ULTRALYTICS if protocol is None else protocol_of(protocol)


def _kept(compared: Compared) -> str | None:
    """What went wrong with keeping it; a history in trouble stops nothing."""
    from edgedeploy.errors import EdgeDeployError
    from edgedeploy.history import History

    try:
        History().record_comparison(compared.comparison)
    except EdgeDeployError as error:
        return f"This comparison is not in the history: {error}"
    return None


def _draw(compared: Compared, folder: Path, most: int) -> list[Path]:
    from edgedeploy.report.pictures import side_by_side

    index = {str(sample.image): i for i, sample in enumerate(compared.data.samples)}
    drawn = []
    for rank, changed in enumerate(compared.comparison.changed[:most], start=1):
        if changed.distance < MOVED:
            break
        i = index[changed.image]
        panels = [("FP32 checkpoint", compared.reference[i]), ("artifact", compared.candidate[i])]
        path = folder / f"{rank}-{Path(changed.image).stem}.png"
        drawn.append(side_by_side(path, Path(changed.image), panels, compared.data.labels))
    return drawn


def _print(compared: Compared, drawn: list[Path]) -> None:
    from edgedeploy.report.comparison import class_rows, fact_rows, metric_rows

    comparison = compared.comparison
    print_table("compared", ["", ""], fact_rows(comparison))
    print_table("accuracy", ["metric", "FP32", "artifact", "difference"], metric_rows(comparison))
    fell = class_rows(comparison, 5)
    if fell:
        print_table("classes that fell most", ["class (objects)", "FP32", "artifact", "difference"], fell)
    changed = [
        [Path(c.image).name, f"{c.distance:.3f}", f"{c.reference_boxes} -> {c.candidate_boxes}"]
        for c in comparison.changed[: max(3, len(drawn))]
        if c.distance >= MOVED
    ]
    if changed:
        print_table("images that changed most", ["image", "distance (0 to 1)", "objects"], changed)
    for path in drawn:
        typer.echo(f"drawn: {path}")
    print_notes([*comparison.doubts, *comparison.equivalence.doubts])
    typer.echo(f"{comparison.equivalence.outcome}: {comparison.equivalence.sentence}")
