"""What else happened while samples were taken: memory, context switches, and who used the processors meanwhile.

Read by the measured process itself, before and after, from ``/proc`` and ``getrusage``: running totals cost nothing
between the two. What has to be read again and again is read beside it (`edgedeploy.bench.sensors`). A value that this
system does not tell is ``None``, never zero.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgedeploy.errors import UsageError

Clock = Callable[[], int]

#: How far a reading can be trusted. ``exact``: counted by the kernel or the hardware for just this process.
#: ``sampled``: read now and then, so that peaks between two readings are missed. ``shared``: of the whole machine or
#: group, others included. ``modelled``: the source computes it and does not measure it. ``absent``: nobody says it
#: here.
Trust = Literal["exact", "sampled", "shared", "modelled", "absent"]


#: The reading that `energy_per_pass` divides: gross joules of the sampling time, of as much of the machine as is known.
ENERGY = "energy"


@dataclass(frozen=True)
class Reading:
    """One number about a run, with its trust. ``value`` is in SI ``unit``; ``None`` where absent.

    Units besides those of SI: "" for counts, ``share`` from 0 to 1, ``degC``, ``B``.

    ``source`` is where it was read (``/proc/self/smaps_rollup: Pss``), or, of an absent one, why it is.
    """

    name: str
    value: float | None
    unit: str
    trust: Trust
    source: str


@dataclass(frozen=True)
class Series:
    """A quantity over time: ``times`` in seconds from the begin of sampling, ``values`` in SI ``unit``."""

    name: str
    unit: str
    trust: Trust
    source: str
    times: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.times) != len(self.values):
            raise UsageError(f"The series '{self.name}' has more times than values, or fewer; the record is damaged.")


@dataclass(frozen=True)
class Telemetry:
    """Of one worker process; everything but the memory is about the time in which samples were taken.

    Args:
        wall: seconds that sampling lasted.
        resolution: seconds of the smallest step seen of the clock that timed the samples.
        memory_before: bytes resident before the session was opened.
        memory_peak: largest number of bytes resident from then to the end.
        processor: seconds of processor time that this process used.
        involuntary_switches: times that a thread of this process was taken off a processor it still wanted.
        foreign: share of all processors' time that others used.
        steal: share of all processors' time that the hypervisor gave to other guests.
        pressure: share of the time in which some task of the system was waiting for a processor.
        readings: whatever else this machine tells, each with its trust, and what it does not tell.
        series: what was read again and again while samples were taken.
    """

    wall: float
    resolution: float
    memory_before: int | None = None
    memory_peak: int | None = None
    processor: float | None = None
    involuntary_switches: int | None = None
    foreign: float | None = None
    steal: float | None = None
    pressure: float | None = None
    readings: tuple[Reading, ...] = ()
    series: tuple[Series, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no machine can have told, before it is computed with."""
        sizes = [size for size in (self.memory_before, self.memory_peak) if size is not None]
        if not (math.isfinite(self.wall) and self.wall > 0) or any(not 0 <= size < 1 << 62 for size in sizes):
            raise UsageError("Sampling that lasted no time, or memory of no possible size; the record is damaged.")

    @property
    def model_memory(self) -> int | None:
        """Bytes that loading and running the model added."""
        if self.memory_peak is None or self.memory_before is None:
            return None
        return self.memory_peak - self.memory_before


@dataclass(frozen=True)
class Counters:
    """Running totals at one moment: seconds, except for the switches and ``processors``.

    ``usage`` has the rest by name, see `USAGE`; what this system does not count is not in it.
    """

    wall: float
    processor: float
    switches: int | None = None
    busy: float | None = None
    steal: float | None = None
    processors: int | None = None
    waiting: float | None = None
    usage: Mapping[str, float] = field(default_factory=dict)


#: What `between` makes readings of: name, unit, trust, source. Those with unit ``share`` are counted in seconds.
USAGE: tuple[tuple[str, str, Trust, str], ...] = (
    ("processor time, user", "s", "exact", "getrusage: ru_utime"),
    ("processor time, system", "s", "exact", "getrusage: ru_stime"),
    ("voluntary switches", "", "exact", "getrusage: ru_nvcsw"),
    ("minor page faults", "", "exact", "getrusage: ru_minflt"),
    ("major page faults", "", "exact", "getrusage: ru_majflt"),
    ("read from storage", "B", "exact", "/proc/self/io: read_bytes"),
    ("waiting for memory", "share", "shared", "/proc/pressure/memory: some"),
    ("waiting for storage", "share", "shared", "/proc/pressure/io: some"),
)


def read_counters(root: Path = Path("/")) -> Counters:
    """The totals now; ``root`` is where ``proc`` is (for tests)."""
    busy, steal, processors = _processor_times(_read(root / "proc/stat"))
    return Counters(
        wall=time.monotonic(),
        processor=time.process_time(),
        switches=_switches(),
        busy=busy,
        steal=steal,
        processors=processors,
        waiting=_waiting(root, "cpu"),
        usage=_usage(root),
    )


def between(first: Counters, last: Counters, resolution: float, memory: tuple[int | None, int | None]) -> Telemetry:
    """What happened from ``first`` to ``last``; ``memory`` is resident before the load, and at the peak."""
    wall = max(last.wall - first.wall, 1e-9)
    own = last.processor - first.processor
    capacity = wall * last.processors if last.processors else None
    busy, steal = _gained(first.busy, last.busy), _gained(first.steal, last.steal)
    waiting, switches = _gained(first.waiting, last.waiting), _gained(first.switches, last.switches)
    return Telemetry(
        wall=wall,
        resolution=resolution,
        memory_before=memory[0],
        memory_peak=memory[1],
        processor=own,
        involuntary_switches=None if switches is None else int(switches),
        foreign=_share(None if busy is None else busy - own, capacity),
        steal=_share(steal, capacity),
        pressure=_share(waiting, wall),
        readings=tuple(_used(first.usage, last.usage, wall)),
    )


def energy_per_pass(telemetry: Telemetry, passes: int) -> Reading:
    """Joules per inference: the energy of the whole sampling time, idle power included, over ``passes``.

    Nothing is subtracted, and of a run that waits for its queries the waiting is part. Absent where `ENERGY` is. Where
    a pass has a batch, give the number of samples.
    """
    name = "energy per inference"
    energy = next((reading for reading in telemetry.readings if reading.name == ENERGY), None)
    if energy is None:
        return Reading(name, None, "J", "absent", "no sensor was read")
    if energy.value is None or passes < 1:
        return Reading(name, None, "J", "absent", energy.source if energy.value is None else "no pass was made")
    return Reading(name, energy.value / passes, "J", energy.trust, energy.source)


def resolution(clock: Clock, tries: int = 1000) -> float:
    """Seconds of the smallest step that ``clock`` was seen to make in ``tries`` pairs of readings."""
    steps = (abs(clock() - clock()) for _ in range(tries))
    return min((step for step in steps if step), default=0) / 1e9


def resident_memory() -> int | None:
    """Bytes of this process that are in main memory now."""
    return _status("VmRSS")


def restart_peak() -> None:
    """Let `peak_memory` count from now, where the system can: what came before the load is not the model's."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int | None:
    """Largest number of bytes of this process that were in main memory at once."""
    peak = _status("VmHWM")
    if peak is None and sys.platform != "win32":
        import resource

        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else largest * 1024
    return peak


def _usage(root: Path) -> dict[str, float]:
    """The totals of `USAGE` that this system keeps."""
    found: dict[str, float | None] = {
        "waiting for memory": _waiting(root, "memory"),
        "waiting for storage": _waiting(root, "io"),
    }
    read = re.search(r"^read_bytes: (\d+)", _read(root / "proc/self/io"), re.MULTILINE)
    found["read from storage"] = int(read[1]) if read else None
    if sys.platform != "win32":
        import resource

        own = resource.getrusage(resource.RUSAGE_SELF)
        found |= {
            "processor time, user": own.ru_utime,
            "processor time, system": own.ru_stime,
            "voluntary switches": own.ru_nvcsw,
            "minor page faults": own.ru_minflt,
            "major page faults": own.ru_majflt,
        }
    return {name: value for name, value in found.items() if value is not None}


def _used(first: Mapping[str, float], last: Mapping[str, float], wall: float) -> Iterator[Reading]:
    for name, unit, trust, source in USAGE:
        gained = _gained(first.get(name), last.get(name))
        if gained is None:
            yield Reading(name, None, unit, "absent", f"not told by this system ({source})")
        else:
            yield Reading(name, min(1.0, gained / wall) if unit == "share" else gained, unit, trust, source)


def _waiting(root: Path, what: str) -> float | None:
    """Seconds in which some task of the system waited for ``what``, counted since the start."""
    found = re.search(r"^some .*total=(\d+)", _read(root / "proc/pressure" / what), re.MULTILINE)
    return int(found[1]) / 1e6 if found else None


def _gained(first: float | None, last: float | None) -> float | None:
    return None if first is None or last is None else max(0.0, last - first)


def _share(part: float | None, whole: float | None) -> float | None:
    """Both clocks tick coarsely: a share is kept within 0 and 1."""
    return None if part is None or not whole else min(1.0, max(0.0, part / whole))


def _processor_times(stat: str) -> tuple[float | None, float | None, int | None]:
    """Busy and stolen seconds of all processors, and how many there are, from ``/proc/stat``.

    Columns: user nice system idle iowait irq softirq steal guest guest_nice; guest time is inside user already.
    """
    total = re.search(r"^cpu +([\d ]+)$", stat, re.MULTILINE)
    columns = [int(value) for value in total[1].split()] if total else []
    if len(columns) < 8 or sys.platform == "win32":
        return None, None, None
    tick = os.sysconf("SC_CLK_TCK")
    busy = columns[0] + columns[1] + columns[2] + columns[5] + columns[6]
    return busy / tick, columns[7] / tick, len(re.findall(r"^cpu\d+ ", stat, re.MULTILINE))


def _switches() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _status(key: str) -> int | None:
    found = re.search(rf"^{key}:\s*(\d+) kB", _read(Path("/proc/self/status")), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
