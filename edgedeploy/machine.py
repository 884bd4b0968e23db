"""What this machine is, as the system tells it: processor, memory, limits, accelerators, runtimes. Nothing is timed.

What a board says is text, and the readers take text, so that they are tested without the board. What cannot be read is
absent or unknown, never zero.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgedeploy.errors import Unavailable
from edgedeploy.facts import Bandwidth, Count, Features, Frequency, Size, Version
from edgedeploy.parts import ISA, RUNTIMES, Accelerator, Arch, Cluster, Cpu, Memory, Software

_ARCHES: dict[str, Arch] = {
    **dict.fromkeys(("x86_64", "amd64"), "x86_64"),
    **dict.fromkeys(("aarch64", "arm64"), "aarch64"),
    **dict.fromkeys(("armv7l", "armv8l"), "armv7l"),
}
#: Arm's part numbers, as in "CPU part" of /proc/cpuinfo where "CPU implementer" is 0x41.
_ARM_PARTS = dict(
    re.findall(
        r"(0x\w+)=(\S+)",
        """
        0xd03=Cortex-A53  0xd05=Cortex-A55  0xd07=Cortex-A57  0xd08=Cortex-A72   0xd09=Cortex-A73  0xd0a=Cortex-A75
        0xd0b=Cortex-A76  0xd0d=Cortex-A77  0xd41=Cortex-A78  0xd42=Cortex-A78AE 0xd44=Cortex-X1   0xd46=Cortex-A510
        0xd47=Cortex-A710 0xd48=Cortex-X2   0xd4d=Cortex-A715 0xd4e=Cortex-X3    0xd80=Cortex-A520 0xd81=Cortex-A720
        0xd82=Cortex-X4   0xd87=Cortex-A725 0xd0c=Neoverse-N1 0xd40=Neoverse-V1  0xd49=Neoverse-N2 0xd4f=Neoverse-V2
        0xd83=Neoverse-V3AE
        """,
    )
)
#: Distributions that bring a runtime, where they are not called like it.
DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-qnn"),
    "qnn": ("onnxruntime-qnn",),
    "litert": ("ai-edge-litert", "tflite-runtime"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt-rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}
_NVIDIA_QUERY = ("nvidia-smi", "--query-gpu=name,compute_cap,clocks.max.sm", "--format=csv,noheader")


@dataclass(frozen=True)
class Cores:
    """Cores of one kind: how many physical ones, and the numbers of their hardware threads."""

    name: str
    count: int
    threads: tuple[int, ...]


@dataclass(frozen=True)
class Limits:
    """What the control groups leave this process: bytes, and CPUs (a half is possible); ``None`` is no limit."""

    memory: int | None = None
    cpus: float | None = None


def arch(uname: str | None = None) -> Arch:
    """The architecture that ``uname -m`` says, as profiles call it.

    Raises:
        Unavailable: one that no profile can describe.
    """
    said = uname or platform.machine()
    if said.lower() not in _ARCHES:
        raise Unavailable(f"Machines of architecture '{said}' cannot be described; known are {', '.join(ISA)}.")
    return _ARCHES[said.lower()]


def cpu(root: Path, arch: Arch) -> Cpu:
    """Cores, features and limits of this process, from ``proc`` and ``sys`` below ``root``."""
    cores, flags = read_cpuinfo(_text(root / "proc/cpuinfo"))
    known = ISA[arch]
    isa = Features()
    if flags:
        has, lacks = tuple(n for n in known if n in flags), tuple(n for n in known if n not in flags)
        isa = Features(has, lacks, "measured", "/proc/cpuinfo")
    threads = sum(len(kind.threads) for kind in cores) or os.cpu_count()
    return Cpu(
        clusters=tuple(
            Cluster(kind.name, Count(kind.count, "measured", "/proc/cpuinfo"), _clock(root, kind)) for kind in cores
        ),
        isa=isa,
        threads=Count(threads, "measured", "/proc/cpuinfo" if cores else "os.cpu_count") if threads else None,
        usable=_usable(read_limits(root).cpus),
    )


def memory(root: Path) -> Memory:
    """Size of main memory, and its limit where the control group has one."""
    total, limit = read_meminfo(_text(root / "proc/meminfo")), read_limits(root).memory
    return Memory(
        size=Size(f"{total >> 20} MiB", "measured", "/proc/meminfo") if total else Size(),
        bandwidth=Bandwidth(source="the system does not tell the width and clock of its memory"),
        limit=Size(f"{limit} B", "measured", "control group") if limit and (not total or limit < total) else None,
    )


def title(root: Path) -> str:
    """What the firmware calls the board or machine (device tree of Arm boards, DMI of PCs); empty where it does not."""
    return (_text(root / "proc/device-tree/model") or _text(root / "sys/class/dmi/id/product_name")).strip()


def runtimes() -> tuple[Software, ...]:
    """The Python distributions of known runtimes that this interpreter sees."""
    found = []
    for name in RUNTIMES:
        for distribution in DISTRIBUTIONS.get(name, (name,)):
            try:
                found.append(Software(name, Version(version(distribution), "measured", f"distribution {distribution}")))
                break
            except PackageNotFoundError:
                continue
    return tuple(found)


def gpus() -> tuple[Accelerator, ...]:
    """NVIDIA GPUs, where ``nvidia-smi`` is there to ask."""
    if shutil.which(_NVIDIA_QUERY[0]) is None:
        return ()
    try:
        done = subprocess.run(_NVIDIA_QUERY, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return read_nvidia_smi(done.stdout) if done.returncode == 0 else ()


# --- readers of text -----------------------------------------------------------------------------------------------


def read_cpuinfo(text: str) -> tuple[tuple[Cores, ...], frozenset[str]]:
    """The cores by kind, and the features that all of them have, in the text of ``/proc/cpuinfo`` (x86 or Arm)."""
    blocks = [
        {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        for block in text.replace("\r", "").split("\n\n")
    ]
    kinds: dict[str, dict[int, tuple[str, ...]]] = {}
    flags: list[frozenset[str]] = []
    for block in blocks:
        if "flags" in block or "Features" in block:
            flags.append(frozenset((block.get("flags") or block.get("Features", "")).split()))
        number = block.get("processor", "")
        if not number.isdecimal():
            continue  # the board's own block at the end, or Arm's old heading "Processor: ..."
        thread = int(number)
        core = (block["physical id"], block["core id"]) if {"physical id", "core id"} <= set(block) else (number,)
        kinds.setdefault(_core_name(block), {})[thread] = core
    cores = [Cores(name, len(set(threads.values())), tuple(threads)) for name, threads in kinds.items()]
    return tuple(cores), frozenset.intersection(*flags) if flags else frozenset()


def _core_name(block: Mapping[str, str]) -> str:
    implementer, part = block.get("CPU implementer"), block.get("CPU part")
    if implementer is None or part is None:
        return block.get("model name") or block.get("Processor") or "unknown"
    known = _ARM_PARTS.get(part.lower()) if implementer == "0x41" else None
    return known or f"implementer {implementer} part {part}"


def read_meminfo(text: str) -> int | None:
    """Bytes of main memory in the text of ``/proc/meminfo``."""
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "MemTotal:" and words[1].isdecimal():
            return int(words[1]) << 10  # the kB of this file are KiB
    return None


def read_nvidia_smi(text: str) -> tuple[Accelerator, ...]:
    """The GPUs in what ``nvidia-smi`` says of name, compute capability and highest clock, one line for each."""
    found: list[Accelerator] = []
    source = " ".join(_NVIDIA_QUERY[:2])
    for line in text.splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) != 3 or not values[0]:
            continue
        name, capability, clock = values
        sm = capability.replace(".", "")
        number, _, unit = clock.partition(" ")
        found.append(
            Accelerator(
                name="gpu" if not found else f"gpu{len(found)}",
                kind="gpu",
                chip=name,
                sm=Count(int(sm), "measured", source) if sm.isdecimal() and int(sm) else Count(),
                clock=Frequency(clock, "measured", source) if number.isdecimal() and int(number) and unit else None,
            )
        )
    return tuple(found)


def read_limits(root: Path) -> Limits:
    """The tightest limits of the control groups (version 1 or 2) of this process, below ``root``."""
    memory: list[int | None] = []
    cpus: list[float | None] = []
    base = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:  # version 2; a group is also bound by those that it is in
            for level in _levels(base, path):
                memory.append(_bytes(_text(level / "memory.max")))
                cpus.append(_quota(_text(level / "cpu.max")))
        if "memory" in controllers.split(","):
            memory += [_bytes(_text(level / "memory.limit_in_bytes")) for level in _levels(base / "memory", path)]
        if "cpu" in controllers.split(","):
            for level in _levels(base / "cpu", path):
                cpus.append(_quota(f"{_text(level / 'cpu.cfs_quota_us')} {_text(level / 'cpu.cfs_period_us')}"))
    return Limits(min(filter(None, memory), default=None), min(filter(None, cpus), default=None))


def _levels(base: Path, path: str) -> list[Path]:
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [base.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]


def _bytes(text: str) -> int | None:
    value = int(text) if text.strip().isdecimal() else 0
    return value if 0 < value < 1 << 60 else None  # version 1 writes almost 2^63 for no limit


def _quota(text: str) -> float | None:
    words = text.split()
    given = len(words) == 2 and all(word.isdecimal() and int(word) for word in words)  # "max" and -1 are no limit
    return int(words[0]) / int(words[1]) if given else None


def _text(path: Path) -> str:
    """What ``path`` holds; nothing where it is not there."""
    try:
        return path.read_text("utf-8", errors="replace").replace("\0", "")
    except OSError:
        return ""


def _clock(root: Path, cores: Cores) -> Frequency:
    file = "cpufreq/cpuinfo_max_freq"
    found = [_text(root / f"sys/devices/system/cpu/cpu{thread}/{file}").strip() for thread in cores.threads]
    clocks = [int(text) for text in found if text.isdecimal()]
    if not any(clocks):
        return Frequency(source=f"this system has no {file}")
    return Frequency(f"{max(clocks)} kHz", "measured", file)


def _usable(quota: float | None) -> Count | None:
    """Cores that this process can keep busy: a quota of 1.5 CPUs is worth one core all of the time."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if affinity is None:
        return None
    if quota is None or quota >= affinity:
        return Count(affinity, "measured", "affinity of the process")
    return Count(max(1, int(quota)), "measured", f"quota of the control group: {quota:g} CPUs")
