"""How queries arrive: MLPerf's four scenarios, and two of ours. What each means, and what it may be quoted for.

Names and rules of the first four are those of MLPerf Inference (V. J. Reddi et al., "MLPerf Inference Benchmark", 2020,
section 4; ``mlperf.conf`` of LoadGen for durations and counts).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from edgedeploy.errors import UsageError, did_you_mean
from edgedeploy.units import show

Name = Literal["single-stream", "multi-stream", "offline", "server", "paced", "sustained"]
NAMES: tuple[Name, ...] = ("single-stream", "multi-stream", "offline", "server", "paced", "sustained")
Engine = Literal["edgedeploy", "loadgen"]
#: Samples of one query of multi-stream, as MLPerf has it.
MULTI_STREAM_SAMPLES = 8
#: Scenarios whose queries come by a clock of their own, whatever the session is doing.
TIMED: tuple[Name, ...] = ("server", "paced")
#: Queries per second at most: a process that sleeps is woken up some 50 us late by an ordinary kernel.
FASTEST = 20_000.0


@dataclass(frozen=True)
class Scenario:
    """How queries arrive.

    Args:
        name: ``single-stream``: one query of one sample after the other. ``multi-stream``: one query of several samples
            after the other. ``offline``: all samples at once, as fast as they go through. ``server``: queries arrive
            as a Poisson process. ``paced``: queries arrive by the clock of a camera or a microphone. ``sustained``:
            single-stream for so long that the device gets hot.
        rate: queries per second, of ``server`` and ``paced``.
        deadline: seconds after a query is due in which it has to be answered, of ``server`` and ``paced``; the period
            where ``None`` and paced.
        samples_per_query: of ``multi-stream``; one else.
        seed: of the arrivals of ``server``, of the first process; see `of_process`.
        engine: what issues the queries: ours, or MLPerf's LoadGen (single-stream and offline).
    """

    name: Name = "single-stream"
    rate: float | None = None
    deadline: float | None = None
    samples_per_query: int = 1
    seed: int = 0
    engine: Engine = "edgedeploy"

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise UsageError(f"There is no scenario '{self.name}'.{did_you_mean(self.name, NAMES)}")
        timed = self.name in TIMED
        if timed and self.rate is None:
            raise UsageError(f"The scenario '{self.name}' needs a rate, as in --rate 30Hz.")
        for what, value in {"rate": self.rate, "deadline": self.deadline}.items():
            if value is not None and not timed:
                raise UsageError(f"The scenario '{self.name}' has no {what}; 'server' and 'paced' have one.")
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"A scenario cannot have a {what} of {value:g}; give more than zero.")
        if self.rate is not None and self.rate > FASTEST:
            raise UsageError(
                f"Queries cannot be issued on time at {show(self.rate, 'Hz')}: {show(FASTEST, 'Hz')} is the most; "
                "measure single-stream, or give a batch per query."
            )
        if self.samples_per_query < 1 or (self.samples_per_query > 1 and self.name != "multi-stream"):
            raise UsageError(
                f"A query of the scenario '{self.name}' cannot have {self.samples_per_query} samples; "
                "'multi-stream' has one or more."
            )
        if self.engine == "loadgen" and self.name not in ("single-stream", "offline"):
            raise UsageError(f"LoadGen drives single-stream and offline here, not {self.name}; leave --engine out.")

    @property
    def limit(self) -> float | None:
        """Seconds after it is due in which a query has to be answered, where there is such a limit."""
        return 1 / self.rate if self.name == "paced" and self.rate and self.deadline is None else self.deadline

    def of_process(self, number: int) -> Scenario:
        """As process ``number`` (from 0) has it: queries of ``server`` that arrive at the same times tell the same."""
        if self.name != "server" or number == 0:
            return self
        # different integers may give the same draws; a text is hashed first
        return replace(self, seed=random.Random(f"{self.seed} {number}").getrandbits(32))

    def due(self) -> Iterator[int]:
        """When the queries of `server` and `paced` are due, without end: nanoseconds from the begin of a run.

        Those of ``paced`` are a period apart, the first at 0. Between those of ``server`` are independent times of
        exponential distribution, so that arrivals are a Poisson process; the same ones for the same seed.
        """
        assert self.rate is not None
        if self.name == "paced":
            number = 0
            while True:
                yield int(number * 1e9 / self.rate)
                number += 1
        draw, at = random.Random(self.seed), 0.0
        while True:
            at += draw.expovariate(self.rate)
            yield int(at * 1e9)


#: One query of one sample after the other.
SINGLE_STREAM = Scenario()
