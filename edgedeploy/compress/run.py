"""A compression is worked off stage by stage; what is done, and still true, is not done again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from edgedeploy.accuracy import Assessment, PairedDifference, paired_difference
from edgedeploy.compress.detector import Detector
from edgedeploy.compress.folder import (
    BEST,
    BEST_ULTRALYTICS,
    DATA,
    JOURNAL,
    JUDGED,
    RUN,
    SEARCH,
    USED,
    clear,
    copy,
    digest,
    prepare,
    write_record,
)
from edgedeploy.compress.judgements import Judged, Judgements
from edgedeploy.compress.lineage import Step
from edgedeploy.compress.pace import Pace
from edgedeploy.compress.recipe import Part, Pruning
from edgedeploy.compress.result import CompressionRun, Used, check_same, judge_key
from edgedeploy.compress.stages import Request, Stage, check, stages_of
from edgedeploy.compress.staging import doubts
from edgedeploy.compress.work import Hunt, Made, Order, Work
from edgedeploy.errors import UsageError
from edgedeploy.model import file_digest
from edgedeploy.plan.journal import Journal, alone
from edgedeploy.records import canonical, from_json, to_json
from edgedeploy.report.compression.records import Rung
from edgedeploy.tasks.protocol import protocol_of
from edgedeploy.tasks.samples import DetectionSet

Say = Callable[[str], None]

#: What a rung is called in tables, by its stage.
NAMES: Mapping[str, str] = {
    "baseline": "baseline",
    "sparse": "sparse",
    "prune": "pruned",
    "finetune": "fine-tuned",
    "distill": "distilled",
}


def run(request: Request, work: Work, say: Say) -> CompressionRun:
    """Do every stage that is not done, judge each network by the same code, and say what came out.

    Raises:
        UsageError: the request cannot be right: no stage, a stage whose input is not there, classes that differ from
            the data's, a folder of something else.
        Unavailable: a library that a stage needs is not here.
    """
    stages = stages_of(request.recipe)
    check(request, stages)
    parent = file_digest(request.checkpoint)
    with alone(request.folder, "compress"):
        if request.fresh:
            clear(request.folder)
        return _Run(request, work, say, stages, parent).go()


@dataclass
class _Run:
    request: Request
    work: Work
    say: Say
    stages: tuple[Stage, ...]
    parent: str

    def __post_init__(self) -> None:
        request = self.request
        self.journal = Journal(request.folder / JOURNAL)
        self.judgements = Judgements(request.folder / JUDGED)
        self.train = self.work.data(request.data, "train")
        self.val = self.work.data(request.val or request.data, "val")
        self.doubts = (*self.train.faults, *self.val.faults, *doubts(self.train, self.val))
        self.pace = Pace({stage.name: stage.training for stage in self.stages if stage.training}, self.say)
        self.sha256: dict[str, str] = {}  # of the network after each stage that is there
        self.known: dict[str, Mapping[str, Any]] = {}
        self.states: dict[str, Literal["done", "reused"]] = {}
        self.rungs: list[Rung] = []

    def go(self) -> CompressionRun:
        """All of it."""
        self.used = self._used()
        check_same(self.request.folder, self.used)
        self._check_classes()
        planned = self._plan()
        write_record(self.request.folder / USED, self.used)
        for stage in planned:
            self._stage(stage)
            self.rungs.append(self._rung(stage))
            self._record()
        last = self.stages[-1]
        return self._record(self._best(last)) if last.name in self.sha256 else self._record()

    def _used(self) -> Used:
        request, trained = self.request, [stage.training.size for stage in self.stages if stage.training]
        height, width = (trained[-1], trained[-1]) if trained else self._about()["size"]
        return Used(
            request.checkpoint.name,
            self.parent,
            str(request.data),
            self._data_digest(self.train),
            self._data_digest(self.val),
            request.protocol,
            (height, width),
            request.recipe,
            str(request.val or ""),
        )

    def _about(self) -> Mapping[str, Any]:
        """Labels and size of the given checkpoint, read once."""
        key = digest({"about": self.parent})
        known = self.journal.get(key)
        if known is None:
            detector = self.work.read(self.request.checkpoint)
            known = {"labels": list(detector.labels), "size": list(detector.size)}
            self.journal.add(key, "about", "", known)
        return known

    def _data_digest(self, data: DetectionSet) -> str:
        """Of a data set; its images are not read again while neither annotations nor the files' times change."""
        total = hashlib.sha256(canonical(list(data.labels)))
        for sample in data.samples:
            try:
                there = sample.image.stat()
            except OSError as error:
                raise UsageError(
                    f"{sample.image}, an image of {data.name}, cannot be read: {error.strerror}."
                ) from error
            total.update(f"{sample.image} {there.st_size} {there.st_mtime_ns} {sample.size}".encode())
            for array in (sample.boxes, sample.classes, sample.area, sample.crowd, sample.ignored):
                total.update(str(array.shape).encode() + array.tobytes())
        key = digest({"data": total.hexdigest()})
        known = self.journal.get(key)
        if known is None:
            self.say(f"reading the {len(data)} images of {data.name}, {data.split}")
            known = {"sha256": data.digest()}
            self.journal.add(key, "data", data.split, known)
        return str(known["sha256"])

    def _check_classes(self) -> None:
        """Refuse, before any work, classes that no stage makes those of the data."""
        if self.train.labels != self.val.labels:
            raise UsageError(
                f"Training and validation data have different classes: {_few(self.train.labels)} and "
                f"{_few(self.val.labels)}. Give two parts of one data set."
            )
        if self.stages[0].settings:
            return
        labels = tuple(self._about()["labels"])
        if labels != self.train.labels:
            raise UsageError(
                f"{self.request.checkpoint} has {len(labels)} classes ({_few(labels)}), the data "
                f"{len(self.train.labels)} ({_few(self.train.labels)}). Give a checkpoint that was trained on them, or "
                "add a stage [baseline] to the recipe (--set baseline.epochs=100), which trains this one on them first."
            )

    def _plan(self) -> tuple[Stage, ...]:
        """The stages that this run does or finds done.

        Raises:
            UsageError: one that is asked for needs one that is neither.
        """
        wanted = self.request.stages or tuple(stage.name for stage in self.stages)
        last = max(i for i, stage in enumerate(self.stages) if stage.name in wanted)
        source: str | None = self.parent
        found: dict[str, str] = {}
        for i, stage in enumerate(self.stages):
            known = None if source is None else self._find(stage, self._key(stage, source, found))
            source = None if known is None else str(known["sha256"])
            if known is not None:
                found[stage.name] = str(known["sha256"])
            elif i > last:
                return self.stages[:i]
            elif stage.settings and stage.name not in wanted:
                first = next(later.name for later in self.stages[i:] if later.name in wanted)
                there = (self.request.folder / stage.file).exists()
                what = "was made with other settings or from another network" if there else "is not there yet"
                raise UsageError(
                    f"Stage {first} needs the result of stage {stage.name}, which {what} in {self.request.folder}: "
                    f"run --stage {stage.name} first, or both in one command."
                )
        return self.stages

    def _key(self, stage: Stage, source: str, found: Mapping[str, str]) -> str:
        """Of a stage: all that its result depends on."""
        parts: dict[str, Any] = {"stage": stage.name, "source": source, "settings": stage.settings}
        if stage.training:
            parts["data"] = self.used.train
        if stage.name == "prune" and self.request.goal:
            parts |= {
                "goal": self.request.goal,
                "trials": self.request.trials,
                "data": self.used.train,
                "protocol": self.used.protocol,
            }
            parts["size"] = self.used.size
        prune = self.request.recipe.prune
        if stage.name == "prune" and prune is not None and prune.policy == "latency":
            parts["size"] = self.used.size  # at which the time is predicted
        if stage.name == "sparse":
            parts["keep"] = self._kept()
        if self._taught(stage):
            parts["teacher"] = found.get(self.request.recipe.distillation.teacher)
        return digest(parts)

    def _kept(self) -> tuple[Part, ...]:
        """The parts that are not slimmed, as they will not be pruned."""
        prune = self.request.recipe.prune
        return Pruning().keep if prune is None else prune.keep

    def _taught(self, stage: Stage) -> bool:
        return stage.name == "distill" and self.request.recipe.distillation.weight > 0

    def _find(self, stage: Stage, key: str) -> Mapping[str, Any] | None:
        """What is known of a stage, if its file is still the one that it made."""
        known, path = self.journal.get(key), self.request.folder / stage.file
        if known is None or not path.is_file() or file_digest(path) != known["sha256"]:
            return None
        return known

    def _stage(self, stage: Stage) -> None:
        i, folder = self.stages.index(stage), self.request.folder
        before = self.stages[i - 1] if i else None
        source = folder / before.file if before else self.request.checkpoint
        key = self._key(stage, self.sha256[before.name] if before else self.parent, self.sha256)
        known = self._find(stage, key)
        self.states[stage.name] = "done" if known is None else "reused"
        if known is None:
            known = self._do(stage, source, key)
        self.pace.ended(stage.name)
        self.known[stage.name], self.sha256[stage.name] = known, str(known["sha256"])

    def _do(self, stage: Stage, source: Path, key: str) -> Mapping[str, Any]:
        """Do a stage, judge what comes out, and keep both."""
        begun = time.monotonic()
        made = self._make(stage, source, key)
        seconds = made.seconds or time.monotonic() - begun
        detector = made.detector
        params, macs = self.work.count(detector, self.used.size)
        found = self._judge(stage, made)
        if stage.settings:
            step = self._step(stage, {**stage.settings, **made.settings}, seconds, found)
            step = replace(step, numbers={"params": float(params), "macs": float(macs), **step.numbers})
            detector = replace(detector, lineage=detector.lineage.then(step))
        sha256 = self.work.write(self.request.folder / stage.file, detector)
        self.judgements.judge(self._judge_key(sha256), lambda: found)
        self.journal.add(self._count_key(sha256), "count", stage.name, {"params": params, "macs": macs})
        result = {"sha256": sha256, "seconds": seconds, "epochs": made.epochs, "notes": to_json(made.notes)}
        self.journal.add(key, "stage", stage.name, result)
        return result

    def _step(self, stage: Stage, settings: Mapping[str, Any], seconds: float, found: Assessment) -> Step:
        """A line of the lineage."""
        metric, training = found.accuracy.metric, stage.training
        measured = {"ap50": metric.ap50, "ap50_95": metric.ap50_95}
        conditions = {"protocol": self.used.protocol, "size": "x".join(map(str, self.used.size))}
        return Step(
            stage.name,
            settings,
            self.used.train if training else "",
            training.seed if training else 0,
            seconds,
            {name: float(value) for name, value in measured.items() if value is not None},
            {**self.work.tools(), **conditions},
        )

    def _make(self, stage: Stage, source: Path, key: str) -> Made:
        recipe, folder = self.request.recipe, self.request.folder
        if stage.training is None:
            detector = self.work.read(source)
            if stage.name == "prune" and recipe.prune is not None:
                return self._pruned(detector, recipe.prune, file_digest(source))
            return Made(detector)
        prepare(folder / stage.folder, key)
        taught = self._taught(stage)
        teacher = next(one for one in self.stages if one.name == recipe.distillation.teacher) if taught else None
        order = Order(
            stage.name,
            source,
            stage.training,
            folder / stage.folder,
            adapt=stage.name == "baseline",
            slimming=recipe.slimming if stage.name == "sparse" else None,
            keep=self._kept() if stage.name == "sparse" else (),
            distillation=recipe.distillation if taught else None,
            teacher=folder / teacher.file if teacher else None,
        )
        self.pace.begins(stage.name)
        return self.work.train(order, (self.train, self.val), folder / DATA, self.pace)

    def _pruned(self, detector: Detector, pruning: Pruning, source: str) -> Made:
        request, used = self.request, self.used
        if request.goal:
            # not by the number of trials: more go on with those that there are
            name = digest([source, request.goal, pruning, used.train, used.size, used.protocol])[:12]
            sets, folder = (self.train, self.val), request.folder
            hunt = Hunt(
                request.goal, request.trials, folder / SEARCH / name, sets, folder / DATA, used.protocol, used.size
            )
            pruning = self.work.search(detector, pruning, hunt, self.say)
        self.say("prune: choosing channels")
        return self.work.prune(detector, pruning, used.size)

    def _judge(self, stage: Stage, made: Made) -> Assessment:
        def progress(done: int, count: int) -> None:
            if done == count or done % 50 == 0:
                self.say(f"{stage.name}: judged on {done} of {count} images")

        return self.work.judge(made.detector, self.val, self.used.protocol, self.used.size, progress)

    def _judge_key(self, sha256: str) -> tuple[object, ...]:
        return judge_key(sha256, self.used.val, self.used.protocol, self.used.size)

    def _count_key(self, sha256: str) -> str:
        return digest({"counted": sha256, "size": self.used.size})

    def _rung(self, stage: Stage) -> Rung:
        """A stage as a row: counted and judged as this run wants it, whenever it was done."""
        sha256, path = self.sha256[stage.name], self.request.folder / stage.file
        judged = self.judgements.judge(self._judge_key(sha256), lambda: self._judge(stage, Made(self.work.read(path))))
        counted = self.journal.get(self._count_key(sha256))
        if counted is None:
            params, macs = self.work.count(self.work.read(path), self.used.size)
            counted = {"params": params, "macs": macs}
            self.journal.add(self._count_key(sha256), "count", stage.name, counted)
        untaught = stage.name == "distill" and not self._taught(stage)
        rung = Rung(
            name="trained on" if untaught else NAMES[stage.name],
            form="PyTorch fp32",
            stage=stage.name,
            file=stage.file,
            sha256=sha256,
            bytes=path.stat().st_size,
            params=int(counted["params"]),
            macs=int(counted["macs"]),
            size=self.used.size,
            protocol=protocol_of(self.used.protocol).sentence,
            accuracy=judged.accuracy,
            difference=self._difference(self.rungs[0], sha256, judged) if self.rungs else None,
            against_previous=self._difference(self.rungs[-1], sha256, judged) if self.rungs else None,
            previous=self.rungs[-1].name if self.rungs else "",
            run_by="PyTorch",
            doubts=judged.accuracy.doubts,
        )
        write_record(self.request.folder / f"{stage.name}.assessment.json", rung)
        return rung

    def _difference(self, reference: Rung, sha256: str, judged: Judged) -> PairedDifference | None:
        """Paired over the same images, with a 90 % interval; ``None`` where there is no object in them."""
        if not judged.matches.truths.any():
            return None
        key = digest({"difference": [self._judge_key(reference.sha256), self._judge_key(sha256)]})
        known = self.journal.get(key)
        if known is None:
            self.say(f"comparing with {reference.name}")
            before = self.judgements.judge(self._judge_key(reference.sha256), _gone)
            known = to_json(paired_difference(before.matches, judged.matches))
            self.journal.add(key, "difference", reference.stage, known)
        return from_json(PairedDifference, dict(known), str(self.journal.path))

    def _best(self, last: Stage) -> str:
        """The network after the last stage, for our own tools and for Ultralytics'."""
        folder, sha256 = self.request.folder, self.sha256[last.name]
        ours, theirs = folder / BEST, folder / BEST_ULTRALYTICS
        key = digest({"best": sha256})
        known = self.journal.get(key)
        if known is None or not all(p.is_file() and file_digest(p) == known[p.name] for p in (ours, theirs)):
            self.work.write_ultralytics(theirs, self.work.read(folder / last.file))
            copy(folder / last.file, ours)
            self.journal.add(key, "best", last.name, {p.name: file_digest(p) for p in (ours, theirs)})
        return ours.name

    def _record(self, best: str = "") -> CompressionRun:
        seconds = {name: float(known["seconds"]) for name, known in self.known.items()}
        epochs = {name: int(known["epochs"]) for name, known in self.known.items() if known["epochs"]}
        found = CompressionRun(self.used, tuple(self.rungs), dict(self.states), best, seconds, epochs, self.doubts)
        write_record(self.request.folder / RUN, found)
        return found


def _gone() -> Assessment:
    raise AssertionError("the reference is judged before what is compared with it")


def _few(labels: tuple[str, ...]) -> str:
    return ", ".join(labels[:4]) + (", ..." if len(labels) > 4 else "")
