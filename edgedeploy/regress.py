"""Has it become slower? Two sets of measurements of one model, compared as distributions: the middle, and the tail.

A mean hides a tail, and two runs of the same thing never have the same mean. So percentiles are compared, each by the
ratio after / before with an interval that allows for what differs from process to process, and only numbers that were
taken under the same conditions.

With three processes or more on either side, the percentile of each process is one observation, and its logarithm is
compared by Welch's t-test (B. L. Welch, "The generalization of Student's problem when several different population
variances are involved", Biometrika 34, 1947): whatever varies between processes, known or not, is in it. What varies
from run to run is in it only where a side has several runs; the margin has to allow for the rest. With fewer processes,
`edgedeploy.bench.statistics.ratio.compare_groups` has to make do with what varies inside of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgedeploy.bench.doubts import doubts
from edgedeploy.bench.measurement import Measurement
from edgedeploy.bench.statistics.quantiles import TooFew, label, needed
from edgedeploy.bench.statistics.ratio import compare_groups, rank_test
from edgedeploy.bench.statistics.uncertainty import Times, student
from edgedeploy.errors import Incompatible, UsageError
from edgedeploy.units import show

Outcome = Literal["pass", "fail", "not enough data"]
Finding = Literal["slower", "faster", "same", "unclear", "too few samples"]

#: What is compared. A verdict needs the first two; the last can only raise an alarm, as its interval is wide.
PERCENTILES = (0.5, 0.9, 0.99)
NEEDED = (0.5, 0.9)
#: Processes on either side from which on they are compared as observations.
ENOUGH = 3
#: The worst outcome comes first.
RANKED: tuple[Outcome, ...] = ("fail", "not enough data", "pass")


@dataclass(frozen=True)
class Rules:
    """What counts as slower.

    Args:
        margin: share by which a percentile may grow.
        confidence: that no percentile is called slower that is not, all of them together.
        force: compare across conditions that differ.
    """

    margin: float = 0.05
    confidence: float = 0.95
    force: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise UsageError(f"A margin cannot be {self.margin:g}; give a share of zero or more, as 3%.")
        if not 0 < self.confidence < 1:
            raise UsageError(f"A confidence cannot be {self.confidence:g}; it lies between 0 and 1.")


@dataclass(frozen=True)
class Change:
    """One percentile end to end: seconds ``before`` and ``after``, their ``ratio`` with its interval, and the finding.

    Where the samples do not support it, the numbers are ``None`` and ``needs`` says how many it takes. Where
    ``of_processes``, they are geometric means of the percentile of each process, else that of all passes together.
    """

    q: float
    finding: Finding
    before: float | None = None
    after: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    needs: int | None = None
    of_processes: bool = False


@dataclass(frozen=True)
class Regression:
    """The answer for one subject.

    Args:
        subject: what was measured: model, device, backend, scenario.
        outcome: *fail* if a percentile is clearly slower by more than the margin; *pass* if p50 and p90 clearly are
            not; else *not enough data*.
        sentence: why.
        changes: one per percentile.
        superiority: the probability that a pass of now takes longer than one of before; 0.5 is neither.
        p: two-sided, of a rank test that it is 0.5.
        processes: of before and of now. Samples of one process are alike: more processes tell more.
        samples: of before and of now.
        differences: the conditions that differ, where the comparison was forced.
        notes: reasons to distrust the numbers of now.
    """

    subject: str
    outcome: Outcome
    sentence: str
    changes: tuple[Change, ...]
    superiority: float
    p: float
    processes: tuple[int, int]
    samples: tuple[int, int]
    differences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def subject(measurement: Measurement) -> str:
    """What a measurement is of, in words: two of the same subject are before and after of one another."""
    conditions, facts = measurement.conditions, measurement.processes[0].facts
    scenario = conditions.scenario
    computed = facts.get("computes_in")
    parts = [
        f"{conditions.name} on {measurement.place.target or measurement.place.device}",
        conditions.backend + (f" in {computed}" if computed else ""),
        scenario.name + ("" if scenario.rate is None else f" {show(scenario.rate, 'Hz')}"),
        *([f"batch {conditions.batch}"] if conditions.batch > 1 else []),
        *([f"graph '{conditions.graph}'"] if conditions.graph != "main" else []),
    ]
    return ", ".join(parts)


def regressions(
    before: Sequence[Measurement], after: Sequence[Measurement], rules: Rules | None = None
) -> tuple[Regression, ...]:
    """An answer for each subject of ``after``, in its order.

    Raises:
        UsageError: none of them was measured before.
        Incompatible: see `regress`.
    """
    known, wanted = _by_subject(before), _by_subject(after)
    common = [name for name in wanted if name in known]
    if not common:
        raise UsageError(
            f"Nothing to compare: before there was {'; '.join(known) or 'nothing'}, "
            f"and now there is {'; '.join(wanted) or 'nothing'}."
        )
    return tuple(regress(known[name], wanted[name], rules) for name in common)


def regress(before: Sequence[Measurement], after: Sequence[Measurement], rules: Rules | None = None) -> Regression:
    """Whether what was measured ``after`` is slower than what was measured ``before``.

    Of either side those measurements count that were taken under the conditions of the newest of ``after``; all their
    processes are compared.

    Raises:
        Incompatible: there are none of those before, and it is not forced; the conditions that differ are named.
    """
    rules = rules or Rules()
    newest = max(after, key=lambda m: m.created)
    now = [m for m in after if m.fingerprint() == newest.fingerprint()]
    then = [m for m in before if m.fingerprint() == newest.fingerprint()]
    differences: tuple[str, ...] = ()
    if not then:
        last = max(before, key=lambda m: m.created)
        differences = last.differences(newest)
        if not rules.force:
            raise Incompatible(
                f"{subject(newest)}: the conditions differ, so that the numbers must not be compared "
                f"({'; '.join(differences)}). Measure both under the same conditions, or --force it."
            )
        then = [m for m in before if m.fingerprint() == last.fingerprint()]
    return _judged(then, now, rules, differences)


def _judged(
    then: Sequence[Measurement], now: Sequence[Measurement], rules: Rules, differences: tuple[str, ...]
) -> Regression:
    a, b = ([process.samples.seconds() for m in side for process in m.processes] for side in (then, now))
    each = 1 - (1 - rules.confidence) / len(PERCENTILES)  # Bonferroni: the alarms of all together stay rare
    superiority, p = rank_test(a, b)
    changes = tuple(_change(a, b, q, each, rules.margin) for q in PERCENTILES)
    outcome, sentence = _verdict(changes, rules.margin)
    return Regression(
        subject=subject(now[-1]),
        outcome=outcome,
        sentence=sentence,
        changes=changes,
        superiority=superiority,
        p=p,
        processes=(len(a), len(b)),
        samples=(sum(map(len, a)), sum(map(len, b))),
        differences=differences,
        notes=_notes(then, now),
    )


def _change(a: Sequence[Times], b: Sequence[Times], q: float, confidence: float, margin: float) -> Change:
    least = min(sum(map(len, side)) for side in (a, b))
    if least < needed(q):
        return Change(q, "too few samples", needs=needed(q))
    inside = all(len(values) * (1 - q) >= 1 for values in (*a, *b))  # the percentile lies among the samples of each
    apart = min(len(a), len(b)) >= ENOUGH and inside
    if apart:
        before, after, low, high = _observed(a, b, q, confidence)
    else:
        found = compare_groups(a, b, q, confidence)
        assert not isinstance(found, TooFew)
        before, after = (float(np.quantile(np.concatenate(side), q, method="median_unbiased")) for side in (a, b))
        low, high = found.low, found.high
    return Change(q, _finding(low, high, margin), before, after, after / before, low, high, of_processes=apart)


def _observed(a: Sequence[Times], b: Sequence[Times], q: float, confidence: float) -> tuple[float, float, float, float]:
    """The geometric means of the ``q`` quantiles of the processes of ``a`` and of ``b``, and Welch's interval of their
    ratio.
    """
    logs = [np.log([np.quantile(values, q, method="median_unbiased") for values in side]) for side in (a, b)]
    means = [float(values.mean()) for values in logs]
    shares = [float(values.var(ddof=1)) / len(values) for values in logs]
    half = 0.0
    if sum(shares) > 0:
        freedom = sum(shares) ** 2 / sum(
            share**2 / (len(values) - 1) for share, values in zip(shares, logs, strict=True)
        )
        half = student(confidence, freedom) * math.sqrt(sum(shares))
    ratio = means[1] - means[0]
    return math.exp(means[0]), math.exp(means[1]), math.exp(ratio - half), math.exp(ratio + half)


def _finding(low: float, high: float, margin: float) -> Finding:
    if low > 1 + margin:
        return "slower"
    if high < 1 / (1 + margin):
        return "faster"
    return "same" if high <= 1 + margin else "unclear"


def _verdict(changes: Sequence[Change], margin: float) -> tuple[Outcome, str]:
    slower, faster = ([c for c in changes if c.finding == finding] for finding in ("slower", "faster"))
    if slower:
        return "fail", f"Slower by more than the margin of {100 * margin:.3g}%: {_listed(slower)}."
    open_ = [c for c in changes if c.q in NEEDED and c.finding in ("unclear", "too few samples")]
    if open_:
        return "not enough data", f"Whether it is slower cannot be told from these samples: {_listed(open_)}."
    if faster:
        return "pass", f"Not slower, and faster: {_listed(faster)}."
    return "pass", f"Not slower: {_listed([c for c in changes if c.finding == 'same'])}."


def _listed(changes: Sequence[Change]) -> str:
    return ", ".join(_words(change) for change in changes)


def _words(change: Change) -> str:
    if change.ratio is None or change.low is None or change.high is None:
        return f"{label(change.q)} needs {change.needs} samples on either side"
    return f"{label(change.q)} {percent(change.ratio)} ({percent(change.low)} to {percent(change.high)})"


def percent(ratio: float) -> str:
    """``+20.0%`` of 1.2; beyond ten times it only says so."""
    return f"{ratio - 1:+.1%}" if ratio <= 10 else "over +900%"


def _notes(then: Sequence[Measurement], now: Sequence[Measurement]) -> tuple[str, ...]:
    notes = [sentence for measurement in now for sentence in doubts(measurement)]
    means = max(m.conditions.mean_of for m in (*then, *now))
    if means > 1:
        notes.append(f"Each sample is the mean of {means} passes, so that a tail of single passes cannot be seen.")
    if min(sum(len(m.processes) for m in side) for side in (then, now)) < 2:
        notes.append("One side is a single process, so that what differs from process to process is not known.")
    return tuple(dict.fromkeys(notes))


def _by_subject(measurements: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    found: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        found.setdefault(subject(measurement), []).append(measurement)
    return found
