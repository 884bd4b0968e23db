"""Parameters and multiply-accumulates of YOLOv8, whole and pruned, against counts made without a network.

The expected numbers come from a calculator that knows only the structure: the widths, repeats and kernels of YOLOv8.
Whole at 80 classes they are those that Ultralytics publishes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

pytest.importorskip("torch_pruning")
pytest.importorskip("ultralytics")

import torch

from edgedeploy.compress.pruning.count import count
from edgedeploy.compress.pruning.groups import Group, groups, outside
from edgedeploy.compress.pruning.policy import choose
from edgedeploy.compress.pruning.prune import prune
from edgedeploy.compress.recipe import Part, Pruning
from edgedeploy.models.yolo import quietly

#: (scale, classes): parameters, multiply-accumulates at 640x640, at 1024x1024.
WHOLE = {
    ("n", 10): (3_012_798, 4_045_670_400, 10_356_916_224),
    ("n", 80): (3_157_200, 4_371_456_000, 11_190_927_360),
    ("s", 10): (11_139_470, 14_225_510_400, 36_417_306_624),
    ("s", 80): (11_166_560, 14_300_774_400, 36_609_982_464),
    ("m", 10): (25_862_110, 39_354_931_200, 100_748_623_872),
    ("m", 80): (25_902_640, 39_467_827_200, 101_037_637_632),
    ("l", 10): (43_637_550, 82_423_193_600, 211_003_375_616),
    ("l", 80): (43_691_520, 82_573_721_600, 211_388_727_296),
    ("x", 10): (68_162_238, 128_713_472_000, 329_506_488_320),
    ("x", 80): (68_229_648, 128_901_632_000, 329_988_177_920),
}
#: Parts that are kept while all else is halved, at 10 classes: parameters, multiply-accumulates at 1024x1024.
HALVED: dict[tuple[Part, ...], dict[str, tuple[int, int]]] = {
    (): {"n": (759_638, 2_643_001_344), "s": (2_794_302, 9_189_851_136), "m": (6_478_822, 25_304_432_640)},
    ("detect",): {
        "n": (1_062_422, 4_411_490_304),
        "s": (3_605_310, 13_805_813_760),
        "m": (7_982_374, 34_372_190_208),
    },
    ("residual",): {
        "n": (938_374, 3_280_535_552),
        "s": (3_507_614, 11_739_987_968),
        "m": (8_518_630, 34_779_365_376),
    },
    ("detect", "residual"): {
        "n": (1_241_158, 5_049_024_512),
        "s": (4_318_622, 16_355_950_592),
        "m": (10_022_182, 43_847_122_944),
    },
    ("detect", "residual", "inner"): {
        "n": (1_483_414, 5_954_994_176),
        "s": (5_286_974, 19_979_829_248),
        "m": (13_217_350, 58_965_491_712),
    },
}
#: YOLOv8m of which a share of every width is kept, rounded down to an even number, the head's inside whole.
SHARES = {
    0.48: (7_475_360, 32_387_407_872),
    0.46: (6_990_036, 30_649_122_816),
    0.45: (6_730_016, 29_459_910_656),
    0.44: (6_521_410, 28_810_518_528),
}
LARGE = (1024, 1024)


@pytest.fixture(autouse=True, scope="module")
def shapes_alone() -> Iterator[None]:
    """Networks are built on the meta device, where the biases that depend on strides cannot be computed."""
    with quietly():
        from ultralytics.nn.modules.head import Detect
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Detect, "bias_init", lambda self: None)
        yield


@cache
def network(scale: str, classes: int = 10) -> Any:
    from ultralytics.nn.tasks import DetectionModel

    with torch.device("meta"):
        return DetectionModel(f"yolov8{scale}.yaml", nc=classes, verbose=False).eval()


@cache
def everything(scale: str) -> tuple[Group, ...]:
    return groups(network(scale), ())


@pytest.mark.parametrize(("scale", "classes"), WHOLE)
def test_whole_networks_count_as_published(scale: str, classes: int) -> None:
    params, small, large = WHOLE[scale, classes]
    found = count(network(scale, classes), LARGE)
    assert (found.params, found.macs, found.flops) == (params, large, 2 * large)
    assert count(network(scale, classes), (320, 640)).macs * 2 == small


@pytest.mark.parametrize("scale", ["n", "s", "m"])
@pytest.mark.parametrize("keep", HALVED, ids="-".join)
def test_halved_networks_count_as_calculated(scale: str, keep: tuple[Part, ...]) -> None:
    found = outside(everything(scale), keep)
    even = {group.name: torch.ones(group.width).numpy() for group in found}
    small = prune(network(scale), choose(found, even, Pruning(0.5, keep=keep)), everything(scale))
    counted = count(small, LARGE)
    assert (counted.params, counted.macs) == HALVED[keep][scale]


@pytest.mark.parametrize("share", SHARES)
def test_other_shares_count_as_calculated(share: float) -> None:
    kept = {}
    for group in outside(everything("m"), ("detect",)):
        halves = 2 if "[" in group.name else 1
        kept[group.name] = tuple(range(int(halves * group.width * share) // 2 * 2 // halves))
    counted = count(prune(network("m"), kept, everything("m")), LARGE)
    assert (counted.params, counted.macs) == SHARES[share]


def test_the_attention_of_yolo11_is_left_alone_and_counted_by_its_convolutions() -> None:
    from ultralytics.nn.tasks import DetectionModel

    with torch.device("meta"):
        whole = DetectionModel("yolo11n.yaml", nc=80, verbose=False).eval()
    assert count(whole, (640, 640)).params == 2_624_080  # as published
    found = groups(whole)
    small = prune(whole, {group.name: tuple(range(group.width // 2)) for group in found}, found)
    inside = dict(small.model[10].named_modules())
    for name, module in whole.model[10].named_modules():
        if isinstance(module, torch.nn.Conv2d):
            pruned = inside[name]
            wide = pruned.in_channels if name == "cv1.conv" else pruned.out_channels if name == "cv2.conv" else None
            assert wide in (None, 128)
            assert wide is not None or pruned.weight.shape == module.weight.shape
