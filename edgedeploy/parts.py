"""The parts that a device's profile has: processor, memory, accelerators, power modes, software; and their names."""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgedeploy.errors import UsageError, did_you_mean
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


#: Native runners whose command and output this project knows: a profile that names one need not describe it.
RUNNERS = ("executor_runner", "onnxruntime_perf_test", "benchmark_model", "edgedeploy_runner")
#: The path of a runner that the user brings.
GIVEN = "given"
#: What a command can name: the program, the graph's file, passes, threads (where given), seconds that are enough, a
#: file for results, the graph's method (where the file has several), ``-f NAME:SIZE`` for each dynamic dimension, and
#: the shapes of the inputs (``1x3x64x64,1x10``).
PLACES = ("runner", "model", "passes", "threads", "limit", "result", "method", "dims", "shapes")
#: Units that a runner can tell times and sizes in.
TIMES: Mapping[str, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
SIZES: Mapping[str, float] = {"B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "kB": 1e3, "MB": 1e6, "GB": 1e9}


@dataclass(frozen=True)
class Line:
    """Where a runner's output tells a number: the group ``value`` of a regular expression, in ``unit``.

    A group ``count``, which only ``total`` and ``mean`` have, is the passes that it is of.
    """

    pattern: str
    unit: str

    def check(self, where: str, units: Mapping[str, float], counted: bool) -> None:
        """Refuse what is no regular expression, misses a group or has another unit.

        Raises:
            UsageError: naming ``where``.
        """
        try:
            groups = set(re.compile(self.pattern, re.MULTILINE).groupindex)
        except (re.error, RecursionError, OverflowError) as error:
            raise UsageError(f"{where}: '{self.pattern}' is no regular expression ({error}).") from error
        missing = {"value", *(["count"] if counted else [])} - groups
        if missing:
            raise UsageError(f"{where}: '{self.pattern}' has no group (?P<{min(missing)}>...).")
        if self.unit not in units:
            raise UsageError(f"{where}: '{self.unit}' is none of the units {', '.join(units)}.")


@dataclass(frozen=True)
class Reads:
    """How a runner's output is read: standard output, standard error, log and result file, one after the other.

    Args:
        each: the time of a pass; as many matches as passes.
        total: the time of ``count`` passes together.
        mean: the mean time of ``count`` passes.
        load: opening the model.
        first: the first pass, where it is none of the others.
        memory: the largest resident memory, bytes.
    """

    each: Line | None = None
    total: Line | None = None
    mean: Line | None = None
    load: Line | None = None
    first: Line | None = None
    memory: Line | None = None

    def check(self, where: str) -> None:
        """Refuse a line that cannot be read, and output without the time of a pass.

        Raises:
            UsageError: naming ``where``.
        """
        if self.each is None and self.total is None and self.mean is None:
            raise UsageError(f"{where}: one of each, total and mean is needed: where the time of a pass is told.")
        for item in dataclasses.fields(self):
            line: Line | None = getattr(self, item.name)
            if line is not None:
                units = SIZES if item.name == "memory" else TIMES
                line.check(f"{where}.{item.name}", units, item.name in ("total", "mean"))


@dataclass(frozen=True)
class Runner:
    """A program that runs a graph on the device and tells how long it took.

    Args:
        name: as people call it; one of `RUNNERS` need not say ``command`` and ``reads``.
        runtime: the runtime it is for, one of the device's.
        path: on the device, or ``given``: the user brings it.
        command: what is run; ``{...}`` is one of `PLACES`, and ``[...]`` is left out where what it names is not there.
        reads: how its output is read.
        log: tag in Android's log under which it tells more.
        source: where this is written.
    """

    name: str
    runtime: str
    path: str = GIVEN
    command: str = ""
    reads: Reads | None = None
    log: str | None = None
    source: str = ""

    def check(self, where: str) -> None:
        """Refuse a path, a command or a reading that cannot be.

        Raises:
            UsageError: naming ``where``.
        """
        if self.path != GIVEN and not self.path.startswith("/"):
            raise UsageError(f"{where}.path: '{self.path}' is neither '{GIVEN}' nor an absolute path on the device.")
        if bool(self.command) != (self.reads is not None):
            raise UsageError(f"{where}: command and reads belong together: give both or none.")
        if self.reads is None:
            if self.name not in RUNNERS:
                raise UsageError(f"{where}: '{self.name}' needs a command and reads.{did_you_mean(self.name, RUNNERS)}")
            return
        if not self.source.strip():
            raise UsageError(f"{where}: a command without a source. Say where it is written.")
        self.reads.check(f"{where}.reads")
        for name in ("runner", "model", "passes"):
            if name not in places(self.command, f"{where}.command"):
                raise UsageError(f"{where}.command: '{{{name}}}' is not in it.")


def places(command: str, where: str) -> set[str]:
    """What a command names, of `PLACES`.

    Raises:
        UsageError: it names something else, or its braces or brackets do not close.
    """
    try:
        fields = list(string.Formatter().parse(command))
    except ValueError as error:
        raise UsageError(f"{where}: '{command}' is no command ({error}).") from error
    names = {name for _, name, _, _ in fields if name is not None}
    for name in names - set(PLACES):
        raise UsageError(f"{where}: there is no '{{{name}}}'.{did_you_mean(name, PLACES)}")
    if any(spec or conversion for _, name, spec, conversion in fields if name is not None):
        raise UsageError(f"{where}: '{command}' has a format in its braces; leave it out.")
    parts = re.findall(r"\[([^\[\]]*)\]", command)
    if re.search(r"[\[\]]", re.sub(r"\[[^\[\]]*\]", "", command)):
        raise UsageError(f"{where}: the brackets of '{command}' do not close, or are in one another.")
    if any("{" not in part for part in parts):
        raise UsageError(f"{where}: brackets in '{command}' name nothing that could be left out.")
    return names
