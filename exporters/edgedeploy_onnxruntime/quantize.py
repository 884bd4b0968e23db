"""Static int8 for ONNX Runtime: Q/DQ, per-channel weights, ranges from real samples, harmful nodes kept in float."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgedeploy.capture import module_path
from edgedeploy.errors import ExportFailed, UsageError
from edgedeploy.runtime import inputs_of
from edgedeploy.tasks.task import Prepared, Task
from edgedeploy.tensors import Array, Signature
from edgedeploy_onnxruntime.search import Found, between_weights, keep_in_float

WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
#: Samples on which a trial quantisation is compared with float, and at most so many for ranges.
TRIAL_SAMPLES, RANGE_SAMPLES = 8, 300
#: Neighbouring pixels of a photograph are alike (correlation near 1), those of noise are not (near 0).
MIN_CORRELATION = 0.3
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


@dataclass(frozen=True)
class Scheme:
    """How values become int8: activation type, 7-bit weights for CPUs that saturate, range method, distance limit."""

    activations: str
    reduce_range: bool
    method: str
    limit: float


@dataclass(frozen=True)
class Quantized:
    """What was chosen: modules kept in float by path, the search's numbers, and nodes by kind."""

    kept_modules: tuple[str, ...]
    found: Found
    quantized: int
    candidates: int


class Quantizer:
    """Quantises one float ONNX file, as often as the search asks, from one set of ranges."""

    def __init__(self, source: Path, signature: Signature, scheme: Scheme, work: Path) -> None:
        if scheme.method not in _METHODS:
            raise UsageError(f"There is no calibration method '{scheme.method}'. Known: {', '.join(_METHODS)}.")
        self._signature, self._scheme, self._work = signature, scheme, work
        self._float = work / "float.onnx"
        _prepare(source, self._float)
        graph = onnx.load(self._float, load_external_data=False).graph
        self._nodes = {node.name: node for node in graph.node}
        kinds = {*QDQRegistry, *QLinearOpsRegistry}
        constants = {i.name for i in graph.initializer}
        self.candidates = [
            node.name
            for node in graph.node
            if node.op_type in kinds and any(i and i not in constants for i in node.input)
        ]
        self._consumers = _consumers(graph)
        self._trial = work / "trial.onnx"

    def calibrate(self, samples: Sequence[Prepared]) -> None:
        """Take ranges from ``samples`` (at most `RANGE_SAMPLES`, evenly spread) and keep them.

        Raises:
            UsageError: the samples are noise.
        """
        step = max(1, -(-len(samples) // RANGE_SAMPLES))
        chosen = range(0, len(samples), step)
        _refuse_noise([samples[i] for i in list(chosen)[:16]])
        self._quantize(self._trial, frozenset(self.candidates), _Reader(self._signature, samples, chosen))

    def choose(
        self, task: Task[Any], samples: Sequence[Prepared], keep: Sequence[str], say: Callable[[str], None]
    ) -> Quantized:
        """Search the nodes to keep in float, comparing task results on a few of ``samples``.

        Raises:
            UsageError: ``keep`` names a module that is not there.
            ExportFailed: no choice of nodes keeps the results.
        """
        forced = self._forced(keep)
        nodes = [n for n in self.candidates if n not in forced]
        trial = [samples[i] for i in np.linspace(0, len(samples) - 1, min(TRIAL_SAMPLES, len(samples))).astype(int)]
        wanted = self._results(self._float, task, trial)

        def distance(chosen: frozenset[str]) -> float:
            self._quantize(self._trial, chosen, None)
            got = self._results(self._trial, task, trial)
            moved = float(np.mean([task.distance(w, g) for w, g in zip(wanted, got, strict=True)]))
            say(f"int8 search: {len(chosen)} of {len(self.candidates)} nodes quantised, distance {moved:.3f}")
            return moved

        found = keep_in_float(nodes, distance, self._scheme.limit, self._not_worth(forced))
        if found.chosen > max(4 * self._scheme.limit, 0.5):
            raise ExportFailed(
                f"int8 moves the results by {found.chosen:.2f} (0 is none, 1 is all) even with {len(found.kept)} of "
                f"{len(nodes)} nodes in float. Check the calibration images, or export with --precision fp16 or fp32."
            )
        kept = found.kept | forced
        modules = sorted({module_path(self._nodes[name]) for name in kept})
        return Quantized(
            tuple(modules), Found(kept, *_numbers(found)), len(self.candidates) - len(kept), len(self.candidates)
        )

    def write(self, target: Path, choice: Quantized) -> None:
        """Write the chosen int8 graph."""
        self._quantize(target, frozenset(self.candidates) - choice.found.kept, None)

    def _forced(self, keep: Sequence[str]) -> frozenset[str]:
        forced: set[str] = set()
        for module in keep:
            below = {
                n
                for n in self.candidates
                if (module_path(self._nodes[n]) + ".").startswith(module + ".") or n == module
            }
            if not below:
                raise UsageError(f"No node of the graph belongs to a module '{module}', so it cannot be kept in float.")
            forced |= below
        return frozenset(forced)

    def _not_worth(self, forced: frozenset[str]) -> Callable[[frozenset[str]], frozenset[str]]:
        weighted = [n for n in self.candidates if self._nodes[n].op_type in WEIGHTED]

        def also(kept: frozenset[str]) -> frozenset[str]:
            rest = [n for n in self.candidates if n not in kept and n not in forced]
            return frozenset(rest) - between_weights(self._consumers, weighted, rest) | kept

        return also

    def _quantize(self, target: Path, nodes: frozenset[str], reader: CalibrationDataReader | None) -> None:
        if not nodes:
            target.write_bytes(self._float.read_bytes())
            return
        signed = self._scheme.activations == "int8"
        with _quiet():
            quantize_static(
                self._float,
                target,
                reader,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=self._scheme.reduce_range,
                activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=sorted(nodes),
                calibrate_method=_METHODS[self._scheme.method],
                extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
                calibration_cache_path=self._work / "ranges.json",
            )

    def _results(self, path: Path, task: Task[Any], samples: Sequence[Prepared]) -> list[Any]:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        results = []
        for prepared in samples:
            outputs = session.run(None, inputs_of(self._signature, prepared.tensors))
            results.append(task.finish([o[:1] for o in outputs], prepared.context))
        return results


def _numbers(found: Found) -> tuple[float, float, int]:
    return found.everything, found.chosen, found.trials


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Prepared samples one by one, as ONNX Runtime's calibrator asks for them."""

    def __init__(self, signature: Signature, samples: Sequence[Prepared], chosen: Sequence[int]) -> None:
        self._feeds: Iterator[Mapping[str, Array]] = (inputs_of(signature, samples[i].tensors) for i in chosen)

    def get_next(self) -> Mapping[str, Array] | None:
        return next(self._feeds, None)


def _prepare(source: Path, target: Path) -> None:
    """Shapes for every tensor; BatchNorm folded where an exporter left it in."""
    nodes = onnx.load(source, load_external_data=False).graph.node
    folded = not any(node.op_type == "BatchNormalization" for node in nodes)
    with _quiet():
        quant_pre_process(source, target, skip_optimization=folded, skip_symbolic_shape=True)


def _consumers(graph: Any) -> dict[str, list[str]]:
    """Node name to the names of the nodes that use its outputs."""
    made = {output: node.name for node in graph.node for output in node.output}
    users: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            if name in made:
                users.setdefault(made[name], []).append(node.name)
    return users


def _refuse_noise(samples: Sequence[Prepared]) -> None:
    """Ranges from random arrays look fine and ruin the model, so images must look like images."""
    correlations = []
    for prepared in samples:
        for tensor in prepared.tensors:
            if tensor.ndim == 4 and min(tensor.shape[2:]) >= 16:
                plane = tensor[0].astype(np.float64)
                left, right = plane[:, :, :-1].ravel(), plane[:, :, 1:].ravel()
                if left.std() > 0 and right.std() > 0:
                    correlations.append(float(np.corrcoef(left, right)[0, 1]))
    if correlations and float(np.median(correlations)) < MIN_CORRELATION:
        raise UsageError(
            f"the calibration images look like noise (neighbouring pixels correlate by {np.median(correlations):.2f}; "
            "photographs by 0.9 and more). Calibrate on real images of the kind that the device will see."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser's advice to run what has been run; its temporary files stay in ours."""
    root = logging.getLogger()
    level, root.level = root.level, logging.ERROR
    try:
        yield
    finally:
        root.setLevel(level)


@contextmanager
def working_directory() -> Iterator[Path]:
    """A scratch folder for the float model, ranges and trials."""
    with tempfile.TemporaryDirectory(prefix="edgedeploy-int8-") as folder:
        yield Path(folder)
