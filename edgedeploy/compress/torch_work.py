"""The stages as they are: PyTorch, Ultralytics' trainer and torch-pruning, imported when they are needed."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgedeploy.accuracy import Assessment, Progress
from edgedeploy.compress.detector import Detector
from edgedeploy.compress.recipe import Pruning
from edgedeploy.compress.training import ranks
from edgedeploy.compress.work import Hunt, Made, Order, Passed
from edgedeploy.tasks.dataset import read_detection_set
from edgedeploy.tasks.protocol import protocol_of
from edgedeploy.tasks.samples import DetectionSet

if TYPE_CHECKING:
    from edgedeploy.compress.staging import Staged

#: Packages whose versions are kept with every stage.
_TOOLS = ("edgedeploy", "torch", "ultralytics", "torch-pruning")


@dataclass(frozen=True)
class Torch:
    """Does every stage; under torchrun the other processes of a training are told what to take part in."""

    def data(self, path: Path, part: str) -> DetectionSet:
        """A part of a data set."""
        return read_detection_set(path, part)

    def read(self, path: Path) -> Detector:
        """The detector in a file."""
        from edgedeploy.compress.checkpoint import read

        return read(path)

    def train(self, order: Order, sets: tuple[DetectionSet, DetectionSet], folder: Path, follow: Passed) -> Made:
        """Train, in all processes that there are; go on where an earlier call in the same folder was killed."""
        from edgedeploy.compress.staging import stage

        staged = stage(*sets, folder)
        if ranks.world() > 1:
            ranks.tell((order, staged))
        return _train(order, staged, follow)

    def prune(self, detector: Detector, pruning: Pruning, size: tuple[int, int]) -> Made:
        """Take channels away."""
        from edgedeploy.compress.pruning.prune import prune_detector

        small, pruned = prune_detector(replace(detector, size=size), pruning)
        settings = {"prune": small.lineage.steps[-1].settings}
        return Made(replace(small, lineage=detector.lineage), settings=settings, notes={"pruned": pruned})

    def search(self, detector: Detector, pruning: Pruning, hunt: Hunt, say: Callable[[str], None]) -> Pruning:
        """The shares of channels that serve a goal best, on training images alone."""
        from edgedeploy.compress.searching.search import SearchOptions, search
        from edgedeploy.compress.staging import stage

        options = SearchOptions(
            hunt.folder,
            hunt.trials,
            size=hunt.size,
            protocol=protocol_of(hunt.protocol),
            follow=lambda text, share: say(f"search: {share:.0%}: {text}"),
        )
        hunt.folder.mkdir(parents=True, exist_ok=True)
        found = search(detector, stage(*hunt.sets, hunt.data), pruning, hunt.goal, options)
        say(f"search: {found.sentence}")
        return found.pruning

    def count(self, detector: Detector, size: tuple[int, int]) -> tuple[int, int]:
        """Parameters, and multiply-accumulates at (height, width)."""
        from edgedeploy.compress.pruning.count import count

        found = count(detector.network, size)
        return found.params, found.macs

    def judge(
        self, detector: Detector, data: DetectionSet, protocol: str, size: tuple[int, int], progress: Progress
    ) -> Assessment:
        """How accurate it is, in float32."""
        from edgedeploy.compress.evaluation import evaluate

        return evaluate(detector, data, protocol_of(protocol), size, progress)

    def write(self, path: Path, detector: Detector) -> str:
        """One .safetensors file; its sha256."""
        from edgedeploy.compress.checkpoint import write

        return write(path, detector)

    def write_ultralytics(self, path: Path, detector: Detector) -> None:
        """A .pt for Ultralytics."""
        from edgedeploy.compress.checkpoint import write_ultralytics

        write_ultralytics(path, detector)

    def tools(self) -> Mapping[str, str]:
        """Versions of what does the work."""
        found = {}
        for name in _TOOLS:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return found


@contextmanager
def leading() -> Iterator[Torch]:
    """The work of the first process; the others are let go at its end.

    Not after an error: they may be in the middle of a training. As this process ends, torchrun ends them.
    """
    yield Torch()
    if ranks.world() > 1:
        ranks.tell(None)
        ranks.leave()


def assist() -> None:
    """What every process but the first does: take part in each training that it is told of, until there is none."""
    while (told := ranks.told()) is not None:
        order, staged = told
        _train(order, staged, lambda _: None)
    ranks.leave()


def _train(order: Order, staged: Staged, follow: Passed) -> Made:
    from edgedeploy.compress.checkpoint import read
    from edgedeploy.compress.training.adapt import adapt
    from edgedeploy.compress.training.trainer import Extra, train

    detector = read(order.source)
    if order.adapt:
        detector = adapt(detector, staged.labels)
    teacher = read(order.teacher) if order.teacher else None
    with redirect_stdout(sys.stderr):  # results go to standard output
        extra = Extra(order.slimming, order.distillation, teacher, _slimmed(detector, order))
        trained = train(detector, staged, order.training, order.folder, extra, follow)
    side = order.training.size
    return Made(replace(detector, network=trained.network, size=(side, side)), len(trained.epochs), trained.seconds)


def _slimmed(detector: Detector, order: Order) -> tuple[str, ...] | None:
    """The batch normalisations whose channels pruning may take."""
    from edgedeploy.compress.pruning.groups import groups

    if order.slimming is None:
        return None
    spans = (span for group in groups(detector.network, order.keep) for span in group.layers)
    return tuple(dict.fromkeys(span.layer for span in spans))
