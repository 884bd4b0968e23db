"""The parts that a device's profile has: processor, memory, accelerators, power modes, software; and their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgedeploy.facts import Bandwidth, Count, Features, Flops, Frequency, Ops, Power, Quantity, Size, Version

Arch = Literal["aarch64", "armv7l", "x86_64"]
Precision = Literal["fp32", "fp16", "bf16", "fp8", "fp4", "int8"]

_ARM = ("asimd", "asimdhp", "asimddp", "asimdfhm", "fphp", "i8mm", "bf16", "sve", "sve2", "sme", "neon")
_X86 = (
    *("sse4_1", "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"),
    *("avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "avx_vnni_int8", "amx_tile", "amx_int8", "amx_bf16"),
)
#: Instruction set features that a profile can name, spelled as Linux does in /proc/cpuinfo.
ISA: Mapping[str, tuple[str, ...]] = {"aarch64": _ARM, "armv7l": _ARM, "x86_64": _X86}

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "fp8", "fp4", "int8")

#: Runtimes and interfaces that a profile can name; one of these that a profile does not list is not on that device.
RUNTIMES = (
    *("coreai", "coreml", "cuda", "executorch", "hiai", "litert", "mindspore-lite", "mnn", "ncnn", "nnapi"),
    *("onnxruntime", "openvino", "qnn", "tensorrt", "tensorrt-rtx", "torch-tensorrt"),
)


@dataclass(frozen=True)
class Peaks:
    """Peak rates by precision; a multiply-add is two operations. One that is absent is unknown."""

    fp32: Flops | None = None
    fp16: Flops | None = None
    bf16: Flops | None = None
    fp8: Flops | None = None
    fp4: Flops | None = None
    int8: Ops | None = None

    def get(self, precision: Precision) -> Quantity:
        """The rate at ``precision``, as a fact of kind unknown where nobody states it."""
        rate: Quantity | None = getattr(self, precision)
        return rate or (Ops() if precision == "int8" else Flops())


@dataclass(frozen=True)
class Cluster:
    """Cores of one kind, and the highest clock of them."""

    name: str
    count: Count
    clock: Frequency


@dataclass(frozen=True)
class Cpu:
    """The processor. ``dense`` is the peak of all cores; ``usable`` what affinity and cgroup leave this process."""

    clusters: tuple[Cluster, ...] = ()
    isa: Features = field(default_factory=Features)
    dense: Peaks = field(default_factory=Peaks)
    threads: Count | None = None
    usable: Count | None = None

    @property
    def cores(self) -> int | None:
        """Physical cores of all clusters; ``None`` where a count is unknown."""
        counts = [cluster.count.value for cluster in self.clusters]
        return sum(filter(None, counts)) if counts and None not in counts else None


@dataclass(frozen=True)
class Accelerator:
    """A GPU, NPU or DLA. ``dense`` is without sparsity, ``sparse`` the marketing number with it.

    ``cores`` are counted as the vendor does (of a DLA: engines, and the peaks are of all together). ``sm`` is an NVIDIA
    compute capability times ten, ``htp`` the version of a Qualcomm Hexagon tensor processor. ``claimed`` is a vendor's
    number that does not say of which precision or sparsity it is: nothing may be divided by it.
    """

    name: str
    kind: Literal["gpu", "npu", "dla"]
    chip: str = "unknown"
    cores: Count | None = None
    clock: Frequency | None = None
    sm: Count | None = None
    htp: Count | None = None
    precisions: Features = field(default_factory=Features)
    dense: Peaks = field(default_factory=Peaks)
    sparse: Peaks = field(default_factory=Peaks)
    claimed: Ops | None = None


@dataclass(frozen=True)
class Memory:
    """Main memory. ``bandwidth`` is theoretical, ``copy`` measured (read plus write), ``limit`` that of the cgroup.

    Where a board is sold with several sizes, ``size`` is the largest and ``smallest`` the smallest.
    """

    size: Size
    bandwidth: Bandwidth
    type: str = "unknown"
    smallest: Size | None = None
    limit: Size | None = None
    copy: Bandwidth | None = None


@dataclass(frozen=True)
class PowerMode:
    """A power setting of the board, and the sparse INT8 peak that each accelerator (by name) has in it."""

    name: str
    power: Power
    sparse_int8: Mapping[str, Ops] = field(default_factory=dict)


@dataclass(frozen=True)
class Software:
    """A runtime or interface that the device has, one of `RUNTIMES`, and its version."""

    name: str
    version: Version = field(default_factory=Version)
    note: str = ""


@dataclass(frozen=True)
class Int8:
    """How the CPU wants INT8: the type of the activations, and whether it has a dot product of four bytes.

    x86 multiplies unsigned activations with signed weights, Arm signed with signed. On x86 without the dot product, two
    products are added in 16 bits and saturate, so weights have to be kept to 7 bits. ``None`` is unknown.
    """

    activations: Literal["int8", "uint8"]
    dot_product: bool | None
