"""The log beside a bundle survives torn lines and foreign ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedeploy.bench.earlier import Earlier, append, log_path, read
from edgedeploy.errors import UsageError
from edgedeploy.testing import fake_measurement


def test_the_log_lies_beside_the_bundle() -> None:
    assert log_path(Path("out/net.edge")) == Path("out/net.bench.jsonl")


def test_an_absent_log_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "net.bench.jsonl") == Earlier((), 0)


def test_what_is_appended_is_read_in_order(tmp_path: Path) -> None:
    log = tmp_path / "net.bench.jsonl"
    made = [fake_measurement(name=name) for name in "abc"]
    for measurement in made:
        append(log, measurement)
    assert read(log) == Earlier(tuple(made), 0)
    assert read(log, last=2) == Earlier(tuple(made[1:]), 0)
    assert len(log.read_bytes().splitlines()) == 3


@pytest.mark.parametrize("keep", [1, 100, -1])
def test_a_torn_line_costs_only_itself(tmp_path: Path, keep: int) -> None:
    log = tmp_path / "net.bench.jsonl"
    append(log, fake_measurement(name="torn"))
    whole = log.read_bytes()
    log.write_bytes(whole + whole[:-1][:keep])
    assert [m.conditions.name for m in read(log).measurements][:1] == ["torn"]
    append(log, fake_measurement(name="next"))
    found = read(log)
    assert [m.conditions.name for m in found.measurements] == ["torn", "next"]
    assert found.skipped == 1


def test_a_foreign_schema_is_skipped_and_counted(tmp_path: Path) -> None:
    log = tmp_path / "net.bench.jsonl"
    log.write_bytes(b'{"schema": 99}\n[]\n\n')
    append(log, fake_measurement())
    assert read(log) == Earlier((fake_measurement(),), 2)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60))
def test_no_garbage_stops_a_run(tmp_path: Path, garbage: bytes) -> None:
    log = tmp_path / "net.bench.jsonl"
    log.write_bytes(garbage)
    append(log, fake_measurement())
    assert read(log).measurements == (fake_measurement(),)


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        append(tmp_path / "nowhere" / "net.bench.jsonl", fake_measurement())
    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path)
