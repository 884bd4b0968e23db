"""Networks in memory, timed: exported to ONNX, opened in ONNX Runtime, and run in turn with one another."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from edgedeploy import plugins
from edgedeploy.bench.interleave import interleave, turns
from edgedeploy.bench.statistics.quantiles import TooFew
from edgedeploy.bench.statistics.ratio import compare_pairs
from edgedeploy.bench.statistics.uncertainty import Times, between
from edgedeploy.capture import to_onnx
from edgedeploy.model import Graph
from edgedeploy.runtime import Session
from edgedeploy.tensors import Signature, TensorSpec, random_input

#: Of every interval.
CONFIDENCE = 0.95
#: What is timed.
RUNTIME, OPSET = "onnxruntime", 18


@dataclass(frozen=True)
class Clocked:
    """One network of several that took turns.

    Args:
        seconds: median of a pass of one image: the network alone, without resizing and without suppression.
        low: lower end of its interval; ``high`` the upper.
        ratio: its median over that of the reference, from passes taken in turn; ``None`` for too few of them.
        ratio_low: lower end of the interval of the ratio; ``ratio_high`` the upper.
        passes: that were counted.
    """

    seconds: float
    low: float
    high: float
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    passes: int


class Stopwatch:
    """Exported networks with an open session each, which all take turns; a context manager.

    Args:
        size: (height, width) of the input.
        threads: of every session; the runtime's default where ``None``.
    """

    def __init__(self, size: tuple[int, int], threads: int | None = None) -> None:
        self._size, self._threads = size, threads
        self._stack = ExitStack()
        self._folder = Path()
        self._calls: dict[str, tuple[Session, Callable[[], object]]] = {}

    def __enter__(self) -> Self:
        """Make a folder for the graphs."""
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="edgedeploy-clock-")))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all sessions, and delete the graphs."""
        for name in list(self._calls):
            self.remove(name)
        self._stack.close()

    def add(self, name: str, network: Any) -> None:
        """Export a network and open it.

        Raises:
            Unavailable: onnx, onnxscript or ONNX Runtime is not installed.
            RunFailed: ONNX Runtime refuses it.
        """
        path = self._folder / f"{len(list(self._folder.iterdir()))}.onnx"
        graph = graph_of(network, self._size)
        to_onnx(graph, path, OPSET)
        session: Session = plugins.find(plugins.RUNTIMES, RUNTIME)(threads=self._threads).open(
            {"main": path}, {"main": graph.signature}
        )
        image = random_input(graph.signature.inputs[0], {}, seed=0)
        self._calls[name] = session, lambda: session.run({"images": image})

    def remove(self, name: str) -> None:
        """Close one again."""
        self._calls.pop(name)[0].close()

    def clock(self, duration: float, reference: str) -> Mapping[str, Clocked]:
        """Let all take turns for ``duration`` seconds, or three rounds where they are longer."""
        times = interleave({name: call for name, (_, call) in self._calls.items()}, duration)
        return {name: _clocked(own, times[reference]) for name, own in times.items()}


def graph_of(network: Any, size: tuple[int, int]) -> Graph:
    """A detector's network as it is exported: a copy with batch normalisation folded, its head giving one tensor."""
    twin = copy.deepcopy(network).fuse(verbose=False).eval().requires_grad_(False)
    head = twin.model[-1]
    head.export, head.dynamic, head.shape = True, False, None
    with torch.no_grad():
        output = twin(torch.zeros(1, 3, *size))
    inputs = (TensorSpec("images", "float32", (1, 3, *size)),)
    return Graph(twin, Signature(inputs, (TensorSpec("detections", "float32", tuple(output.shape)),)))


def _clocked(times: Times, reference: Times) -> Clocked:
    median, bounds = float(np.median(times)), between([times], 0.5, CONFIDENCE)
    low, high = (float(times.min()), float(times.max())) if isinstance(bounds, TooFew) else bounds
    ratio = None if times is reference else compare_pairs([(turns(reference), turns(times))], 0.5, CONFIDENCE)
    if ratio is None:
        return Clocked(median, low, high, 1.0, 1.0, 1.0, len(times))
    if isinstance(ratio, TooFew):
        return Clocked(median, low, high, None, None, None, len(times))
    return Clocked(median, low, high, ratio.value, ratio.low, ratio.high, len(times))
