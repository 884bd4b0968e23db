"""The YAML reader: plain values or one sentence, whatever the text is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy import strictyaml
from edgedeploy.errors import UsageError


def test_plain_values_are_read() -> None:
    assert strictyaml.read("a: 1\nb: [x, 2.5, true, null]\nc: {d: 8 GiB}", "f") == {
        "a": 1,
        "b": ["x", 2.5, True, None],
        "c": {"d": "8 GiB"},
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\na: 2", "the key 'a' repeats"),
        ("x: {a: 1, b: 2, a: 3}", "the key 'a' repeats"),
        ("a: &x [1]\nb: *x", "anchors and tags"),
        ("a: &x [*x]", "anchors and tags"),
        ("a: !!python/object/apply:os.system [echo]", "anchors and tags"),
        ("a: !!int ''", "anchors and tags"),
        ("a: [1", "not YAML"),
        ("a: 2001-99-99", "cannot be read"),
        ("a: 0b_", "cannot be read"),
        ("? [a]\n: 1", "not YAML"),
        ("a: \x00", "not YAML"),
        ("--- 1\n--- 2", "not YAML"),
        ("a: " + "[" * 2000, "file.yaml"),
    ],
)
def test_everything_else_is_a_usage_error_that_names_the_file(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        strictyaml.read(text, "file.yaml")
    assert "file.yaml" in str(caught.value)


@given(st.text() | st.text(alphabet="ab:-[]{}?!&*|>'\"%@#,.0189eE_+~<= \n\t"))
def test_any_text_is_read_or_refused(text: str) -> None:
    said = "file.yaml"
    try:
        strictyaml.read(text, "file.yaml")
    except UsageError as error:
        said = str(error)
    assert "file.yaml" in said


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    value = {"b": [1, 2.5, None, True], "a": {"text": "8 GiB: 'x' \u2028 \x85 \u00b5", "empty": ""}}
    text = strictyaml.write(value, path)
    assert strictyaml.read(text, "a.yaml") == value
    assert path.read_text("utf-8") == text
    assert [p.name for p in tmp_path.iterdir()] == ["a.yaml"]


def test_writing_where_nothing_can_be_written_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        strictyaml.write({"a": 1}, tmp_path / "missing" / "a.yaml")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("old")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UsageError, match="No space left"):
        strictyaml.write({"a": 1}, path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.yaml"]
