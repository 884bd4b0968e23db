"""Joins OpenVINO's performance counters with what its executable graph says of the same layers."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgedeploy.runtime import NodeTime

_TYPES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}


@dataclass(frozen=True)
class Layer:
    """What the executable graph says: the layers of the file that it was made of, and the bytes that it moves."""

    covers: tuple[str, ...]
    bytes: int


class Layers:
    """Counters of pass after pass, by layer of the ``executable`` graph that was made of the ``stored`` one."""

    def __init__(self, executable: Any, stored: Any, unit: str) -> None:
        self._types = {op.get_friendly_name(): str(op.get_type_name()) for op in stored.get_ordered_ops()}
        self._layers = {op.get_friendly_name(): _layer(op) for op in executable.get_ordered_ops()}
        self._unit = unit
        self._passes: list[dict[str, Any]] = []

    def add(self, counters: Sequence[Any]) -> None:
        """The counters of one pass."""
        self._passes.append({one.node_name: one for one in counters if one.status == one.Status.EXECUTED})

    def times(self, skipped: int) -> tuple[tuple[NodeTime, ...], list[float]]:
        """The layers that ran, with their medians, and the seconds of each pass that were in layers.

        The first ``skipped`` passes are left out.
        """
        counted = self._passes[skipped:]
        names = counted[-1] if counted else ()
        layers = tuple(self._time(name, [each[name] for each in counted if name in each]) for name in names)
        return layers, [sum(one.real_time.total_seconds() for one in each.values()) for each in counted]

    def _time(self, name: str, counters: Sequence[Any]) -> NodeTime:
        layer = self._layers.get(name, Layer((), 0))
        kernel = str(counters[-1].exec_type)
        return NodeTime(
            name=name,
            kind=self._kind(str(counters[-1].node_type), layer),
            seconds=statistics.median(one.real_time.total_seconds() for one in counters),
            unit=self._unit,
            covers=layer.covers,
            dtype=_TYPES.get(kernel.rpartition("_")[2].lower(), ""),
            bytes=layer.bytes or None,
        )

    def _kind(self, kind: str, layer: Layer) -> str:
        """OpenVINO's word, or the file's where a subgraph stands for layers of one kind, or for copies of one."""
        types = {self._types.get(name) or self._types.get(re.sub(r"_\d+$", "", name)) for name in layer.covers}
        only = next(iter(types)) if len(types) == 1 else None
        return only if kind == "Subgraph" and only is not None else kind


def _layer(op: Any) -> Layer:
    said: Mapping[str, Any] = op.get_rt_info()
    names = str(said["originalLayersNames"].astype(str)) if "originalLayersNames" in said else ""
    ports = [*(port.get_source_output() for port in op.inputs()), *op.outputs()]
    return Layer(tuple(name for name in names.split(",") if name), sum(map(_size, ports)))


def _size(port: Any) -> int:
    """Bytes of a tensor; 0 where its shape is only known when it runs."""
    if port.get_partial_shape().is_dynamic:
        return 0
    return math.prod(int(n) for n in port.get_shape()) * int(port.get_element_type().bitwidth) // 8
