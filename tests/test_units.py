from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.errors import UsageError
from edgedeploy.units import UNITS, parse, parse_share, show


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("20ms", "s", 0.02),
        ("50 ms", "s", 0.05),
        ("1.5us", "s", 1.5e-6),
        ("2min", "s", 120.0),
        ("8GiB", "B", 8 * 2**30),
        ("300MB", "B", 300e6),
        ("17.1 GB/s", "B/s", 17.1e9),
        ("15W", "W", 15.0),
        ("100Hz", "Hz", 100.0),
        ("2.4GHz", "Hz", 2.4e9),
        ("1e3s", "s", 1000.0),
        ("614 GOP/s", "OP/s", 614e9),
        ("153.6 GFLOP/s", "FLOP/s", 153.6e9),
    ],
)
def test_quantities(text: str, unit: str, value: float) -> None:
    assert parse(text, unit) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["", "ms", "20", "20 parsecs", "20 W", "1..2ms", "nan s", "1e999s", "20 m s", "0x10ms"]
)
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="20ms"):
        parse(text, "s")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0204, "s", "20.4 ms"),
        (0.9999, "s", "1.00 s"),
        (123.4, "s", "123 s"),
        (12345.0, "s", "12345 s"),
        (3.5e6, "B", "3.34 MiB"),
        (0.0, "B", "0 B"),
        (17.1e9, "B/s", "17.1 GB/s"),
        (1.0, "W", "1.00 W"),
    ],
)
def test_shown_as_people_read(value: float, unit: str, text: str) -> None:
    assert show(value, unit) == text


@given(st.floats(1e-8, 1e14, allow_nan=False), st.sampled_from(sorted(UNITS)))
def test_what_is_shown_reads_back_to_three_digits(value: float, unit: str) -> None:
    assert parse(show(value, unit), unit) == pytest.approx(value, rel=6e-3)


@given(st.text(max_size=20), st.sampled_from(sorted(UNITS)))
def test_any_text_gives_a_number_or_a_usage_error(text: str, unit: str) -> None:
    try:
        parse(text, unit)
    except UsageError:
        pass


def test_shares() -> None:
    assert parse_share("2%") == pytest.approx(0.02)
    assert parse_share("0.01") == pytest.approx(0.01)
    with pytest.raises(UsageError, match="2%"):
        parse_share("two")
