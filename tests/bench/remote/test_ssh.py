"""A device over ssh, against a real sshd: what works, and everything that can go wrong on the way.

The device is this machine behind an sshd of its own, with a cache of its own, and a Python that has numpy alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedeploy.artifact import Artifact
from edgedeploy.bench.measurement import Measurement, Place
from edgedeploy.bench.remote import carry, ssh, there
from edgedeploy.bench.remote.address import Address
from edgedeploy.bench.remote.ssh import Ssh
from edgedeploy.bench.remote.ssh_words import last_line, refusal
from edgedeploy.bench.remote.transport import Broken
from edgedeploy.bench.run import BenchOptions, Where, bench
from edgedeploy.bench.spawn import run_worker
from edgedeploy.bench.target import Job
from edgedeploy.errors import EdgeDeployError, RunFailed, Unavailable
from edgedeploy.testing.sshd import Sshd, marked, serve, servers_of

FAKE = "edgedeploy.testing.fakes:load_fake"


def make_python(place: Path, *packages: str) -> str:
    """An interpreter that has these packages of ours and nothing else."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    (site,) = place.glob("lib/python*/site-packages")
    ours = Path(np.__file__).parents[1]
    for package in packages:
        for source in (*ours.glob(package), *ours.glob(f"{package}.libs"), *ours.glob(f"{package}-*.dist-info")):
            (site / source.name).symlink_to(source)
    return str(place / "bin" / "python")


@pytest.fixture(scope="module")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`make_python`, once for each set of packages."""
    made: dict[tuple[str, ...], str] = {}

    def python(*packages: str) -> str:
        if packages not in made:
            made[packages] = make_python(tmp_path_factory.mktemp("python") / "venv", *packages)
        return made[packages]

    return python


@pytest.fixture
def device(tmp_path: Path, pythons: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """A device that nothing was sent to yet; in the end, nothing is left running or half-written, there or here."""
    (tmp_path / "d").mkdir()
    (tmp_path / "s").mkdir()
    monkeypatch.setattr(ssh, "SOCKETS", str(tmp_path / "s"))
    with contextlib.ExitStack() as stack:
        try:
            sshd = stack.enter_context(serve(tmp_path / "d", pythons("numpy")))
        except Unavailable as error:
            pytest.skip(str(error))
        monkeypatch.setenv("PATH", f"{sshd.root}/bin", prepend=os.pathsep)
        yield sshd
        assert gone(sshd)
        assert list((tmp_path / "s").iterdir()) == []


def gone(device: Sshd) -> bool:
    """Whether nothing that was started through ``device`` runs, or lies there half-written, within some seconds."""
    for _ in range(150):
        if not marked(str(device.root)) and not list(device.cache.glob(".*")):
            return True
        time.sleep(0.1)
    print(marked(str(device.root)), list(device.cache.glob(".*")))
    return False


def measured(way: Ssh, behaviour: str = "", **changed: Any) -> Measurement:
    options = BenchOptions(loader=FAKE, duration=0.04, processes=2, options={"behaviour": behaviour}, silence=60)
    bundle = changed.pop("path", __file__)
    try:
        return bench(bundle, replace(options, **changed), None, Where(way, Place("nano", way.on, "bench-nano")))
    finally:
        way.close()


def refused(way: Ssh, status: int, **changed: Any) -> str:
    """The one sentence that a measurement ends with."""
    with pytest.raises(EdgeDeployError) as caught:
        measured(way, **changed)
    assert caught.value.exit_status == status
    assert "\n" not in str(caught.value)
    return str(caught.value)


def job(behaviour: str = "", **changed: Any) -> Job:
    return Job(**{"loader": FAKE, "path": "net.edge", "backend": "fake", "duration": 0.02, **changed}, options={
        "behaviour": behaviour
    })  # fmt: skip


# --- it works ------------------------------------------------------------------------------------------------------


def test_a_benchmark_there(device: Sshd) -> None:
    measurement = measured(Ssh(device.address()))
    assert len(measurement.processes) == 2
    assert measurement.count >= 14
    assert all(0 < process.start < 30 for process in measurement.processes)
    assert measurement.place == Place("nano", f"ssh://{device.address().user}@127.0.0.1:{device.port}", "bench-nano")
    assert set(measurement.environment.packages) == {"edgedeploy", "numpy"}  # this one, which was never installed there
    assert device.lock.read_text() == ""
    assert gone(device)


def test_what_is_there_is_not_sent_again(device: Sshd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent: list[str] = []
    stream = carry.Parcel.stream

    def count(parcel: carry.Parcel) -> Iterator[bytes]:
        sent.append(parcel.top)
        return stream(parcel)

    monkeypatch.setattr(carry.Parcel, "stream", count)
    bundle = tmp_path / "net.edge.zip"
    bundle.write_bytes(b"one")
    for _ in range(2):
        measured(Ssh(device.address()), path=bundle)
    assert sent == ["", "net.edge.zip"]
    bundle.write_bytes(b"two")
    measured(Ssh(device.address()), path=bundle)
    assert sent == ["", "net.edge.zip", "net.edge.zip"]
    assert sorted(p.read_bytes() for p in device.cache.glob("*/net.edge.zip")) == [b"one", b"two"]


@pytest.mark.slow
def test_a_bundle_there(device: Sshd, pythons: Callable[..., str], exported: Callable[..., Artifact]) -> None:
    """A real one, by a Python with numpy and the runtime; where the runtime is missing, the line that installs it."""
    artifact = exported("fp32")
    real: dict[str, Any] = {"path": artifact.path, "loader": BenchOptions.loader, "options": {}, "threads": 1}
    told = refused(Ssh(device.address()), 3, **real)
    python = device.python
    assert told.startswith(f"{Ssh(device.address()).on}: ")
    assert f"{python} -m pip install 'onnxruntime" in told
    with_runtime = device.address(pythons("numpy", "onnxruntime"))
    here = bench(artifact.path, BenchOptions(threads=1, duration=0.1, processes=1))
    found = measured(Ssh(with_runtime), **{**real, "duration": 0.2})
    assert found.conditions.digest == here.conditions.digest
    assert found.comparable()["inputs"] == here.comparable()["inputs"]
    assert found.environment.runtime == here.environment.runtime
    assert "opencv" not in (found.environment.image_engine or "")


def test_what_a_start_up_file_prints_does_not_reach_the_protocol(device: Sshd) -> None:
    noisy = device.root / "noisy"
    noisy.write_text(f'#!/bin/sh\nprintf \'{{"event": 1}}\\nWelcome\'\nexec {device.python} "$@"\n')
    noisy.chmod(0o755)
    assert measured(Ssh(device.address(str(noisy))), processes=1).count >= 7


def test_a_path_with_everything_in_it_is_a_path(device: Sshd) -> None:
    odd = device.root / 'it\'s $(touch gone) `here` & "there"'
    odd.symlink_to(device.python)
    refused(Ssh(device.address(f"{device.root}/; touch {device.root}/gone;")), 3)
    assert Ssh(device.address(str(odd))).look().executable == str(odd)
    assert not list(device.root.rglob("gone*"))


def test_names_and_jump_hosts_of_the_users_configuration(device: Sshd) -> None:
    with (device.root / "config").open("a") as config:
        config.write(f"Host Far_Away\n  HostName 127.0.0.1\n  Port {device.port}\n  ProxyJump near\n")
        config.write(f"Host near\n  HostName 127.0.0.1\n  Port {device.port}\n")
    way = Ssh(Address.parse(f"ssh://Far_Away?python={device.python}"))
    measurement = measured(way, processes=1)
    assert measurement.place.on == "ssh://Far_Away"
    assert (device.root / "sshd.log").read_text().count("Accepted publickey") == 2


def test_looking_does_not_hold_the_device(device: Sshd) -> None:
    found = Ssh(device.address()).look(["numpy", "torch"])
    assert found.distributions == {"numpy": np.__version__}
    assert (found.numpy, found.emulated, found.machine) == (True, False, os.uname().machine)
    assert found.free > 0
    assert not device.lock.exists()


# --- workers that die ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        (
            "abort",
            r"was killed by SIGABRT on ssh://\S+ while warming up\. Its last words:\n(.*\n)*?  vendor: assertion",
        ),
        ("exit", r"ended with status 7 on ssh://\S+ while warming up\. It left no word\."),
    ],
)
def test_how_a_worker_died_is_told_as_it_is_here(device: Sshd, behaviour: str, told: str) -> None:
    with contextlib.closing(Ssh(device.address())) as way:
        with pytest.raises(RunFailed, match=r"The worker measuring net\.edge on fake " + told):
            run_worker(job(behaviour), 60, way=way)
        assert len(run_worker(job(), 60, way=way).process.samples) >= 7  # the way is as good as before


def test_a_refusal_there_keeps_its_class_and_says_where(device: Sshd) -> None:
    told = refused(Ssh(device.address()), 3, behaviour="refuse")
    assert told == f"{Ssh(device.address()).on}: This model wants another device."


STUCK = """
import ctypes, subprocess, sys
def load(job):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    print("stuck", file=sys.stderr, flush=True)
    ctypes.PyDLL(None).sleep(1000)  # with the interpreter's lock: no thread of Python's runs meanwhile
"""


@pytest.fixture
def stuck(device: Sshd) -> Job:
    """A job that starts a process, and never comes back from a vendor's library."""
    (device.root / "stuck.py").write_text(STUCK)
    device.kill()
    device.configure(PYTHONPATH=str(device.root))
    device.start()
    return job(loader="stuck:load")


def test_a_worker_that_is_stuck_is_ended_with_what_it_has_started(device: Sshd, stuck: Job) -> None:
    with contextlib.closing(Ssh(device.address())) as way:
        with pytest.raises(RunFailed, match=r"said nothing for 3 s on ssh\S+ while reading the bundle and was killed"):
            run_worker(stuck, 3, way=way)
        assert len(run_worker(job(), 60, way=way).process.samples) >= 7


# --- connections that break ----------------------------------------------------------------------------------------


def when(phase: str, act: Callable[[], None]) -> Callable[[str, float | None], None]:
    """A listener that acts once, half a second after a phase has begun."""
    done: list[str] = []

    def follow(now: str, share: float | None) -> None:
        if now == phase and not done:
            done.append(now)
            threading.Timer(0.5, act).start()

    return follow


def test_sshd_is_killed_in_the_middle(device: Sshd, stuck: Job) -> None:
    with contextlib.closing(Ssh(device.address(), retries=2, pause=0.2)) as way:
        with pytest.raises(Broken) as caught:
            run_worker(stuck, 60, when("reading the bundle", device.kill), way)
        assert gone(device)
    assert caught.value.exit_status == 1
    told = str(caught.value)
    assert told == (
        f"The connection to {way.on} broke: it cannot be reached: no ssh server answers on that port. "
        "It was tried 2 times to connect again."
    )


def test_a_broken_connection_is_made_again_and_only_the_lost_process_is_repeated(device: Sshd) -> None:
    phases: list[tuple[int, str]] = []
    way = Ssh(device.address(), pause=0.2)
    killed: list[int] = []

    def restart(step: Any) -> None:
        phases.append((step.process, step.phase))
        if (step.process, step.phase) == (2, "sampling") and not killed:
            killed.append(1)
            device.kill()
            device.start()

    options = BenchOptions(loader=FAKE, duration=1.5, processes=3)
    try:
        measurement = bench(__file__, options, restart, Where(way))
    finally:
        way.close()
    assert len(measurement.processes) == 3
    started = [process for process, phase in phases if phase == "ready"]
    assert started == [1, 2, 2, 3]
    assert (2, "connecting again") in phases


def test_a_line_that_goes_silent_ends_what_runs_there(
    device: Sshd, stuck: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cable is pulled: nothing closes, and nothing comes any more. Here, the client is stopped instead."""
    monkeypatch.setattr(ssh, "BEAT", 0.2)
    monkeypatch.setattr(ssh, "LEASE", 2.0)
    way = Ssh(device.address(), retries=0)
    try:
        way.deliver(__file__)
        line = way._line
        assert line is not None
        process = way.start("edgedeploy.bench.worker")
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"loader": "stuck:load", "path": "net.edge"}).encode() + b"\n")
        process.stdin.flush()
        while b"reading the bundle" not in process.stdout.readline():
            pass
        time.sleep(3)  # longer than the lease: the signs of life keep it alive
        assert any("time.sleep(1000)" in command for command in marked(str(device.root)))
        os.kill(line.keeper.pid, signal.SIGSTOP)
        for _ in range(100):
            there_now = [command for command in marked(str(device.root)) if "ssh" not in command.split()[0]]
            if not there_now:
                break
            time.sleep(0.1)
        assert there_now == []
    finally:
        way.close()


def test_the_end_of_this_process_ends_what_runs_there(device: Sshd, stuck: Job) -> None:
    """Killed, without a chance to tidy up: its pipes close, and everything else follows."""
    code = (
        "import sys; from edgedeploy.bench.remote.ssh import Ssh; from edgedeploy.bench.remote.address import Address\n"
        "from edgedeploy.bench.spawn import run_worker; from edgedeploy.bench.target import Job\n"
        "from edgedeploy.bench.remote import ssh; ssh.SOCKETS = sys.argv[2]\n"
        "run_worker(Job('stuck:load', 'net.edge'), 60, lambda phase, share: print(phase, flush=True),\n"
        "           Ssh(Address.parse(sys.argv[1])))\n"
    )
    sockets = Path(tempfile.mkdtemp(prefix="s"))  # a socket's path has to be short
    command = [sys.executable, "-c", code, device.address().full, str(sockets)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    while b"reading the bundle" not in process.stdout.readline():
        assert process.poll() is None
    for _ in range(100):
        if any("time.sleep(1000)" in command for command in marked(str(device.root))):
            break
        time.sleep(0.1)
    assert any("time.sleep(1000)" in command for command in marked(str(device.root)))
    process.kill()
    process.wait()
    process.stdout.close()
    assert gone(device)
    shutil.rmtree(sockets)


def test_a_transfer_that_breaks_leaves_nothing_half_written(
    device: Sshd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tmp_path / "net.edge.zip"
    bundle.write_bytes(bytes(3 << 20))
    stream = carry.Parcel.stream

    def breaking(parcel: carry.Parcel) -> Iterator[bytes]:
        for i, chunk in enumerate(stream(parcel)):
            yield chunk
            if parcel.top == "net.edge.zip" and i == 1:
                for _ in range(50):
                    if sum(path.stat().st_size for path in device.cache.glob(".*/net.edge.zip")) > 1 << 19:
                        break
                    time.sleep(0.1)
                assert list(device.cache.glob(".*.tmp")), "the transfer has begun"
                device.kill()

    monkeypatch.setattr(carry.Parcel, "stream", breaking)
    told = refused(Ssh(device.address()), 1, path=bundle)
    assert told.startswith(f"The connection to {Ssh(device.address()).on} broke")
    assert gone(device)
    assert not list(device.cache.glob("*/net.edge.zip"))


def test_what_a_killed_transfer_left_is_removed_by_the_next_run(device: Sshd) -> None:
    left = device.cache / ".0123456789ab.x.tmp"
    left.mkdir(parents=True)
    (left / "part").write_text("half")
    measured(Ssh(device.address()), processes=1)
    assert not left.exists()


def test_a_file_that_changes_while_it_is_sent_is_refused(
    device: Sshd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tmp_path / "net.edge.zip"
    bundle.write_bytes(b"one")

    def packed(path: str) -> carry.Parcel:
        parcel = carry.pack(path)
        bundle.write_bytes(b"1")
        return parcel

    monkeypatch.setattr(ssh, "pack", packed)
    told = refused(Ssh(device.address()), 1, path=bundle)
    assert "was sent only a part of net.edge.zip; nothing was kept" in told


FLIP = """#!{python}
import os, subprocess, sys, threading
client = subprocess.Popen(["{ssh}", *sys.argv[1:]], stdin=subprocess.PIPE)
def feed():
    while data := os.read(0, 65536):
        client.stdin.write(data.replace(b"precious", b"previous"))
        client.stdin.flush()
    client.stdin.close()
threading.Thread(target=feed, daemon=True).start()
sys.exit(client.wait())
"""


def test_a_bundle_that_is_damaged_on_the_way(device: Sshd, tmp_path: Path) -> None:
    flipping = device.root / "bin" / "flip"
    (device.root / "bin" / "ssh").rename(device.root / "bin" / "straight")
    flipping.write_text(FLIP.format(python=sys.executable, ssh=device.root / "bin" / "straight"))
    flipping.chmod(0o755)
    flipping.rename(device.root / "bin" / "ssh")
    bundle = tmp_path / "net.edge.zip"
    bundle.write_bytes(b"a precious network")
    told = refused(Ssh(device.address()), 1, path=bundle)
    assert "got net.edge.zip damaged on the way (sha256); nothing was kept. Run it again." in told
    assert gone(device)
    assert not list(device.cache.glob("*/net.edge.zip"))


# --- devices that have no room -------------------------------------------------------------------------------------


def test_a_file_may_not_become_that_large_there(device: Sshd, tmp_path: Path) -> None:
    limited = device.root / "limited"
    limited.write_text(f'#!/bin/sh\nulimit -f 256\nexec {device.python} "$@"\n')
    limited.chmod(0o755)
    bundle = tmp_path / "net.edge.zip"
    bundle.write_bytes(bytes(1 << 20))
    told = refused(Ssh(device.address(str(limited))), 1, path=bundle)
    assert f"has no room for {1 << 20} bytes in {device.cache}" in told
    assert gone(device)


def test_the_disk_is_full_there(device: Sshd, tmp_path: Path) -> None:
    device.cache.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(device.cache)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        bundle = tmp_path / "net.edge.zip"
        bundle.write_bytes(bytes(3 << 20))
        told = refused(Ssh(device.address()), 1, path=bundle)
        assert "has no room" in told
        assert "nothing was kept. Free some space there." in told
        assert gone(device)
        assert [path.name for path in device.cache.iterdir()] == [carry.core().digest]
    finally:
        subprocess.run(["umount", str(device.cache)], check=True)


def test_a_cache_that_cannot_be_written(device: Sshd) -> None:
    device.cache.parent.mkdir(parents=True)
    device.cache.write_text("no folder")
    assert "cannot write" in refused(Ssh(device.address()), 1)


def test_room_is_made_by_removing_what_was_not_used_for_long(device: Sshd) -> None:
    for name, age in (("old", there.KEPT + 60), ("young", 60.0)):
        (device.cache / name).mkdir(parents=True)
        os.utime(device.cache / name, (time.time() - age,) * 2)
    measured(Ssh(device.address()), processes=1)
    names = {path.name for path in device.cache.iterdir()}
    assert "young" in names
    assert "old" not in names


# --- devices that cannot be reached, or used -----------------------------------------------------------------------


def test_another_host_key(device: Sshd) -> None:
    known = device.root / "known"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(device.root / "other")], check=True)
    kind, key, *_ = (device.root / "other.pub").read_text().split()
    known.write_text(f"[127.0.0.1]:{device.port} {kind} {key}\n")
    told = refused(Ssh(device.address()), 3)
    assert "has another host key than the one that is known" in told
    assert told.endswith(f"ssh-keygen -R '[127.0.0.1]:{device.port}'")


def test_a_host_key_that_is_not_known(device: Sshd) -> None:
    (device.root / "known").write_text("")
    told = refused(Ssh(device.address()), 3)
    assert told.endswith(f"compare it, with: ssh -p {device.port} {device.address().user}@127.0.0.1")


def test_keys_that_do_not_fit(device: Sshd) -> None:
    (device.root / "authorized_keys").write_text("")
    assert "does not let you in with the keys that ssh has" in refused(Ssh(device.address()), 3)


def test_nobody_listens(device: Sshd) -> None:
    device.kill()
    assert refused(Ssh(device.address()), 3).endswith("cannot be reached: no ssh server answers on that port.")


def test_a_name_that_is_none(device: Sshd) -> None:
    told = refused(Ssh(Address("nowhere.invalid")), 3)
    assert told == "ssh://nowhere.invalid cannot be reached: there is no host of that name."


def test_no_ssh_here(device: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(device.root / "there"))
    assert "there is no ssh here. Install it with: apt install openssh-client" in refused(Ssh(device.address()), 3)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("ssh: connect to host h port 22: No route to host", "nothing answers"),
        ("ssh: connect to host h port 22: Connection timed out", "nothing answers"),
        ("kex_exchange_identification: Connection closed by remote host\n", "kex_exchange_identification: Connection"),
        ("", "the connection was closed"),
    ],
)
def test_other_words_of_ssh(words: str, told: str) -> None:
    assert told in refusal(words, Address("h"))


def test_what_ssh_says_besides_is_not_the_reason() -> None:
    assert (
        last_line("Warning: Permanently added 'h' (ED25519) to the list.\nreal reason\nmux_client: x\n")
        == "real reason"
    )


def test_python_is_missing_there(device: Sshd) -> None:
    told = refused(Ssh(device.address("/nowhere/python")), 3)
    assert "has no /nowhere/python that can be run. Install Python 3.11 or newer there" in told


def test_python_is_too_old_there(device: Sshd) -> None:
    old = device.root / "old"
    code = "import sys; sys.version_info = (3, 9, 2); sys.version = '3.9.2 (x)'; exec(sys.argv[2])"
    old.write_text(f'#!/bin/sh\nexec {device.python} -c "{code}" "$@"\n')
    old.chmod(0o755)
    assert f"has only Python 3.9.2 as {old}. Install Python 3.11" in refused(Ssh(device.address(str(old))), 3)


def test_numpy_is_missing_there(device: Sshd, pythons: Callable[..., str]) -> None:
    python = pythons()
    told = refused(Ssh(device.address(python)), 3)
    assert told.endswith(f"has no numpy for {python}. Install it there with: {python} -m pip install numpy")


def test_a_system_that_guards_its_python_is_told_how_to_make_another() -> None:
    assert ssh.install_line(["onnxruntime>=1.20"], "/usr/bin/python3", managed=True) == (
        "/usr/bin/python3 -m venv --system-site-packages ~/edgedeploy && ~/edgedeploy/bin/pip install "
        "numpy 'onnxruntime>=1.20'; then add ?python=~/edgedeploy/bin/python to the address"
    )


# --- what is no sshd, or one of somebody else ----------------------------------------------------------------------


@pytest.fixture
def answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Ssh]:
    """A way to what answers every request with the same lines of Python, in place of ssh."""

    def way(script: str) -> Ssh:
        (tmp_path / "bin").mkdir()
        program = tmp_path / "bin" / "ssh"
        program.write_text(f"#!{sys.executable}\nimport json, sys, time\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent))
        return Ssh(Address("nano"))

    return way


@pytest.mark.parametrize(
    "script",
    [
        "print('[' * 100000); sys.exit(3)",
        "print('x' * 5_000_000); sys.exit(3)",
        'print(\'{"event": "facts"}\')',
        'print(\'{"event": "facts", "facts": {"python": 3}}\')',
        'print(\'{"event": "error"}\')',
        'print(\'{"event": "error", "kind": "did_you_mean", "message": ["a"]}\')',
        'print(\'{"event": "error", "kind": "Iterable", "message": "b"}\')',
    ],
)
def test_what_answers_nonsense_is_a_run_that_failed(answered: Callable[[str], Ssh], script: str) -> None:
    with pytest.raises(RunFailed, match="ssh://nano"):
        answered(script).look()


def test_what_lets_us_in_and_says_nothing_is_not_waited_for_forever(
    answered: Callable[[str], Ssh], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "PATIENCE", 0.5)
    with pytest.raises(Unavailable, match=r"^ssh://nano said nothing for 0\.5 s: look .*: ssh nano$"):
        answered("time.sleep(60)").look()


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 4000, '{"who": "\\u001b[2J"}', "\x00"])
def test_a_lock_that_somebody_scribbled_on_is_held_by_somebody(tmp_path: Path, content: str) -> None:
    (tmp_path / "lock").write_text(content)
    assert there._holder(tmp_path / "lock") == ("somebody", "an unknown time")


def test_who_holds_a_lock_is_plain_text(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(json.dumps({"who": "eve\x1b[2J", "since": 2025}))
    assert there._holder(tmp_path / "lock") == ("eve[2J", "2025")


def test_a_user_without_a_name_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert ssh._user() == f"user {os.getuid()}"


# --- one at a time -------------------------------------------------------------------------------------------------


def test_a_device_in_use_says_by_whom_since_when(device: Sshd) -> None:
    with contextlib.closing(Ssh(device.address())) as first:
        first.deliver(__file__)
        told = refused(Ssh(device.address()), 3)
        assert f" is in use by {json.loads(device.lock.read_text())['who']} since 20" in told
        told = refused(Ssh(device.address(wait=0.5)), 3)
        assert told.endswith("It was waited for 0.5 s.")
        first.look()
    assert measured(Ssh(device.address()), processes=1).count >= 7


def test_waiting_for_a_device(device: Sshd) -> None:
    first = Ssh(device.address())
    first.deliver(__file__)
    threading.Timer(1.0, first.close).start()
    assert measured(Ssh(device.address(wait=60.0)), processes=1).count >= 7


def test_a_dead_holder_holds_nothing(device: Sshd) -> None:
    first = Ssh(device.address())
    first.deliver(__file__)
    assert first._line is not None
    os.killpg(first._line.keeper.pid, signal.SIGKILL)
    assert measured(Ssh(device.address(wait=10.0)), processes=1).count >= 7
    first.close()


def test_a_worker_that_cannot_be_ended_keeps_the_device_busy(device: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    busy = device.lock.with_suffix(".busy")
    busy.touch()
    with busy.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        told = refused(Ssh(device.address()), 3)
    assert "still runs an earlier worker that does not end" in told


def test_servers_of_a_listener_are_found(device: Sshd) -> None:
    """What the tests kill is there: otherwise they would test nothing."""
    assert device.process is not None
    with contextlib.closing(Ssh(device.address())) as way:
        way.deliver(__file__)
        assert servers_of(device.process.pid)
