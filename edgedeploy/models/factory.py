"""``module:function``: the user's own code builds the network; nothing is read from strangers."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from edgedeploy.errors import UsageError
from edgedeploy.model import Graph, InputShape, Model, Source
from edgedeploy.tensors import Signature, TensorSpec


def load(source: Source, shape: InputShape) -> Model:
    """What the factory returns: a `Model`, or a ``torch.nn.Module`` with ``example_inputs`` (a tuple of tensors).

    A function that takes one argument is given the `InputShape` that the user asked for.

    Raises:
        UsageError: no such function, or it returns something else.
    """
    module_name, _, attribute = source.reference.partition(":")
    function = getattr(importlib.import_module(module_name), attribute, None)
    if not callable(function):
        raise UsageError(f"'{source.reference}': the module has no function '{attribute}'.")
    made = function(shape) if _takes_shape(function) else function()
    if isinstance(made, Model):
        return replace(made, source=source)
    if not isinstance(made, torch.nn.Module) or not hasattr(made, "example_inputs"):
        raise UsageError(
            f"'{source.reference}' returned {type(made).__name__}: return an edgedeploy.Model, or a torch.nn.Module "
            "with an attribute example_inputs, a tuple of tensors."
        )
    return from_module(made, made.example_inputs, source, shape)  # type: ignore[arg-type]


def from_module(network: torch.nn.Module, example: Sequence[torch.Tensor], source: Source, shape: InputShape) -> Model:
    """A model without a task contract from a plain module and example inputs; the outputs' shapes are measured."""
    network = network.eval().requires_grad_(False)
    with torch.no_grad():
        outputs = network(*example)
    outputs = (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)
    batch = "batch" in shape.dynamic
    signature = Signature(
        inputs=tuple(_spec(f"input_{i}" if len(example) > 1 else "input", t, batch) for i, t in enumerate(example)),
        outputs=tuple(_spec(f"output_{i}" if len(outputs) > 1 else "output", t, batch) for i, t in enumerate(outputs)),
    )
    return Model(source.name, {"main": Graph(network, signature)}, source)


def _takes_shape(function: Any) -> bool:
    return bool(getattr(getattr(function, "__code__", None), "co_argcount", 0))


def _spec(name: str, tensor: torch.Tensor, batch: bool) -> TensorSpec:
    dims: tuple[int | str, ...] = tuple(tensor.shape)
    return TensorSpec(name, str(tensor.dtype).removeprefix("torch."), ("batch", *dims[1:]) if batch else dims)
