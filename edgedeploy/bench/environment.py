"""Where a measurement was taken: every fact about the machine that can change a latency, as far as it can be read.

What cannot be read is ``None``, never a guess. Linux tells the most; elsewhere the record is shorter.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import platform
import re
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from edgedeploy.bench.remote.there import emulated
from edgedeploy.bench.sensors.raspberry import since_start, throttled

#: The sign in `Environment.hosted` of instructions that are translated: no time means anything then.
EMULATED = "emulated processor"

#: Instruction sets that kernels of inference runtimes are chosen by (x86 flags, then Arm features).
ISA = (
    *("sse4_2", "f16c", "avx", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("neon", "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "svei8mm", "sme", "sme2"),
)


@dataclass(frozen=True)
class Environment:
    """The machine and the software, without what a model or a request decides.

    Args:
        machine: digest of the host's name: the same machine is recognised, and its name is not told.
        board: what the firmware calls the machine (device tree or DMI).
        cpu: model name of the processor.
        isa: the instruction sets of `ISA` that it has.
        cores: logical cores of the machine.
        affinity: logical cores that this process may run on.
        cpu_limit: cores' worth of time that the control group may use.
        governor: frequency governors in force, joined by commas.
        turbo: whether clocks above nominal are allowed.
        clock_limits: lowest and highest clock that each cluster may have now; equal where clocks are fixed, as
            ``jetson_clocks`` does, and lower at the top while heat holds them down.
        power_mode: of a Jetson (``nvpmodel``), or the platform profile of a laptop.
        throttled: what the firmware of a Raspberry Pi has seen since its start, such as under-voltage.
        memory: bytes of main memory; ``swap`` those of swap space, used or not.
        huge_pages: when the kernel backs memory with huge pages.
        autogroup: whether the scheduler shares processors among sessions before it shares them among processes, so
            that other sessions take more than their nice values say.
        microcode: of the processor: its mitigations change speed.
        gpu: NVIDIA's graphics cards and their driver, or the release of a Jetson's.
        system: operating system; ``kernel`` its release.
        hosted: signs of a container or a virtual machine, such as ``container, hypervisor``.
        runtime: version of the vendor's runtime.
        packages: installed distributions that the worker had imported, with versions.
        image_engine: the library that reads and resizes images.
        load_average: over 1, 5 and 15 minutes; it is recorded, and takes no part in comparisons.
    """

    machine: str
    board: str | None
    cpu: str | None
    isa: tuple[str, ...]
    cores: int | None
    affinity: tuple[int, ...] | None
    cpu_limit: float | None
    governor: str | None
    turbo: bool | None
    memory: int | None
    system: str
    kernel: str
    hosted: str | None
    python: str
    runtime: str | None = None
    packages: Mapping[str, str] = dataclasses.field(default_factory=dict)
    image_engine: str | None = None
    load_average: tuple[float, float, float] | None = None
    clock_limits: str | None = None
    power_mode: str | None = None
    throttled: tuple[str, ...] | None = None
    swap: int | None = None
    huge_pages: str | None = None
    autogroup: bool | None = None
    microcode: str | None = None
    gpu: str | None = None

    @property
    def emulated(self) -> bool:
        """Whether another kind of processor computes what this one would: then no time means anything."""
        return EMULATED in (self.hosted or "")

    def conditions(self) -> dict[str, object]:
        """What must agree before two latencies may be subtracted: all of it but the load average."""
        facts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del facts["load_average"]
        return facts


def changes(before: Mapping[str, object], after: Mapping[str, object]) -> tuple[str, ...]:
    """``key: old -> new`` for each condition that differs; of a mapping only what differs in it."""
    keys = [*before, *(key for key in after if key not in before)]
    pairs = [(key, before.get(key), after.get(key)) for key in keys]
    return tuple(f"{key}: {_text(_beyond(a, b))} -> {_text(_beyond(b, a))}" for key, a, b in pairs if a != b)


def _beyond(value: object, other: object) -> object:
    """``value`` without the entries that ``other`` has alike, where both are mappings."""
    if not (isinstance(value, Mapping) and isinstance(other, Mapping)):
        return value
    return {key: item for key, item in value.items() if key not in other or other[key] != item}


def collect(
    runtime: str | None = None,
    packages: Mapping[str, str] | None = None,
    image_engine: str | None = None,
    root: Path = Path("/"),
) -> Environment:
    """The environment of this process now; ``root`` is where ``proc`` and ``sys`` are (for tests)."""
    processor = _read(root / "proc/cpuinfo") or ""
    return Environment(
        machine=hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12],
        board=_board(root),
        cpu=_field(processor, "model name", "Hardware", "cpu model") or platform.processor() or None,
        isa=_isa(processor),
        cores=os.cpu_count(),
        affinity=affinity(),
        cpu_limit=_cpu_limit(root),
        governor=_governor(root),
        turbo=_turbo(root),
        memory=_kib(root, "MemTotal"),
        system=_system(),
        kernel=platform.release(),
        hosted=_hosted(root, processor),
        python=platform.python_version(),
        runtime=runtime,
        packages=dict(packages or {}),
        image_engine=image_engine,
        load_average=_load_average(),
        clock_limits=_clock_limits(root),
        power_mode=_power_mode(root),
        throttled=_throttled(root),
        swap=_kib(root, "SwapTotal"),
        huge_pages=_chosen(_read(root / "sys/kernel/mm/transparent_hugepage/enabled")),
        autogroup=_switch(root / "proc/sys/kernel/sched_autogroup_enabled"),
        microcode=_field(processor, "microcode"),
        gpu=_gpu(root),
    )


def affinity() -> tuple[int, ...] | None:
    """Logical cores that this process may run on."""
    return tuple(sorted(os.sched_getaffinity(0))) if sys.platform == "linux" else None


def imported_packages() -> dict[str, str]:
    """Distributions, with versions, of the modules that this process has imported by now.

    Modules with a leading underscore do not count: installers leave some that every interpreter imports at its start.
    This package is named in any case, since an editable installation does not list its modules.
    """
    tops = {name.partition(".")[0] for name in tuple(sys.modules) if not name.startswith("_")}
    owners = packages_distributions()
    found = {}
    for distribution in sorted({"edgedeploy", *(d for top in tops & owners.keys() for d in owners[top])}):
        with contextlib.suppress(PackageNotFoundError):
            found[distribution.lower()] = version(distribution)
    return found


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace").strip().strip("\0") or None
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None


def _field(text: str, *names: str) -> str | None:
    for name in names:
        found = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", text, re.MULTILINE)
        if found:
            return found[1].strip()
    return None


def _isa(processor: str) -> tuple[str, ...]:
    words = set((_field(processor, "flags", "Features") or "").split())
    return tuple(name for name in ISA if name in words)


def _board(root: Path) -> str | None:
    dmi = root / "sys/class/dmi/id"
    maker_and_product = (_read(dmi / "sys_vendor"), _read(dmi / "product_name"))
    return _read(root / "proc/device-tree/model") or " ".join(filter(None, maker_and_product)) or None


def _governor(root: Path) -> str | None:
    files = root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")
    return ",".join(sorted(set(filter(None, map(_read, files))))) or None


def _turbo(root: Path) -> bool | None:
    cpu = root / "sys/devices/system/cpu"
    forbidden, allowed = _number(cpu / "intel_pstate/no_turbo"), _number(cpu / "cpufreq/boost")
    if forbidden is not None:
        return forbidden == 0
    return None if allowed is None else allowed == 1


def _clock_limits(root: Path) -> str | None:
    limits = []
    for policy in root.glob("sys/devices/system/cpu/cpufreq/policy*"):
        low, high = _number(policy / "scaling_min_freq"), _number(policy / "scaling_max_freq")
        if low is not None and high is not None:
            limits.append((low, high))
    return ", ".join(f"{low / 1e6:g} to {high / 1e6:g} GHz" for low, high in sorted(set(limits))) or None


def _power_mode(root: Path) -> str | None:
    """From the files of ``nvpmodel``, without running it: some releases let only root do that."""
    mode = re.search(r"pmode:(\d+)", _read(root / "var/lib/nvpmodel/status") or "")
    if mode is None:
        return _read(root / "sys/firmware/acpi/platform_profile")
    names = re.findall(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", _read(root / "etc/nvpmodel.conf") or "")
    name = {int(number): name for number, name in names}.get(int(mode[1]))
    return f"{name} ({int(mode[1])})" if name else f"mode {int(mode[1])}"


def _throttled(root: Path) -> tuple[str, ...] | None:
    if "Raspberry Pi" not in (_read(root / "proc/device-tree/model") or ""):
        return None
    bits = throttled(root)
    return None if bits is None else since_start(bits)


def _gpu(root: Path) -> str | None:
    """Names and driver, from the driver's files: asking its library would wake the card."""
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _read(root / "etc/nv_tegra_release") or "")
    if release:
        return f"Tegra, L4T {release[1]}.{release[2]}"
    driver = root / "proc/driver/nvidia"
    version = re.search(r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", _read(driver / "version") or "")
    cards = [_field(_read(card) or "", "Model") for card in sorted(driver.glob("gpus/*/information"))]
    known = ", ".join(filter(None, cards))
    return f"{known}, driver {version[1]}" if known and version else known or None


def _chosen(said: str | None) -> str | None:
    """The word in brackets of ``always [madvise] never``."""
    found = re.search(r"\[(\w+)\]", said or "")
    return found[1] if found else None


def _switch(path: Path) -> bool | None:
    value = _number(path)
    return None if value is None else value == 1


def _kib(root: Path, key: str) -> int | None:
    said = _field(_read(root / "proc/meminfo") or "", key)
    found = re.match(r"(\d+) kB", said or "")
    return int(found[1]) * 1024 if found else None


def _system() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    return f"{platform.system()} {platform.version()}"


def _hosted(root: Path, processor: str) -> str | None:
    groups = _read(root / "proc/1/cgroup") or ""
    marks = (root / ".dockerenv").exists() or (root / "run/.containerenv").exists()
    signs = ["container"] if marks or re.search(r"docker|kubepods|lxc|containerd", groups) else []
    if "hypervisor" in (_field(processor, "flags") or "").split():
        signs.append("hypervisor")
    if emulated(root):
        signs.append(EMULATED)
    return ", ".join(signs) or None


def _cpu_limit(root: Path) -> float | None:
    """The tightest quota on the way from this process's control group up to the root, of either version of the tree."""
    limits = []
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, group = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        for folder in _ancestors(group):
            limits += _quotas(root / "sys/fs/cgroup", folder, controllers)
    return min(limits, default=None)


def _ancestors(group: str) -> Iterable[str]:
    parts = [part for part in group.split("/") if part not in ("", "..")]
    return ["/".join(parts[:depth]) for depth in range(len(parts), -1, -1)]


def _quotas(tree: Path, folder: str, controllers: str) -> list[float]:
    if not controllers:  # version 2: "QUOTA PERIOD" or "max PERIOD"
        quota, _, period = (_read(tree / folder / "cpu.max") or "max").partition(" ")
        return [int(quota) / int(period)] if quota.isdigit() and period.isdigit() and int(period) else []
    for mount in dict.fromkeys((controllers, "cpu")):
        allowed = _number(tree / mount / folder / "cpu.cfs_quota_us")
        period_us = _number(tree / mount / folder / "cpu.cfs_period_us")
        if allowed is not None and period_us:
            return [allowed / period_us] if allowed > 0 else []
    return []


def _load_average() -> tuple[float, float, float] | None:
    try:
        return os.getloadavg()
    except (OSError, AttributeError):  # not every system has one
        return None


def _text(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items()) or "none"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
