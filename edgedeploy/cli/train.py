"""``edgedeploy train``: recordings of words become a keyword model that can be exported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedeploy.cli.run import terminable
from edgedeploy.cli.terminal import Json, options_from, print_json, print_notes, print_table, progress

if TYPE_CHECKING:
    from edgedeploy.train.evaluation import Score
    from edgedeploy.train.run import Part, TrainingRun


def train(
    model: Annotated[str, typer.Argument(help="lmuformer; ds-cnn or mean-fbank to hold it against.")],
    data: Annotated[Path, typer.Option(help="Folder of recordings: one per word, or as of Free Spoken Digits.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for all that comes out; gone on with.")],
    recipe: Annotated[str, typer.Option(help="paper, small or digits; or a file, NAME.toml.")] = "paper",
    spiking: Annotated[bool, typer.Option("--spiking", help="Spikes between the layers.")] = False,
    causal: Annotated[bool, typer.Option("--causal", help="Without look-ahead.")] = False,
    hold_out: Annotated[
        str, typer.Option(help="Speakers to test on, with commas between; or 2/5, the second of five folds of them.")
    ] = "",
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the clips.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of weights, order and augmentation.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting of the recipe, as training.rate=0.001; repeatable.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads to compute with; with 1 it is repeatable.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away what the folder has of an earlier run.")] = False,
    as_json: Json = False,
) -> None:
    """Train a keyword model: OUTPUT/best.safetensors, by its accuracy on validation clips, judged on the test clips.

    Killed or stopped, the same command goes on with the epoch it was at, to the same result.
    """
    with terminable(), progress() as say:
        import torch

        from edgedeploy.plan.journal import alone
        from edgedeploy.train.recipe import read_recipe
        from edgedeploy.train.run import Request, run

        given = {"training.epochs": epochs, "training.seed": seed}
        given |= {"network.spiking": spiking or None, "network.causal": causal or None}
        single = {name: value for name, value in given.items() if value is not None} | options_from(setting or [])
        request = Request(model, read_recipe(recipe, single), data, output, hold_out, fresh)
        if threads:
            torch.set_num_threads(threads)
        with alone(output, "train"):
            found = run(request, say)
    if as_json:
        print_json({"folder": output, "run": found.to_json()})
    else:
        _print(found, output)


def _print(found: TrainingRun, output: Path) -> None:
    form = "".join(f"{word} " for word in ("spiking", "causal") if found.options.get(word))
    said = f"{form}{found.architecture}, {found.parameters:,} parameters, by recipe {found.recipe.name}"
    if found.best:
        said += f", epoch {found.best.number} of {found.recipe.training.epochs}"
    scores = {"val": found.val, "test": found.test}
    rows = [_row(name, part, scores.get(name)) for name, part in found.parts.items()]
    print_table(said, ("part", "clips", "speakers", "recognised", "accuracy", "95 % interval", "loss"), rows)
    if found.test and found.held:
        speakers = [
            [name, f"{right} of {of}", f"{right / of:.1%}"] for name, (right, of) in found.test.speakers.items()
        ]
        print_table("held-out speakers", ("speaker", "recognised", "accuracy"), speakers)
    if found.val.firing:
        rates = [[name, f"{rate:.1%}"] for name, rate in found.val.firing.items()]
        print_table("neurons that fire in a frame, of validation clips", ("layer", "share"), rates)
    print_notes(found.notes)
    typer.echo(f"network: {output / 'best.safetensors'}")


def _row(name: str, part: Part, score: Score | None) -> list[str]:
    row = [name, str(part.clips), str(part.speakers)]
    if score is None:
        return [*row, "", "", "", ""]
    low, high = score.interval
    return [*row, str(score.right), f"{score.accuracy:.1%}", f"{low:.1%} to {high:.1%}", f"{score.loss:.4f}"]
