"""What cannot work ends with one sentence and a status that a script can tell apart, and never with a traceback."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

# Checkpoints


def test_a_checkpoint_that_is_missing(cli: Any, tmp_path: Path) -> None:
    cli("export", tmp_path / "no.pt").refused(2, "no.pt does not exist")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_checkpoint_that_is_cut_off(share: float, cli: Any, aerial: Path, tmp_path: Path) -> None:
    whole = aerial.read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[: int(share * len(whole))])
    cli("export", cut, "-o", tmp_path / "out").refused(2, "cut.safetensors")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["cut.pt", "cut.pth"])
def test_a_torch_file_that_is_cut_off(name: str, cli: Any, tmp_path: Path) -> None:
    whole = torch_file(tmp_path / "whole.pt", b"}").read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    cli("export", tmp_path / name).refused(2, name, "truncated")


@pytest.mark.parametrize("name", ["notes.txt", "a.onnx", "a.pt2", "a.safetensors", "a.pt", "a.yaml"])
def test_a_file_that_is_no_checkpoint(name: str, cli: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_text("hello")
    cli("export", tmp_path / name).refused(2, name)


def test_a_folder_is_no_checkpoint(cli: Any, tmp_path: Path) -> None:
    cli("export", tmp_path).refused(2, "is a directory")


def torch_file(path: Path, code: bytes) -> Path:
    """A zip as torch writes it, around a pickle of this code."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + code + b".")
        archive.writestr("archive/version", "3\n")
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def call_system(target: Path) -> bytes:
    """``os.system`` that makes a file."""
    return b"cos\nsystem\n" + text(f"touch {target}") + b"\x85R"


def hostile(folder: Path) -> tuple[Path, Path]:
    """A checkpoint that names a network and calls the shell, and the file that is there once it did."""
    ran = folder / "ran"
    return torch_file(folder / "hostile.pt", b"cultralytics.nn.tasks\nDetectionModel\n0" + call_system(ran)), ran


def test_the_hostile_file_is_one(tmp_path: Path) -> None:
    """Or else the tests below prove nothing."""
    pickle.loads(b"\x80\x02" + call_system(tmp_path / "ran") + b".")
    assert (tmp_path / "ran").exists()


@pytest.mark.skipif(find_spec("ultralytics") is None, reason="needs ultralytics")
@pytest.mark.parametrize("command", ["export", "compare"])
def test_a_class_that_no_network_needs_is_refused_and_not_run(
    command: str, cli: Any, demo: Any, tmp_path: Path
) -> None:
    path, ran = hostile(tmp_path)
    others = () if command == "export" else (demo.fp32, "--data", demo.data)
    said = cli(command, path, *others).refused(3, str(path), "nothing of it was run")
    assert "os.system" in said or "posix.system" in said
    assert not ran.exists()


def test_a_torch_file_of_nobody_we_know_is_refused_and_not_run(cli: Any, tmp_path: Path) -> None:
    path = torch_file(tmp_path / "hostile.pt", call_system(tmp_path / "ran"))
    cli("export", path).refused(2, "not an Ultralytics checkpoint")
    assert not (tmp_path / "ran").exists()


# Names and numbers


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--device", "raspberry-pi-55"), ("raspberry-pi-55", "Did you mean 'raspberry-pi-5'?")),
        (("--precision", "int7"), ("int7", "fp32, fp16, int8")),
        (("--option", "opsett=18"), ("opsett", "Did you mean 'opset'?")),
        (("--option", "opset=high"), ("opset", "'high'")),
        (("--option", "opset"), ("'opset'", "key=value")),
        (("--option", "opset=3"), ("opset 3", "16 to 26")),
        (("--backend", "onnxruntim"), ("onnxruntim", "Did you mean 'onnxruntime'?")),
        (("--precision", "int8"), ("int8", "--calibrate data.yaml")),
        (("--imgsz", "big"), ("'big'", "640")),
        (("--imgsz", "100"), ("100x100", "multiple of 32")),
        (("--dynamic", "batsch"), ("batsch", "Did you mean 'batch'?")),
        (("--calibrate", "no.yaml"), ("no.yaml does not exist",)),
        (("-o", "a-file/out"), ("a-file/out cannot be written",)),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) and value[0].startswith("-") else "",
)
def test_an_export_that_cannot_be(arguments: tuple[str, ...], words: tuple[str, ...], cli: Any, demo: Any) -> None:
    (cli.place / "a-file").touch()
    cli("export", demo.checkpoint, *arguments).refused(2, *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--duration", "5parsecs"), ("'5parsecs'", "time")),
        (("--duration", "5"), ("'5' has no unit",)),
        (("--duration", "-1s"), ("-1.0 s", "more than zero")),
        (("--max-latency", "50MiB"), ("'50MiB'", "time")),
        (("--max-memory", "50ms"), ("'50ms'", "size")),
        (("--percentile", "2", "--max-latency", "1s"), ("percentile 2",)),
        (("--percentile", "0.99"), ("--max-latency", "give both")),
        (("--cool-down", "3s"), ("--cool-down is for phones",)),
        (("--against", "other.edge", "--device", "raspberry-pi-5"), ("leave --device out",)),
        (("--imgsz", "0"), ("'0' is no image size",)),
        (("--backend", "onnxruntim"), ("Did you mean 'onnxruntime'?",)),
        (("--option", "optimisation=all"), ("Did you mean 'optimization'?",)),
        (("--samples", "nowhere"), ("nowhere",)),
        (("--batch", "4"), ("batches of 1 only, not of 4",)),
        (("--device", "raspberry-pi-55"), ("Did you mean 'raspberry-pi-5'?",)),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) and value[0].startswith("-") else "",
)
def test_a_benchmark_that_cannot_be_is_refused_before_it_takes_time(
    arguments: tuple[str, ...], words: tuple[str, ...], cli: Any, demo: Any
) -> None:
    result = cli("bench", demo.fp32, *arguments)
    result.refused(2, *words)
    assert "sampling" not in result.err


def test_a_folder_without_samples_is_named(cli: Any, demo: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cli("bench", demo.fp32, "--samples", tmp_path / "empty").refused(2, f"no samples to run on in {tmp_path / 'empty'}")


@pytest.mark.parametrize("command", ["bench", "why", "verify"])
def test_a_checkpoint_is_no_bundle(command: str, cli: Any, demo: Any) -> None:
    cli(command, demo.checkpoint).refused(2, "is no bundle", "edgedeploy export")


@pytest.mark.parametrize("margin", ["-0.01", "0", "nan"])
def test_a_margin_that_is_none_is_refused_before_any_work(margin: str, cli: Any, demo: Any) -> None:
    result = cli("compare", demo.checkpoint, demo.fp32, "--data", demo.data, "--margin", margin)
    result.refused(2, "positive number")
    assert "loading" not in result.err


def test_a_demo_of_no_duration_is_refused_before_any_work(cli: Any, tmp_path: Path) -> None:
    cli("demo", "-o", tmp_path / "out", "--duration", "5parsecs").refused(2, "'5parsecs'")
    assert not (tmp_path / "out").exists()


def test_a_device_that_nobody_knows(cli: Any) -> None:
    cli("devices", "show", "jetson-nanoo").refused(2, "Did you mean 'jetson-nano'?")


# Data sets


@pytest.mark.parametrize("command", ["export", "compare"])
@pytest.mark.parametrize(
    ("names", "words"),
    [("[car, van, truck, bus, boat]", "model has 4, the data set 5"), ("[car, van, truck, cat]", "not the same")],
)
def test_data_of_another_model(names: str, words: str, command: str, cli: Any, demo: Any, few: Path) -> None:
    few.write_text(f"val: images/val\nnames: {names}\n", "utf-8")
    more = ("--calibrate", few, "-o", few.parent / "out") if command == "export" else (demo.fp32, "--data", few)
    cli(command, demo.checkpoint, *more).refused(2, words)


def no_images(root: Path) -> None:
    for path in (root / "images" / "val").iterdir():
        path.unlink()


def no_labels(root: Path) -> None:
    for path in (root / "labels" / "val").iterdir():
        path.unlink()


def no_objects(root: Path) -> None:
    for path in (root / "labels" / "val").iterdir():
        path.write_text("")


def garbage(root: Path) -> None:
    for path in (root / "labels" / "val").iterdir():
        path.write_text("0 0.5 0.5 0.1 0.1\nthis is no label\n")


def unreadable(root: Path) -> None:
    for path in (root / "images" / "val").iterdir():
        path.write_bytes(b"no image")


@pytest.mark.parametrize("command", ["export", "compare"])
@pytest.mark.parametrize(
    ("empty", "words"),
    [
        (no_images, ("'val' has no images",)),
        (no_labels, ("none of the 6 images", "000000.txt")),
        (no_objects, ("no object is labelled",)),
        (garbage, ("none of its 6 images can be used", "000000.txt, line 2", "this is no label")),
        (unreadable, ("none of its 6 images can be used", "000000.png")),
    ],
)
def test_data_of_which_nothing_can_be_used(
    empty: Callable[[Path], None], words: tuple[str, ...], command: str, cli: Any, demo: Any, few: Path
) -> None:
    empty(few.parent)
    more = ("--calibrate", few, "-o", few.parent / "out") if command == "export" else (demo.fp32, "--data", few)
    cli(command, demo.checkpoint, *more).refused(2, *words)


def test_what_cannot_be_used_is_left_out_and_named(cli: Any, demo: Any, few: Path) -> None:
    (few.parent / "labels" / "val" / "000001.txt").write_text("0 0.5 0.5 0.1 0.1\nthis is no label\n")
    (few.parent / "images" / "val" / "000003.png").write_bytes(b"no image")
    cut = few.parent / "images" / "val" / "000004.png"
    cut.write_bytes(cut.read_bytes()[:5000])
    result = cli("compare", demo.checkpoint, demo.fp32, "--data", few, "--pictures", few.parent / "p")
    assert result.status == 0, result.err
    notes = [line for line in result.out.splitlines() if line.startswith("! ")]
    for words in ("000001.txt, line 2", "000003.png is not an image", "000004.png"):
        assert sum(words in note for note in notes) == 1, result.out
    assert "3 images, " in result.out
    assert "drawn: " not in result.out  # nothing moved that would show
    exported = cli("export", demo.checkpoint, "--calibrate", few, "-o", few.parent / "out", "--json")
    assert exported.json["manifest"]["golden_origin"] == "few, 3 images"


# Bundles


@pytest.mark.parametrize("file", ["graphs/main.onnx", "golden/0/sample_0.npy", "artifact.json"])
@pytest.mark.parametrize("command", ["verify", "bench", "compare", "pack"])
def test_a_bundle_edited_by_one_byte(file: str, command: str, cli: Any, demo: Any, fp32: Path) -> None:
    data = bytearray((fp32 / file).read_bytes())
    data[len(data) // 2] ^= 1
    (fp32 / file).write_bytes(data)
    before, after = {"compare": ((demo.checkpoint,), ("--data", demo.data))}.get(command, ((), ()))
    cli(command, *before, fp32, *after).refused(2, str(fp32), "damaged")


def test_a_bundle_that_is_none(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "a.edge").mkdir()
    (tmp_path / "a.edge.zip").write_bytes(b"PK no zip")
    for name in ("no.edge", "a.edge", "a.edge.zip"):
        for command in ("verify", "bench"):
            cli(command, tmp_path / name).refused(2, name)


# What is not installed


@pytest.mark.parametrize(
    "command",
    ["bench", "verify"],
)
def test_without_onnxruntime_the_line_that_installs_it_is_said(command: str, cli: Any, demo: Any) -> None:
    said = cli(command, demo.fp32, without=["onnxruntime"]).refused(3)
    assert said.endswith("pip install 'edgedeploy[onnxruntime]'")


def test_without_torch_the_line_that_installs_it_is_said(cli: Any, demo: Any, tmp_path: Path) -> None:
    export = ("export", demo.checkpoint, "-o", tmp_path / "out")
    for arguments in (export, ("compare", demo.checkpoint, demo.fp32, "--data", demo.data)):
        said = cli(*arguments, without=["torch"]).refused(3)
        assert said.endswith("pip install 'edgedeploy[export]'")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "missing",
    ["onnx", "onnxscript"],
)
def test_without_what_writes_onnx_the_line_that_installs_it_is_said(
    missing: str, cli: Any, demo: Any, tmp_path: Path
) -> None:
    said = cli("export", demo.checkpoint, "-o", tmp_path / "out", without=[missing]).refused(3)
    assert said.endswith("pip install 'edgedeploy[export]'")
    assert list((tmp_path / "out").glob("*")) == []


def test_without_ultralytics_the_line_that_installs_it_is_said(cli: Any, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path, ran = hostile(tmp_path)
    said = cli("export", path, without=["ultralytics"]).refused(3)
    assert said.endswith("pip install 'edgedeploy[ultralytics]'")
    assert not ran.exists()


def test_without_an_evaluator_or_a_reader_of_images_the_line_is_said(cli: Any, demo: Any) -> None:
    compare = ("compare", demo.checkpoint, demo.fp32, "--data", demo.data, "--limit", 2)
    said = cli(*compare, without=["faster_coco_eval", "pycocotools"]).refused(3)
    assert said.endswith("pip install 'edgedeploy[accuracy]'")
    said = cli(*compare, without=["cv2", "PIL"]).refused(3)
    assert said.endswith("pip install 'edgedeploy[images]'")


def test_everything_else_works_where_nothing_is_installed(cli: Any) -> None:
    bare = [
        "torch",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "safetensors",
        "ultralytics",
        "cv2",
        "PIL",
        "faster_coco_eval",
    ]
    for arguments in (["--help"], ["devices"], ["devices", "show", "jetson-nano"], ["doctor"]):
        result = cli(*arguments, without=bare)
        assert result.status == 0, result.err
    assert "pip install 'edgedeploy[onnxruntime]'" in result.out


def test_a_device_that_prefers_a_backend_which_is_not_here(cli: Any, demo: Any, tmp_path: Path) -> None:
    devices = Path(__file__).resolve().parents[2] / "devices"
    profile = (devices / "pixel-8.yaml").read_text("utf-8").replace("backend: executorch", "backend: litert")
    (tmp_path / "phone.yaml").write_text(profile, "utf-8")
    result = cli("export", demo.checkpoint, "--device", tmp_path / "phone.yaml")
    result.refused(3, "prefers litert", "--backend executorch")


# Folders


def _with_history(environment: Any, path: Path) -> Any:
    return lambda cli, without=(): {**environment(cli, without), "EDGEDEPLOY_HISTORY": str(path)}


def test_what_cannot_be_written_is_said(cli: Any, demo: Any, fp32: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "a-file"
    blocked.touch()
    cli("pack", fp32, "-o", blocked / "x.zip").refused(2, "x.zip cannot be written")
    cli("demo", "--data-only", "-o", blocked / "x").refused(2, "cannot be written")
    quick = ("--duration", "0.1s", "--processes", 1, "--threads", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(cli), "environment", _with_history(type(cli).environment, blocked / "history.db"))
        measured = cli("bench", fp32, *quick)
    assert measured.status == 0  # the measurement is not lost with its record
    assert "This run is not in the history" in measured.out


def test_pictures_that_cannot_be_written_are_said(cli: Any, demo: Any, tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    few = ("--data", demo.data, "--limit", 2, "--pictures", tmp_path / "a-file" / "x")
    cli("compare", demo.checkpoint, demo.int8, *few).refused(2, "cannot be written")


def test_rules_of_an_evaluation_are_given_once_and_known(cli: Any, demo: Any) -> None:
    asked = ("compare", demo.checkpoint, demo.fp32, "--data", demo.data)
    both = cli(*asked, "--protocol", "coco", "--max-detections", 7)
    assert both.status == 2
    assert "give --protocol or --max-detections, not both" in both.err
    unknown = cli(*asked, "--protocol", "visdron")
    assert unknown.status == 2
    assert "Did you mean 'visdrone'?" in unknown.err
