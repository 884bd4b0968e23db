"""What the search over modules lowers here: arithmetic to fp16, and weights to few bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from edgedeploy.errors import Unavailable
from edgedeploy.golden import Ready
from edgedeploy.runtime import Session, inputs_of
from edgedeploy_coreml.convert import Captured, Target, convert, float_operations, handles, units
from edgedeploy_coreml.mil import Interpreter
from edgedeploy_coreml.reference import ReferenceSession, Settings, loaded
from edgedeploy_coreml.vendor import coremltools, quiet

Weights = Literal["float", "int8", "int4", "palette8", "palette6", "palette4"]

#: Sums inside a layer reach further than its output: a tensor may use this part of fp16's range.
HEADROOM = 8
LARGEST = float(np.finfo(np.float16).max) / HEADROOM
#: What masks use for minus infinity; fp16 has an infinity of its own.
INFINITE = 1e38
#: Samples that are run for ranges.
RANGE_SAMPLES = 16
#: Weights that share a scale in 4 bits, along the input channels.
BLOCK = 32


class HalfLowering:
    """Modules that compute in fp16 or fp32; see `edgedeploy.precision.choice.Lowering`.

    Args:
        captured: the graph.
        target: what to convert for; trials are made without its image input, of the same numbers.
        samples: real inputs; a module that makes or takes values beyond `LARGEST` on them cannot be lowered.
    """

    def __init__(self, captured: Captured, target: Target, samples: Sequence[Ready]) -> None:
        self._captured, self._target = captured, target
        whole = convert(captured, Target(target.minimum))._mil_program
        self.units = units(captured, whole)
        self.wide = _wide(captured, whole, samples)

    def open(self, lowered: frozenset[str]) -> Session:
        """See `Lowering.open`; run by the reference interpreter."""
        program = self.model(lowered, Target(self._target.minimum))._mil_program
        return in_memory(program, self._captured)

    def settle(self, kept: frozenset[str]) -> frozenset[str]:
        """See `Lowering.settle`: with what leaves the range of fp16."""
        return kept | self.wide

    def model(self, lowered: frozenset[str], target: Target) -> Any:
        """The converted model in which these modules compute in fp16."""
        return convert(self._captured, target, lambda path: path in lowered)


class WeightLowering:
    """Modules whose weights are stored in few bits, or as they are; see `edgedeploy.precision.choice.Lowering`.

    Args:
        captured: the graph.
        model: converted from it.
        weights: how weights are stored.
        fixed: modules whose own weights, but not those of modules inside, stay as they are.
    """

    def __init__(self, captured: Captured, model: Any, weights: Weights, fixed: frozenset[str] = frozenset()) -> None:
        self._captured, self._model, self._weights = captured, model, weights
        self._names = _weights_by_unit(captured, model._mil_program)
        self.units = [unit for unit in self._names if unit not in fixed]

    def open(self, lowered: frozenset[str]) -> Session:
        """See `Lowering.open`; run by the reference interpreter."""
        return in_memory(self.model(lowered)._mil_program, self._captured)

    def settle(self, kept: frozenset[str]) -> frozenset[str]:
        """See `Lowering.settle`."""
        return kept

    def model(self, lowered: frozenset[str]) -> Any:
        """The model with the weights of these modules in few bits."""
        if not lowered:
            return self._model
        kept = [name for unit, names in self._names.items() if unit not in lowered for name in names]
        return compress(self._model, self._weights, kept)


def in_memory(program: Any, captured: Captured) -> Session:
    """A session of one graph that was not saved."""
    settings = Settings()
    return ReferenceSession({"main": loaded(program, captured.signature, settings)}, settings)


def compress(model: Any, weights: Weights, kept: Sequence[str]) -> Any:
    """The model with its weights in few bits, but for the constants named in ``kept``.

    ``int8``: a scale per output channel. ``int4``: a scale per `BLOCK` input channels. ``palette6``: each weight is an
    index of 6 bits into a table of 64 values (k-means) per tensor. Small tensors (under 2048 weights) stay as they are.

    Raises:
        Unavailable: tables are asked for, and scikit-learn is not installed.
    """
    coremltools()
    with quiet():
        from coremltools.optimize import coreml as compressing

        named = dict.fromkeys(kept)
        if weights in ("int8", "int4"):
            linear = compressing.OpLinearQuantizerConfig
            one = linear(mode="linear_symmetric", dtype="int8")
            if weights == "int4":
                one = linear(mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=BLOCK)
            config = compressing.OptimizationConfig(global_config=one, op_name_configs=named)
            return compressing.linear_quantize_weights(model, config)
        bits = int(weights.removeprefix("palette"))
        table = compressing.OpPalettizerConfig(mode="kmeans", nbits=bits)
        config = compressing.OptimizationConfig(global_config=table, op_name_configs=named)
        try:
            return compressing.palettize_weights(model, config)
        except ModuleNotFoundError as error:
            raise Unavailable.extra("scikit-learn, which finds the tables of weights,", "coreml") from error


def _weights_by_unit(captured: Captured, program: Any) -> Mapping[str, list[str]]:
    """The names of constants that a module's operations take as weights, by module, in topological order."""
    found: dict[str, list[str]] = {}
    for op in float_operations(program):
        numbers = [captured.paths[h] for h in handles(op) if h in captured.paths]
        given = [v for value in op.inputs.values() for v in (value if isinstance(value, (list, tuple)) else (value,))]
        names = [
            v.name for v in given if v is not None and v.op is not None and v.op.op_type == "const" and _many(v.val)
        ]
        if numbers and names:
            found.setdefault(numbers[0], []).extend(names)
    return found


def _many(value: Any) -> bool:
    """Whether Core ML Tools would compress a constant: a float tensor of more than 2048 numbers."""
    return isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating) and value.size > 2048


def _wide(captured: Captured, program: Any, samples: Sequence[Ready]) -> frozenset[str]:
    """The modules of an fp32 program that make or take values that fp16 does not hold with some room to spare."""
    unit_of = {
        op.outputs[0].name: [captured.paths[h] for h in handles(op) if h in captured.paths]
        for op in float_operations(program)
    }
    wide: set[str] = set()

    def watch(name: str, tensors: list[torch.Tensor]) -> None:
        for tensor in tensors:
            peaks = tensor.abs()
            peaks = peaks[peaks < INFINITE]
            if peaks.numel() and float(peaks.max()) > LARGEST:
                wide.update(unit_of.get(name, ()))

    interpreter = Interpreter(program)
    for i in np.linspace(0, len(samples) - 1, min(RANGE_SAMPLES, len(samples))).astype(int):
        for tensors in samples[i].calls:
            named = inputs_of(captured.signature, tensors)
            interpreter.run(dict(zip(interpreter.inputs, named.values(), strict=True)), watch)
        interpreter.reset()
    return frozenset(wide)
