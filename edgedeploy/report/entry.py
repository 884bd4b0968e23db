"""What a report is about: a measurement with what else is known of the same artifact, and the numbers of its row.

Every form of the report (page, Markdown, CSV) takes its numbers from `Row`, so that they agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgedeploy.bench.doubts import doubts
from edgedeploy.bench.measurement import Measurement
from edgedeploy.bench.outcome import Outcome, outcome
from edgedeploy.bench.scenario import Scenario
from edgedeploy.bench.statistics.quantiles import TooFew
from edgedeploy.bench.telemetry import energy_per_pass
from edgedeploy.comparison import Comparison
from edgedeploy.history import AccuracyRow
from edgedeploy.report import frames
from edgedeploy.units import show
from edgedeploy.verdict import Verdict

#: Scenarios in which passes follow one another without a pause, so that a mean latency is also a rate.
BACK_TO_BACK = ("single-stream", "multi-stream", "sustained")


@dataclass(frozen=True)
class Entry:
    """One measurement, and what else is known about the same artifact.

    Args:
        measurement: the record.
        accuracy: its artifact against the checkpoint on a data set.
        precision: what the artifact computes in; where ``None``, what the session said, if it did.
        verdicts: what the measurement was judged to be.
    """

    measurement: Measurement
    accuracy: Accuracy | None = None
    precision: str | None = None
    verdicts: tuple[Verdict, ...] = ()


@dataclass(frozen=True)
class Rate:
    """Work per second, and exactly which: two rates of different names are never the same number."""

    value: float
    unit: str
    name: str

    def __str__(self) -> str:
        return f"{self.value:.4g} {self.unit}"


@dataclass(frozen=True)
class Accuracy:
    """A metric of the artifact, and how far it lies from its checkpoint on the same images, with an interval.

    ``confidence`` is that of the interval, where it was kept; ``data`` is equal for those that were taken on the same
    images in the same way.
    """

    name: str
    value: float
    reference: float
    difference: float
    low: float
    high: float
    confidence: float | None
    data: str

    @classmethod
    def of(cls, comparison: Comparison) -> Accuracy | None:
        """AP50-95 of a comparison; ``None`` where either side has none."""
        reference, candidate = comparison.reference.metric.ap50_95, comparison.candidate.metric.ap50_95
        if reference is None or candidate is None:
            return None
        difference, on = comparison.difference.ap50_95, comparison.candidate
        rules = f"{on.metric.max_detections} detections"
        if on.metric.ignored or "@" in on.metric.protocol:  # under other rules it is not comparable
            rules = f"{rules}, {on.metric.protocol}"
        return cls(
            name="AP50-95",
            value=candidate,
            reference=reference,
            difference=candidate - reference,
            low=difference.low,
            high=difference.high,
            confidence=difference.confidence,
            data=f"{on.data_digest} {on.split}, {rules}",
        )

    @classmethod
    def remembered(cls, row: AccuracyRow) -> Accuracy | None:
        """AP50-95 as the history lists it; ``None`` where either side has none."""
        if row.reference is None or row.ap50_95 is None:
            return None
        return cls(
            name="AP50-95",
            value=row.ap50_95,
            reference=row.reference,
            difference=row.ap50_95 - row.reference,
            low=row.low,
            high=row.high,
            confidence=None,
            data=f"{row.data_digest} {row.images} images",
        )


@dataclass(frozen=True)
class Row:
    """The numbers of one measurement, in SI. ``None`` is unknown; `TooFew` is refused, and says what it needs.

    ``frames`` says what a pass is where it is a frame of a stream, and is empty elsewhere.
    """

    model: str
    device: str
    backend: str
    precision: str | None
    scenario: str
    samples: int
    p50: float | TooFew
    p50_interval: tuple[float, float] | TooFew
    p90: float | TooFew
    p99: float | TooFew
    mean: float
    rate: Rate
    memory: int | None
    energy: float | None
    accuracy: Accuracy | None
    doubts: tuple[str, ...]
    verdict: str
    outcome: str
    frames: str = ""


def rows(entries: Sequence[Entry]) -> tuple[Row, ...]:
    """A row per entry, in their order; each measurement is doubted in the light of those taken before it."""
    measurements = [entry.measurement for entry in entries]
    found = []
    for entry in entries:
        earlier = [m for m in measurements if m.created < entry.measurement.created]
        earlier.sort(key=lambda m: m.created)
        found.append(_row(entry, doubts(entry.measurement, earlier)))
    return tuple(found)


def _row(entry: Entry, doubted: tuple[str, ...]) -> Row:
    measurement = entry.measurement
    conditions, place = measurement.conditions, measurement.place
    said = measurement.processes[0].facts.get("computes_in")
    found = outcome(measurement)
    judged, verdict = _verdict(entry, found, doubted)
    return Row(
        model=conditions.subject,
        device=place.target or place.device,
        backend=conditions.backend,
        precision=entry.precision or (None if said is None else str(said)),
        scenario=scenario_name(conditions.scenario),
        samples=measurement.count,
        p50=measurement.percentile(0.5),
        p50_interval=measurement.interval(0.5),
        p90=measurement.percentile(0.9),
        p99=measurement.percentile(0.99),
        mean=measurement.mean(),
        rate=rate(found),
        memory=measurement.peak_memory,
        energy=energy(measurement),
        accuracy=entry.accuracy,
        doubts=doubted,
        verdict=verdict,
        outcome=judged,
        frames=frames.sentence(measurement, found),
    )


def scenario_name(scenario: Scenario) -> str:
    """``single-stream``, ``paced at 30 Hz``, ``multi-stream of 8``; the engine where it is not our own."""
    name: str = scenario.name
    if scenario.rate is not None:
        name += f" at {show(scenario.rate, 'Hz')}"
    if scenario.samples_per_query > 1:
        name += f" of {scenario.samples_per_query}"
    return name + (" (LoadGen)" if scenario.engine == "loadgen" else "")


def rate(found: Outcome) -> Rate:
    """What goes through per second, as its scenario has it; FPS is only what one stream does back to back."""
    metric = found.throughput
    unit = "FPS" if found.scenario in BACK_TO_BACK else "samples/s"
    return Rate(metric.value or 0.0, unit, metric.name)


def energy(measurement: Measurement) -> float | None:
    """Joules per inference, mean of the processes; ``None`` where no process tells one."""
    each = measurement.conditions.samples_per_pass
    found = [energy_per_pass(p.telemetry, len(p.samples) * each).value for p in measurement.processes]
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if known else None


def _verdict(entry: Entry, found: Outcome, doubted: tuple[str, ...]) -> tuple[str, str]:
    """The worst of the verdicts that were given; without one, what can be said of the number itself."""
    for worst in ("fail", "not enough data", "pass"):
        for verdict in entry.verdicts:
            if verdict.outcome == worst:
                return worst, f"{worst}: {' '.join(verdict.reasons)}"
    median, between = entry.measurement.percentile(0.5), entry.measurement.interval(0.5)
    if isinstance(median, TooFew) or isinstance(between, TooFew):
        return "doubted", f"Mean {show(entry.measurement.mean(), 's')}; {median}."
    if doubted:
        return "doubted", f"{show(median, 's')}, {counted(len(doubted), 'doubt')}: {doubted[0]}"
    special = _headline(found)
    if special:
        return "quotable", f"{special}; {show(median, 's')} at p50, without a doubt."
    half = (between[1] - between[0]) / 2 / median
    within = f"{half:.1%}" if half >= 0.0005 else "less than 0.1%"
    return "quotable", f"{show(median, 's')} give or take {within}, without a doubt."


def _headline(found: Outcome) -> str:
    """What a scenario is quoted for where that is not its median; nothing where it is."""
    value = found.headline.value
    if found.schedule is not None and found.headline.unit == "" and value is not None:
        return f"{value:.2%} {found.headline.name}"
    if found.endurance is not None and value is not None:
        return f"{show(value, 's')} at the end, {found.endurance.ratio:.0%} of the peak speed"
    if found.scenario == "offline" and value is not None:
        return f"{value:.4g} samples/s"
    return ""


def counted(number: int, what: str) -> str:
    """``1 doubt``, ``2 doubts``."""
    return f"{number} {what}{'s'[: number != 1]}"
