"""What sensors have said over a run, and the `Reading`s and `Series` that are made of it."""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from edgedeploy.bench.sensors.power import whole
from edgedeploy.bench.sensors.sensor import Quantity, Sensor, absent, finite
from edgedeploy.bench.telemetry import ENERGY, Reading, Series, Trust

#: Points of a series that are handed on; of a longer one every n-th.
POINTS = 300

#: What is told of a quantity of the moment, by its unit.
_SUMMARIES: dict[str, tuple[tuple[str, Callable[[Sequence[float]], float]], ...]] = {
    "Hz": (("lowest", min), ("median", statistics.median), ("highest", max)),
    "W": (("mean", statistics.fmean), ("highest", max)),
    "share": (("mean", statistics.fmean),),
    "degC": (("lowest", min), ("highest", max)),
    "B": (("highest", max),),
}


@dataclass
class _Track:
    """One quantity over time; ``times`` in seconds."""

    quantity: Quantity
    sensor: Sensor
    times: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))
    failed: str | None = None

    @property
    def trust(self) -> Trust:
        """The sensor's; but power is that of a rail, and never of one process."""
        return "shared" if self.quantity.unit in ("W", "J") else self.sensor.trust


class Log:
    """Reads sensors when it is told to. One that fails is absent from then on, with the reason; the others go on."""

    def __init__(self, found: Sequence[Sensor | Reading]) -> None:
        self._sensors = [one for one in found if isinstance(one, Sensor)]
        self._dumb = [one for one in found if isinstance(one, Reading)]
        self._tracks: dict[str, _Track] = {}

    def begin(self, now: float) -> None:
        """Read all once. Quantities of the moment are not kept: the run has not begun."""
        self._read(self._sensors, now, lambda quantity, sensor: quantity.total or sensor.ends)

    def tick(self, now: float) -> None:
        """Read all but those for the ends."""
        self._read([sensor for sensor in self._sensors if not sensor.ends], now, lambda quantity, sensor: True)

    def end(self, now: float) -> None:
        """Read what counts by its difference or its largest value, and let go of all sensors."""
        totals = {track.sensor.name for track in self._tracks.values() if track.quantity.total}
        last = [sensor for sensor in self._sensors if sensor.ends or sensor.name in totals]
        self._read(last, now, lambda quantity, sensor: quantity.total or sensor.ends)
        for sensor in self._sensors:
            sensor.close()

    def readings(self, first: float, begin: float, end: float) -> tuple[Reading, ...]:
        """All that can be told of the time from ``begin`` to ``end``; the first tick was due ``first`` seconds in."""
        told = [reading for track in self._tracks.values() for reading in _readings(track, first)]
        return (*told, *self._dumb, self._energy(begin, end))

    def series(self, begin: float) -> tuple[Series, ...]:
        """Each quantity of the moment, and the power that an energy counter tells; times from ``begin`` on."""
        tracks = (track for track in self._tracks.values() if not track.sensor.ends)
        shown = [_series(track, begin) for track in tracks if track.quantity.unit and len(track.times) > 1]
        counted = {one.name for one in shown if " (counter)" in one.source}
        return tuple(one for one in shown if one.name not in counted or " (counter)" in one.source)

    def _read(self, sensors: Sequence[Sensor], now: float, keep: Callable[[Quantity, Sensor], bool]) -> None:
        for sensor in tuple(sensors):
            try:
                said = finite(sensor.read())
            except Exception as error:  # a vendor's library may raise anything
                self._fail(sensor, _why(error))
                continue
            for quantity, value in said.items():
                track = self._tracks.setdefault(quantity.name, _Track(quantity, sensor))
                if track.sensor is sensor and keep(quantity, sensor):
                    track.times.append(now)
                    track.values.append(value)

    def _fail(self, sensor: Sensor, why: str) -> None:
        self._sensors.remove(sensor)
        sensor.close()
        mine = [track for track in self._tracks.values() if track.sensor is sensor]
        for track in mine:
            track.failed = f"{sensor.source}: after {len(track.values)} readings: {why}"
        if not mine:
            self._dumb.append(absent(sensor.name, "", f"{sensor.source}: {why}"))

    def _energy(self, begin: float, end: float) -> Reading:
        """Joules of as much of the machine as is known."""
        sound = {track.quantity.name: track for track in self._tracks.values() if not track.failed}
        joules: dict[str, float] = {}
        how: dict[str, str] = {}
        for name, track in sound.items():
            kind, _, rail = name.partition(" ")
            if kind == "power" and track.quantity.unit == "W" and track.values and f"energy {rail}" not in sound:
                joules[rail], how[rail] = _integral(track, begin, end), "power, integrated"
            elif track.quantity.unit == "J" and len(track.values) > 1:
                joules[rail], how[rail] = track.values[-1] - track.values[0], "counted"
        made = whole(joules)
        if made is None:
            reasons = [f"the power of {', '.join(sorted(joules))} is that of parts"] if joules else []
            reasons += [one.source for one in self._dumb if one.name.startswith(("energy ", "power"))]
            reasons += [track.failed for track in self._tracks.values() if track.failed and track.quantity.unit in "JW"]
            return absent(
                ENERGY, "J", "; ".join(dict.fromkeys(reasons)) or "nothing here tells the power of the machine"
            )
        rails, what = made
        ways = ", ".join(sorted({how[rail] for rail in rails}))
        source = f"{' + '.join(rails)}: {what}; {ways}, idle power and all others included"
        return Reading(ENERGY, sum(joules[rail] for rail in rails), "J", "shared", source)


def _readings(track: _Track, first: float) -> Iterator[Reading]:
    (name, unit, total), sensor = track.quantity, track.sensor
    if track.failed:
        yield absent(name, unit, track.failed)
    elif total:
        if len(track.values) > 1:
            yield Reading(name, track.values[-1] - track.values[0], unit, track.trust, sensor.source)
    elif not track.values:
        yield absent(name, unit, f"the run ended before the first reading, which was due after {first:.3g} s")
    elif sensor.ends:
        yield Reading(name, max(track.values), unit, track.trust, sensor.source)
    else:
        for which, make in _SUMMARIES[unit]:
            yield Reading(f"{name}, {which}", float(make(track.values)), unit, track.trust, sensor.source)


def _series(track: _Track, begin: float) -> Series:
    (name, unit, total), sensor = track.quantity, track.sensor
    times, values, source = list(track.times), list(track.values), sensor.source
    if total:  # joules: what was used between two readings, at the middle between them
        steps = [(a, b, x, y) for a, b, x, y in zip(times, times[1:], values, values[1:], strict=False) if b > a]
        times, values = [(a + b) / 2 for a, b, _, _ in steps], [(y - x) / (b - a) for a, b, x, y in steps]
        name, unit, source = name.replace("energy", "power", 1), "W", f"{source} (counter)"
    if track.failed:
        source = track.failed
    step = -(-len(times) // POINTS) or 1
    if step > 1:
        source += f"; {len(times[::step])} of {len(times)} readings, evenly spread"
    shown = tuple(round(max(0.0, time - begin), 3) for time in times[::step])
    return Series(name, unit, track.trust, source, shown, tuple(float(f"{value:.6g}") for value in values[::step]))


def _integral(track: _Track, begin: float, end: float) -> float:
    """Of the polygon through what was read, which goes on level to both ends."""
    times, values = [begin, *track.times, end], [track.values[0], *track.values, track.values[-1]]
    return sum((b - a) * (x + y) / 2 for a, b, x, y in zip(times, times[1:], values, values[1:], strict=False) if b > a)


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{error}" or type(error).__name__
