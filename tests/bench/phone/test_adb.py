"""The way to an Android device: the real client, its own server, and a stand-in for the device."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from edgedeploy.bench.phone import adb
from edgedeploy.bench.phone.adb import ROOT, AdbDevice
from edgedeploy.errors import RunFailed, Unavailable, UsageError
from tests.bench.phone.standin_adb import StandIn, gone, plugged_in

pytestmark = pytest.mark.skipif(shutil.which("adb") is None, reason="needs the adb client (apt-get install adb)")


# --- finding one


def test_a_device_over_the_network(device: AdbDevice, standin: StandIn) -> None:
    assert device.serial == standin.address
    assert device.on == f"adb://{standin.address}"
    assert AdbDevice.find("adb://") == device


def test_a_server_of_the_users_own_port_is_used(device: AdbDevice) -> None:
    with socket.create_connection(("127.0.0.1", int(os.environ["ANDROID_ADB_SERVER_PORT"])), timeout=5) as way:
        way.sendall(b"000chost:version")
        assert way.recv(4) == b"OKAY"


def test_several_devices(device: AdbDevice, tmp_path: Path) -> None:
    with plugged_in(tmp_path / "second") as second:
        AdbDevice.find(f"adb://{second.address}")
        with pytest.raises(Unavailable, match="adb sees 2 devices: say which, as in adb://127") as caught:
            AdbDevice.find("adb://")
        assert second.address in str(caught.value)
        adb._client(["disconnect", second.address], 10)


def test_no_device(server: None) -> None:
    with pytest.raises(Unavailable, match="adb sees no device: plug one in"):
        AdbDevice.find("adb://")
    with pytest.raises(Unavailable, match="There is no device '2A111FDH': adb sees no device"):
        AdbDevice.find("adb://2A111FDH")


def test_nobody_answers_at_an_address(server: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Unavailable, match=f"adb cannot reach adb://127.0.0.1:{port} .*debugging over the network"):
        AdbDevice.find(f"adb://127.0.0.1:{port}")


def test_a_device_that_does_not_trust_this_computer(standin: StandIn) -> None:
    standin.authorised = False
    with pytest.raises(Unavailable, match="does not trust this computer yet: unlock it, confirm"):
        AdbDevice.find(f"adb://{standin.address}")


def test_a_device_that_went_away(device: AdbDevice, standin: StandIn) -> None:
    standin.close()
    with pytest.raises(RunFailed, match=r"The way to adb://127.0.0.1:\d+ broke .* plug it in again"):
        device.shell("true")
    with pytest.raises(Unavailable, match=r"adb cannot reach|is offline"):
        AdbDevice.find(device.on)


@pytest.mark.parametrize("state", ["offline", "unauthorized", "no permissions", "recovery", "something new"])
def test_every_state_says_what_to_do(state: str) -> None:
    for serial in ("", "A1"):
        with pytest.raises(Unavailable, match=r"^The device A1 \S.*: \S.+\.$|^The device A1 .* gets no answer"):
            adb._choose(serial, {"A1": state})
    assert adb._choose("", {"A1": state, "B2": "device"}) == "B2"


@pytest.mark.parametrize("on", ["ssh://me@there", "adb:", "A1", "adb://a b", "adb://x';rm"])
def test_what_is_no_device(on: str) -> None:
    with pytest.raises(UsageError, match="is no device over adb"):
        AdbDevice.find(on)


def test_adb_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="Install it with: apt-get install adb"):
        AdbDevice.find("adb://")


# --- commands


def test_a_command_ends_with_its_status_and_what_it_printed(device: AdbDevice) -> None:
    said = device.shell("echo out; echo err >&2; exit 7")
    assert said.status == 7
    assert said.text.split() == ["out", "err"]


def test_what_a_command_prints_last_is_not_taken_for_its_status(device: AdbDevice) -> None:
    assert device.shell("printf 'edgedeploy-status:0'; exit 3").status == 3


def test_a_command_that_takes_too_long_is_killed_there(device: AdbDevice, standin: StandIn) -> None:
    with pytest.raises(RunFailed, match="took longer than 0 s and was killed there"):
        device.run("exec sleep 301.25", f"touch {ROOT.rpartition('/')[0]}/after;", 0.4)
    assert gone("sleep\x00301.25")
    assert standin.left() == ["after"]


def test_a_command_that_prints_without_end_is_killed_there(
    device: AdbDevice, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb, "LOUDEST", 1 << 20)
    with pytest.raises(RunFailed, match=r"printed more than 1(\.0*)? MiB and was killed there"):
        device.run("exec yes 304.25", "", 60)
    assert gone("304.25")


def test_a_status_that_is_none_is_a_way_that_broke(device: AdbDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    def listen(child: object, heard: bytearray, *others: object) -> bool:
        heard += f"{adb._END}{'9' * 5000}\n".encode()
        return True

    monkeypatch.setattr(adb, "_listen", listen)
    with pytest.raises(RunFailed, match="broke"):
        device.shell("true")


def test_a_command_dies_when_the_way_breaks(device: AdbDevice, standin: StandIn) -> None:
    threading.Timer(0.5, standin.unplug).start()
    with pytest.raises(RunFailed, match=r"The way to .* broke"):
        device.run("exec sleep 302.25", f"touch {ROOT.rpartition('/')[0]}/after;", 60)
    assert gone("sleep\x00302.25")
    until = time.monotonic() + 5
    while not standin.left() and time.monotonic() < until:
        time.sleep(0.05)
    assert standin.left() == ["after"]  # what has to be tidied up there is, with nobody listening


def test_one_at_a_time(device: AdbDevice) -> None:
    with (
        device.held(),
        pytest.raises(Unavailable, match="Another process measures on adb://"),
        AdbDevice(device.serial).held(),
    ):
        pass
    with device.held():
        pass


def test_no_place_for_the_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(Unavailable, match=r"cannot be written \(.*\): set XDG_CACHE_HOME"), AdbDevice("0A1B").held():
        pass


def test_what_a_crash_left_is_removed(device: AdbDevice, standin: StandIn) -> None:
    there = standin.tmp / "edgedeploy"
    (there / "run-1").mkdir(parents=True)
    (there / ("0" * 32 + ".1.part")).mkdir()
    with device.held():
        assert standin.left() == []


# --- files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.pte"
    path.write_bytes(os.urandom(300_000))
    return path


def test_a_file_travels_once(device: AdbDevice, standin: StandIn, file: Path) -> None:
    folder = device.deliver({"model.pte": file})
    assert folder.startswith(f"{ROOT}/")
    assert Path(standin.here(folder), "model.pte").read_bytes() == file.read_bytes()
    assert device.deliver({"model.pte": file}) == folder
    assert standin.pushed == ["model.pte"]
    file.write_bytes(b"another")
    assert device.deliver({"model.pte": file}) != folder
    assert standin.pushed == ["model.pte", "model.pte"]


def test_a_file_that_was_damaged_there_travels_again(device: AdbDevice, standin: StandIn, file: Path) -> None:
    folder = device.deliver({"model.pte": file})
    Path(standin.here(folder), "model.pte").write_bytes(b"rotten")
    assert device.deliver({"model.pte": file}) == folder
    assert Path(standin.here(folder), "model.pte").read_bytes() == file.read_bytes()


def test_a_program_and_its_library(device: AdbDevice, standin: StandIn, file: Path) -> None:
    folder = Path(standin.here(device.deliver({"runner": file, "lib.so": file}, executable=True)))
    assert os.access(folder / "runner", os.X_OK)
    assert (folder / "lib.so").is_file()


def test_a_device_without_room(device: AdbDevice, standin: StandIn, file: Path) -> None:
    standin.room = 200_000
    with pytest.raises(Unavailable, match=r"has no room for model.pte \(293 KiB\) in /data/local/tmp/edgedeploy"):
        device.deliver({"model.pte": file})
    assert standin.left() == []


def test_what_was_damaged_on_the_way(device: AdbDevice, standin: StandIn, file: Path) -> None:
    standin.damage = True
    with pytest.raises(RunFailed, match="is not what was sent"):
        device.deliver({"model.pte": file})
    assert standin.left() == []
    assert not list((standin.tmp / "edgedeploy").iterdir())


def test_a_cable_that_is_pulled_while_a_file_travels(device: AdbDevice, standin: StandIn, file: Path) -> None:
    original = standin.here

    def pull(text: str) -> str:
        if text.endswith("model.pte") and "part" in text and " " not in text:
            standin.unplug()
        return original(text)

    standin.here = pull  # type: ignore[method-assign]
    with pytest.raises(RunFailed, match="broke"):
        device.deliver({"model.pte": file})
    standin.here = original  # type: ignore[method-assign]
    with AdbDevice.find(device.on).held():
        assert standin.left() == []
