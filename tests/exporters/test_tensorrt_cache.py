"""Engines are kept whole or not at all, built once by one process, and found again only where they fit."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edgedeploy_tensorrt import api, build
from edgedeploy_tensorrt.api import Built, Library, Refused
from edgedeploy_tensorrt.cache import ENGINE, LOG, RECORD, Cache, Key, Made, default_root
from edgedeploy_tensorrt.cuda import Gpu, read_nvpmodel
from edgedeploy_tensorrt.plan import Ahead, Plan, Shapes

from edgedeploy.errors import RunFailed, Unavailable

KEY = Key("a" * 64, "b" * 64, "TensorRT 10.3.0", "Orin", 87, "MAXN")
ORIN = Gpu("Orin", 87, "MAXN")
LIBRARY = Library("tensorrt", None, "10.3.0")
PLAN = Plan(1, "tensorrt", "fp16", requires=("tensorrt>=10.3,<11", "sm=87"))


def nobody() -> Made:
    raise AssertionError("built again")


def maker(data: bytes = b"engine") -> Callable[[], Made]:
    return lambda: Made(data, ("INFO: built",), 1.5, ("node_cast",))


def quiet(_: str) -> None:
    pass


def test_an_engine_is_built_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "new" / "folder")
    first = cache.get(KEY, maker(), quiet)
    again = cache.get(KEY, nobody, quiet)
    assert (first.data, first.fresh, again.data, again.fresh) == (b"engine", True, b"engine", False)
    assert again.record.key == KEY
    assert again.record.seconds == 1.5
    assert again.record.fallen_back == ("node_cast",)
    assert (again.path.parent / LOG).read_text() == "INFO: built\n"


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Key)])
def test_whatever_differs_it_is_another_engine(field: str, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.get(KEY, maker(), quiet)
    changed: dict[str, Any] = {field: 89 if field == "sm" else "other"}
    other = dataclasses.replace(KEY, **changed)
    assert cache.find(other) is None
    assert cache.get(other, maker(b"another"), quiet).data == b"another"
    assert cache.get(KEY, nobody, quiet).data == b"engine"


def truncate(folder: Path) -> None:
    (folder / ENGINE).write_bytes(b"eng")


def flip(folder: Path) -> None:
    (folder / ENGINE).write_bytes(b"enginf")


def garble(folder: Path) -> None:
    (folder / RECORD).write_text("{")


def forget(folder: Path) -> None:
    (folder / RECORD).unlink()


def lie(folder: Path) -> None:
    record = json.loads((folder / RECORD).read_text())
    record["key"]["gpu"] = "another"
    (folder / RECORD).write_text(json.dumps(record))


@pytest.mark.parametrize("damage", [truncate, flip, garble, forget, lie])
def test_a_damaged_engine_is_built_again(damage: Callable[[Path], None], tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    damage(cache.get(KEY, maker(), quiet).path.parent)
    assert cache.find(KEY) is None
    assert cache.get(KEY, maker(b"again"), quiet).data == b"again"
    assert cache.get(KEY, nobody, quiet).data == b"again"


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with pytest.raises(AssertionError):
        cache.get(KEY, nobody, quiet)
    assert cache.find(KEY) is None
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == []
    assert cache.get(KEY, maker(), quiet).fresh


SLOW = """
import sys, time
from pathlib import Path
from edgedeploy_tensorrt.cache import Cache, Key, Made
key = Key("a" * 64, "b" * 64, "TensorRT 10.3.0", "Orin", 87, "MAXN")
def make():
    Path(sys.argv[1], "building-" + sys.argv[2]).touch()
    while not Path(sys.argv[1], "go").exists():
        time.sleep(0.01)
    return Made(b"by " + sys.argv[2].encode(), (), 1.0)
print(Cache(Path(sys.argv[1])).get(key, make, lambda text: print(text, file=sys.stderr, flush=True)).data.decode())
"""


def start(folder: Path, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW, str(folder), name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


def test_two_processes_do_not_build_at_once(tmp_path: Path) -> None:
    first = start(tmp_path, "first")
    wait_for(tmp_path / "building-first")
    second = start(tmp_path, "second")
    assert second.stderr is not None
    assert "waiting for another process" in second.stderr.readline()
    (tmp_path / "go").touch()
    assert [first.communicate(timeout=30)[0], second.communicate(timeout=30)[0]] == ["by first\n", "by first\n"]
    assert not (tmp_path / "building-second").exists()


def test_a_killed_build_leaves_nothing_that_is_taken_for_whole(tmp_path: Path) -> None:
    victim = start(tmp_path, "victim")
    wait_for(tmp_path / "building-victim")
    torn = tmp_path / f"{KEY.digest}.partial-{victim.pid}"
    torn.mkdir()
    (torn / ENGINE).write_bytes(b"half an eng")
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    cache = Cache(tmp_path)
    assert cache.find(KEY) is None
    assert cache.get(KEY, maker(b"whole"), quiet).data == b"whole"
    assert not torn.exists()


def test_where_engines_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x/cache")
    monkeypatch.delenv("EDGEDEPLOY_CACHE", raising=False)
    assert default_root() == Path("/x/cache/edgedeploy/engines")
    monkeypatch.setenv("EDGEDEPLOY_CACHE", "/y")
    assert default_root() == Path("/y")
    monkeypatch.delenv("EDGEDEPLOY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_root() == Path("/home/me/.cache/edgedeploy/engines")


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="EDGEDEPLOY_CACHE"):
        Cache(tmp_path / "file" / "below").get(KEY, maker(), quiet)


# Engines of a graph and its plan


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    (tmp_path / "main.onnx").write_bytes(b"a graph")
    return tmp_path / "main.onnx"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[bytes | None]:
    """TensorRT's part, replaced: what was kept of earlier timings, for each build."""
    seen: list[bytes | None] = []

    def fake(parsed: object, plan: Plan, sms: object = (), timings: bytes | None = None) -> Built:
        seen.append(timings)
        return Built(f"engine {len(seen)}".encode(), ("WARNING: slow",), b"timings" if plan.timing_cache else b"")

    monkeypatch.setattr(api, "parse", lambda *_: None)
    monkeypatch.setattr(api, "build", fake)
    return seen


def get(graph: Path, plan: Plan, gpu: Gpu = ORIN, library: Library = LIBRARY) -> build.Engine:
    return build.engine(graph, plan, library, gpu, quiet, Cache(graph.parent / "cache"))


def test_an_engine_is_kept_for_what_it_was_built_for(onnx_file: Path, builds: list[bytes | None]) -> None:
    assert get(onnx_file, PLAN).origin == "built"
    assert get(onnx_file, PLAN).origin == "kept"
    assert get(onnx_file, dataclasses.replace(PLAN, ahead=(Ahead("x", 86, "1"),))).origin == "kept"
    assert get(onnx_file, dataclasses.replace(PLAN, sparsity=True)).origin == "built"
    assert get(onnx_file, PLAN, dataclasses.replace(ORIN, mode="15W")).origin == "built"
    assert get(onnx_file, PLAN, library=Library("tensorrt", None, "10.4.0")).origin == "built"
    onnx_file.write_bytes(b"another graph")
    assert get(onnx_file, PLAN).data == b"engine 5"
    assert len(builds) == 5


def test_timings_shorten_the_next_build(onnx_file: Path, builds: list[bytes | None]) -> None:
    get(onnx_file, PLAN)
    get(onnx_file, dataclasses.replace(PLAN, sparsity=True))
    get(onnx_file, dataclasses.replace(PLAN, timing_cache=False))
    assert builds == [b"", b"timings", None]


def test_another_gpu_or_tensorrt_is_refused(onnx_file: Path) -> None:
    with pytest.raises(Unavailable, match=r"GPU with sm=87, and the one here, RTX 4090, has sm=89"):
        get(onnx_file, PLAN, Gpu("RTX 4090", 89, "unknown"))
    with pytest.raises(Unavailable, match=r"needs tensorrt>=10\.3,<11, and here is TensorRT 11\.4\.0"):
        get(onnx_file, PLAN, library=Library("tensorrt", None, "11.4.0"))
    with pytest.raises(Unavailable, match=r"here is TensorRT 10\.2\.0"):
        get(onnx_file, PLAN, library=Library("tensorrt", None, "10.2.0"))


def test_an_engine_of_the_export_is_taken_where_it_fits(onnx_file: Path, builds: list[bytes | None]) -> None:
    (onnx_file.parent / "main.sm89.engine").write_bytes(b"ahead")
    plan = Plan(1, "rtx", "fp16", ("tensorrt-rtx>=1",), ahead=(Ahead("main.sm89.engine", 89, "1.7.1.116"),))
    here = Library("rtx", None, "1.7.1.116")
    assert get(onnx_file, plan, Gpu("RTX 4090", 89, ""), here).data == b"ahead"
    assert get(onnx_file, plan, Gpu("RTX 3090", 86, ""), here).origin == "built"
    assert get(onnx_file, plan, Gpu("RTX 4090", 89, ""), Library("rtx", None, "1.8.0")).origin == "built"


def test_what_tensorrt_refuses_on_the_device_is_said(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise Refused("TensorRT 10.3.0 does not support Det in 'head'.")

    monkeypatch.setattr(api, "parse", refuse)
    with pytest.raises(RunFailed, match="does not support Det in 'head'"):
        get(onnx_file, PLAN)


def test_shapes_are_part_of_the_key(onnx_file: Path) -> None:
    other = dataclasses.replace(PLAN, shapes={"x": Shapes((1,), (2,), (3,))})
    assert build.key(onnx_file, PLAN, LIBRARY, ORIN) != build.key(onnx_file, other, LIBRARY, ORIN)


def test_the_power_mode_is_read() -> None:
    assert read_nvpmodel("NV Power Mode: MAXN_SUPER\n2\n") == "MAXN_SUPER"
    assert read_nvpmodel("NV Fan Mode:quiet\nNV Power Mode: 15W\n0\n") == "15W"
    assert read_nvpmodel("") == "unknown"


def test_building_a_bundle_needs_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert build.main([]) == 2
    assert build.main([str(tmp_path / "no.edge")]) == 2
    assert "no.edge" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
