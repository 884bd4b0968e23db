"""The task that knows nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays

from edgedeploy.errors import UsageError
from edgedeploy.tasks import Raw

any_array = arrays.arrays(np.float32, arrays.array_shapes(max_dims=4, max_side=4))


def test_samples_and_outputs_pass_through() -> None:
    one, two = np.ones((1, 3), np.float32), np.zeros((2, 2), np.int64)
    assert Raw().prepare(one).tensors[0] is one
    tensors = Raw().prepare((one, two.T)).tensors
    assert len(tensors) == 2
    assert tensors[1].flags.c_contiguous
    assert Raw().finish([one, two], None) == (one, two)
    for wrong in ((), ("text",), [one]):
        with pytest.raises(UsageError, match="raw sample"):
            Raw().prepare(wrong)  # type: ignore[arg-type]


@given(any_array)
def test_distance_is_a_share_and_zero_for_the_same(array: npt.NDArray[np.float32]) -> None:
    assert Raw().distance((array,), (array.copy(),)) == 0
    other = np.nan_to_num(array) + np.float32(1)
    assert 0 <= Raw().distance((array,), (other,)) <= 1


def test_distance_weighs_every_channel() -> None:
    reference = np.stack([np.full((1, 50), 600.0), np.full((1, 50), 0.5)], axis=1).astype(np.float32)
    lost = reference.copy()
    lost[:, 1] = 0  # the scores are gone, the boxes are right
    assert Raw().distance((reference,), (lost,)) == pytest.approx(0.5)
    assert Raw().distance((reference,), (reference * np.float32(1.01),)) == pytest.approx(0.01, rel=1e-3)


def test_the_worst_output_counts() -> None:
    good, bad = np.ones(4, np.float32), np.zeros(4, np.float32)
    assert Raw().distance((good, good), (good, bad)) == 1
    assert Raw().distance((good,), (good, good)) == 1
    assert Raw().distance((good,), (np.ones(5, np.float32),)) == 1
    assert Raw().distance((bad,), (good,)) == 1
    assert Raw().distance((), ()) == 0


def test_what_is_not_finite_is_far_unless_it_was_before() -> None:
    reference = np.array([1, np.nan, np.inf], np.float32)
    assert Raw().distance((reference,), (reference.copy(),)) == 0
    assert Raw().distance((np.ones(3),), (reference,)) == 1
    assert 0 < Raw().distance((reference,), (np.array([1.1, np.nan, np.inf], np.float32),)) < 0.2
