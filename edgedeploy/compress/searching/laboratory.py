"""Where trials of a search are made: pruned copies of one network, judged on the same images, timed on one device."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.accuracy import paired_difference
from edgedeploy.compress.detector import Detector
from edgedeploy.compress.evaluation import digest, evaluate
from edgedeploy.compress.judgements import Judged, Judgements
from edgedeploy.compress.pruning.granularity import granularity
from edgedeploy.compress.pruning.groups import Group, groups
from edgedeploy.compress.pruning.importance import importance
from edgedeploy.compress.pruning.latency import Predictor
from edgedeploy.compress.pruning.policy import choose
from edgedeploy.compress.pruning.prune import prune
from edgedeploy.compress.pruning.split import skeleton
from edgedeploy.compress.pruning.timing import Clocked, Stopwatch
from edgedeploy.compress.recipe import Pruning
from edgedeploy.compress.searching.goal import SearchOptions
from edgedeploy.compress.searching.recalibrate import recalibrate
from edgedeploy.compress.searching.study import Outcome, Ratios, Space
from edgedeploy.compress.staging import Staged
from edgedeploy.device import THIS_MACHINE
from edgedeploy.errors import UsageError
from edgedeploy.records import to_json
from edgedeploy.tasks.dataset import DetectionSet

#: Draws of the bootstrap behind each paired interval.
REPLICATES = 200
#: Ratio of the second network whose time corrects predictions; the first is the unpruned one.
ANCHOR = 0.5


@dataclass(frozen=True, eq=False)
class Laboratory:
    """Everything that does not change from trial to trial.

    Args:
        detector: what is pruned; its size is that of the search.
        plan: what is kept, rounding, device.
        options: of the search.
        judged: images that accuracy is measured on; ``taught`` those for recovery.
        staged: the data for a short training, where they are staged.
        groups: coupled channels; ``scores`` their importance.
        predictor: of latencies.
        notes: sentences for who reads the result.
    """

    detector: Detector
    plan: Pruning
    options: SearchOptions
    judged: DetectionSet
    taught: DetectionSet
    staged: Staged | None
    groups: tuple[Group, ...]
    scores: Mapping[str, Any]
    predictor: Predictor
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def of(
        cls, detector: Detector, data: Staged | DetectionSet, pruning: Pruning, options: SearchOptions
    ) -> Laboratory:
        """Set one up; the unpruned network is judged.

        Raises:
            UsageError: there is nothing to prune, the network finds nothing, or a training is asked for without data
                that are staged for one.
        """
        staged = data if isinstance(data, Staged) else None
        if options.recovery.training is not None and staged is None:
            raise UsageError("A short training in every trial needs data that are staged for training.")
        own = replace(detector, size=options.size or detector.size)
        if not pruning.round_to:
            pruning = replace(pruning, round_to=granularity(pruning.device, options.precision))
        found = groups(own.network, pruning.keep)
        if not found:
            raise UsageError("There is nothing to search: every group of channels is kept.")
        judged, taught, note = _parts(staged.train if staged else data, options)  # type: ignore[arg-type]
        predictor = Predictor.of(pruning.device, options.precision, options.threads)
        scores = importance(own.network, found)
        notes = (note, *predictor.notes)
        made = cls(own, pruning, options, judged, taught, staged, tuple(found), scores, predictor, notes)
        if not made.ap50 > 0:
            raise UsageError(
                f"The network finds nothing in the {len(judged)} images (AP50 is 0), so that there is nothing to lose. "
                "Train it first, or give more images, of the classes that it knows."
            )
        return made

    # --- facts -----------------------------------------------------------------------------------------------------

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the blocks that have a ratio each, in order."""
        return tuple(dict.fromkeys(group.block for group in self.groups))

    @property
    def device(self) -> str:
        """Name of the profile."""
        return self.predictor.device

    @property
    def here(self) -> bool:
        """Whether networks can be timed on the device as they will run there."""
        return self.device == THIS_MACHINE and self.options.precision == "fp32"

    @property
    def images(self) -> int:
        """That accuracy is measured on."""
        return len(self.judged)

    @property
    def ap50(self) -> float:
        """Of the unpruned network."""
        return self._baseline.accuracy.metric.ap50 or 0.0

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """Plain values of all that a trial depends on besides its ratios."""
        plan = {name: value for name, value in to_json(self.plan).items() if name not in ("ratio", "ratios", "policy")}
        recovery = self.options.recovery
        used = self.staged.digest if recovery.training and self.staged else self._digest(self.taught)
        return {
            "network": digest(self.detector.network),
            "size": list(self.detector.size),
            "images": self._digest(self.judged),
            "recovery": [to_json(recovery), used if recovery.images or recovery.training else ""],
            "protocol": self.options.protocol.name,
            "pruning": plan,
            "latency": [self.device, self.options.precision, self.options.threads],
        }

    # --- trials ----------------------------------------------------------------------------------------------------

    def pruning(self, ratios: Ratios) -> Pruning:
        """What a recipe says to prune so."""
        found = {group.name: min(ratios[group.block], 1 - 1 / group.width) for group in self.groups}  # one stays
        return replace(self.plan, policy="uniform", ratios=found)

    def seconds(self, ratios: Ratios) -> float:
        """Of a pass, predicted from shapes; nothing is computed."""
        return self.predictor.seconds(prune(self._bones, self._kept(ratios), self.groups), self.detector.size)

    def kept(self, ratios: Ratios) -> float:
        """Share of the importance of all channels that is left; nothing is computed."""
        whole, kept = sum(float(scores.sum()) for scores in self.scores.values()), self._kept(ratios)
        left = sum(float(self.scores[name][list(channels)].sum()) for name, channels in kept.items())
        return left / whole if whole else 1.0

    def plain(self, ratios: Ratios, space: Space) -> Ratios:
        """The smallest ratios that keep the same numbers of channels in every group."""
        found = {}
        for block, ratio in ratios.items():
            steps = round(ratio / space.step)
            while steps and self._numbers(block, (steps - 1) * space.step) == self._numbers(block, steps * space.step):
                steps -= 1
            found[block] = steps * space.step
        return space.snapped(found)

    def evaluate(self, ratios: Ratios) -> Outcome:
        """Prune a copy, let it recover, judge it, and compare it with the unpruned one on the same images."""
        pruned = prune(self.detector.network, self._kept(ratios), self.groups)
        trial = replace(self.detector, network=self._recovered(replace(self.detector, network=pruned), ratios))
        judged = evaluate(trial, self.judged, self.options.protocol)
        lost = paired_difference(self._baseline.matches, judged.matches, REPLICATES, seed=self.options.seed).ap50
        ap50 = judged.accuracy.metric.ap50 or 0.0
        params = sum(parameter.numel() for parameter in pruned.parameters())
        seconds = self.predictor.seconds(pruned, self.detector.size)
        return Outcome(ap50, self.ap50 - ap50, 0.0 - lost.high, 0.0 - lost.low, seconds, params, self.kept(ratios))

    def anchors(self, space: Space) -> list[tuple[float, float]]:
        """Predicted and real seconds, of the unpruned network first; both predicted where the device is not here."""
        half = space.uniform(min(ANCHOR, space.most))
        whole, narrow = self.seconds(space.uniform(0.0)), self.seconds(half)
        if not self.here:
            return [(whole, whole)]
        self.options.follow("timing the unpruned network", 0.0)
        unpruned, clocked = self.clock({0: half}, self.options.seconds)
        return [(whole, unpruned.seconds), (narrow, clocked[0].seconds)]

    def clock(self, ratios: Mapping[int, Ratios], seconds: float) -> tuple[Clocked, dict[int, Clocked]]:
        """Time the unpruned network and several others, all in turn; ``seconds`` for each."""
        with Stopwatch(self.detector.size, self.options.threads) as watch:
            watch.add("unpruned", self.detector.network)
            for number, one in ratios.items():
                watch.add(str(number), prune(self.detector.network, self._kept(one), self.groups))
            found = watch.clock(seconds * (1 + len(ratios)), "unpruned")
        return found["unpruned"], {number: found[str(number)] for number in ratios}

    # --- helpers ---------------------------------------------------------------------------------------------------

    @cached_property
    def _baseline(self) -> Judged:
        """The unpruned network, just as given; judged once."""
        key = ("search", digest(self.detector.network), self._digest(self.judged), self.options.protocol.name)
        judgements = Judgements(self.options.folder / "judged")
        size = list(self.detector.size)
        return judgements.judge((*key, size), lambda: evaluate(self.detector, self.judged, self.options.protocol))

    @cached_property
    def _known(self) -> dict[tuple[str, float], tuple[int, ...]]:
        return {}

    @cached_property
    def _bones(self) -> Any:
        return skeleton(self.detector.network)

    def _kept(self, ratios: Ratios) -> dict[str, tuple[int, ...]]:
        return choose(self.groups, self.scores, self.pruning(ratios))

    def _numbers(self, block: str, ratio: float) -> tuple[int, ...]:
        """Channels that are kept in each group of a block."""
        ratio = round(ratio, 6)
        if (block, ratio) not in self._known:
            own = [group for group in self.groups if group.block == block]
            kept = choose(own, self.scores, replace(self.plan, policy="uniform", ratio=ratio, ratios={}))
            self._known[block, ratio] = tuple(len(channels) for channels in kept.values())
        return self._known[block, ratio]

    def _recovered(self, pruned: Detector, ratios: Ratios) -> Any:
        recovery = self.options.recovery
        if not any(ratios.values()):
            return pruned.network  # it has lost nothing
        if recovery.training is None:
            return recalibrate(pruned, self.taught, recovery.images) if recovery.images else pruned.network
        from edgedeploy.compress.training.trainer import train

        assert self.staged is not None, "refused before"
        folder = Path(self.options.folder) / "training"
        shutil.rmtree(folder, ignore_errors=True)
        network = train(pruned, self.staged, recovery.training, folder).network
        shutil.rmtree(folder, ignore_errors=True)
        return network

    @staticmethod
    def _digest(data: DetectionSet) -> str:
        return data.digest() if len(data) else hashlib.sha256(b"").hexdigest()


def _parts(data: DetectionSet, options: SearchOptions) -> tuple[DetectionSet, DetectionSet, str]:
    """Images to judge on and others to recover on, evenly spread; the same ones for both where there are too few."""
    count, wanted = len(data), options.recovery.images
    picks = np.unique(np.linspace(0, count - 1, min(options.images, count)).round().astype(int))
    others = np.setdiff1d(np.arange(count), picks)
    judged = data.subset(picks)
    said = f"Accuracy is that on {len(judged)} images of {data.name}, {data.split}"
    if wanted and not len(others):
        return judged, judged, f"{said}, on which batch normalisation is recalibrated as well: there are no others."
    places = np.unique(np.linspace(0, max(0, len(others) - 1), min(wanted, len(others))).round().astype(int))
    if options.recovery.training is not None:
        said = f"{said}; the short trainings use all images, these too"
    elif wanted:
        said = f"{said}; recovery uses other ones"
    return judged, data.subset(others[places]), f"{said}."
