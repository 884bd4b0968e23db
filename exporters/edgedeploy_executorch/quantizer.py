"""XNNPACK's quantiser, set to all that XNNPACK has in int8: per-channel weights, per-tensor activations.

Those have a range from samples or, where only the weights are to be small, the range of each call.
"""

from __future__ import annotations

from typing import Any

from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

from edgedeploy.precision.program import unit_of


class _AfterFolding(XNNPACKQuantizer):  # type: ignore[misc]
    """Without the patterns of BatchNorm, which is folded by now; looking for them costs seconds at every trial."""

    SUPPORTED_PATTERNS = [pattern for pattern in XNNPACKQuantizer.SUPPORTED_PATTERNS if not pattern.is_qat]  # noqa: RUF012


def quantizer() -> Any:
    """A new quantiser."""
    return _AfterFolding().set_global(get_symmetric_quantization_config(is_per_channel=True))


class _Weights(XNNPACKQuantizer):  # type: ignore[misc]
    """Linear layers only: XNNPACK takes no ranges at each call for convolutions over one dimension."""

    SUPPORTED_PATTERNS = [pattern for pattern in XNNPACKQuantizer.SUPPORTED_PATTERNS if pattern.name == "linear"]  # noqa: RUF012


def weights_quantizer(fixed: frozenset[str]) -> Any:
    """A new quantiser of the weights of linear layers; what goes into them is rounded by its range at each call.

    It leaves the units in ``fixed`` alone.
    """
    made = _Weights().set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True))
    return made.set_filter_function(lambda node: unit_of(node) not in fixed)
