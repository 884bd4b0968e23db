"""Public measured latencies, as their pages state them: to hold predictions against, and to fit those of GPUs on.

Ultralytics' documentation times ``predict`` on four images with batch 1 at 640 px and prints the mean of "inference" in
milliseconds; its first, cold call is among the four.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgedeploy.parts import Precision

NETWORKS = ("yolo11n", "yolo11s", "yolo11m", "yolo11l", "yolo11x")
SOURCE = "Ultralytics documentation (8.3.39 to 8.3.133), 640 px, batch 1, mean over 4 images"
_JETSON, _PI = "docs/en/guides/nvidia-jetson.md", "docs/en/guides/raspberry-pi.md"


@dataclass(frozen=True)
class Figure:
    """``seconds`` that ``page`` states."""

    network: str
    device: str
    runtime: str
    precision: Precision
    seconds: float
    page: str


def _rows(device: str, precision: Precision, *milliseconds: float | None) -> list[Figure]:
    pairs = zip(NETWORKS, milliseconds, strict=True)
    return [Figure(n, device, "tensorrt", precision, ms / 1e3, _JETSON) for n, ms in pairs if ms is not None]


FIGURES = (
    *_rows("jetson-orin-nano-super", "fp32", 7.60, 13.29, 28.21, 35.59, 67.32),
    *_rows("jetson-orin-nano-super", "fp16", 4.91, 7.30, 13.99, 17.57, 32.94),
    *_rows("jetson-orin-nano-super", "int8", 3.91, 5.25, 9.58, 12.37, 20.72),
    *_rows("jetson-orin-nx", "fp32", 8.05, 14.13, 30.72, 38.68, None),
    *_rows("jetson-orin-nx", "fp16", 4.85, 7.55, 14.45, 18.53, None),
    *_rows("jetson-orin-nx", "int8", 4.37, 5.63, 10.19, 13.36, None),
    *_rows("jetson-agx-orin", "fp32", None, 6.52, 12.69, 16.31, 28.4),
    *_rows("jetson-agx-orin", "fp16", 2.60, 3.68, 6.79, 8.11, 13.66),
    *_rows("jetson-agx-orin", "int8", 2.45, 3.01, 5.12, 6.60, 9.78),
    Figure("yolo11n", "raspberry-pi-5", "onnxruntime", "fp32", 0.168, _PI),
    Figure("yolo11s", "raspberry-pi-5", "onnxruntime", "fp32", 0.324, _PI),
    Figure("yolo11n", "raspberry-pi-5", "openvino", "fp32", 0.0812, _PI),
    Figure("yolo11s", "raspberry-pi-5", "openvino", "fp32", 0.179, _PI),
)
