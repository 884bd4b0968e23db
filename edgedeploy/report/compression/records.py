"""What a compression came to: a row per form that the network took, all of them judged by the same code.

The records only, without torch; `edgedeploy.report.compression.text` and `edgedeploy.report.compression.page` show
them, `edgedeploy.report.compression.files` keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgedeploy.accuracy import Accuracy, PairedDifference
from edgedeploy.records import from_json, to_json

SCHEMA = 1


@dataclass(frozen=True)
class Speed:
    """How fast one rung answered one stream, back to back, in turn with all other rungs of the same run.

    ``latency`` is the median of ``samples`` calls in seconds. ``ratio`` is how many times as fast as the table's
    reference it was (above 1: faster), between ``low`` and ``high`` with the confidence of the `Timing`; ``None`` where
    there were too few calls to say.
    """

    threads: int
    latency: float
    samples: int
    ratio: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def fps(self) -> float:
        """1 / latency: the throughput of one stream, not that of many at once."""
        return 1 / self.latency


@dataclass(frozen=True)
class Rung:
    """One form of the network.

    Args:
        name: ``baseline``, ``sparse``, ``pruned``, ``fine-tuned``, ``distilled``; of bundles with what runs them, as
            ``distilled, ONNX Runtime int8``.
        form: who computes it: ``PyTorch fp32`` or the runtime and the precision of a bundle.
        stage: the stage of the recipe that the network is from.
        file: its name below the folder of the run.
        sha256: of the file, or the digest of the bundle.
        bytes: of the file, or of the graphs of a bundle.
        params: parameters with batch normalisation not folded, as they are published.
        macs: multiply-accumulates of the convolutions for one image of ``size``; 1 MAC is 2 FLOPs.
        size: (height, width) of the input.
        protocol: the rules of the evaluation in words.
        accuracy: with evaluator, data and thresholds; ``None`` where it was not measured.
        difference: AP minus that of the baseline over the same images; ``None`` for the baseline itself.
        against_previous: AP minus that of the rung named ``previous``.
        speed: per number of threads; empty where it was not timed, and then ``untimed`` says why.
        unmeasured: why there is no accuracy; empty where there is.
        run_by: what computed the results that ``accuracy`` is of.
        doubts: reasons not to trust a number.
    """

    name: str
    form: str
    stage: str
    file: str
    sha256: str
    bytes: int
    params: int
    macs: int
    size: tuple[int, int]
    protocol: str = ""
    accuracy: Accuracy | None = None
    difference: PairedDifference | None = None
    against_previous: PairedDifference | None = None
    previous: str = ""
    speed: tuple[Speed, ...] = ()
    untimed: str = ""
    unmeasured: str = ""
    run_by: str = ""
    doubts: tuple[str, ...] = ()

    @property
    def flops(self) -> int:
        """Floating point operations: 2 per multiply-accumulate."""
        return 2 * self.macs


@dataclass(frozen=True)
class Timing:
    """One run in which all rungs took turns.

    ``reference`` is the rung whose speed counts as 1; ``device`` what it ran on; ``includes`` which part of the work a
    call is; ``duration`` seconds over all rungs; ``confidence`` that of the intervals of the ratios; ``foreign`` the
    share of the processors that others used meanwhile, ``steal`` what the hypervisor took (0 to 1).
    """

    threads: int
    reference: str
    device: str
    includes: str
    duration: float
    confidence: float
    foreign: float | None = None
    steal: float | None = None


@dataclass(frozen=True)
class PaperRow:
    """Figures that somebody else published, never measured here; ``None`` where they give none.

    ``source`` says where each stands, ``flops`` is what they call so, ``ap50`` a share (0 to 1).
    """

    name: str
    source: str
    params: float | None = None
    macs: float | None = None
    flops: float | None = None
    ap50: float | None = None
    fps: float | None = None


@dataclass(frozen=True)
class Paper:
    """A published table beside ours; ``remarks`` say what is odd about its figures or missing."""

    title: str
    model: str
    data: str
    rows: tuple[PaperRow, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class CompressionTable:
    """Every rung of one compression, and what all the numbers depend on.

    ``data`` names the images that accuracy was measured on, ``digest`` is their sha256. ``recipe`` is the recipe's
    name, ``settings`` its stages with their settings, ``lineage`` a line per stage that was done. ``environment`` is
    what `edgedeploy.bench.environment` found. ``pictures`` are captions of PNG files by name, below the run's folder.
    """

    rungs: tuple[Rung, ...]
    data: str
    digest: str
    images: int
    instances: int
    recipe: str
    created: str
    timings: tuple[Timing, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    lineage: tuple[str, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    paper: tuple[Paper, ...] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values of all of it."""
        plain: dict[str, Any] = to_json(self)
        return plain

    @classmethod
    def from_json(cls, data: object, where: str) -> CompressionTable:
        """The table that ``data`` describes; ``where`` names the file in messages.

        Raises:
            UsageError: not one, or damaged.
        """
        return from_json(cls, data, where)
