"""Bundles: what is written comes back; what was changed, cut, linked or smuggled in is refused in one sentence."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedeploy import archive
from edgedeploy.archive import open_artifact, pack, unpack
from edgedeploy.artifact import (
    MANIFEST,
    SCHEMA,
    Artifact,
    ExporterRecord,
    Fingerprint,
    Golden,
    GraphRecord,
    Manifest,
    OutputAgreement,
    seal,
    writing,
)
from edgedeploy.errors import EdgeDeployError, Incompatible, Untrusted, UsageError
from edgedeploy.model import Source
from edgedeploy.records import canonical, to_json
from edgedeploy.tensors import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "float32", (1, "n")),), (TensorSpec("y", "float32", (1, "n")),))


def manifest(graph: str = "graphs/main.onnx", sample: str = "golden/0/sample_0.npy") -> Manifest:
    return Manifest(
        schema=SCHEMA,
        name="net",
        created="2026-01-01T00:00:00+00:00",
        source=Source("net.pt", "ultralytics", "0" * 64),
        task=None,
        graphs={"main": GraphRecord(graph, SIGNATURE)},
        exporter=ExporterRecord("onnxruntime", "onnxruntime", None, "fp32", {"opset": 18}, {}),
        tools={"numpy": "2"},
        calibration=None,
        golden=(
            Golden(
                "main",
                (sample,),
                (Fingerprint((1, 2), 0.5, 0.5, (0.0, 1.0)),),
                {"y": "golden/0/y.npy"},
                (OutputAgreement("y", 100.0, 90.0, 1e-6),),
                0.0,
            ),
        ),
        golden_origin="test",
        golden_by="test",
        requires=("onnxruntime>=1.18",),
        device=None,
        request="r",
        seconds=1.0,
        notes=(),
        files={},
    )


def write(directory: Path, content: bytes = b"graph") -> Path:
    with writing(directory, "net") as temporary:
        (temporary / "graphs").mkdir()
        (temporary / "graphs" / "main.onnx").write_bytes(content)
        (temporary / "golden" / "0").mkdir(parents=True)
        for name in ("sample_0", "y"):
            np.save(temporary / "golden" / "0" / f"{name}.npy", np.zeros((1, 2), np.float32))
        seal(temporary, manifest())
    return directory / "net.edge"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write(tmp_path)


def test_what_was_written_is_opened(bundle: Path) -> None:
    artifact = Artifact.open(bundle)
    assert artifact.signatures["main"] == SIGNATURE
    assert artifact.model_size == len(b"graph")
    assert artifact.files["main"].read_bytes() == b"graph"
    assert len(artifact.digest) == 64
    np.testing.assert_array_equal(artifact.sample(artifact.manifest.golden[0]), np.zeros((1, 2), np.float32))


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    same, other = write(tmp_path / "a"), write(tmp_path / "b", b"other")
    assert Artifact.open(same).digest == Artifact.open(write(tmp_path / "c")).digest
    assert Artifact.open(same).digest != Artifact.open(other).digest


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_any_changed_byte_is_noticed(bundle: Path, data: st.DataObject) -> None:
    files = sorted(p for p in bundle.rglob("*") if p.is_file())
    path = data.draw(st.sampled_from(files))
    before = path.read_bytes()
    at = data.draw(st.integers(0, len(before) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda v: v != before[at]))
    path.write_bytes(before[:at] + bytes([value]) + before[at + 1 :])
    try:
        if path.name == MANIFEST and at == len(before) - 1 and chr(value).isspace():
            return  # white space after the document says nothing
        with pytest.raises(EdgeDeployError, match=r"damaged|newer|not valid JSON|holds|outside"):
            Artifact.open(bundle)
    finally:
        path.write_bytes(before)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_any_truncation_is_noticed(bundle: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(p for p in bundle.rglob("*") if p.is_file())))
    before = path.read_bytes()
    keep = data.draw(st.integers(0, len(before) - 2))
    path.write_bytes(before[:keep])
    try:
        with pytest.raises(UsageError):
            Artifact.open(bundle)
    finally:
        path.write_bytes(before)


def test_a_missing_or_extra_file_is_noticed(bundle: Path) -> None:
    (bundle / "extra.txt").write_text("x")
    with pytest.raises(UsageError, match=r"extra\.txt"):
        Artifact.open(bundle)
    (bundle / "extra.txt").unlink()
    (bundle / "graphs" / "main.onnx").unlink()
    with pytest.raises(UsageError, match=r"graphs/main\.onnx is missing"):
        Artifact.open(bundle)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "graphs/../../x", "C:\\x", "graphs//main.onnx", "./x"])
def test_a_path_that_leaves_the_bundle_is_refused(bundle: Path, name: str) -> None:
    path = bundle / MANIFEST
    plain = json.loads(path.read_text())
    plain["files"][name] = {"size": 1, "sha256": "0" * 64}
    path.write_bytes(canonical(to_json(_parsed(plain).sealed())))
    with pytest.raises(Untrusted, match="outside the bundle"):
        Artifact.open(bundle)


def _parsed(plain: object) -> Manifest:
    from edgedeploy.records import from_json

    return from_json(Manifest, plain, "test")


def test_a_symbolic_link_is_refused(bundle: Path, tmp_path: Path) -> None:
    graph = bundle / "graphs" / "main.onnx"
    elsewhere = tmp_path / "elsewhere"
    graph.rename(elsewhere)
    graph.symlink_to(elsewhere)
    with pytest.raises(Untrusted, match="symbolic link"):
        Artifact.open(bundle)
    link = tmp_path / "link.edge"
    link.symlink_to(bundle)
    with pytest.raises(UsageError, match="symbolic link"):
        Artifact.open(link)


def test_a_newer_schema_says_so(bundle: Path) -> None:
    path = bundle / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": SCHEMA + 1}))
    with pytest.raises(Incompatible, match="newer edgedeploy"):
        Artifact.open(bundle)


def test_an_array_with_a_pickle_is_not_loaded(bundle: Path) -> None:
    artifact = Artifact.open(bundle)
    np.save(bundle / "golden" / "0" / "y.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="not a readable array"):
        artifact.array("golden/0/y.npy")


@pytest.mark.parametrize("path", ["nowhere", "file"])
def test_what_is_no_bundle(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"NAME\.edge"):
        Artifact.open(tmp_path / path)


def test_a_failed_write_leaves_the_old_bundle_and_no_trace(bundle: Path) -> None:
    before = Artifact.open(bundle).digest
    with pytest.raises(RuntimeError, match="stop"), writing(bundle.parent, "net") as temporary:
        (temporary / "half").write_text("x")
        raise RuntimeError("stop")
    assert Artifact.open(bundle).digest == before
    assert [p.name for p in bundle.parent.iterdir()] == ["net.edge"]


def test_a_full_disk_is_one_sentence_and_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(EdgeDeployError, match="is full") as caught, writing(tmp_path, "net"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.exit_status == 1
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_is_swept(tmp_path: Path) -> None:
    gone = 2**22 + 1  # above the largest process id
    (tmp_path / f".net.edge.{gone}.abc.tmp").mkdir()
    (tmp_path / f".net.edge.{os.getpid()}.abc.tmp").mkdir()
    aside = write(tmp_path / "other").rename(tmp_path / f".net.edge.{gone}.abc.old.tmp")
    with pytest.raises(RuntimeError), writing(tmp_path, "net"):
        assert not aside.exists()
        assert Artifact.open(tmp_path / "net.edge").manifest.name == "net"  # it was stepped aside, and is back
        raise RuntimeError
    assert [p.name for p in tmp_path.glob(".net*")] == []


def test_a_folder_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot be written"), writing(tmp_path / "file", "net"):
        pass


def test_pack_and_unpack(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    artifact = Artifact.open(bundle)
    first = pack(artifact, tmp_path / "net.edge.zip").read_bytes()
    assert pack(artifact, tmp_path / "net.edge.zip").read_bytes() == first
    assert unpack(tmp_path / "net.edge.zip", tmp_path / "there").digest == artifact.digest
    assert open_artifact(tmp_path / "net.edge.zip").digest == artifact.digest
    assert open_artifact(tmp_path / "net.edge.zip").digest == artifact.digest  # from the cache
    assert open_artifact(bundle).digest == artifact.digest


def _zip(path: Path, entries: dict[str, bytes], mode: int = 0o644) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            opened.writestr(info, data)
    return path


@pytest.mark.parametrize("name", ["../x", "/x", "net.edge/../../x", "net.edge\\..\\x"])
def test_an_archive_that_escapes_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises((Untrusted, UsageError)):
        unpack(_zip(tmp_path / "a.zip", {name: b"x"}), tmp_path / "to" / "deep")
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "to" / "x").exists()


def test_an_archive_with_a_link_is_refused(tmp_path: Path) -> None:
    packed = _zip(tmp_path / "a.zip", {"net.edge/graphs": b"/etc"}, stat.S_IFLNK | 0o777)
    with pytest.raises(Untrusted, match="link"):
        unpack(packed, tmp_path / "to")


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    packed = _zip(tmp_path / "a.zip", {"net.edge/zeros": b"\0" * (64 << 20)})
    assert packed.stat().st_size < 1 << 20
    with pytest.raises(Untrusted, match="would unpack to"):
        unpack(packed, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_an_entry_that_lies_about_its_size_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = _zip(tmp_path / "a.zip", {"net.edge/file": os.urandom(5000)})
    monkeypatch.setattr(archive, "_check", lambda *_: "net.edge")

    def short(self: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
        entries = list(self.filelist)
        for entry in entries:
            entry.file_size = 10
        return entries

    monkeypatch.setattr(zipfile.ZipFile, "infolist", short)
    with pytest.raises(EdgeDeployError):
        unpack(packed, tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_damaged_archive_is_one_sentence(bundle: Path, tmp_path: Path, data: st.DataObject) -> None:
    packed = pack(Artifact.open(bundle), tmp_path / "net.edge.zip")
    before = packed.read_bytes()
    if data.draw(st.booleans()):
        packed.write_bytes(before[: data.draw(st.integers(0, len(before) - 1))])
    else:
        at = data.draw(st.integers(0, len(before) - 1))
        packed.write_bytes(before[:at] + bytes([before[at] ^ (1 << data.draw(st.integers(0, 7)))]) + before[at + 1 :])
    try:
        unpack(packed, tmp_path / "to")  # a flipped bit in a date or attribute changes nothing that is unpacked
    except EdgeDeployError as error:
        assert "\n" not in str(error)


def test_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(UsageError, match="damaged, truncated or no zip"):
        unpack(tmp_path / "a.zip", tmp_path / "to")
    with pytest.raises(UsageError, match="not a packed bundle"):
        unpack(_zip(tmp_path / "b.zip", {"a/x": b"1", "b/x": b"2"}), tmp_path / "to")
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    (tmp_path / "c.zip").write_bytes(buffer.getvalue())
    with pytest.raises(UsageError, match="not a packed bundle"):
        unpack(tmp_path / "c.zip", tmp_path / "to")
