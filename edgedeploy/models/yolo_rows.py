"""The rows that describe a YOLOv8 or YOLO11 network, from a file that anybody may have written.

Ultralytics builds a network from such rows by looking up names and evaluating text. So nothing goes there that is not
known here: which modules, with how many arguments, of which kind and within which limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from edgedeploy.errors import UsageError, did_you_mean

#: Channels of a layer; the widest of the published networks has 1280.
WIDEST = 8192
#: Rows of a network, and blocks in all of them; the largest published ones have 29 and 48.
_LONGEST, _DEEPEST = 64, 256
_CLASSES = 10_000

_Check = Callable[[object], bool]


def _whole(least: int, most: int) -> _Check:
    return lambda value: type(value) is int and least <= value <= most


def _number(most: float) -> _Check:
    return lambda value: type(value) in (int, float) and math.isfinite(value) and 0 < value <= most  # type: ignore


def _one_of(*known: object) -> _Check:
    return lambda value: type(value) in {type(k) for k in known} and value in known


_WIDTH, _KERNEL, _FLAG = _whole(1, WIDEST), _whole(1, 15), _one_of(True, False)

#: Module names to (arguments that it needs, what each argument may be).
_MODULES: dict[str, tuple[int, tuple[_Check, ...]]] = {
    "Conv": (1, (_WIDTH, _KERNEL, _whole(1, 2))),
    "C2f": (1, (_WIDTH, _FLAG)),
    "C3k2": (1, (_WIDTH, _FLAG, _number(1.0))),
    "SPPF": (1, (_WIDTH, _KERNEL)),
    "C2PSA": (1, (_WIDTH,)),
    "nn.Upsample": (3, (_one_of(None, "None"), _whole(2, 2), _one_of("nearest"))),
    "Concat": (1, (_whole(1, 1),)),
    "Detect": (1, (_one_of("nc"),)),
}

#: What Ultralytics evaluates as Python; only these are let through.
_ACTIVATIONS = tuple(p + a for p in ("", "torch.") for a in ("nn.SiLU()", "nn.ReLU()", "nn.LeakyReLU(0.1)"))

_KEYS: dict[str, _Check] = {
    "end2end": _one_of(False),
    "nc": _whole(1, _CLASSES),
    "depth_multiple": _number(4),
    "width_multiple": _number(4),
    "reg_max": _whole(2, 64),
    "scale": _one_of(*"nsmlx"),
    "activation": _one_of(*_ACTIVATIONS),
}


def rows_of(yaml: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """What of a network's ``yaml`` attribute describes its layers, with ``classes`` for the number of classes.

    Raises:
        UsageError: it describes something else than a YOLOv8 or YOLO11 detector.
    """
    kept = {key: yaml[key] for key in (*_KEYS, "scales", "backbone", "head") if yaml.get(key)}
    if "scales" in kept and "scale" not in kept:
        kept["scale"] = next(iter(kept["scales"]))  # as Ultralytics does
    return check({**kept, "nc": classes})


def check(yaml: object) -> dict[str, Any]:
    """``yaml`` itself, where every value in it is known to be harmless.

    Raises:
        UsageError: names the first key, row or argument that is not.
    """
    if not isinstance(yaml, dict):
        raise UsageError("its yaml is no mapping.")
    for key, value in yaml.items():
        if key in ("backbone", "head", "scales"):
            continue
        if key not in _KEYS:
            raise UsageError(f"its yaml has the unknown key {str(key)[:40]!r}.{did_you_mean(str(key), _KEYS)}")
        if not _KEYS[key](value):
            raise UsageError(f"its yaml has {key} = {str(value)[:40]!r}, which no YOLOv8 or YOLO11 detector has.")
    if "nc" not in yaml:
        raise UsageError("its yaml has no number of classes, nc.")
    _check_scales(yaml)
    parts = [yaml.get("backbone"), yaml.get("head")]
    if not all(isinstance(part, list) and part for part in parts):
        raise UsageError("its yaml has no backbone and head.")
    rows = [row for part in parts for row in part]  # type: ignore[union-attr]
    if len(rows) > _LONGEST:
        raise UsageError(f"its yaml has {len(rows)} rows; at most {_LONGEST} are built.")
    for number, row in enumerate(rows):
        _check_row(number, row, last=number == len(rows) - 1)
    scales = yaml.get("scales")
    depth = scales[yaml["scale"]][0] if scales else yaml.get("depth_multiple", 1.0)
    blocks = sum(max(round(row[1] * depth), 1) for row in rows)
    if blocks > _DEEPEST:
        raise UsageError(f"its yaml has {blocks} blocks; at most {_DEEPEST} are built.")
    return yaml


def _check_scales(yaml: Mapping[str, Any]) -> None:
    scales = yaml.get("scales")
    if scales is None:
        return
    limits = (_number(4), _number(4), _whole(1, WIDEST))
    named = isinstance(scales, dict) and all(_KEYS["scale"](name) for name in scales)
    if not named or not all(
        isinstance(s, list) and len(s) == 3 and all(c(v) for c, v in zip(limits, s, strict=True))
        for s in scales.values()
    ):
        raise UsageError("its yaml has scales that are not depth, width and most channels, for n, s, m, l or x.")
    if yaml.get("scale") not in scales:
        raise UsageError(f"its yaml has the scale {str(yaml.get('scale'))[:40]!r}, which is none of its scales.")


def _check_row(number: int, row: object, last: bool) -> None:
    where = f"row {number} of its yaml"
    if not isinstance(row, list) or len(row) != 4 or not isinstance(row[2], str) or not isinstance(row[3], list):
        raise UsageError(f"{where} is not [from, repeats, module, arguments].")
    source, repeats, module, arguments = row
    if module not in _MODULES:
        raise UsageError(f"{where} names {module[:40]!r}, which YOLOv8 and YOLO11 detectors do not have.")
    where = f"{where}, {module},"
    if last != (module == "Detect"):
        raise UsageError(f"{where} is out of place: a Detect head has to be the last row, and only there.")
    sources = source if module in ("Concat", "Detect") else [source]
    if not isinstance(sources, list) or not sources or len(sources) > _LONGEST:
        raise UsageError(f"{where} comes from {str(source)[:40]}; it has to be a list of rows.")
    if not all(type(i) is int and (i == -1 or 0 <= i < number) for i in sources):
        raise UsageError(f"{where} comes from {str(source)[:40]}; these have to be earlier rows.")
    least, kinds = _MODULES[module]
    if not least <= len(arguments) <= len(kinds):
        raise UsageError(f"{where} has {len(arguments)} arguments; it takes {least} to {len(kinds)}.")
    for value, allowed in zip(arguments, kinds, strict=False):
        if not allowed(value):
            raise UsageError(f"{where} has the argument {str(value)[:40]!r}, which no such detector has.")
    if not _whole(1, _DEEPEST if module in ("C2f", "C3k2", "C2PSA") else 1)(repeats):
        raise UsageError(f"{where} is repeated {str(repeats)[:40]} times, which no such detector does.")
