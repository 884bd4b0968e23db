from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.errors import UsageError
from edgedeploy.records import canonical, from_json, read_json, to_json


@dataclass(frozen=True)
class Inner:
    shape: tuple[int | str, ...]
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    name: str
    size: float
    inner: Inner
    table: Mapping[str, Inner] = field(default_factory=dict)
    pair: tuple[int, int] | None = None
    flag: bool = False


INNER = st.builds(
    Inner, st.lists(st.integers() | st.text(max_size=3), max_size=3).map(tuple), st.sampled_from(["a", "b"])
)
OUTER = st.builds(
    Outer,
    st.text(max_size=5),
    st.floats(allow_nan=False, allow_infinity=False),
    INNER,
    st.dictionaries(st.text(max_size=3), INNER, max_size=2),
    st.none() | st.tuples(st.integers(), st.integers()),
    st.booleans(),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "size", "inner", "x"]), inner),
    max_leaves=8,
)


@given(OUTER)
def test_a_record_comes_back_from_its_json(record: Outer) -> None:
    assert from_json(Outer, json.loads(canonical(to_json(record))), "test") == record


@given(VALUES)
def test_any_json_gives_a_record_or_a_usage_error(value: object) -> None:
    try:
        assert isinstance(from_json(Outer, value, "test"), Outer)
    except UsageError as error:
        assert str(error).startswith("test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nmae": "x"}, "unknown key 'nmae'. Did you mean 'name'?"),
        ({"size": "big"}, "size: expected a number, found str 'big'"),
        ({"flag": 1}, "flag: expected true or false"),
        ({"inner": {"shape": [1], "kind": "c"}}, "inner: kind: 'c' is not one of a, b"),
        ({"inner": {}}, "inner: the key 'shape' is missing"),
        ({"pair": [1]}, "pair: expected 2 values, found 1"),
        ({"size": True}, "size: expected a number"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, object], message: str) -> None:
    good = {"name": "n", "size": 1, "inner": {"shape": [1, "h"]}}
    with pytest.raises(UsageError) as caught:
        from_json(Outer, good | change, "file.json")
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[1, NaN]", "\xff", "[" * 100_000])
def test_broken_files_are_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"x\.json is not valid JSON"):
        read_json(path)
    with pytest.raises(UsageError, match="does not exist"):
        read_json(tmp_path / "y.json")
    with pytest.raises(UsageError, match="at most 0"):
        read_json(path, limit=0)
