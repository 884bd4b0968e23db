"""A torch ``ExportedProgram`` (.pt2), checked before torch reads it.

``torch.export.load`` is no safe reader: it evaluates symbolic expressions and looks functions up by name. So the file's
JSON is examined first: operators must be of torch's operator library, expressions must be arithmetic over dimensions,
and pickles are read by the restricted unpickler only.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from edgedeploy.errors import Untrusted, UsageError
from edgedeploy.model import Graph, InputShape, Model, Source
from edgedeploy.tensors import Signature, TensorSpec

_OPERATOR = re.compile(
    r"(torch\.ops\.(aten|prims|quantized_decomposed|torchao|higher_order)|_operator|math)\.[\w.]+|torch\.sym_\w+"
)
_EXPRESSION = re.compile(
    r"(?:[su]\d+|\d+|Max|Min|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|TruncToInt|IntTrueDiv|oo|-oo|int_oo"
    r"|[\s()+\-*/,<>=&|])*"
)
_LIMIT = 256 << 20


def load(source: Source, shape: InputShape) -> Model:
    """The program in a .pt2 file, with the shapes it was exported with.

    Raises:
        Untrusted: it names functions or expressions that no exported program needs.
        UsageError: damaged, or asked for shapes that are not its own.
    """
    path = Path(source.reference)
    _examine(path)
    try:
        with _weights_only():
            program = torch.export.load(path)
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise UsageError(f"{path} cannot be read as an exported program ({str(error)[:160]}).") from error
    if shape.size or shape.dynamic or shape.batch != 1:
        raise UsageError(f"{path} has the shapes it was exported with; export it again for other ones.")
    return Model(source.name, {"main": Graph(program, _signature(path, program))}, source)


def _examine(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.filename.endswith(".json"):
                    if info.file_size > _LIMIT:
                        raise Untrusted(f"{path}: {info.filename} unpacks to {info.file_size} bytes. Do not use it.")
                    _examine_json(path, json.loads(archive.read(info)))
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise UsageError(f"{path} is damaged or truncated ({error}). Copy or export it again.") from error


def _examine_json(path: Path, data: object) -> None:
    for key, text in _strings(data):
        allowed = _OPERATOR if key == "target" else _EXPRESSION if key == "expr_str" else None
        if allowed is not None and allowed.fullmatch(text) is None:
            raise Untrusted(f"{path} names {text[:80]!r}, which no exported program needs. Do not use it.")


def _strings(data: object) -> Iterator[tuple[str, str]]:
    """Every string under a key, with that key; ``target`` only where it names an operator (a node has ``inputs``)."""
    stack = [data]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            for key, value in item.items():
                if isinstance(value, str) and (key != "target" or "inputs" in item):
                    yield key, value
                else:
                    stack.append(value)
        elif isinstance(item, list):
            stack.extend(item)


@contextmanager
def _weights_only() -> Iterator[None]:
    """Make every ``torch.load`` inside the restricted one, whatever its caller asked for."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _signature(path: Path, program: torch.export.ExportedProgram) -> Signature:
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    inputs = tuple(_spec(name, values[name]) for name in program.graph_signature.user_inputs if isinstance(name, str))
    outputs = tuple(_spec(name, values[name]) for name in program.graph_signature.user_outputs if isinstance(name, str))
    if program.graph_signature.buffers_to_mutate:
        raise UsageError(f"{path} carries state in buffers; give the model as a factory module:function instead.")
    return Signature(inputs, outputs)


def _spec(name: str, value: Any) -> TensorSpec:
    dims = tuple(d if isinstance(d, int) else str(d) for d in value.shape)
    return TensorSpec(name, str(value.dtype).removeprefix("torch."), dims)
