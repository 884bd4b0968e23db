"""A fact: a value as its source states it, with the source, and *unknown* where nobody could be found who states it.

Quantities keep the text of the source ("17.1 GB/s") and know their unit by their class; `Quantity.si` is the number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from edgedeploy import units
from edgedeploy.errors import UsageError, did_you_mean

Kind = Literal["official", "third_party", "derived", "measured", "unknown"]


@dataclass(frozen=True)
class Fact:
    """One value and where it comes from. ``unknown`` has no value; its ``source`` may then say why."""

    value: str | int | None = None
    kind: Kind = "unknown"
    source: str = ""

    def check(self, where: str) -> None:
        """Refuse a value without a source, and a kind that contradicts the value.

        Raises:
            UsageError: naming ``where``.
        """
        if (self.value is None) != (self.kind == "unknown"):
            found = "no value" if self.value is None else repr(self.value)
            raise UsageError(
                f"{where}: {found} is of kind {self.kind}. What is unknown has no value, and the rest has one."
            )
        if self.value is not None and not self.source.strip():
            raise UsageError(f"{where}: {self.value!r} has no source. Say who states it, or make it unknown.")

    def __str__(self) -> str:
        return "unknown" if self.value is None else str(self.value)


@dataclass(frozen=True)
class Version(Fact):
    """A version number, as text."""

    value: str | None = None


@dataclass(frozen=True)
class Count(Fact):
    """A whole number of things, at least 1: where there are none, the fact is left out."""

    value: int | None = None

    def check(self, where: str) -> None:
        """See `Fact.check`."""
        super().check(where)
        if self.value is not None and self.value < 1:
            raise UsageError(f"{where}: {self.value} is not a count. Where there are none, leave the key out.")


@dataclass(frozen=True)
class Quantity(Fact):
    """A positive number with its unit, as text. ``low`` and ``high`` are the range of the repeats of a measured one."""

    value: str | None = None
    low: str | None = None
    high: str | None = None
    unit: ClassVar[str]

    @property
    def si(self) -> float | None:
        """The value in SI; ``None`` where it is unknown."""
        return None if self.value is None else units.parse(self.value, self.unit)

    def check(self, where: str) -> None:
        """See `Fact.check`."""
        super().check(where)
        if (self.low or self.high) and self.kind != "measured":
            raise UsageError(f"{where}: low and high are the range of repeats, but this is of kind {self.kind}.")
        texts = [text for text in (self.low, self.value, self.high) if text is not None]
        try:
            numbers = [units.parse(text, self.unit) for text in texts]
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        if any(number <= 0 for number in numbers):
            raise UsageError(f"{where}: {', '.join(texts)} has to be above zero. What is not known is unknown.")
        if numbers != sorted(numbers):
            raise UsageError(f"{where}: {self.value} is not between low {self.low} and high {self.high}.")


class Size(Quantity):
    """Bytes."""

    unit: ClassVar[str] = "B"


class Bandwidth(Quantity):
    """Bytes per second."""

    unit: ClassVar[str] = "B/s"


class Frequency(Quantity):
    """Hertz."""

    unit: ClassVar[str] = "Hz"


class Power(Quantity):
    """Watts."""

    unit: ClassVar[str] = "W"


class Time(Quantity):
    """Seconds."""

    unit: ClassVar[str] = "s"


class Flops(Quantity):
    """Floating point operations per second; a multiply-add is two."""

    unit: ClassVar[str] = "FLOP/s"


class Ops(Quantity):
    """Integer operations per second; a multiply-add is two."""

    unit: ClassVar[str] = "OP/s"


@dataclass(frozen=True)
class Features:
    """Named abilities: those that are there and those that are not. A name in neither list is unknown."""

    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    kind: Kind = "unknown"
    source: str = ""

    def get(self, name: str) -> bool | None:
        """Whether ``name`` is there; ``None`` where that is unknown."""
        return True if name in self.has else False if name in self.lacks else None

    def any(self, *names: str) -> bool | None:
        """Whether at least one of ``names`` is there; ``None`` where that is unknown."""
        answers = [self.get(name) for name in names]
        return True if True in answers else None if None in answers else False

    def check(self, where: str, known: Sequence[str]) -> None:
        """Refuse names that are not ``known``, contradictions, and lists without a source.

        Raises:
            UsageError: naming ``where``.
        """
        for name in (*self.has, *self.lacks):
            if name not in known:
                raise UsageError(f"{where}: there is no feature '{name}'.{did_you_mean(name, known)}")
        both = set(self.has) & set(self.lacks)
        if both:
            raise UsageError(f"{where}: '{min(both)}' is in has and in lacks. Keep one.")
        if bool(self.has or self.lacks) == (self.kind == "unknown"):
            raise UsageError(f"{where}: features have a kind other than unknown, and unknown has no features.")
        if self.kind != "unknown" and not self.source.strip():
            raise UsageError(f"{where}: features without a source. Say who states them, or leave them out.")
