"""Several things timed in turn, in one process: the only way to a ratio that a noisy machine cannot spoil.

A shared machine runs faster and slower for seconds at a time. What is measured one after the other then differs for no
reason; what is measured in turn is slowed down together, and the ratio of the medians stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

#: Calls in a row before it is the next one's turn: one is warmed up by its predecessor's leftovers in the caches.
BLOCK = 5


def interleave(
    calls: Mapping[str, Callable[[], object]],
    duration: float,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, npt.NDArray[np.float64]]:
    """Seconds of every call, by name; blocks of `BLOCK` in turn, the order turned round each time.

    The first call of a block is not counted: it pays for what the other one left in the caches.

    Args:
        calls: at least one; each is called three times first, uncounted.
        duration: seconds over all; at least three rounds are made.
        clock: nanoseconds.
    """
    samples: dict[str, list[int]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(3):
            call()
    started, rounds = clock(), 0
    while rounds < 3 or clock() - started < duration * 1e9:
        names = list(calls) if rounds % 2 == 0 else list(calls)[::-1]
        for name in names:
            call = calls[name]
            call()
            for _ in range(BLOCK):
                before = clock()
                call()
                samples[name].append(clock() - before)
        rounds += 1
    return {name: np.asarray(values, np.float64) / 1e9 for name, values in samples.items()}


def turns(times: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    """What `interleave` gives for one call, turn by turn: the turns of two sides stand beside each other in time."""
    return list(times.reshape(-1, BLOCK))
