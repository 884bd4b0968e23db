"""What a model file is, found out without running anything in it, whatever its bytes are."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedeploy.errors import EdgeDeployError, Unavailable, UsageError
from edgedeploy.model import Source, identify, load, pickled_names, safetensors_metadata

LAYER = b"cultralytics.nn.modules.conv\nConv\n"
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def torch_zip(data: bytes, member: str = "net/data.pkl") -> bytes:
    """The outside of a file that torch saved, around any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, data)
        archive.writestr("net/version", "3\n")
    return buffer.getvalue()


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def header(data: object) -> bytes:
    text = json.dumps(data).encode()
    return len(text).to_bytes(8, "little") + text


# identify: the format and the digest


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("net.pt", torch_zip(b"\x80\x02" + LAYER + b"."), "ultralytics"),
        ("net.pth", torch_zip(b"\x80\x02" + LAYER + b"."), "ultralytics"),
        ("net", torch_zip(b"\x80\x02" + LAYER + b"."), "ultralytics"),
        ("net.ONNX", b"anything", "onnx"),
        ("net.pt2", b"anything", "pt2"),
        ("net.safetensors", b"anything", "native"),
    ],
)
def test_a_file_is_known_by_what_it_is(tmp_path: Path, name: str, data: bytes, expected: str) -> None:
    path = written(tmp_path / name, data)
    source = identify(path)
    assert source == Source(str(path), expected, hashlib.sha256(data).hexdigest())
    assert source.name == "net"


def test_a_factory_is_known_by_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mynets.py").write_text("raise AssertionError('identify ran the module')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    source = identify("mynets:small")
    assert (source.format, source.name) == ("factory", "small")
    assert source.sha256 == hashlib.sha256((tmp_path / "mynets.py").read_bytes()).hexdigest()


def test_identifying_loads_no_framework(tmp_path: Path) -> None:
    path = written(tmp_path / "net.pt", torch_zip(b"\x80\x02" + LAYER + b"."))
    code = (
        f"import sys; from edgedeploy.model import identify; identify({str(path)!r}); "
        "print(sorted({'torch', 'onnx', 'ultralytics', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("net.pt", b"", "is empty"),
        ("net.pt", bytes(4096), "damaged, truncated or a bare pickle"),
        ("net.pt", b"not a checkpoint\n", "damaged, truncated or a bare pickle"),
        ("net.bin", pickle.dumps({"a": 1}), "bare pickle"),
        ("net.txt", b"hello", "is no model file"),
        ("net.pt", b"PK\x03\x04 and then nothing", "damaged or truncated"),
        ("net.pt", torch_zip(b"\x80\x02" + LAYER + b".")[:-30], "damaged or truncated"),
        ("net.pt", torch_zip(b"\x80\x02" + LAYER), "damaged or truncated"),
        ("net.pt", torch_zip(b"\x80\x02}."), "not an Ultralytics checkpoint"),
        ("net.pt", torch_zip(b"\x80\x02c__torch__\nNet\n."), "not an Ultralytics checkpoint"),
        ("net.pt", torch_zip(b"}.", member="net/weights.bin"), "not an Ultralytics checkpoint"),
    ],
)
def test_what_is_no_model_is_refused_in_a_sentence(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    path = written(tmp_path / name, data)
    with pytest.raises(UsageError, match=said) as caught:
        identify(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("no/such/file.pt", "does not exist"),
        ("no_such_module_here:make", "neither a file nor an importable"),
        (".", "is a directory"),
        ("x" * 5000, "does not exist"),
        ("net\0.pt", "does not exist"),
        ("", "is a directory"),
    ],
)
def test_what_is_not_there_is_said(reference: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        identify(reference)


@pytest.mark.parametrize("reference", ["no_such_package.nets:make", "..nets:make", "a..b:make"])
def test_a_module_that_cannot_be_found_is_no_traceback(reference: str) -> None:
    with pytest.raises(EdgeDeployError):
        identify(reference)


@FUZZ
@given(data=st.binary(max_size=300), name=st.sampled_from(["net.pt", "net.pth", "net", "net.bin"]))
def test_no_bytes_are_a_traceback(tmp_path: Path, data: bytes, name: str) -> None:
    with pytest.raises(UsageError):
        identify(written(tmp_path / name, data))


@FUZZ
@given(reference=st.text(max_size=40))
def test_no_reference_is_a_traceback(tmp_path_factory: pytest.TempPathFactory, reference: str) -> None:
    try:
        identify(reference)
    except EdgeDeployError as error:
        assert str(error)


# pickled_names: read, never run


def test_names_are_found_in_every_spelling(tmp_path: Path) -> None:
    spellings = {
        b"cos\nsystem\n": "GLOBAL",
        b"\x8c\x02os\x8c\x06system\x93": "STACK_GLOBAL",
        b"\x8c\x02os\x940\x8c\x06system\x940h\x00h\x01\x93": "STACK_GLOBAL from the memo",
        b"X\x02\x00\x00\x00osq\x050X\x06\x00\x00\x00systemq\x060h\x05h\x06\x93": "and from numbered places",
        b"(ios\nsystem\n": "INST",
    }
    for code, spelling in spellings.items():
        path = written(tmp_path / "net.pt", torch_zip(b"\x80\x04" + code + b"."))
        assert pickled_names(path) == {"os system"}, spelling


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_names_are_found_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps([print, io.BytesIO, print], protocol=protocol)
    name = "__builtin__ print" if protocol < 3 else "builtins print"
    assert pickled_names(written(tmp_path / "net.pt", torch_zip(data))) == {name, "_io BytesIO"}


def test_a_zip_without_a_pickle_names_nothing(tmp_path: Path) -> None:
    assert pickled_names(written(tmp_path / "a.zip", torch_zip(b"", member="a.txt"))) == set()


def test_a_pickle_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    data = bytearray(torch_zip(b"."))
    directory = data.index(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = (300 << 20).to_bytes(4, "little")
    with pytest.raises(UsageError, match="256 MiB"):
        pickled_names(written(tmp_path / "net.pt", bytes(data)))


WHOLE = torch_zip(pickle.dumps({"model": [print, {"names": {0: "a"}}, io.BytesIO]}, protocol=2))


@FUZZ
@given(cut=st.integers(0, len(WHOLE) - 1))
def test_a_torn_file_is_a_usage_error(tmp_path: Path, cut: int) -> None:
    with pytest.raises(UsageError):
        identify(written(tmp_path / "net.pt", WHOLE[:cut]))


@FUZZ
@given(where=st.integers(0, len(WHOLE) - 1), value=st.integers(0, 255))
def test_a_garbled_file_is_names_or_a_usage_error(tmp_path: Path, where: int, value: int) -> None:
    data = bytearray(WHOLE)
    data[where] = value
    try:
        pickled_names(written(tmp_path / "net.pt", bytes(data)))
    except UsageError as error:
        assert "\n" not in str(error)


@FUZZ
@given(data=st.binary(max_size=200))
def test_any_pickle_is_names_or_a_usage_error(tmp_path: Path, data: bytes) -> None:
    try:
        pickled_names(written(tmp_path / "net.pt", torch_zip(data)))
    except UsageError as error:
        assert "damaged or truncated" in str(error)


# safetensors_metadata: the header alone


def test_a_header_is_read(aerial: Path) -> None:
    record = safetensors_metadata(aerial)
    assert record["architecture"] == "aerial"
    assert record["task"]["labels"] == ["car", "van", "truck", "bus"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08",
        (1 << 60).to_bytes(8, "little") + b"{}",
        (17 << 20).to_bytes(8, "little"),
        (100).to_bytes(8, "little") + b"{}",
        header({}),
        header([]),
        header("text"),
        header({"__metadata__": {"format": "pt"}}),
        header({"__metadata__": {"edgedeploy": "not json"}}),
        header({"__metadata__": {"edgedeploy": 5}}),
        header({"__metadata__": {"edgedeploy": json.dumps([1])}}),
        header({"__metadata__": {"edgedeploy": json.dumps({"schema": 2})}}),
        (100_002).to_bytes(8, "little") + b"[" * 100_002,
    ],
)
def test_a_header_that_is_not_ours_is_refused(tmp_path: Path, data: bytes) -> None:
    path = written(tmp_path / "net.safetensors", data)
    with pytest.raises(UsageError, match="not a checkpoint of this project"):
        safetensors_metadata(path)


@FUZZ
@given(data=st.binary(max_size=120))
def test_no_header_is_a_traceback(tmp_path: Path, data: bytes) -> None:
    framed = len(data).to_bytes(8, "little") + data
    for content in (data, framed):
        with pytest.raises(UsageError):
            safetensors_metadata(written(tmp_path / "net.safetensors", content))


# load


def test_a_reader_that_is_not_installed_is_named_with_its_line(aerial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [m for m in sys.modules if m.startswith("edgedeploy.models")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(Unavailable, match=r"pip install 'edgedeploy\[export\]'$"):
        load(aerial)
