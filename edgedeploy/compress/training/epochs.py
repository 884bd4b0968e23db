"""The log of a training: one record per epoch, as lines of JSON, and as a picture."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.records import from_json, to_json


@dataclass(frozen=True)
class Epoch:
    """What happened in one pass over the training images.

    Args:
        number: counted from 1.
        losses: mean over the batches, by name (``box_loss``, ...).
        rate: learning rate of the weights at the end of the epoch.
        penalty: weight of the penalty on scale factors; 0 where there is none.
        ap50: of the averaged network on the validation data, at most 300 detections per image; ``None`` where it was
            not measured.
        ap50_95: the same, mean over IoU 0.50 to 0.95.
        small: per batch normalisation that may be pruned, the share of small scale factors of the averaged network.
        seconds: it took, validation included.
    """

    number: int
    losses: Mapping[str, float]
    rate: float
    penalty: float = 0.0
    ap50: float | None = None
    ap50_95: float | None = None
    small: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def write(path: Path, epochs: Iterable[Epoch]) -> None:
    """Replace the file at ``path`` by these records, at once: whoever reads it sees the old one or the new one."""
    partial = path.with_name(f"{path.name}.partial")
    lines = [json.dumps(to_json(epoch), allow_nan=False, separators=(",", ":")) + "\n" for epoch in epochs]
    partial.write_text("".join(lines), encoding="utf-8", newline="\n")
    os.replace(partial, path)  # noqa: PTH105


def read(path: Path) -> tuple[Epoch, ...]:
    """The records of a file; none where there is no file.

    Raises:
        UsageError: a line is no such record.
    """
    if not path.exists():
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        values = [json.loads(line) for line in lines]
    except ValueError as error:
        raise UsageError(f"{path} is not a log of epochs ({error}). Delete it to train again.") from error
    return tuple(from_json(Epoch, value, f"{path}, line {index}") for index, value in enumerate(values, 1))


def plot(epochs: Sequence[Epoch], path: Path) -> None:
    """A picture (PNG) of a training: losses, accuracy, and per layer how many scale factors have become small.

    Raises:
        UsageError: there is no epoch.
        Unavailable: matplotlib is not installed.
    """
    if not epochs:
        raise UsageError("There is no epoch to plot yet.")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise Unavailable.extra("matplotlib, which draws the plot,", "report") from None
    layers = list(epochs[-1].small)
    tall = 2.6 + (1.2 + 0.13 * len(layers) if layers else 0)
    figure = Figure(figsize=(9, tall), dpi=120, layout="constrained")
    if layers:
        grid = figure.add_gridspec(2, 2, height_ratios=(2.4, tall - 2.4))
        _small(figure, figure.add_subplot(grid[1, :]), epochs, layers)
    else:
        grid = figure.add_gridspec(1, 2)
    _losses(figure.add_subplot(grid[0, 0]), epochs)
    _accuracy(figure.add_subplot(grid[0, 1]), epochs)
    figure.savefig(path, format="png")


def _losses(axes: Any, epochs: Sequence[Epoch]) -> None:
    numbers = [epoch.number for epoch in epochs]
    for name in dict.fromkeys(name for epoch in epochs for name in epoch.losses):
        axes.plot(numbers, [epoch.losses.get(name, float("nan")) for epoch in epochs], ".-", label=name)
    axes.set(title="Training loss", xlabel="epoch", ylim=(0, None))
    _whole(axes, numbers)
    axes.legend(frameon=False, fontsize="small")


def _accuracy(axes: Any, epochs: Sequence[Epoch]) -> None:
    measured = [epoch for epoch in epochs if epoch.ap50 is not None]
    numbers = [epoch.number for epoch in measured]
    axes.set(title="Accuracy of the averaged network", xlabel="epoch")
    if not measured:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    axes.plot(numbers, [epoch.ap50 for epoch in measured], ".-", label="AP50")
    axes.plot(numbers, [float("nan") if e.ap50_95 is None else e.ap50_95 for e in measured], ".-", label="AP50-95")
    axes.set(ylim=(0, None))
    _whole(axes, [epoch.number for epoch in epochs])
    axes.legend(frameon=False, fontsize="small")


def _small(figure: Any, axes: Any, epochs: Sequence[Epoch], layers: Sequence[str]) -> None:
    shares = [[epoch.small.get(layer, float("nan")) for epoch in epochs] for layer in layers]
    first, last = epochs[0].number, epochs[-1].number
    extent = (first - 0.5, last + 0.5, len(layers) - 0.5, -0.5)
    image = axes.imshow(shares, aspect="auto", vmin=0, vmax=1, cmap="viridis", interpolation="nearest", extent=extent)
    axes.set_yticks(range(len(layers)), layers, fontsize=6)
    axes.set(title="Share of small scale factors per layer", xlabel="epoch")
    _whole(axes, range(first, last + 1))
    figure.colorbar(image, ax=axes, label="share")


def _whole(axes: Any, numbers: Sequence[int]) -> None:
    """Ticks at whole epochs only."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(min(numbers) - 0.5, max(numbers) + 0.5)
