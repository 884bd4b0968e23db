"""Ways to devices, by the text that people write; the one that needs no way."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedeploy.bench.remote.ssh import Ssh
from edgedeploy.bench.remote.transport import Broken, Local, way_to
from edgedeploy.errors import RunFailed, UsageError


def test_ways_by_name() -> None:
    assert isinstance(way_to("local"), Local)
    way = way_to("ssh://pi@nano:2222?python=/opt/python&wait=3s")
    assert isinstance(way, Ssh)
    assert (way.on, way.address.python, way.address.wait) == ("ssh://pi@nano:2222", "/opt/python", 3.0)
    way.close()


@pytest.mark.parametrize("text", ["", "here", "shh://nano", "ssh:nano", "adb://0A1B", "ssh://-oProxyCommand=x"])
def test_what_is_no_way_of_a_worker(text: str) -> None:
    with pytest.raises(UsageError):
        way_to(text)


def test_the_nearest_kind_is_named() -> None:
    with pytest.raises(UsageError, match=r"Did you mean 'ssh'\?"):
        way_to("shh://nano")


def test_nothing_lies_between_here_and_here(tmp_path: Path) -> None:
    way = Local()
    assert way.deliver(str(tmp_path)) == str(tmp_path)
    assert way.explain(255, "Permission denied") is None
    assert way.locate("It is not installed here.") == "It is not installed here."
    with pytest.raises(Broken) as caught:
        way.restore(Broken("broke"))
    assert isinstance(caught.value, RunFailed)
    assert caught.value.exit_status == 1
