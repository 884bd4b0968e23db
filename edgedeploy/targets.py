"""Targets: devices at hand, by the names that their users gave them: which profile they are, and how they are reached.

They are in ``edgedeploy/targets.json`` of the user's configuration (``XDG_CONFIG_HOME``), readable by that user alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgedeploy import device, machine
from edgedeploy.bench.remote import there
from edgedeploy.bench.remote.address import Address
from edgedeploy.bench.remote.ssh import Findings, Ssh
from edgedeploy.bench.remote.transport import Local, way_to
from edgedeploy.errors import Incompatible, UsageError, did_you_mean
from edgedeploy.parts import RUNTIMES
from edgedeploy.records import from_json, read_json, to_json

SCHEMA = 1


@dataclass(frozen=True)
class Target:
    """One device at hand.

    Args:
        name: what its user calls it; ``None`` where it was given by its way alone.
        profile: name or path of its profile; ``None`` where nobody said.
        on: the way to it: ``local``, ``ssh://user@host:port``, ``adb://serial``.
    """

    name: str | None
    profile: str | None
    on: str


@dataclass(frozen=True)
class _Entry:
    profile: str
    on: str


@dataclass(frozen=True)
class _File:
    schema: int
    targets: Mapping[str, _Entry]


def path() -> Path:
    """The file; it need not be there."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "edgedeploy" / "targets.json"


def saved() -> dict[str, Target]:
    """All targets by name, sorted.

    Raises:
        UsageError: the file is damaged, or cannot be read.
    """
    try:
        if not path().exists():
            return {}
        plain = read_json(path())
    except OSError as error:
        raise UsageError(f"{path()} cannot be read: {error.strerror}.") from error
    file = from_json(_File, plain, str(path()))
    if file.schema != SCHEMA:
        raise UsageError(f"{path()} has schema {file.schema}; this edgedeploy reads {SCHEMA}. Add the targets again.")
    return {name: Target(name, entry.profile, entry.on) for name, entry in sorted(file.targets.items())}


def add(name: str, profile: str, on: str, python: str | None = None) -> Target:
    """Keep a target under ``name``; one of that name is replaced. Nothing is connected.

    Args:
        name: of small letters, digits, ``.``, ``_`` and ``-``.
        profile: a packaged profile, or the path of a ``.yaml`` file.
        on: the way to it.
        python: the interpreter there, if it is reached over ssh and is not to be ``python3``.

    Raises:
        UsageError: no such profile, no such way, or a name that cannot be one.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name) or name == Local.on:
        raise UsageError(f"'{name}' cannot be a target's name: use a-z, 0-9, '-', '_' and '.', and not '{Local.on}'.")
    device.load(profile)
    if profile.endswith((".yaml", ".yml")):
        profile = str(Path(profile).resolve())
    target = Target(name, profile, _checked(on, python))
    _write({**saved(), name: target})
    return target


def remove(name: str) -> Target:
    """Forget a target.

    Raises:
        UsageError: there is none of that name.
    """
    known = saved()
    if name not in known:
        raise UsageError(f"There is no target '{name}'.{did_you_mean(name, known)}")
    target = known.pop(name)
    _write(known)
    return target


def resolve(text: str) -> Target:
    """The target of that name, or the way that ``text`` is.

    Raises:
        UsageError: neither.
    """
    if text == Local.on:
        return Target(None, device.THIS_MACHINE, text)
    if "://" in text:
        return Target(None, None, _checked(text, None))
    known = saved()
    if text not in known:
        raise UsageError(
            f"There is no target '{text}'.{did_you_mean(text, known)} Make one with: edgedeploy devices add {text} "
            "--profile PROFILE --on ssh://user@host"
        )
    return known[text]


def look(target: Target) -> Findings:
    """Connect, and say what is there: interpreter, numpy, runtimes, architecture.

    Raises:
        UsageError: no Python runs there.
        Unavailable: it cannot be reached, or has no Python that can be used.
        Incompatible: it is of another architecture than its profile says.
    """
    wanted = [name for runtime in RUNTIMES for name in machine.DISTRIBUTIONS.get(runtime, (runtime,))]
    if target.on == Local.on:
        found = from_json(Findings, there.facts(wanted), target.on)
    else:
        way = way_to(target.on)
        assert isinstance(way, Ssh)  # the only other one by which Python can be reached
        found = way.look(wanted)
    if target.profile is not None:
        expected, arch = device.load(target.profile).arch, machine.arch(found.machine)
        if arch != expected:
            raise Incompatible(
                f"{target.name or target.on} is {arch}, and its profile {target.profile} is {expected}. "
                "Give it the profile of what it is, or the address of what was meant."
            )
    return found


def _checked(on: str, python: str | None) -> str:
    """``on``, known to be a way."""
    if on.startswith("ssh://"):
        address = Address.parse(on)
        return (address if python is None else dataclasses.replace(address, python=python)).full
    if python is not None:
        raise UsageError(f"An interpreter is given for devices over ssh, and not for {on}.")
    if not re.fullmatch(r"adb://[\w.:\[\]-]*", on):
        way_to(on).close()
    return on


def _write(targets: Mapping[str, Target]) -> None:
    """All of the file, in one step: a reader never sees half of it."""
    entries = {name: _Entry(target.profile or device.THIS_MACHINE, target.on) for name, target in targets.items()}
    text = json.dumps(to_json(_File(SCHEMA, dict(sorted(entries.items())))), indent=2) + "\n"
    temporary = None
    try:
        path().parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".targets.", suffix=".tmp", dir=path().parent)  # mode 600
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(temporary).replace(path())
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise UsageError(f"{path()} cannot be written: {error.strerror}.") from error
