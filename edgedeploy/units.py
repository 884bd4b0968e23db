"""Quantities as people write them ("8GiB", "20ms", "15W", "2%") and back. Inside everything is SI.

``parse("20ms", "s") == 0.02``; ``show(0.02, "s") == "20 ms"``.
"""

from __future__ import annotations

import math
import re

from edgedeploy.errors import UsageError

_PREFIX = {"p": 1e-12, "n": 1e-9, "u": 1e-6, "µ": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "K": 1e3}
_PREFIX |= {"M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_SPECIAL = {"s": {"min": 60.0, "h": 3600.0}}
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*")

#: Units that a quantity can have, with what they measure.
UNITS = {
    "s": "time",
    "B": "size",
    "B/s": "bandwidth",
    "W": "power",
    "Hz": "frequency",
    "FLOP/s": "floating point rate",
    "OP/s": "integer rate",
    "V": "voltage",
}


def _scales(unit: str) -> dict[str, float]:
    """Every spelling of ``unit`` with its factor to SI."""
    prefixes = dict(_PREFIX)
    if unit.startswith("B"):
        prefixes |= _BINARY
    spelled = {prefix + unit: factor for prefix, factor in prefixes.items()}
    return spelled | _SPECIAL.get(unit, {})


def parse(text: str, unit: str) -> float:
    """The SI value of ``text``, which must carry ``unit`` (one of `UNITS`) with an optional prefix.

    Raises:
        UsageError: not a finite number, no unit, or a unit of another kind.
    """
    matched = _NUMBER.fullmatch(text)
    example = f"as in '{'20m' if unit == 's' else '8Gi' if unit == 'B' else '15'}{unit}'"
    if matched is None:
        raise UsageError(f"'{text}' is not a quantity: write a number and a unit of {UNITS[unit]}, {example}.")
    number, spelled = float(matched[1]), matched[2]
    scales = _scales(unit)
    if spelled not in scales or not math.isfinite(number):
        found = f"unit '{spelled}'" if spelled else "no unit"
        raise UsageError(f"'{text}' has {found}, but {UNITS[unit]} is in {unit}, {example}.")
    return number * scales[spelled]


def parse_share(text: str) -> float:
    """A fraction from ``"2%"`` or ``"0.02"``.

    Raises:
        UsageError: not a finite number.
    """
    matched = _NUMBER.fullmatch(text)
    if matched is None or matched[2] not in ("", "%") or not math.isfinite(float(matched[1])):
        raise UsageError(f"'{text}' is not a share: write '2%' or '0.02'.")
    return float(matched[1]) / (100 if matched[2] == "%" else 1)


def show(value: float, unit: str, digits: int = 3) -> str:
    """``value`` in SI as a person reads it: three significant digits and a prefix; sizes in binary prefixes."""
    if not math.isfinite(value):
        return f"{value} {unit}"
    if unit == "B":
        steps = [(2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")]
    else:
        powers = [1e15, 1e12, 1e9, 1e6, 1e3, 1.0, 1e-3, 1e-6, 1e-9]
        names = ["P", "T", "G", "M", "k", "", "m", "u", "n"]
        if unit == "s":  # nobody writes kiloseconds
            powers, names = powers[5:], names[5:]
        steps = [(power, name + unit) for power, name in zip(powers, names, strict=True)]
    for scale, name in steps:
        if abs(value) >= scale * (1 - 0.5 * 10.0**-digits):
            return f"{_significant(value / scale, digits)} {name}"
    return f"0 {unit}" if value == 0 else f"{value:.{digits}g} {unit}"


def _significant(value: float, digits: int) -> str:
    """``value`` to ``digits`` significant digits without an exponent and without cutting whole digits."""
    whole = len(str(int(abs(value))))
    return f"{value:.{max(0, digits - whole)}f}"
