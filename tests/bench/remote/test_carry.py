"""What travels: the same every time, no more than is needed, and enough for a Python that has numpy alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest

from edgedeploy import plugins
from edgedeploy.artifact import Artifact
from edgedeploy.bench import bundle
from edgedeploy.bench.remote.carry import Parcel, core, pack
from edgedeploy.errors import UsageError
from edgedeploy.tasks import Raw


def unpack(parcel: Parcel, place: Path) -> Path:
    """As the other end does it: the stream, cut where the list says."""
    stream = b"".join(parcel.stream())
    for name, size, _ in parcel.files:
        assert isinstance(size, int)
        path = place / str(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stream[:size])
        stream = stream[size:]
    assert stream == b""
    return place / parcel.top


def test_a_digest_is_that_of_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "1.png").write_bytes(b"one")
    (folder / "2.png").write_bytes(b"")
    (folder / "notes.txt").write_text("not a sample")
    first = pack(folder)
    assert [item.name for item in first.items] == ["set/2.png", "set/a/1.png"]
    assert pack(folder).digest == first.digest
    assert unpack(first, tmp_path / "there") == tmp_path / "there" / "set"
    assert (tmp_path / "there" / "set" / "a" / "1.png").read_bytes() == b"one"
    (folder / "2.png").rename(folder / "3.png")
    renamed = pack(folder).digest
    (folder / "3.png").write_bytes(b"x")
    assert len({first.digest, renamed, pack(folder).digest}) == 3


def test_a_single_file_keeps_its_name(tmp_path: Path) -> None:
    path = tmp_path / "aerial.edge.zip"
    path.write_bytes(b"PK")
    assert (pack(path).top, pack(path).size) == ("aerial.edge.zip", 2)


def test_nothing_to_carry_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not there"):
        pack(tmp_path / "missing")
    with pytest.raises(UsageError, match="has no samples"):
        pack(tmp_path)


def test_of_many_samples_the_ones_travel_that_a_worker_takes(tmp_path: Path) -> None:
    """Arrays, images and sound in one folder: the loader there picks the same of each kind as it would of all."""
    folder = tmp_path / "many"
    (folder / "deep").mkdir(parents=True)
    for i in range(50):
        np.save(folder / ("deep" if i % 3 else "") / f"{i:03d}.npy", np.full((2,), i))
        (folder / f"{i:03d}.png").write_bytes(bytes([i]))
        (folder / f"{i:03d}.wav").write_bytes(bytes([i]))
    arrived = unpack(pack(folder), tmp_path / "there")
    here, there = (bundle.samples_in(place, Raw()) for place in (folder, arrived))
    assert len(here) == bundle.SAMPLES
    assert np.array_equal(here, there)
    assert len(list(arrived.glob("*.png"))) == len(list(arrived.glob("*.wav"))) == bundle.SAMPLES


def test_a_bundle_travels_whole(exported: Callable[..., Artifact], tmp_path: Path) -> None:
    artifact = exported("fp32")
    arrived = Artifact.open(unpack(pack(artifact.path), tmp_path))
    assert arrived.digest == artifact.digest
    assert arrived.path.name == artifact.path.name


def test_the_core_is_small_and_has_no_part_that_stays_at_home() -> None:
    names = {item.name for item in core().items}
    assert {"edgedeploy/bench/worker.py", "edgedeploy_onnxruntime/runtime.py"} <= names
    assert not [
        name for name in names if name.startswith(("edgedeploy/cli/", "edgedeploy/models/", "edgedeploy/demo/"))
    ]
    assert core().size < 2 << 20


RUN = """
import json, sys
sys.path[:] = [path for path in sys.path if "site-packages" not in path]  # what is installed here is not there
sys.path[:0] = sys.argv[1:]
from importlib.metadata import version
from edgedeploy import plugins
import edgedeploy.bench.worker, edgedeploy.testing.fakes, edgedeploy.bench.bundle
homes = {edgedeploy.bench.worker.__file__, plugins.find(plugins.RUNTIMES, "onnxruntime").__module__}
print(json.dumps([sorted(homes), plugins.names(plugins.RUNTIMES), version("edgedeploy")]))
"""


def test_the_core_works_beside_numpy_alone_and_its_plug_ins_are_found(tmp_path: Path) -> None:
    unpack(core(), tmp_path / "core")
    (tmp_path / "lib").mkdir()
    for name in ("numpy", "numpy.libs"):
        source = Path(np.__file__).parents[1] / name
        if source.exists():
            (tmp_path / "lib" / name).symlink_to(source)
    told = [str(tmp_path / "core"), str(tmp_path / "lib")]
    done = subprocess.run([sys.executable, "-P", "-S", "-c", RUN, *told], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    homes, names, version = json.loads(done.stdout)
    assert homes == [str(tmp_path / "core/edgedeploy/bench/worker.py"), "edgedeploy_onnxruntime.runtime"]
    assert names == sorted({point.name for point in entry_points(group=plugins.RUNTIMES)})
    assert version
