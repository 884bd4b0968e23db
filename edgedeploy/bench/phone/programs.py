"""Programs for Android: whether a file is one that a device can run, read from its ELF header before anything runs.

ELF: "Tool Interface Standard, Executable and Linking Format", version 1.2; machine numbers from the generic ABI.
"""

from __future__ import annotations

import re
import shlex
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgedeploy.bench.phone import android
from edgedeploy.bench.phone.adb import AdbDevice
from edgedeploy.device import Device
from edgedeploy.errors import Incompatible, UsageError

#: Bytes of a program that are looked at: its headers, and the name of its loader.
HEAD = 4096
#: Android's names of ABIs by ELF machine, and `Device.arch` by them.
ABIS: Mapping[int, str] = {3: "x86", 40: "armeabi-v7a", 62: "x86_64", 183: "arm64-v8a", 243: "riscv64"}
ARCHES: Mapping[str, str] = {"arm64-v8a": "aarch64", "armeabi-v7a": "armv7l", "x86_64": "x86_64"}


@dataclass(frozen=True)
class Elf:
    """The ABI that a program is for, as Android calls it, and the loader that it needs (none: linked statically)."""

    abi: str
    loader: str | None


def read_elf(content: bytes) -> Elf | None:
    """What the header says; ``None`` where ``content`` is no ELF file.

    Only its first `HEAD` bytes are needed, and damaged ones give no loader.
    """
    if content[:4] != b"\x7fELF" or len(content) < 64 or content[4] not in (1, 2) or content[5] not in (1, 2):
        return None
    wide, order = content[4] == 2, "<" if content[5] == 1 else ">"
    (machine,) = struct.unpack_from(f"{order}H", content, 18)
    abi = ABIS.get(machine, f"machine {machine}")
    (start,) = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", content, 32 if wide else 28)
    size, count = struct.unpack_from(f"{order}HH", content, 54 if wide else 42)
    for at in (start + i * size for i in range(count)):
        if at + (56 if wide else 32) > len(content):
            break
        (kind,) = struct.unpack_from(f"{order}I", content, at)
        if kind == 3:  # PT_INTERP
            layout = (f"{order}Q", at + 8, at + 32) if wide else (f"{order}I", at + 4, at + 16)
            (offset,), (length,) = (struct.unpack_from(layout[0], content, place) for place in layout[1:])
            name = content[offset : offset + length].rstrip(b"\0").decode("ascii", "replace")
            return Elf(abi, name or None)
    return Elf(abi, None)


def check(content: bytes, device: AdbDevice, what: str) -> None:
    """Refuse a program that ``device`` cannot run; scripts are taken as they are.

    Raises:
        UsageError: it is no program.
        Incompatible: it is for another processor, or for another system.
        RunFailed: the device went away.
    """
    if content[:2] == b"#!" or not content:
        return
    elf = read_elf(content)
    if elf is None:
        raise UsageError(f"{what} is no program: it has neither an ELF header nor '#!'.")
    abis = _abis(device)
    if elf.abi not in abis:
        raise Incompatible(
            f"{what} is built for {elf.abi}, and {device.on} runs {', '.join(abis)}: build it for {abis[0]}."
        )
    if elf.loader is not None and device.shell(f"test -e {shlex.quote(elf.loader)}").status:
        raise Incompatible(
            f"{what} needs {elf.loader}, which {device.on} does not have: it was built for another system. "
            "Build it with Android's NDK, or link it statically."
        )


def check_profile(device: AdbDevice, profile: Device) -> None:
    """Refuse a profile of another processor.

    Raises:
        Incompatible: the device has another one.
        RunFailed: it went away.
    """
    abis = _abis(device)
    if profile.arch not in [ARCHES.get(abi, abi) for abi in abis]:
        raise Incompatible(
            f"The profile {profile.name} is of a device with {profile.arch}, and {device.on} runs {', '.join(abis)}: "
            "name the profile that it has."
        )


def files(path: Path, name: str) -> dict[str, Path]:
    """What has to be brought there: the program under ``name``, and what lies beside it where ``path`` is a folder.

    Raises:
        UsageError: the folder does not have it.
    """
    if not path.is_dir():
        return {name: path}
    found = {file.name: file for file in sorted(path.iterdir()) if file.is_file()}
    if name not in found:
        raise UsageError(f"{path} has no {name} in it: give the program, or a folder with it and its libraries.")
    odd = [file for file in found if not re.fullmatch(r"[\w+][\w.+-]*", file, re.ASCII)]
    if odd:
        raise UsageError(f"{path} has '{odd[0]}' in it: names of files for the device are letters, digits and . + - _")
    return found


def head(device: AdbDevice, path: str) -> bytes:
    """The begin of a program that is on the device; nothing where the device has no tool that shows it.

    Raises:
        UsageError: it is not there.
        RunFailed: the device went away.
    """
    quoted = shlex.quote(path)
    if device.shell(f"test -x {quoted}").status:
        raise UsageError(f"There is no program {path} on {device.on}: bring it there, or give it with --runner.")
    said = device.shell(f"dd if={quoted} bs={HEAD} count=1 2>/dev/null | od -An -v -tx1")
    digits = "".join(re.findall(r"\b[0-9a-f]{2}\b", said.text))
    return bytes.fromhex(digits)


def digest(device: AdbDevice, path: str) -> str:
    """sha256 of a file that is on the device; nothing where it cannot be told."""
    found = re.match(r"\\?([0-9a-f]{64})\b", device.shell(f"sha256sum {shlex.quote(path)}").text)
    return found[1] if found else ""


def _abis(device: AdbDevice) -> list[str]:
    told = android.properties(device)
    listed = [abi for abi in told.get("ro.product.cpu.abilist", "").split(",") if abi]
    return listed or [told.get("ro.product.cpu.abi", "unknown")]
