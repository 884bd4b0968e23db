"""The real adb client with a server of its own, and a stand-in for the device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedeploy.bench.phone import adb
from edgedeploy.bench.phone.adb import AdbDevice
from tests.bench.phone.standin_adb import StandIn, plugged_in, private_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An adb server that nobody else uses."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, private_server(home) as variables:
        for name, value in {**variables, "XDG_CACHE_HOME": str(home / "cache")}.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def standin(server: None, tmp_path: Path) -> Iterator[StandIn]:
    with plugged_in(tmp_path / "device") as device:
        yield device
        adb._client(["disconnect", device.address], 10)


@pytest.fixture
def device(standin: StandIn) -> AdbDevice:
    return AdbDevice.find(f"adb://{standin.address}")
