"""Devices: what a board or phone is, every number with where it comes from, and what an artifact misses on it.

A profile is a YAML file; ``devices/README.md`` says every key and its unit. `load` reads one by the name of a packaged
profile, by the path of a file, or as ``this-machine``. What nobody states is *unknown*: it has no value, it prints as
unknown, and `unmet` reports it instead of passing it. How to reach a device is not in its profile.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

from edgedeploy import machine, records, strictyaml
from edgedeploy.errors import UsageError, did_you_mean
from edgedeploy.facts import Count, Fact, Features, Quantity, Time
from edgedeploy.parts import (
    ISA,
    PRECISIONS,
    RUNTIMES,
    Accelerator,
    Arch,
    Cpu,
    Int8,
    Memory,
    PowerMode,
    Precision,
    Runner,
    Software,
)

#: The device name that means: whatever this process runs on.
THIS_MACHINE = "this-machine"


@dataclass(frozen=True)
class Device:
    """The facts of one board, phone or machine. ``backend`` and ``precision`` are what to try first on it."""

    schema: Literal[1]
    name: str
    title: str
    chip: str
    arch: Arch
    os: str
    cpu: Cpu
    memory: Memory
    accelerators: tuple[Accelerator, ...] = ()
    power_modes: tuple[PowerMode, ...] = ()
    runtimes: tuple[Software, ...] = ()
    backend: str | None = None
    precision: Precision | None = None
    timer: Time | None = None
    notes: tuple[str, ...] = ()
    runners: tuple[Runner, ...] = ()

    @property
    def int8(self) -> Int8:
        """What the CPU's instruction set wants of INT8."""
        isa = self.cpu.isa
        if self.arch == "x86_64":
            return Int8("uint8", isa.any("avx_vnni", "avx512_vnni", "avx_vnni_int8", "amx_int8"))
        return Int8("int8", isa.any("asimddp", "i8mm"))

    @property
    def digest(self) -> str:
        """sha256 over the canonical JSON of everything that the profile says."""
        return hashlib.sha256(records.canonical(records.to_json(self))).hexdigest()

    def peak(self, unit: str, precision: Precision) -> Quantity:
        """Dense peak of ``"cpu"`` or of an accelerator by name, as a fact of kind unknown where nobody states it.

        Raises:
            UsageError: the device has no such unit.
        """
        found = {accelerator.name: accelerator.dense for accelerator in self.accelerators} | {"cpu": self.cpu.dense}
        if unit not in found:
            raise UsageError(f"{self.name} has no unit '{unit}'.{did_you_mean(unit, found)}")
        return found[unit].get(precision)

    def facts(self) -> Iterator[tuple[str, Fact | Features]]:
        """Every fact that the profile states, or states to be unknown, with its path: ``memory.bandwidth``."""
        return _facts(self, "")


def _facts(value: object, path: str) -> Iterator[tuple[str, Fact | Features]]:
    if isinstance(value, (Fact, Features)):
        if value != Features():
            yield path, value
    elif dataclasses.is_dataclass(value):
        for item in dataclasses.fields(value):
            yield from _facts(getattr(value, item.name), f"{path}.{item.name}".lstrip("."))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _facts(item, f"{path}[{key}]")
    elif isinstance(value, tuple):
        for item in value:
            yield from _facts(item, f"{path}[{getattr(item, 'name', '')}]")


# --- reading and writing profiles ----------------------------------------------------------------------------------


def names() -> list[str]:
    """The packaged profiles, sorted; ``this-machine`` is not among them."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _folder().iterdir() if entry.name.endswith(".yaml"))


def load(name: str | Path) -> Device:
    """The device of a packaged profile, of a ``.yaml`` file, or ``this-machine`` (without any benchmark).

    Raises:
        UsageError: no such profile or file, or one that is not as ``devices/README.md`` says.
    """
    text = str(name)
    if text == THIS_MACHINE:
        return this_machine()
    if isinstance(name, Path) or text.endswith((".yaml", ".yml")):
        return _read(Path(name), text)
    if text not in names():
        known = [*names(), THIS_MACHINE]
        raise UsageError(f"There is no device '{text}'.{did_you_mean(text, known)} Or give the path of a .yaml file.")
    return _read(_folder() / f"{text}.yaml", f"{text}.yaml")


def this_machine(root: Path = Path("/"), uname: str | None = None) -> Device:
    """What this process runs on, as far as reading tells: instruction set, cores, memory, runtimes; no benchmark.

    Args:
        root: where ``proc`` and ``sys`` are.
        uname: the architecture as ``uname -m`` says it; this machine's own where ``None``.

    Raises:
        Unavailable: an architecture that no profile can describe.
    """
    arch = machine.arch(uname)
    cpu, runtimes = machine.cpu(root, arch), machine.runtimes()
    device = Device(
        schema=1,
        name=THIS_MACHINE,
        title=machine.title(root) or f"{platform.system()} on {arch}",
        chip=" + ".join(dict.fromkeys(cluster.name for cluster in cpu.clusters)) or "unknown",
        arch=arch,
        os=platform.platform(terse=True),
        cpu=cpu,
        memory=machine.memory(root),
        accelerators=machine.gpus(),
        runtimes=runtimes,
    )
    if all(software.name != "onnxruntime" for software in runtimes):
        return device
    return dataclasses.replace(device, backend="onnxruntime", precision="int8" if device.int8.dot_product else "fp32")


def parse(text: str, where: str) -> Device:
    """The device that the YAML ``text`` describes; ``where`` names the file in messages.

    Raises:
        UsageError: not YAML, an unknown or repeated key, a value without unit or source.
    """
    data = strictyaml.read(text, where)
    try:
        device = records.from_json(Device, data, where)
        check(device, where)
    except (ValueError, OverflowError) as error:  # whole numbers of more digits than Python prints or floats hold
        raise UsageError(f"{where} has a number that cannot be read: {error}.") from error
    return device


def check(device: Device, where: str) -> None:
    """Refuse what the types alone let pass: sources, units, names; ``where`` names the file in messages.

    Raises:
        UsageError: naming ``where`` and the key.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", device.name):
        raise UsageError(f"{where}: name: '{device.name}' may have a-z, 0-9, '-', '_' and '.' only.")
    for path, fact in device.facts():
        if isinstance(fact, Features):
            fact.check(f"{where}: {path}", ISA[device.arch] if path == "cpu.isa" else PRECISIONS)
        else:
            fact.check(f"{where}: {path}")
    units = ["cpu", *(accelerator.name for accelerator in device.accelerators)]
    if len(set(units)) != len(units):
        raise UsageError(f"{where}: accelerators: their names have to differ from each other and from 'cpu'.")
    for unit in (unit for mode in device.power_modes for unit in mode.sparse_int8 if unit not in units[1:]):
        raise UsageError(f"{where}: power_modes: there is no accelerator '{unit}'.{did_you_mean(unit, units[1:])}")
    runtimes = [software.name for software in device.runtimes]
    for name in (name for name in runtimes if name not in RUNTIMES):
        raise UsageError(f"{where}: runtimes: there is no runtime '{name}'.{did_you_mean(name, RUNTIMES)}")
    for index, runner in enumerate(device.runners):
        runner.check(f"{where}: runners[{index}]")
        if runner.runtime not in runtimes:
            reason = did_you_mean(runner.runtime, runtimes)
            raise UsageError(f"{where}: runners[{index}].runtime: '{runner.runtime}' is not in runtimes.{reason}")
    if len({runner.name for runner in device.runners}) != len(device.runners):
        raise UsageError(f"{where}: runners: their names have to differ from each other.")
    if device.backend is not None and device.backend not in runtimes:
        raise UsageError(
            f"{where}: backend: '{device.backend}' is not in runtimes.{did_you_mean(device.backend, runtimes)}"
        )


def dump(device: Device, path: Path | None = None) -> str:
    """The YAML of ``device``, which `parse` reads back as an equal device; also to ``path``, in one step.

    Raises:
        UsageError: ``path`` cannot be written, or the device is none that `parse` would take.
    """
    check(device, device.name)
    return strictyaml.write(_stated(device), path)


def _stated(value: object) -> object:
    """Plain values, without the keys that say what leaving them out says; a fact always says of which kind it is."""
    if dataclasses.is_dataclass(value):
        fields = {f.name: f for f in dataclasses.fields(value)}
        held = {name: getattr(value, name) for name in fields}
        return {name: _stated(held[name]) for name in fields if name == "kind" or held[name] != _default(fields[name])}
    if isinstance(value, Mapping):
        return {key: _stated(item) for key, item in value.items()}
    return [_stated(item) for item in value] if isinstance(value, tuple) else value


def _default(field: dataclasses.Field[Any]) -> object:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _folder() -> Traversable:
    packaged = files("edgedeploy") / "devices"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[1] / "devices"


def _read(path: Traversable, where: str) -> Device:
    try:
        return parse(path.read_text("utf-8"), where)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"The profile {where} cannot be read: {reason}.") from error


# --- requirements of an artifact -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unmet:
    """A requirement that a device is not known to meet. ``known`` is false where the profile just does not say."""

    requirement: str
    reason: str
    known: bool

    def __str__(self) -> str:
        return self.reason


def unmet(requires: Sequence[str], device: Device) -> tuple[Unmet, ...]:
    """What ``device`` misses of an artifact's requirements. Empty means that every one is known to be met.

    A requirement is a runtime with versions as in PEP 440 (``onnxruntime>=1.18,<2``) or a fact: ``arch=aarch64``,
    ``isa=asimddp``, ``sm=87``, ``htp=75``. What is unknown comes back too, with ``known=False``: a caller who accepts
    it has to say so.

    Raises:
        UsageError: a requirement is neither.
    """
    found = [_judge(requirement, device) for requirement in requires]
    return tuple(item for item in found if item is not None)


def _judge(requirement: str, device: Device) -> Unmet | None:
    """``None`` where ``device`` meets the requirement."""
    matched = re.fullmatch(r"\s*([A-Za-z][\w.-]*)\s*(?:=\s*([^=\s][^=]*?)|([<>=!~].*))?\s*", requirement)
    if matched is None:
        raise UsageError(f"'{requirement}' is no requirement: write as in onnxruntime>=1.18,<2 or arch=aarch64.")
    name, value, versions = matched.groups()
    if value is None:
        return _judge_runtime(name.lower(), versions or "", device)
    if name not in _FACTS:
        reason = f"{requirement} is needed, a fact of which nothing is known here.{did_you_mean(name, _FACTS)}"
        return Unmet(requirement, reason, False)
    answer, what = _FACTS[name](value, device)
    if answer:
        return None
    lacks = f"but {device.name} has {what}" if answer is False else f"and whether {device.name} has it is unknown"
    return Unmet(requirement, f"{requirement} is needed, {lacks}.", answer is False)


def _judge_runtime(name: str, versions: str, device: Device) -> Unmet | None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion, Version

    requirement = name + versions
    try:
        wanted = SpecifierSet(versions)
    except InvalidSpecifier:
        raise UsageError(f"'{requirement}' has no version specifier of PEP 440; write as in {name}>=1.18,<2.") from None
    here = {software.name: software.version.value for software in device.runtimes}
    if name not in here:
        known = name in RUNTIMES
        lacks = f"but {device.name} has no {name}" if known else f"and whether {device.name} has {name} is unknown"
        return Unmet(requirement, f"{requirement} is needed, {lacks}.", known)
    if not versions:
        return None
    try:
        version = Version(here[name] or "")
    except InvalidVersion:
        reason = f"{requirement} is needed, and which {name} {device.name} has is unknown."
        return Unmet(requirement, reason, False)
    if wanted.contains(version, prereleases=True):
        return None
    return Unmet(requirement, f"{requirement} is needed, but {device.name} has {name} {version}.", True)


def _isa(value: str, device: Device) -> tuple[bool | None, str]:
    answer = device.cpu.isa.get(value)
    if answer is None and value not in ISA[device.arch] and any(value in known for known in ISA.values()):
        return False, f"a processor of {device.arch}"
    return answer, f"a processor without {value}"


def _of_accelerator(key: str, value: str, device: Device) -> tuple[bool | None, str]:
    """An accelerator's number. A device whose profile lists no accelerator at all may still have one."""
    numbers: list[Count | None] = [getattr(accelerator, key) for accelerator in device.accelerators]
    stated = [str(number.value) for number in numbers if number is not None and number.value is not None]
    if value in stated:
        return True, ""
    if not numbers or any(number is not None and number.value is None for number in numbers):
        return None, ""
    return False, f"{key}={stated[0]}" if stated else f"no accelerator with {key}"


_FACTS: Mapping[str, Callable[[str, Device], tuple[bool | None, str]]] = {
    "arch": lambda value, device: (value == device.arch, f"arch={device.arch}"),
    "isa": _isa,
    "sm": functools.partial(_of_accelerator, "sm"),
    "htp": functools.partial(_of_accelerator, "htp"),
}
