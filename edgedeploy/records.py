"""Frozen dataclasses to JSON and back, strictly.

Every record that is saved (artifact, profile, measurement) is a frozen dataclass. This module turns one into plain
JSON values and builds it again from a file that anybody may have written: each key must be known, each value must
have the declared type. It is our own, and not a validation library's, because it runs on the device, where there is
numpy and a runtime and nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from edgedeploy.errors import UsageError, did_you_mean

T = TypeVar("T")

JSON = typing.Union[None, bool, int, float, str, "list[JSON]", "dict[str, JSON]"]


def to_json(record: object) -> Any:
    """Plain JSON values of a dataclass (nested ones too); tuples become lists, paths strings."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {f.name: to_json(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if isinstance(record, Mapping):
        return {str(key): to_json(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [to_json(value) for value in record]
    if isinstance(record, Path):
        return record.as_posix()
    return record


def from_json(cls: type[T], data: object, where: str) -> T:
    """The record of type ``cls`` that ``data`` describes; ``where`` names the file or key in messages.

    Raises:
        UsageError: a key is missing or unknown, or a value has another type than the field.
    """
    if not isinstance(data, dict):
        raise UsageError(f"{where}: expected a mapping, found {_kind(data)}.")
    hints = _hints(cls)  # type: ignore[arg-type]
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise UsageError(f"{where}: unknown key '{key}'.{did_you_mean(str(key), fields)}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _value(hints[name], data[name], f"{where}: {name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{where}: the key '{name}' is missing.")
    return cls(**values)


def read_json(path: Path, limit: int = 64 << 20) -> object:
    """The value in a JSON file of at most ``limit`` bytes; NaN and infinities are refused.

    Raises:
        UsageError: missing, too large, not UTF-8, or not JSON.
    """
    try:
        if path.stat().st_size > limit:
            raise UsageError(f"{path} is {path.stat().st_size} bytes; at most {limit} are read.")
        return json.loads(path.read_text("utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid JSON ({error}).") from error


def canonical(data: object) -> bytes:
    """The bytes over which digests of JSON values are taken: sorted keys, no spaces, UTF-8."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _refuse_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


@functools.cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _kind(value: object) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"


def _value(hint: Any, value: object, where: str) -> Any:
    """``value`` as the type ``hint`` says, or a `UsageError`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object:
        return value
    if origin in (typing.Union, types.UnionType):
        return _union(args, value, where)
    if origin is typing.Literal:
        if value in args:
            return value
        raise UsageError(f"{where}: {value!r} is not one of {', '.join(map(str, args))}.")
    if origin is tuple:
        return _tuple(args, value, where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise UsageError(f"{where}: expected a mapping, found {_kind(value)}.")
        return {str(key): _value(args[1], item, f"{where}: {key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast("type[Any]", hint), value, where)
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: object, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (hint is int and isinstance(value, bool)) or not isinstance(value, hint):
        name = {"str": "text", "float": "a number", "int": "a whole number", "bool": "true or false"}
        raise UsageError(f"{where}: expected {name.get(hint.__name__, hint.__name__)}, found {_kind(value)}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where}: {value} is not a finite number.")
    return value


def _union(args: tuple[Any, ...], value: object, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    options = [a for a in args if a is not type(None)]
    errors = []
    for option in options:
        try:
            return _value(option, value, where)
        except UsageError as error:
            errors.append(error)
    raise errors[0]


def _tuple(args: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise UsageError(f"{where}: expected a list, found {_kind(value)}.")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_value(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(args) != len(value):
        raise UsageError(f"{where}: expected {len(args)} values, found {len(value)}.")
    return tuple(_value(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(zip(args, value, strict=True)))
