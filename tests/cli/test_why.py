"""``edgedeploy why``: an explanation for people and for programs, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def probed(cli: Any) -> Path:
    """A profile of this machine with peaks, made in no time."""
    path = Path(cli.place / "here.yaml")
    assert cli("devices", "probe", "--seconds", 0, "-o", path).status == 0
    return path


def test_an_int8_bundle_is_explained(cli: Any, demo: Any, probed: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "roof.png"
    result = cli("why", demo.int8, "--threads", 1, "--device", probed, "--plot", plot, "--top", 3)
    assert result.status == 0, result.err
    for word in (
        "aerial in int8 on onnxruntime",
        "1 thread",
        "dense peak in int8",
        "QLinearConv int8",
        "1. ",
        "   -> ",
    ):
        assert word in result.out
    assert "bandwidth: " in result.out
    assert plot.read_bytes()[:4] == b"\x89PNG"
    assert "profiling" in result.err
    assert not list(demo.int8.parent.glob("*.json"))


def test_for_programs(cli: Any, demo: Any, probed: Path) -> None:
    said = cli("why", demo.fp32, "--threads", 1, "--device", probed, "--json").json
    assert said["precision"] == "fp32"
    assert said["flops"] > 1e8
    assert said["plot"] is None
    shares = sum(cause["share"] for cause in said["causes"] if cause["kind"] != "suspicious")
    assert 0.8 < shares < 1.01
    assert sum(node["flops"] or 0 for node in said["nodes"]) == pytest.approx(said["flops"], rel=0.01)
    assert said["of_peak"] > 0
    assert said["seconds"] > 0
    assert said["seconds_profiled"] > 0


def test_peaks_are_measured_where_none_are_given(cli: Any, demo: Any) -> None:
    said = cli("why", demo.fp32, "--threads", 1, "--json").json
    assert said["device"] == "this-machine"
    assert "measured just now" in said["notes"][0]
    assert "with 1 thread," in said["notes"][0]
    assert said["roofs"]["bandwidth"]["kind"] == "measured"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--plot", "roof.bmp"), ("roof.bmp", ".png")),
        (("--device", "raspberry-pi-99"), ("raspberry-pi-99",)),
        (("--device", "nowhere.yaml"), ("nowhere.yaml",)),
        (("--threads", 1, "--option", "speed=11"), ("no option 'speed'",)),
    ],
)
def test_what_is_refused(cli: Any, demo: Any, arguments: tuple[object, ...], words: tuple[str, ...]) -> None:
    cli("why", demo.fp32, *arguments).refused(2, *words)


def test_the_profile_of_another_kind_of_machine_is_refused(cli: Any, demo: Any) -> None:
    import platform

    other = "raspberry-pi-5" if platform.machine() == "x86_64" else "intel-n100"
    cli("why", demo.fp32, "--device", other).refused(2, "what is timed here says nothing of it")


def test_without_onnx_times_are_still_told(cli: Any, fp32: Path, probed: Path) -> None:
    result = cli("why", fp32, "--threads", 1, "--device", probed, without=("onnx",))
    assert result.status == 0, result.err
    assert "operations unknown" in result.out
    assert "pip install 'edgedeploy[export]'" in result.out
    assert "Conv fp32" in result.out


def test_without_matplotlib_there_is_no_plot(cli: Any, demo: Any, tmp_path: Path) -> None:
    asked = cli("why", demo.fp32, "--plot", tmp_path / "roof.png", without=("matplotlib",))
    asked.refused(3, "pip install 'edgedeploy[report]'")


def test_a_damaged_bundle(cli: Any, fp32: Path) -> None:
    shutil.rmtree(fp32 / "graphs")
    cli("why", fp32).refused(2, "damaged")
