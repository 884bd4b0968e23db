"""A reference interpreter of Core ML programs: what a saved package computes, on a machine without Core ML.

Core ML runs on Apple's systems only. A package holds a MIL program (Apple's intermediate language) and its weights,
compressed or not; this runs the program operation by operation with torch. Arithmetic is float32; where the program
declares fp16, the result of every operation is rounded to fp16, so that fp16 shows in the numbers, overflow included.
What a device does inside an operation (accumulating in fp16, fusing operations) is not emulated.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from edgedeploy.errors import RunFailed, Unavailable
from edgedeploy.tensors import Array
from edgedeploy_coreml import mil_elementwise, mil_layers, mil_shapes
from edgedeploy_coreml.mil_elementwise import Function

Arithmetic = Literal["program", "exact"]
Watch = Callable[[str, list[Tensor]], None]

OPS: Mapping[str, Function] = {**mil_elementwise.OPS, **mil_layers.OPS, **mil_shapes.OPS}

#: Parameters that say how to compute, as Python numbers and lists; all others are tensors.
ATTRIBUTES = frozenset(
    (
        *("align_corners", "ascending", "axes", "axis", "batch_dims", "begin", "begin_mask", "ceil_mode"),
        *("dilations", "downscale_factor", "dtype", "end", "end_mask", "equation", "exclude_padding_from_average"),
        *("exclusive", "groups", "half_pixel_centers", "interleave", "interpolation_mode", "k", "keep_dims"),
        *("kernel_sizes", "lower", "mode", "num_splits", "one_hot_vector_size", "output_dtype"),
        *("output_indices_dtype", "output_shape", "pad", "pad_type", "perm", "reps", "resized_dims"),
        *("return_indices", "reverse", "sampling_mode", "scale_factor_height", "scale_factor_width", "shape", "size"),
        *("sort", "split_sizes", "squeeze_mask", "start", "step", "stride", "strides", "target_size_height"),
        *("target_size_width", "transpose_x", "transpose_y", "upper", "upscale_factor", "validate_indices"),
    )
)


@dataclass(frozen=True)
class _Step:
    """One operation: its function, parameters (constants, or variables by name), results, and what ends here."""

    name: str
    kind: str
    function: Function
    constants: Mapping[str, Any]
    variables: Mapping[str, Any]
    results: tuple[tuple[str, str], ...]
    last_used: tuple[str, ...]


class Interpreter:
    """Runs one function of a MIL program.

    Args:
        program: a ``coremltools`` MIL program, converted or read from a package.
        arithmetic: ``program`` rounds where the program declares fp16, ``exact`` never.
        keep: names of variables whose values are returned besides the outputs.

    Raises:
        Unavailable: the program has operations that are not known here; all are named.
    """

    def __init__(self, program: Any, arithmetic: Arithmetic = "program", keep: Iterable[str] = ()) -> None:
        block = program.functions["main"]
        self._exact = arithmetic == "exact"
        self._inputs = {name: kind_of(var) for name, var in block.inputs.items() if not _is_state(var)}
        self._initial = {name: var for name, var in block.inputs.items() if _is_state(var)}
        self.outputs = {var.name: kind_of(var) for var in block.outputs}
        self._keep = {*self.outputs, *keep}
        self._constants: dict[str, Tensor] = {}
        self._steps = self._compiled(block)
        self._state: dict[str, Tensor] = {}
        self.reset()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in order; state is not among them."""
        return tuple(self._inputs)

    @property
    def precisions(self) -> frozenset[str]:
        """Float types that results of operations have: ``fp32``, ``fp16``."""
        made = {kind for step in self._steps for _, kind in step.results if step.kind != "cast"}
        return frozenset(made & {"fp16", "fp32"})

    def reset(self) -> None:
        """All state back to zeros."""
        self._state = {name: torch.zeros([int(n) for n in _state_shape(v)]) for name, v in self._initial.items()}

    @property
    def state(self) -> dict[str, Array]:
        """The state by name, float32; copies."""
        return {name: value.numpy().copy() for name, value in self._state.items()}

    @state.setter
    def state(self, values: Mapping[str, Array]) -> None:
        self._state = {name: _tensor(values[name]) for name in self._state}

    def run(self, inputs: Mapping[str, Array], watch: Watch | None = None) -> dict[str, Array]:
        """Outputs, and variables to keep, by name.

        Args:
            inputs: by name.
            watch: is shown every operation's first result, by the result's name, and float tensors that go in.

        Raises:
            RunFailed: an operation cannot take what it is given; it is named.
        """
        values = dict(self._constants)
        for name, kind in self._inputs.items():
            values[name] = self._rounded(_tensor(inputs[name]), kind)
        with torch.inference_mode():
            for step in self._steps:
                given = _floats(step, values) if watch else []
                self._run(step, values)
                if watch:
                    made = [values[name] for name, kind in step.results if kind in ("fp16", "fp32") and name in values]
                    watch(step.name, [*given, *made])
                for name in step.last_used:
                    values.pop(name, None)
            return {name: values[name].numpy() for name in self._keep if name in values}

    def _run(self, step: _Step, values: dict[str, Tensor]) -> None:
        if step.kind in ("read_state", "coreml_update_state"):
            name = step.constants["state"]
            if step.kind == "coreml_update_state":
                self._state[name] = values[step.variables["value"]]
            made: Any = self._state[name]
        else:
            given = {key: _argument(key, _looked_up(var, values)) for key, var in step.variables.items()}
            try:
                made = step.function(**step.constants, **given)
            except NotImplementedError as error:
                raise Unavailable(
                    f"The Core ML reference interpreter does not know {error} (at '{step.name}')."
                ) from error
            except Exception as error:  # torch raises as many kinds as it has checks
                line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                raise RunFailed(f"Core ML operation {step.kind} '{step.name}' failed: {line}") from error
        parts = made if isinstance(made, tuple) else (made,)
        for (name, kind), part in zip(step.results, parts, strict=False):
            values[name] = part if step.kind in mil_shapes.MOVES else self._rounded(part, kind)

    def _rounded(self, value: Tensor, kind: str) -> Tensor:
        if kind == "fp16" and not self._exact:
            return value.half().float()
        if kind in ("fp16", "fp32"):
            return value.float()
        return value.to(torch.bool if kind == "bool" else torch.int32)

    def _compiled(self, block: Any) -> list[_Step]:
        unknown: dict[str, None] = {}
        plain: list[tuple[Any, Function, dict[str, Any], dict[str, Any]]] = []
        for op in block.operations:
            if op.op_type == "const" or op.op_type.startswith("constexpr_"):
                self._add_constant(op)
                continue
            function = _function(op)
            if function is None:
                unknown[op.op_type] = None
                continue
            constants, variables = self._split(op)
            accepted = inspect.signature(function).parameters
            for key in {**constants, **variables}:
                if key not in accepted and op.op_type not in _SPECIAL:
                    unknown[f"{op.op_type}({key})"] = None
            plain.append((op, function, constants, variables))
        if unknown:
            raise Unavailable(
                f"The Core ML reference interpreter does not know {', '.join(unknown)}; Core ML itself, on macOS, does."
            )
        return self._with_last_uses(plain)

    def _add_constant(self, op: Any) -> None:
        """Constants of a size, once for all; compressed ones are unpacked by Core ML Tools as the device would."""
        var = op.outputs[0]
        packed = all(child.op_type.startswith("constexpr_") for child in var.child_ops)
        if packed and var not in op.enclosing_block.outputs:
            return
        value = var.val if op.op_type == "const" else op.materialized_val_inference()
        if value is not None and not isinstance(value, str):
            self._constants[var.name] = _tensor(np.asarray(value))

    def _split(self, op: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        if op.op_type in ("read_state", "coreml_update_state"):
            state = op.inputs["input" if op.op_type == "read_state" else "state"]
            value = {"value": op.inputs["value"].name} if "value" in op.inputs else {}
            return {"state": state.name}, value
        constants: dict[str, Any] = {}
        variables: dict[str, Any] = {}
        for key, var in op.inputs.items():
            if var is None:
                continue
            if isinstance(var, (list, tuple)):
                variables[key] = tuple(self._named(v) for v in var)
            elif key in ATTRIBUTES and var.val is not None:
                constants[key] = var.val.tolist() if isinstance(var.val, (np.ndarray, np.generic)) else var.val
            else:
                variables[key] = self._named(var)
        return constants, variables

    def _named(self, var: Any) -> str:
        """A variable's name; a constant that no operation of the block holds (a default) becomes one here."""
        constant = var.op is None or var.op.op_type == "const"
        if constant and var.val is not None and var.name not in self._constants:
            self._constants[var.name] = _tensor(np.asarray(var.val))
        return str(var.name)

    def _with_last_uses(self, plain: list[tuple[Any, Function, dict[str, Any], dict[str, Any]]]) -> list[_Step]:
        last: dict[str, int] = {}
        for i, (op, _, _, variables) in enumerate(plain):
            for used in variables.values():
                last.update(dict.fromkeys(used if isinstance(used, tuple) else (used,), i))
            last.update(dict.fromkeys([o.name for o in op.outputs if o.name not in last], i))
        ends: dict[int, list[str]] = {}
        for name, i in last.items():
            if name not in self._keep and name not in self._constants:
                ends.setdefault(i, []).append(name)
        return [
            _Step(
                op.outputs[0].name,
                op.op_type,
                function,
                constants,
                variables,
                tuple((o.name, kind_of(o)) for o in op.outputs),
                tuple(ends.get(i, ())),
            )
            for i, (op, function, constants, variables) in enumerate(plain)
        ]


def kind_of(var: Any) -> str:
    """The element type of a MIL variable: ``fp32``, ``fp16``, ``int32``, ``bool``..."""
    from coremltools.converters.mil.mil import types

    return str(types.builtin_to_string(var.dtype))


_SPECIAL = frozenset({"read_state", "coreml_update_state", "cast"})


def _function(op: Any) -> Function | None:
    if op.op_type == "cast":
        return _cast
    if op.op_type in _SPECIAL:
        return _cast  # never called: state is the interpreter's own
    return OPS.get(op.op_type)


def _cast(x: Tensor, dtype: str) -> Tensor:
    """Another type; floats lose their fraction on the way to integers. Rounding to fp16 follows the declared type."""
    if dtype == "bool":
        return x != 0
    return x.trunc() if dtype.startswith(("int", "uint")) and x.is_floating_point() else x


def _is_state(var: Any) -> bool:
    from coremltools.converters.mil.mil import types

    return bool(types.is_state(var.sym_type))


def _state_shape(var: Any) -> Any:
    return var.sym_type.wrapped_type().get_shape()


def _looked_up(var: Any, values: Mapping[str, Tensor]) -> Any:
    return tuple(values[name] for name in var) if isinstance(var, tuple) else values[var]


def _floats(step: _Step, values: Mapping[str, Tensor]) -> list[Tensor]:
    """The float tensors that go into an operation, weights included."""
    given = [_looked_up(var, values) for key, var in step.variables.items() if key not in ATTRIBUTES]
    flat = [t for value in given for t in (value if isinstance(value, tuple) else (value,))]
    return [t for t in flat if t.is_floating_point()]


def _argument(key: str, value: Any) -> Any:
    return value.tolist() if key in ATTRIBUTES and isinstance(value, Tensor) else value


def _tensor(array: Array) -> Tensor:
    """float32, int32 or bool."""
    if array.dtype == np.bool_:
        return torch.from_numpy(np.ascontiguousarray(array))
    kind = np.float32 if np.issubdtype(array.dtype, np.floating) else np.int32
    return torch.from_numpy(np.array(array, dtype=kind, order="C"))
