"""Networks of many shapes, with random weights: what they compute is of no use, and what it costs is that of real ones.

The YOLO networks are built by ultralytics from its own descriptions; the others are written here, in the sizes of the
papers that their docstrings name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

#: What `SEEN` predictions are fitted on; everything else is new to them.
SEEN = ("resnet18", "mobilenet_v2", "vit_tiny", "unet", "yolov8n", "yolov5n")


def _block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al., "Deep Residual Learning", 2016, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_block(inputs, outputs, 3, stride), nn.Conv2d(outputs, outputs, 3, 1, 1))
        self.short = nn.Identity() if inputs == outputs and stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (N, outputs, H / stride, W / stride)."""
        made: torch.Tensor = torch.relu(self.body(x) + self.short(x))
        return made


class Inverted(nn.Module):
    """Expansion, depthwise, projection (Sandler et al., "MobileNetV2", 2018, figure 4)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int, kernel: int = 3) -> None:
        super().__init__()
        wide = inputs * expand
        self.body = nn.Sequential(
            _block(inputs, wide, 1), _block(wide, wide, kernel, stride, wide), nn.Conv2d(wide, outputs, 1)
        )
        self.add = inputs == outputs and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (N, outputs, H / stride, W / stride)."""
        made: torch.Tensor = self.body(x)
        return x + made if self.add else made


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, layer norm, two linear layers (Liu et al., "A ConvNet for the 2020s", 2022, figure 4)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, width, 7, 1, 3, groups=width)
        self.mix = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of the shape of ``x``."""
        mixed: torch.Tensor = self.mix(self.spread(x).permute(0, 2, 3, 1))
        return x + mixed.permute(0, 3, 1, 2)


class Vit(nn.Module):
    """Patches of 16 and an encoder (Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021)."""

    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 16, 16)
        layers = (nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
                  for _ in range(depth))  # fmt: skip
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens (N, patches, width)."""
        tokens: torch.Tensor = self.layers(self.patch(x).flatten(2).transpose(1, 2))
        return tokens


class Unet(nn.Module):
    """Down, up, and connections across (Ronneberger et al., "U-Net", 2015), four times narrower."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(4)]
        pairs = zip([3, *widths[:-1]], widths, strict=True)
        self.down = nn.ModuleList(nn.Sequential(_block(i, o), _block(o, o)) for i, o in pairs)
        self.up = nn.ModuleList(_block(2 * o + o, o) for o in widths[-2::-1])
        self.pool, self.grow = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (N, width, H, W)."""
        kept = []
        for i, block in enumerate(self.down):
            x = block(self.pool(x) if i else x)
            kept.append(x)
        for block, other in zip(self.up, kept[-2::-1], strict=True):
            x = block(torch.cat([self.grow(x), other], 1))
        return x


def _resnet(width: int, counts: tuple[int, ...]) -> nn.Module:
    layers: list[nn.Module] = [_block(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)]
    inputs = width
    for stage, count in enumerate(counts):
        for i in range(count):
            outputs = width * 2**stage
            layers.append(Residual(inputs, outputs, 2 if stage and not i else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


def _mobilenet(plan: tuple[tuple[int, int, int, int, int], ...], stem: int, last: int) -> nn.Module:
    """Stages of (expansion, channels, repeats, stride, kernel)."""
    layers: list[nn.Module] = [_block(3, stem, 3, 2)]
    inputs = stem
    for expand, outputs, repeats, stride, kernel in plan:
        for i in range(repeats):
            layers.append(Inverted(inputs, outputs, 1 if i else stride, expand, kernel))
            inputs = outputs
    return nn.Sequential(*layers, _block(inputs, last, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, 1000))


def _convnext(widths: tuple[int, ...], depths: tuple[int, ...]) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4)]
    for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        if i:
            layers.append(nn.Conv2d(widths[i - 1], width, 2, 2))
        layers += [ConvNeXtBlock(width) for _ in range(depth)]
    return nn.Sequential(*layers)


def _yolo(name: str) -> nn.Module:
    from ultralytics import YOLO

    network: nn.Module = YOLO(f"{name}.yaml", verbose=False).model.fuse()
    head = next(iter(network.children()))[-1]  # type: ignore[index]  # a sequence of modules
    head.export, head.format = True, "onnx"
    return network


_V2 = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3), (6, 96, 3, 1, 3), (6, 160, 3, 2, 3),
       (6, 320, 1, 1, 3))  # fmt: skip
_B0 = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
       (6, 320, 1, 1, 3))  # fmt: skip

#: By name: how it is made, and the side of its square input.
NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (functools.partial(_resnet, 64, (2, 2, 2, 2)), 224),
    "resnet34_half": (functools.partial(_resnet, 32, (3, 4, 6, 3)), 224),
    "mobilenet_v2": (functools.partial(_mobilenet, _V2, 32, 1280), 224),
    "efficientnet_b0_plain": (functools.partial(_mobilenet, _B0, 32, 1280), 224),
    "convnext_small": (functools.partial(_convnext, (48, 96, 192, 384), (3, 3, 9, 3)), 224),
    "vit_tiny": (functools.partial(Vit, 192, 3, 12), 224),
    "vit_narrow": (functools.partial(Vit, 128, 4, 6), 288),
    "unet": (Unet, 256),
    "unet_wide": (functools.partial(Unet, 24), 192),
    **{
        name: (functools.partial(_yolo, name), side)
        for name, side in {
            "yolov8n": 320,
            "yolov5n": 320,
            "yolov8s": 320,
            "yolov8n-seg": 320,
            "yolov8n-cls": 224,
            "yolov9t": 320,
            "yolov10n": 320,
            "yolo11n": 320,
            "yolo11s": 256,
            "yolo11n-pose": 320,
            "yolo12n": 320,
        }.items()
    },
}


def export(name: str, folder: Path, side: int | None = None) -> Path:
    """``folder/NAME-SIDE.onnx``, made unless it is there; batch 1."""
    build, usual = NETWORKS[name] if name in NETWORKS else (functools.partial(_yolo, name), 640)
    side = side or usual
    path = folder / f"{name}-{side}.onnx"
    if not path.exists():
        torch.manual_seed(0)
        network = build().eval().requires_grad_(False)
        folder.mkdir(parents=True, exist_ok=True)
        sample = torch.rand(1, 3, side, side)
        torch.onnx.export(
            network, (sample,), path, dynamo=True, opset_version=18, external_data=False, input_names=["image"],
            verbose=False,
        )  # fmt: skip
    return path
