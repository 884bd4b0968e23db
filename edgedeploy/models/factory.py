"""``module:function``: the user's own code builds the network; nothing is read from strangers."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from edgedeploy.errors import UsageError
from edgedeploy.model import Graph, InputShape, Model, Source
from edgedeploy.tensors import DTYPES, Signature, TensorSpec


def load(source: Source, shape: InputShape) -> Model:
    """What the factory returns: a `Model`, or a ``torch.nn.Module`` with ``example_inputs`` (a tuple of tensors).

    A function with one argument that has no default is given the `InputShape` that the user asked for.

    Raises:
        UsageError: no such function, or it returns something else.
    """
    module_name, _, attribute = source.reference.partition(":")
    function = getattr(importlib.import_module(module_name), attribute, None)
    if not callable(function):
        raise UsageError(f"'{source.reference}': the module has no function '{attribute}'.")
    made = function(shape) if (given := _takes_shape(function)) else function()
    if isinstance(made, Model):
        return replace(made, source=source)
    if not isinstance(made, torch.nn.Module) or not hasattr(made, "example_inputs"):
        raise UsageError(
            f"'{source.reference}' returned {type(made).__name__}: return an edgedeploy.Model, or a torch.nn.Module "
            "with an attribute example_inputs, a tuple of tensors."
        )
    wanted = replace(shape, batch=1, size=None) if given else shape  # who was told has answered
    return from_module(made, made.example_inputs, source, wanted)  # type: ignore[arg-type]


def from_module(network: torch.nn.Module, example: Sequence[torch.Tensor], source: Source, shape: InputShape) -> Model:
    """A model without a task contract from a plain module and example inputs; the outputs' shapes are measured.

    Raises:
        UsageError: inputs or outputs are no tensors, or another shape is asked for than the examples have.
    """
    name = source.reference
    if not isinstance(example, (tuple, list)) or not example or not _tensors(example):
        raise UsageError(f"'{name}': example_inputs has to be a tuple of tensors, found {type(example).__name__}.")
    if shape.size or "size" in shape.dynamic or shape.batch not in (1, example[0].shape[0]):
        raise UsageError(f"'{name}' has the shapes of its example_inputs; change them there, or let it return a Model.")
    network = network.eval().requires_grad_(False)
    with torch.no_grad():
        outputs = network(*example)
    outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    if not isinstance(outputs, (tuple, list)) or not outputs or not _tensors(outputs):
        raise UsageError(f"'{name}': its network gives {type(outputs).__name__}, not a tensor or a tuple of tensors.")
    batch = "batch" in shape.dynamic
    signature = Signature(
        inputs=tuple(_spec(f"input_{i}" if len(example) > 1 else "input", t, batch) for i, t in enumerate(example)),
        outputs=tuple(_spec(f"output_{i}" if len(outputs) > 1 else "output", t, batch) for i, t in enumerate(outputs)),
    )
    return Model(source.name, {"main": Graph(network, signature)}, source)


def _takes_shape(function: Any) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.default is p.empty and p.kind in positional for p in parameters) == 1


def _tensors(values: Sequence[object]) -> bool:
    """Whether all are tensors with a batch dimension, of a dtype that can be fed."""
    return all(
        isinstance(t, torch.Tensor) and t.ndim > 0 and str(t.dtype).removeprefix("torch.") in DTYPES for t in values
    )


def _spec(name: str, tensor: torch.Tensor, batch: bool) -> TensorSpec:
    dims: tuple[int | str, ...] = tuple(tensor.shape)
    return TensorSpec(name, str(tensor.dtype).removeprefix("torch."), ("batch", *dims[1:]) if batch else dims)
