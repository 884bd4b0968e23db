"""A torch ``ExportedProgram`` (.pt2), examined before torch reads it: see `edgedeploy.models.program_file`."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from edgedeploy.errors import UsageError
from edgedeploy.model import Graph, InputShape, Model, Source
from edgedeploy.models.program_file import vetted
from edgedeploy.tensors import Signature, TensorSpec


def load(source: Source, shape: InputShape) -> Model:
    """The program in a .pt2 file, with the shapes it was exported with.

    Raises:
        Untrusted: it names functions or expressions that no exported program needs.
        UsageError: damaged, or asked for shapes that are not its own.
    """
    path = Path(source.reference)
    archive = vetted(path)
    try:
        with _restricted():
            program = torch.export.load(archive)
            program.module()  # a damaged tree of calls shows only here
        signature = _signature(path, program)
    except UsageError:
        raise
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UsageError(f"{path} cannot be read as an exported program ({line}).") from error
    if shape.size or shape.dynamic or shape.batch != 1:
        raise UsageError(f"{path} has the shapes it was exported with; export it again for other ones.")
    return Model(source.name, {"main": Graph(program, signature)}, source)


@contextmanager
def _restricted() -> Iterator[None]:
    """Make every ``torch.load`` inside the restricted one, whatever its caller asked for, and keep its warnings off."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before, level = os.environ.get(name), logging.root.manager.disable
    os.environ[name] = "1"
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _signature(path: Path, program: torch.export.ExportedProgram) -> Signature:
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    inputs = tuple(_spec(name, values[name]) for name in program.graph_signature.user_inputs if isinstance(name, str))
    outputs = tuple(_spec(name, values[name]) for name in program.graph_signature.user_outputs if isinstance(name, str))
    if program.graph_signature.buffers_to_mutate or _writes_buffers(program):
        raise UsageError(f"{path} carries state in buffers; give the model as a factory module:function instead.")
    return Signature(inputs, outputs)


def _writes_buffers(program: torch.export.ExportedProgram) -> bool:
    """Whether a node changes a buffer, or a view of one, in place; the signature tells only after decomposition."""
    buffers = program.graph_signature.inputs_to_buffers
    views: set[torch.fx.Node] = set()
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in buffers:
            views.add(node)
        schema = getattr(node.target, "_schema", None)
        if schema is None or not node.args or node.args[0] not in views:
            continue
        if schema.is_mutable:
            return True
        if any(value.alias_info is not None for value in schema.returns):
            views.add(node)
    return False


def _spec(name: str, value: Any) -> TensorSpec:
    dims = tuple(d if isinstance(d, int) else str(d) for d in value.shape)
    return TensorSpec(name, str(value.dtype).removeprefix("torch."), dims)
