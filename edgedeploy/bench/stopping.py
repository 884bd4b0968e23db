"""When there are samples enough: the interval of a percentile is narrow."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgedeploy.bench.quantiles import TooFew, interval

#: Percentiles whose intervals have to be narrow.
PERCENTILES = (0.5, 0.9)


def precise(times: npt.NDArray[np.float64], precision: float) -> bool:
    """Whether the interval of each of `PERCENTILES` reaches at most ``precision`` of its middle to either side."""
    found = [interval(times, q) for q in PERCENTILES]
    return all(not isinstance(one, TooFew) and one[1] - one[0] <= precision * (one[0] + one[1]) for one in found)
