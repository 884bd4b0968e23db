"""What a board's TensorRT, GPU and DLA do not have is said before any work, with the board's name and numbers."""

from __future__ import annotations

from typing import Any

import pytest
from edgedeploy_tensorrt import TensorRT, board
from edgedeploy_tensorrt.ahead import capabilities
from packaging.version import Version

from edgedeploy import device
from edgedeploy.device import unmet
from edgedeploy.errors import Incompatible, UsageError


def exporter(name: str | None, precision: str = "fp16", **options: Any) -> TensorRT:
    return TensorRT.for_device(device.load(name) if name else None, precision, options)


@pytest.mark.parametrize("name", ["jetson-orin-nano", "jetson-orin-nano-super", "jetson-orin-nx", "jetson-agx-orin"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_what_a_jetson_is_asked_for_it_has(name: str, precision: str) -> None:
    made = exporter(name, precision)
    assert board.requires(made) == ("tensorrt>=10.3,<11", "sm=87")
    assert unmet(board.requires(made), device.load(name)) == ()
    assert made._plan(None, None).strongly_typed  # type: ignore[arg-type]
    assert list(made._traps()) == []


@pytest.mark.parametrize(
    ("name", "precision", "options", "words"),
    [
        ("jetson-nano", "fp16", {}, r"jetson-nano has TensorRT 8\.2\.1.*8\.6 or later.*onnxruntime"),
        ("raspberry-pi-5", "fp32", {}, "raspberry-pi-5 has no TensorRT.*onnxruntime"),
        ("iphone-15", "fp32", {}, "iphone-15 has no TensorRT"),
        ("jetson-orin-nx", "fp32", {"flavour": "rtx"}, "TensorRT for RTX does not run on jetson-orin-nx"),
    ],
)
def test_boards_that_cannot_build_are_said(name: str, precision: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(Incompatible, match=words):
        exporter(name, precision, **options)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("jetson-orin-nano", {"dla_core": 0}, "jetson-orin-nano has no DLA"),
        ("jetson-thor", {"dla_core": 0}, "jetson-thor has no DLA"),
        ("jetson-agx-orin", {"dla_core": 2}, r"has 2 DLA cores \(0 to 1\)"),
        ("jetson-agx-orin", {"dla_core": 0, "precision": "int8"}, "no graph whose int8 is in Q/DQ nodes"),
        ("jetson-agx-orin", {"dla_core": 0, "precision": "fp32"}, "does not compute in fp32"),
        ("jetson-agx-orin", {"dla_core": 0, "tensorrt": "10.13.2"}, r"TensorRT 10\.13\.2 does not support the DLA"),
        ("jetson-agx-orin", {"dla_core": -1}, "count from 0"),
        ("jetson-orin-nx", {"hardware": "ampere_plus"}, "on jetson-orin-nx, builds for its own GPU only"),
        ("jetson-orin-nx", {"opset": 21}, r"TensorRT 10\.3\.0 reads opsets up to 20"),
        ("jetson-orin-nx", {"precision": "int8", "opset": 18}, "with rest=fp16: give 19 to 20"),
        ("jetson-orin-nx", {"precision": "bf16"}, "does not write bf16.*could not be checked"),
        ("jetson-thor", {"precision": "fp8"}, "does not write fp8"),
        ("jetson-thor", {"precision": "int4"}, "Known: fp32, fp16, int8"),
        ("jetson-orin-nx", {"aot": "86"}, "add flavour=rtx"),
        ("jetson-orin-nx", {"tensorrt": "ten"}, "is no version"),
        ("jetson-orin-nx", {"workspace": "1"}, "no unit"),
        ("jetson-orin-nx", {"workspace": "0B"}, "0 bytes"),
        ("jetson-orin-nx", {"optimization_level": 9}, "between 0 and 5"),
        ("jetson-orin-nx", {"dla_cor": 0}, "no option 'dla_cor'.*Did you mean 'dla_core'"),
        ("x86-server", {"hardware": "same_sm", "tensorrt": "10.3.0"}, "does not have it"),
        ("x86-server", {"flavour": "rtx", "dla_core": 0}, "TensorRT for RTX has no DLA"),
        ("x86-server", {"flavour": "rtx", "aot": "86,eighty"}, "'eighty' is no compute capability"),
    ],
)
def test_options_that_a_board_does_not_have_are_said(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        exporter(name, **options)


def test_a_dla_is_used_where_there_is_one() -> None:
    made = exporter("jetson-agx-orin", dla_core=1, gpu_fallback=False)
    plan = made._plan(None, None)  # type: ignore[arg-type]
    assert (plan.dla_core, plan.gpu_fallback, plan.strongly_typed) == (1, False, False)
    assert any("no strongly typed graph for the DLA" in note for note in made._traps())


@pytest.mark.parametrize(
    ("installed", "dla", "strong"),
    [("8.6.1", False, False), ("10.0", False, True), ("10.3", True, False), ("11.4.1", True, True), (None, True, True)],
)
def test_which_tensorrt_takes_types_as_binding(installed: str | None, dla: bool, strong: bool) -> None:
    assert board.typed(board.version(installed), dla) is strong


def test_an_old_tensorrt_gets_an_opset_that_it_reads() -> None:
    from dataclasses import replace

    from edgedeploy.parts import Software

    orin = device.load("jetson-orin-nano")
    old = Software("tensorrt", replace(orin.runtimes[0].version, value="8.6.2"))
    older = replace(orin, runtimes=(old, *orin.runtimes[1:]))
    made = TensorRT.for_device(older, "int8", {})
    assert (made.opset, made.rest, made.tensorrt) == (17, "fp32", "8.6.2")
    assert board.requires(made) == ("tensorrt>=8.6,<9", "sm=87")


def test_what_is_not_known_of_a_board_is_said() -> None:
    made = exporter("jetson-thor")
    assert board.requires(made) == ("tensorrt>=10,<12", "sm=110")
    assert any("is not known" in note for note in made._traps())
    assert any("10.2.0" in note for note in exporter("jetson-thor", tensorrt="10.2.0")._traps())


def test_int8_with_nms_is_known_to_fail_on_jetpack_6() -> None:
    nms = frozenset({"Conv", "NonMaxSuppression"})
    assert board.fails_on_nms(Version("10.3.0"), nms)
    assert not board.fails_on_nms(Version("10.3.0"), frozenset({"Conv"}))
    assert not board.fails_on_nms(Version("10.7.0"), nms)
    assert not board.fails_on_nms(None, nms)


def test_compute_capabilities_are_read() -> None:
    assert capabilities("86, 89,120,86") == (86, 89, 120)
    assert capabilities(89) == (89,)
    assert capabilities("") == ()
