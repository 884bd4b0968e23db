"""The parts of a program that a delegate takes, and what it needs to be lowered to here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgedeploy.errors import Unavailable, UsageError, did_you_mean


@dataclass(frozen=True)
class Delegate:
    """One delegate.

    Args:
        backend: the name under which ExecuTorch's runtime knows it; empty for none.
        precisions: that it can be lowered to from here.
        partitioner: makes the object that picks its nodes, for a precision; ``None`` for none.
        own_types: whether the delegate's compiler makes fp16 of an fp32 program by itself.
        notes: what the user should know, by precision.
    """

    backend: str
    precisions: tuple[str, ...]
    partitioner: Callable[[str], Any] | None = None
    own_types: bool = False
    notes: Mapping[str, str] = field(default_factory=dict)


def _xnnpack(precision: str) -> Any:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    return XnnpackPartitioner()


def _coreml(precision: str) -> Any:
    try:
        import coremltools as ct
    except ImportError as error:
        raise Unavailable.extra("coremltools, which compiles for the delegate coreml,", "coreml") from error
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner

    specs = CoreMLBackend.generate_compile_specs(
        compute_precision=ct.precision.FLOAT16 if precision == "fp16" else ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS17,
    )
    return CoreMLPartitioner(compile_specs=specs)


def _vulkan(precision: str) -> Any:
    from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

    return VulkanPartitioner({"force_fp16": precision == "fp16"})


_IN_FP32 = "XNNPACK computes in fp16, but its file holds the weights of convolutions in fp32: it is hardly smaller"
_AT_EACH_CALL = (
    "XNNPACK multiplies int8 weights with int8: what goes into a linear layer is rounded to 8 bits by its range at "
    "each call; convolutions, state and everything else are in fp32"
)
_UNMEASURED = "what fp16 costs was not measured: the delegate's compiler makes it by itself"
DELEGATES: Mapping[str, Delegate] = {
    "xnnpack": Delegate(
        "XnnpackBackend",
        ("fp32", "fp16", "int8-weights", "int8"),
        _xnnpack,
        notes={"fp16": _IN_FP32, "int8-weights": _AT_EACH_CALL},
    ),
    "portable": Delegate("", ("fp32", "fp16")),
    "coreml": Delegate("CoreMLBackend", ("fp32", "fp16"), _coreml, own_types=True, notes={"fp16": _UNMEASURED}),
    "vulkan": Delegate("VulkanBackend", ("fp32", "fp16"), _vulkan, own_types=True, notes={"fp16": _UNMEASURED}),
}
#: Delegates of ExecuTorch that are not lowered to, and what is missing.
REFUSED: Mapping[str, str] = {
    "qualcomm": "it needs Qualcomm's QAIRT SDK of the version that ExecuTorch was built with, which its package does "
    "not bring; for Snapdragon export with --backend qnn",
    "ethos-u": "it needs Arm's packages ethos-u-vela and tosa-tools, which want older versions of numpy than the rest",
    "openvino": "it needs an older OpenVINO than is supported; export with --backend openvino, which needs no delegate",
}


def find(name: str, precision: str) -> Delegate:
    """The delegate of that name.

    Raises:
        Unavailable: ExecuTorch has it, but something is missing here.
        UsageError: there is none, or it has not this precision.
    """
    if name in REFUSED:
        raise Unavailable(f"The delegate '{name}' cannot be lowered to here: {REFUSED[name]}.")
    if name not in DELEGATES:
        raise UsageError(f"ExecuTorch has no delegate '{name}'.{did_you_mean(name, DELEGATES)}")
    found = DELEGATES[name]
    if precision not in found.precisions:
        raise UsageError(f"The delegate '{name}' is lowered to in {', '.join(found.precisions)}, not in {precision}.")
    return found
