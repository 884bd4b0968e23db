"""How many channels a device computes at once: numbers of channels between two multiples of it buy no time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgedeploy.device import THIS_MACHINE, Device, load
from edgedeploy.errors import UsageError, did_you_mean
from edgedeploy.parts import PRECISIONS
from edgedeploy.predict.prediction import setting_of

#: Bytes of a value, where kernels work on vectors of values.
_BYTES: Mapping[str, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}
#: What is taken where nothing is known: what published pruning recipes round to.
UNKNOWN = 8
#: Bytes that a load of a tensor core takes, which operands have to be aligned to (CUTLASS, cuBLAS: 128 bits).
_TENSOR_CORE = 16
#: The first NVIDIA compute capability, times ten, with tensor cores.
_VOLTA = 70


@dataclass(frozen=True)
class Step:
    """``channels`` that are computed at once, and the ``reason``: a sentence; ``known`` is false for a guess."""

    channels: int
    reason: str
    known: bool = True


def granularity(device: Device | str | None, precision: str = "fp32") -> int:
    """Numbers of channels that a device likes are multiples of this; see `step_of` for why."""
    return step_of(device, precision).channels


def step_of(device: Device | str | None, precision: str = "fp32") -> Step:
    """How many channels are computed at once where ``device`` runs a network with the backend that it is to try first.

    Args:
        device: a profile or its name; this machine where ``None``.
        precision: that the network is computed in.

    Raises:
        UsageError: there is no such device or precision.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"'{precision}' is no precision.{did_you_mean(precision, PRECISIONS)}")
    profile = device if isinstance(device, Device) else load(device or THIS_MACHINE)
    setting = setting_of(profile, profile.backend or "onnxruntime", precision)
    found = _gpu(profile, precision) if setting.unit == "gpu" else _cpu(profile, precision, setting.unit)
    where = f"{profile.name}, {setting.unit}, {precision}"
    if found is None:
        return Step(UNKNOWN, f"{where}: not known how many channels are computed at once; {UNKNOWN} is a guess.", False)
    return Step(found[0], f"{where}: {found[1]}.")


def _cpu(device: Device, precision: str, unit: str) -> tuple[int, str] | None:
    """On x86 ONNX Runtime's blocked layout fills up to as many channels as a register has float32 values."""
    size, isa = _BYTES.get(precision), device.cpu.isa
    if unit != "cpu" or size is None:
        return None
    if device.arch == "x86_64":
        name, register = ("AVX-512", 64) if isa.get("avx512f") else ("AVX", 32) if isa.any("avx2", "avx") else ("", 0)
        return (register // 4, f"blocks of ONNX Runtime with {name}") if name else None
    if device.arch == "aarch64":
        return max(UNKNOWN, 16 // size), "kernels for NEON fill one register of 16 bytes, in fp32 two"
    return None


def _gpu(device: Device, precision: str) -> tuple[int, str] | None:
    """Alignment of operands of tensor cores: four values in TF32, eight in fp16, sixteen in int8."""
    gpu = next(one for one in device.accelerators if one.kind == "gpu")
    sm, size = gpu.sm.value if gpu.sm else None, _BYTES.get(precision)
    if sm is None or size is None or int(sm) < _VOLTA:
        return None
    return max(UNKNOWN, _TENSOR_CORE // size), f"operands of tensor cores are aligned to {_TENSOR_CORE} bytes"
