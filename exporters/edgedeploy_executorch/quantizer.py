"""XNNPACK's quantiser, set to all that XNNPACK has in int8: per-channel weights, per-tensor activations."""

from __future__ import annotations

from typing import Any

from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config


class _AfterFolding(XNNPACKQuantizer):  # type: ignore[misc]
    """Without the patterns of BatchNorm, which is folded by now; looking for them costs seconds at every trial."""

    SUPPORTED_PATTERNS = [pattern for pattern in XNNPACKQuantizer.SUPPORTED_PATTERNS if not pattern.is_qat]  # noqa: RUF012


def quantizer() -> Any:
    """A new quantiser."""
    return _AfterFolding().set_global(get_symmetric_quantization_config(is_per_channel=True))
