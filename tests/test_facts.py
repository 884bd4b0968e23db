"""Facts: what they accept, and that unknown never turns into a number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.errors import UsageError
from edgedeploy.facts import Bandwidth, Count, Fact, Features, Flops, Frequency, Ops, Size, Version


def test_a_quantity_is_a_number_in_si() -> None:
    assert Bandwidth("17.1 GB/s", "official", "maker").si == pytest.approx(17.1e9)
    assert Size("8 GiB", "official", "maker").si == 8 * 2**30
    assert Frequency("2.4 GHz", "official", "maker").si == pytest.approx(2.4e9)
    assert Ops("614 GOP/s", "derived", "arithmetic").si == pytest.approx(614e9)


def test_unknown_has_no_number_and_prints_as_unknown() -> None:
    fact = Bandwidth(source="could not be confirmed")
    fact.check("x")
    assert fact.si is None
    assert str(fact) == "unknown"


@pytest.mark.parametrize(
    ("fact", "says"),
    [
        (Flops("1 TFLOP/s", "official", " "), "no source"),
        (Flops("1 TFLOP/s", "unknown", "maker"), "kind unknown"),
        (Flops(None, "official", "maker"), "no value"),
        (Flops("1 TOP/s", "official", "maker"), "unit 'TOP/s'"),
        (Ops("1 TFLOP/s", "official", "maker"), "integer rate"),
        (Size("8", "official", "maker"), "no unit"),
        (Size("0 B", "official", "maker"), "above zero"),
        (Size("-1 B", "official", "maker"), "above zero"),
        (Size("8 GiB", "official", "maker", low="7 GiB"), "range of repeats"),
        (Size("8 GiB", "measured", "here", low="9 GiB"), "not between"),
        (Size("8 GiB", "measured", "here", low="7 GiB", high="7.5 GiB"), "not between"),
        (Count(0, "official", "maker"), "not a count"),
        (Version("1.0", "official", ""), "no source"),
    ],
)
def test_a_fact_that_cannot_be_is_refused_by_name(fact: Fact, says: str) -> None:
    with pytest.raises(UsageError, match=f"board.yaml: memory: .*{says}"):
        fact.check("board.yaml: memory")


def test_features_know_three_answers() -> None:
    isa = Features(("avx2",), ("avx_vnni",), "measured", "here")
    assert (isa.get("avx2"), isa.get("avx_vnni"), isa.get("amx_int8")) == (True, False, None)
    assert isa.any("avx_vnni", "avx2") is True
    assert isa.any("avx_vnni") is False
    assert isa.any("avx_vnni", "amx_int8") is None


@pytest.mark.parametrize(
    ("features", "says"),
    [
        (Features(("asimdp",), (), "official", "x"), "Did you mean 'asimddp'"),
        (Features(("bf16",), ("bf16",), "official", "x"), "in has and in lacks"),
        (Features(("bf16",)), "kind other than unknown"),
        (Features(kind="official", source="x"), "unknown has no features"),
        (Features(("bf16",), (), "official"), "without a source"),
    ],
)
def test_features_that_cannot_be_are_refused(features: Features, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        features.check("cpu.isa", ("asimddp", "bf16"))


@given(st.floats(min_value=1e-9, max_value=1e15), st.sampled_from(["", "k", "M", "G", "T"]))
def test_any_positive_number_with_its_unit_is_a_fact(number: float, prefix: str) -> None:
    fact = Bandwidth(f"{number!r} {prefix}B/s", "official", "maker")
    fact.check("x")
    assert fact.si is not None
    assert fact.si > 0
