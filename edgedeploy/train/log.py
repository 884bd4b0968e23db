"""The log of a training: one record per epoch, as lines of JSON, and as a picture."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgedeploy.errors import Unavailable, UsageError
from edgedeploy.records import from_json, to_json
from edgedeploy.train.folder import write


@dataclass(frozen=True)
class Epoch:
    """What happened in one pass over the training clips.

    Args:
        number: counted from 1.
        loss: mean over the augmented clips.
        accuracy: on the augmented clips, as they were trained on: the likeliest word against the loudest one.
        val_loss: on the validation clips, after the pass.
        val_accuracy: the same.
        rate: learning rate.
        firing: of the spiking layers on the validation clips, by name (see `edgedeploy.train.evaluation.Score`).
        seconds: it took, validation included.
    """

    number: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    rate: float
    firing: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def better(self, other: Epoch | None) -> bool:
        """More validation clips recognised than after ``other``, or as many at a lower loss."""
        if other is None:
            return True
        return (self.val_accuracy, -self.val_loss) > (other.val_accuracy, -other.val_loss)


def best(epochs: Sequence[Epoch]) -> Epoch:
    """The epoch whose network is kept: the first of the best."""
    found = epochs[0]
    for epoch in epochs[1:]:
        found = epoch if epoch.better(found) else found
    return found


def write_log(path: Path, epochs: Iterable[Epoch]) -> None:
    """Replace the file at ``path`` by these records, at once.

    Raises:
        UsageError: it cannot be written.
    """
    lines = [json.dumps(to_json(epoch), allow_nan=False, separators=(",", ":")) + "\n" for epoch in epochs]
    write(path, "".join(lines).encode())


def read_log(path: Path, epochs: int) -> tuple[Epoch, ...]:
    """The first records of a file; a kill may have left one more than epochs are done.

    Raises:
        UsageError: there is no such file, it has fewer, or a line is no such record.
    """
    try:
        values = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:epochs]]
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not a log of epochs ({error}). Train again with --fresh.") from error
    if len(values) < epochs:
        raise UsageError(f"{path} has {len(values)} of {epochs} epochs: lines have gone. Train again with --fresh.")
    return tuple(from_json(Epoch, value, f"{path}, line {index}") for index, value in enumerate(values, 1))


def picture(epochs: Sequence[Epoch]) -> bytes:
    """A PNG of a training: loss, accuracy, and where there are any the firing rates.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise Unavailable.extra("matplotlib, which draws the curves,", "report") from None
    numbers = [epoch.number for epoch in epochs]
    layers = list(epochs[-1].firing)
    figure = Figure(figsize=(13.5 if layers else 9, 3.4), dpi=120, layout="constrained")
    axes = figure.subplots(1, 3 if layers else 2)
    axes[0].plot(numbers, [epoch.loss for epoch in epochs], ".-", label="training, augmented")
    axes[0].plot(numbers, [epoch.val_loss for epoch in epochs], ".-", label="validation")
    axes[0].set(title="Binary cross-entropy", ylim=(0, None))
    axes[1].plot(numbers, [epoch.accuracy for epoch in epochs], ".-", label="training, augmented")
    axes[1].plot(numbers, [epoch.val_accuracy for epoch in epochs], ".-", label="validation")
    axes[1].axvline(best(epochs).number, color="0.6", lw=0.8, label="kept")
    axes[1].set(title="Accuracy", ylim=(0, 1.02))
    for name in layers:
        axes[2].plot(numbers, [epoch.firing.get(name, float("nan")) for epoch in epochs], ".-", label=name)
    if layers:
        axes[2].set(title="Firing rate", ylim=(0, None))
    for one in axes:
        one.set(xlabel="epoch", xlim=(0.5, numbers[-1] + 0.5))
        one.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        one.legend(frameon=False, fontsize="x-small" if one is axes[-1] and layers else "small")
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
