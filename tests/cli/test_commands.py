"""What every command gives a person, a script and a continuous integration job."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import typer
from typer.core import TyperGroup

from edgedeploy.cli.app import app

QUICK = ("--duration", "0.2s", "--processes", 1, "--threads", 1)


def commands() -> Iterator[tuple[str, ...]]:
    """Every command and subcommand."""
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    for name, command in sorted(root.commands.items()):
        yield (name,)
        if isinstance(command, TyperGroup):
            yield from ((name, below) for below in sorted(command.commands))


# Help


def test_help_names_every_command(cli: Any) -> None:
    result = cli("--help")
    assert (result.status, result.err) == (0, "")
    for name, *_ in commands():
        assert f" {name} " in result.out


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...], cli: Any) -> None:
    result = cli(*command, "--help", without=["torch", "onnxruntime", "PIL", "cv2"])
    assert (result.status, result.err) == (0, "")
    assert " ".join(command) in result.out
    assert "--json" in result.out


def test_the_version_is_said(cli: Any) -> None:
    result = cli("--version")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("edgedeploy 0.")


@pytest.mark.parametrize("arguments", [["exprot"], ["export"], ["bench", "a.edge", "--batch", "0"], ["--nothing"]])
def test_what_is_no_command_is_the_callers_error(arguments: list[str], cli: Any) -> None:
    result = cli(*arguments)
    assert result.status == 2
    assert result.out == ""
    assert "Traceback" not in result.err


# JSON, and which stream


def test_demo_prepares_a_checkpoint_and_data(demo: Any) -> None:
    assert set(demo.prepared.json) == {"checkpoint", "data"}
    assert demo.checkpoint.is_file()
    assert demo.data.is_file()
    assert demo.prepared.err == "  rendering 60 scenes\n"


@pytest.mark.parametrize(("precision", "needs_images"), [("fp32", False), ("int8", True)])
def test_export_says_what_it_made(precision: str, needs_images: bool, demo: Any) -> None:
    made = getattr(demo, f"{precision}_made")
    assert set(made.json) == {"path", "reused", "manifest", "notes"}
    manifest = made.json["manifest"]
    assert made.json["reused"] is False
    assert manifest["exporter"]["precision"] == precision
    assert (manifest["calibration"] is not None) == needs_images
    assert bool(manifest["exporter"]["decisions"]) == needs_images
    bundle = getattr(demo, precision)
    assert json.loads((bundle / "artifact.json").read_text("utf-8")) == manifest
    assert "  checking what was written\n" in made.err
    assert any("golden vectors are 4 synthetic aerial scenes" in note for note in made.json["notes"]) != needs_images


def test_export_does_not_do_the_same_again(cli: Any, demo: Any) -> None:
    again = cli("export", demo.checkpoint, "-o", "fp32")
    assert again.status == 0
    assert "was there already, and is still true" in again.out
    assert again.err == ""
    for row in ("artifact", "model", "for", "size", "took", "against FP32", "golden", "needs"):
        assert f"\n {row} " in again.out


def test_bench_says_what_it_measured_and_keeps_the_samples(cli: Any, fp32: Path) -> None:
    result = cli("bench", fp32, *QUICK, "--json")
    assert set(result.json) == {"summary", "doubts", "verdicts", "measurement", "history"}
    assert result.json["verdicts"] == []
    assert {"latency", "fps_one_stream", "load", "first_inference", "model_size", "peak_memory"} <= set(
        result.json["summary"]
    )
    assert {"prepare", "compute", "finish", "end-to-end"} == set(result.json["summary"]["latency"])
    assert "process 1 of 1: sampling" in result.err
    kept = result.json["history"]
    assert Path(kept["path"]).parent == cli.place / "data" / "edgedeploy"
    assert cli("history", "show", kept["id"], "--json").json == result.json["measurement"]

    table = cli("bench", fp32, *QUICK)
    assert table.status == 0
    assert table.out.startswith("aerial on onnxruntime: ")
    assert f"kept as {kept['id'] + 1} in {kept['path']}" in table.out
    assert "sampling" not in table.out

    before = cli("history", "--json").json["measurements"]
    assert cli("bench", fp32, *QUICK, "--no-history").status == 0
    assert cli("history", "--json").json["measurements"] == before
    assert [p.name for p in fp32.parent.iterdir()] == ["aerial.edge"]


def test_bench_gives_a_job_its_answer(cli: Any, fp32: Path) -> None:
    met = cli("bench", fp32, *QUICK, "--no-history", "--max-latency", "100s", "--min-fps", "0.001", "--json")
    assert met.status == 0, met.out
    assert [verdict["outcome"] for verdict in met.json["verdicts"]] == ["pass"]
    missed = cli("bench", fp32, *QUICK, "--no-history", "--max-latency", "1ns", "--json")
    assert missed.status == 4
    assert [verdict["outcome"] for verdict in missed.json["verdicts"]] == ["fail"]
    memory = cli("bench", fp32, *QUICK, "--no-history", "--max-memory", "1MiB")
    assert memory.status == 4
    assert "\nfail: " in memory.out
    assert "1.00 MiB" in memory.out


def test_bench_judges_against_a_device(cli: Any, fp32: Path) -> None:
    result = cli("bench", fp32, *QUICK, "--no-history", "--device", "raspberry-pi-5", "--json")
    assert len(result.json["verdicts"]) == 1
    assert result.json["verdicts"][0]["reasons"]
    assert result.status == (0 if result.json["verdicts"][0]["outcome"] == "pass" else 4)


def test_compare_of_fp32_passes(cli: Any, demo: Any, tmp_path: Path) -> None:
    asked = ("--data", demo.data, "--margin", "0.01", "--pictures", tmp_path / "p", "--threads", 1, "--json")
    result = cli("compare", demo.checkpoint, demo.fp32, *asked)
    assert result.status == 0, result.err
    assert set(result.json) == {"comparison", "pictures"}
    comparison = result.json["comparison"]
    assert comparison["equivalence"]["outcome"] == "pass"
    assert abs(comparison["difference"]["ap50_95"]["estimate"]) < 1e-3
    assert comparison["doubts"] == []
    assert "  artifact: 30 of 30 images\n" in result.err


def test_compare_draws_what_changed_and_says_what_to_doubt(cli: Any, demo: Any) -> None:
    image = pytest.importorskip("PIL.Image")
    result = cli("compare", demo.checkpoint, demo.int8, "--data", demo.data, "--show", 2)
    assert result.status == 0, result.err  # whatever the answer is: no margin was given
    for title in ("compared", "accuracy", "images that changed most"):
        assert f"{title} " in result.out or f"{title}\n" in result.out
    assert "! The artifact was calibrated on these very images" in result.out
    drawn = [Path(line.removeprefix("drawn: ")) for line in result.out.splitlines() if line.startswith("drawn: ")]
    assert len(drawn) == 2
    assert {path.parent for path in drawn} == {demo.int8.with_name("aerial.changed")}
    for path in drawn:
        assert image.open(path).format == "PNG"
    assert result.out.splitlines()[-1].startswith(("pass: ", "fail: ", "not enough data: "))


def test_compare_on_too_few_images_is_no_pass(cli: Any, demo: Any, tmp_path: Path) -> None:
    asked = ("--data", demo.data, "--limit", 4, "--pictures", tmp_path / "p")
    result = cli("compare", demo.checkpoint, demo.fp32, *asked, "--margin", "0.01")
    assert result.status == 4
    assert result.out.splitlines()[-1].startswith("not enough data: ")
    assert "! Only 4 images" in result.out


def test_verify_names_every_rung(cli: Any, demo: Any) -> None:
    result = cli("verify", demo.int8, "--json")
    assert set(result.json) == {"passed", "verification"}
    assert result.json["passed"] is True
    rungs = [rung["name"] for rung in result.json["verification"]["rungs"]]
    assert rungs == ["files", "requires", "load", "prepare", "outputs", "results"]
    table = cli("verify", demo.int8)
    assert table.status == 0
    assert ": verified" in table.out
    assert all(rung in table.out for rung in rungs)


def test_devices_and_doctor_are_json(cli: Any) -> None:
    listed = cli("devices", "--json")
    assert {"name", "chip", "memory", "bandwidth", "backend", "precision"} <= set(listed.json[0])
    shown = cli("devices", "show", listed.json[0]["name"], "--json")
    assert set(shown.json) == {"device", "digest", "int8"}
    doctor = cli("doctor", "--quick", "onnxruntime", "--json")
    assert set(doctor.json) == {"parts", "backends", "checkpoints"}
    assert all(set(part) == {"part", "ok", "found", "install"} for part in doctor.json["parts"])
    assert listed.err + shown.err + doctor.err == ""


# Archives


def test_an_archive_is_as_good_as_a_folder(cli: Any, demo: Any, tmp_path: Path) -> None:
    packed = cli("pack", demo.fp32, "-o", tmp_path / "new" / "here.edge.zip", "--json")
    assert set(packed.json) == {"path", "bytes", "digest"}
    archive = Path(packed.json["path"])
    assert archive.stat().st_size == packed.json["bytes"]
    assert packed.json["digest"] == demo.fp32_made.json["manifest"]["digest"]
    assert zipfile.ZipFile(archive).testzip() is None
    assert cli("verify", archive, "--json").json["verification"]["digest"] == packed.json["digest"]
    assert cli("bench", archive, *QUICK, "--no-history", "--json").json["summary"]["name"] == "aerial"
    assert [p.name for p in archive.parent.iterdir()] == [archive.name]


def test_an_archive_is_packed_beside_its_folder(cli: Any, fp32: Path) -> None:
    result = cli("pack", fp32)
    assert result.status == 0
    assert result.out.startswith(f"{fp32}.zip (")
    assert Path(f"{fp32}.zip").is_file()


# Interruption


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a pipe that tells its writer")
def test_a_reader_that_goes_away_is_no_failure(cli: Any) -> None:
    with subprocess.Popen(
        cli.command("devices", "--json"),
        env=cli.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (0, b"")


def children(parent: int) -> list[int]:
    """Processes that ``parent`` started and that are still there."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            after = status.read_text("utf-8", "replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(after[1]) == parent and after[0] != "Z":
            found.append(int(status.parent.name))
    return found


def wait_for(stream: IO[str], words: str) -> None:
    for line in stream:
        if words in line:
            return
    raise AssertionError(f"'{words}' was not said")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_ctrl_c_ends_a_benchmark_and_its_worker(cli: Any, fp32: Path) -> None:
    with subprocess.Popen(
        cli.command("bench", fp32, "--duration", "60s", "--processes", 1, "--threads", 1),
        env=cli.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            wait_for(process.stderr, "warming up")
            workers = children(process.pid)
            assert len(workers) == 1
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1].startswith("stopped")
    assert "Traceback" not in err
    deadline = time.monotonic() + 10
    while Path(f"/proc/{workers[0]}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{workers[0]}").exists()
    assert [p.name for p in fp32.parent.iterdir()] == ["aerial.edge"]
