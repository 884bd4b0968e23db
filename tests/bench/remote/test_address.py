"""Addresses of devices: what is one, and what never gets near a shell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.bench.remote.address import Address
from edgedeploy.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ssh://nano", Address("nano")),
        ("ssh://pi@192.168.1.7:2222", Address("192.168.1.7", "pi", 2222)),
        ("ssh://me@[fe80::1%eth0]:22", Address("fe80::1%eth0", "me", 22)),
        ("ssh://Bench_Nano/", Address("Bench_Nano")),
        ("ssh://n?python=~/my%20venv/bin/python&wait=2min", Address("n", python="~/my venv/bin/python", wait=120.0)),
    ],
)
def test_what_is_an_address(text: str, expected: Address) -> None:
    assert Address.parse(text) == expected
    assert Address.parse(expected.full) == expected


@pytest.mark.parametrize(
    "text",
    [
        "ssh://",
        "ssh://@host",
        "ssh://-oProxyCommand=reboot",
        "ssh://-l@host",
        "ssh://host;reboot",
        "ssh://$(reboot)",
        "ssh://a`reboot`@host",
        "ssh://user:secret@host",
        "ssh://host/path",
        "ssh://host:ssh",
        "ssh://host:70000",
        "ssh://host:0",
        "ssh://host?pyton=x",
        "ssh://host?python=-c",
        "ssh://host?python=a%0Ab",
        "ssh://host?wait=soon",
        "ssh://ho st",
        "ssh://[::1",
        "http://host",
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(UsageError):
        Address.parse(text)


@given(st.text(max_size=30))
def test_no_host_is_an_option_or_more_than_one_word(text: str) -> None:
    try:
        address = Address.parse(f"ssh://{text}")
    except UsageError:
        return
    *_, dashes, host = address.arguments
    assert dashes == "--"
    assert not host.startswith("-")
    assert set(host) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:%")


def test_the_interpreter_is_one_word_of_a_shell() -> None:
    assert Address("h").interpreter == "python3"
    assert Address("h", python="~/venv/bin/python").interpreter == "~/venv/bin/python"
    assert Address("h", python="/a b/$(x)'y").interpreter == """'/a b/$(x)'"'"'y'"""
