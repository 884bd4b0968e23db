"""A foreign architecture: an arm64 Python under qemu-user behind a real sshd, for what is computed, never for how fast.

Not run unless EDGEDEPLOY_ARM64 names a folder that ``tests/bench/remote/arm64.sh`` has made: it takes a minute or so.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgedeploy.artifact import Artifact
from edgedeploy.bench.doubts import doubts
from edgedeploy.bench.environment import EMULATED
from edgedeploy.bench.remote.ssh import Ssh
from edgedeploy.bench.remote.there import emulated
from edgedeploy.bench.run import BenchOptions, Where, bench
from edgedeploy.errors import Unavailable
from edgedeploy.testing.sshd import serve

#: Loads a bundle there once every rung of its verification has held, golden outputs included.
CHECKED = """
from edgedeploy.bench import bundle
from edgedeploy.errors import UsageError
from edgedeploy.verify import verify

def load(job):
    found = verify(job.path)
    if not found.passed:
        raise UsageError(" ".join(rung.seen for rung in found.rungs if not rung.passed))
    return bundle.load(job)
"""


def test_a_processor_is_emulated_where_the_program_that_runs_is_for_another(tmp_path: Path) -> None:
    program = tmp_path / f"proc/self/task/{os.getpid()}/exe"
    program.parent.mkdir(parents=True)
    assert not emulated(tmp_path, "aarch64"), "nothing can be read"
    for number, order, machine, expected in (
        (62, "little", "aarch64", True),
        (62, "little", "x86_64", False),
        (62, "little", "i686", False),
        (183, "little", "armv7l", False),
        (183, "little", "x86_64", True),
        (22, "big", "s390x", False),
    ):
        ident = b"\x7fELF\x02" + (b"\x01" if order == "little" else b"\x02") + bytes(10)
        program.write_bytes(ident + bytes(2) + number.to_bytes(2, "little" if order == "little" else "big"))
        assert emulated(tmp_path, machine) is expected, (number, machine)
    program.write_bytes(b"#!/bin/sh\n")
    assert not emulated(tmp_path, "aarch64")


def test_the_processor_here_is_real() -> None:
    assert not emulated()


@pytest.mark.slow
def test_a_bundle_on_arm64(exported: Callable[..., Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = os.environ.get("EDGEDEPLOY_ARM64")
    if folder is None:
        pytest.skip("needs an arm64 userland that tests/bench/remote/arm64.sh made, named by EDGEDEPLOY_ARM64")
    artifact = exported("int8")
    with contextlib.ExitStack() as stack:
        try:
            device = stack.enter_context(serve(tmp_path, f"{folder}/python"))
        except Unavailable as error:
            pytest.skip(str(error))
        monkeypatch.setenv("PATH", f"{device.root}/bin", prepend=os.pathsep)
        (device.root / "checked.py").write_text(CHECKED)
        device.kill()
        device.configure(PYTHONPATH=str(device.root))
        device.start()
        way = stack.enter_context(contextlib.closing(Ssh(device.address())))
        found = way.look(["onnxruntime"])
        assert (found.machine, found.emulated) == ("aarch64", True)
        options = BenchOptions(loader="checked:load", threads=1, duration=0.1, processes=1)
        there = bench(artifact.path, options, None, Where(way))
    here = bench(artifact.path, BenchOptions(threads=1, duration=0.1, processes=1))
    assert there.conditions.digest == here.conditions.digest
    assert there.conditions.inputs == here.conditions.inputs
    assert "asimddp" in there.environment.isa
    assert EMULATED in (there.environment.hosted or "")
    assert EMULATED not in (here.environment.hosted or "")
    assert any("emulated" in doubt for doubt in doubts(there))
    assert "hosted" in " ".join(here.differences(there))
