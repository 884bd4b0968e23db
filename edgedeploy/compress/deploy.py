"""The last rungs of a compression: bundles of the network before and after, judged by the same code, timed in turn.

A bundle that is still true is not exported again, and what was judged once is not judged again: called a second time in
the same folder, only the timing is new.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgedeploy import plugins
from edgedeploy.accuracy import Assessment, PairedDifference, assess, paired_difference
from edgedeploy.artifact import Artifact
from edgedeploy.capture import reference_session
from edgedeploy.compress.folder import BUNDLES, JUDGED
from edgedeploy.compress.judgements import Judged, Judgements
from edgedeploy.compress.result import CompressionRun, judge_key, read_run
from edgedeploy.compress.speed import Scope, Timed, threads_here, time_in_turn
from edgedeploy.compress.table import in_words, short, table_of
from edgedeploy.errors import EdgeDeployError, Incompatible, Unavailable, UsageError
from edgedeploy.exporter import Request
from edgedeploy.golden import Caller
from edgedeploy.model import InputShape, load
from edgedeploy.opening import Opener, described
from edgedeploy.pipeline import evidence_from, export_checkpoint
from edgedeploy.report.compression.files import keep
from edgedeploy.report.compression.records import CompressionTable, Rung
from edgedeploy.tasks import Detect, from_contract
from edgedeploy.tasks.dataset import DetectionSet, read_detection_set
from edgedeploy.tasks.protocol import protocol_of

Say = Callable[[str], None]


@dataclass(frozen=True)
class Form:
    """What a network is exported as: a backend by entry-point name, a precision, options of the exporter."""

    backend: str
    precision: str = "fp32"
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Form:
        """The form that ``onnxruntime:int8`` stands for.

        Raises:
            UsageError: it has more than those two parts.
        """
        backend, _, precision = text.partition(":")
        if not backend or ":" in precision:
            raise UsageError(f"'{text}' is no form of a network: write BACKEND:PRECISION, such as onnxruntime:int8.")
        return cls(backend, precision or "fp32")


#: The reference, what runs on processors, and what the paper has.
FORMS = (Form("onnxruntime"), Form("onnxruntime", "int8"), Form("tensorrt", "fp16"))


@dataclass(frozen=True)
class Deployment:
    """How to deploy.

    Args:
        forms: what each network is exported as; the first one, in fp32, is the reference of all speeds.
        images: of the training data that calibrate, at most.
        threads: numbers of threads to time with; one and all cores where empty.
        duration: seconds of timing per number of threads; 0 times nothing.
        scope: what a timed call is.
        data: where the data set of the run is now; where it was where ``None``.
        val: the same of the one to judge on, where it is one of its own.
    """

    forms: tuple[Form, ...] = FORMS
    images: int = 200
    threads: tuple[int, ...] = ()
    duration: float = 60.0
    scope: Scope = "network"
    data: Path | None = None
    val: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be timed, before anything takes time.

        Raises:
            UsageError: names the field, the value and what it has to be.
        """
        if not self.forms or self.forms[0].precision != "fp32":
            raise UsageError("Deployment: the first form has to be one in fp32, such as onnxruntime:fp32.")
        if self.duration < 0 or any(count < 1 for count in self.threads) or self.images < 1:
            raise UsageError("Deployment: duration has to be 0 or more, threads and images at least 1.")


def deploy(folder: Path, options: Deployment | None = None, say: Say | None = None) -> CompressionTable:
    """Export the first and the last network of the compression in ``folder``, judge, time, put all in one table.

    The table is kept in ``folder``; `edgedeploy.report.compression.files.publish` makes the report of it.


    Where a form cannot be made or run on this machine, its row says so instead.

    Raises:
        UsageError: there is no compression in ``folder``, the data are not those of the run, or a form is not known.
        EdgeDeployError: the reference cannot be exported or opened.
    """
    options, say = options or Deployment(), say or (lambda _: None)
    run = read_run(folder)
    if not run.rungs:
        raise UsageError(f"No stage of the compression in {folder} is done yet: there is nothing to deploy.")
    train, val = _data(run, options, folder)
    work = _Deploy(folder, options, say, run, train, val)
    networks = tuple(dict.fromkeys((run.rungs[0].name, run.rungs[-1].name)))
    for network in (rung for rung in run.rungs if rung.name in networks):
        for form in options.forms:
            work.add(network, form)
    timed = work.time()
    rungs = (*(replace(rung, untimed="timed as bundles") for rung in run.rungs), *_with_speeds(work.rungs, timed))
    table = table_of(folder, run, rungs, val, [one.timing for one in timed])
    keep(table, folder)
    return table


def _data(run: CompressionRun, options: Deployment, folder: Path) -> tuple[DetectionSet, DetectionSet]:
    """The data of the run, for training and for judging."""
    used = run.used
    place = options.data or Path(used.data)
    other = options.val or (place if options.data or not used.val_data else Path(used.val_data))
    train, val = read_detection_set(place, "train"), read_detection_set(other, "val")
    for data, path, digest, what in ((train, place, used.train, "trained"), (val, other, used.val, "judged")):
        if data.digest() != digest:
            raise UsageError(f"{path} is not the data set that {folder} was {what} on: images or labels differ.")
    return train, val


@dataclass
class _Deploy:
    folder: Path
    options: Deployment
    say: Say
    run: CompressionRun
    train: DetectionSet
    val: DetectionSet

    def __post_init__(self) -> None:
        self.judgements = Judgements(self.folder / JUDGED)
        self.rungs: list[Rung] = []
        self.bundles: dict[str, Artifact] = {}
        self.protocol = protocol_of(self.run.used.protocol)

    def add(self, network: Rung, form: Form) -> None:
        """One more rung: a bundle of ``network``, or why there is none."""
        exporter = plugins.find(plugins.EXPORTERS, form.backend).for_device(None, form.precision, form.options)
        name = f"{network.name}, {short(exporter.runtime)} {form.precision}"
        rung = replace(
            network, name=name, form=f"{in_words(exporter.runtime)} {form.precision}", previous=network.name,
            difference=None, against_previous=None, accuracy=None, file="", sha256="", bytes=0, run_by="", doubts=(),
            unmeasured="", untimed="",
        )  # fmt: skip
        try:
            plugins.find(plugins.RUNTIMES, exporter.runtime).preload()
            artifact = self._export(network, form, exporter)
            judged, run_by = self._judged(artifact, name)
        except (UsageError, OSError, MemoryError):
            raise
        except EdgeDeployError as error:
            if not self.rungs:  # the reference
                raise
            here = isinstance(error, (Unavailable, Incompatible))
            why = f"{'not possible on this machine' if here else 'it failed'}: {error}"
            self.rungs.append(replace(rung, unmeasured=why, untimed=why))
            return
        self.bundles[name] = artifact
        self.rungs.append(
            replace(
                rung,
                file=artifact.path.relative_to(self.folder).as_posix(),
                sha256=artifact.digest,
                bytes=artifact.model_size,
                accuracy=judged.accuracy,
                difference=self._difference(self.run.rungs[0], judged),
                against_previous=self._difference(network, judged),
                run_by=run_by,
                doubts=(*judged.accuracy.doubts, *artifact.manifest.notes),
            )
        )

    def time(self) -> list[Timed]:
        """All bundles in turn, per number of threads."""
        found = []
        if self.options.duration > 0:
            for threads in self.options.threads or threads_here():
                self.say(f"timing {len(self.bundles)} bundles in turn, threads: {threads}")
                reference = self.rungs[0].name
                found.append(time_in_turn(self.bundles, reference, threads, self.options.duration, self.options.scope))
        return found

    def _export(self, network: Rung, form: Form, exporter: Any) -> Artifact:
        """The bundle, from the network's file, calibrated on training images."""
        self.say(f"exporting {network.name} as {form.backend} {form.precision}")
        request = Request(exporter, evidence_from(self.train, self.options.images), InputShape(size=network.size))
        directory = self.folder / BUNDLES / f"{network.stage}-{form.backend}-{form.precision}"
        return export_checkpoint(str(self.folder / network.file), request, directory, self.say).artifact

    def _judged(self, artifact: Artifact, name: str) -> tuple[Judged, str]:
        """By its own runtime: what stands in for it is not the artifact."""
        task = from_contract(artifact.manifest.task or {})
        if not isinstance(task, Detect):
            raise UsageError(f"{artifact.path} is no detector, so that it has no AP.")
        opener = Opener(artifact.manifest.exporter.runtime)
        session = opener.open(artifact.files, artifact.signatures)
        try:
            run_by = f"{described(session)}, in {session.facts['computes_in']}"
            caller = Caller(session, artifact.signatures["main"])

            def make() -> Assessment:
                return assess(task, caller, self.val, artifact.digest, self.protocol, self._counted(name))

            return self.judgements.judge(self._key(artifact.digest, task.size), make), run_by
        finally:
            session.close()

    def _difference(self, reference: Rung, judged: Judged) -> PairedDifference | None:
        if not judged.matches.truths.any():
            return None
        before = self.judgements.judge(self._key(reference.sha256, reference.size), lambda: self._again(reference))
        return paired_difference(before.matches, judged.matches)

    def _again(self, rung: Rung) -> Assessment:
        """A network whose judgement is gone, in PyTorch."""
        model = load(self.folder / rung.file, InputShape(size=rung.size))
        task = from_contract(model.task or {})
        assert isinstance(task, Detect)
        caller = Caller(reference_session(model), model.graphs["main"].signature)
        return assess(task, caller, self.val, rung.sha256, self.protocol, self._counted(rung.name))

    def _key(self, sha256: str, size: tuple[int, int]) -> tuple[object, ...]:
        return judge_key(sha256, self.run.used.val, self.run.used.protocol, size)

    def _counted(self, name: str) -> Callable[[int, int], None]:
        def count(done: int, images: int) -> None:
            if done == images or done % max(1, images // 10) == 0:
                self.say(f"{name}: judged on {done} of {images} images")

        return count


def _with_speeds(rungs: list[Rung], timed: list[Timed]) -> list[Rung]:
    found = []
    for rung in rungs:
        speed = tuple(one.speeds[rung.name] for one in timed if rung.name in one.speeds)
        why = next((one.untimed[rung.name] for one in timed if rung.name in one.untimed), "")
        found.append(replace(rung, speed=speed, untimed=rung.untimed or ("" if speed else why or "not asked for")))
    return found
