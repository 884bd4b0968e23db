"""The ONNX operators that `edgedeploy.models.onnx_network` knows: name -> maker of the function that computes it.

A maker is called once per node, reads the attributes, and raises `Refused` for what torch cannot express; the
function that it returns is what `torch.export` sees.
"""

from __future__ import annotations

from collections.abc import Callable

from edgedeploy.models.onnx_operators import arithmetic, layout, resize, shapes, weighted, windows
from edgedeploy.models.onnx_operators.node import Function, Node, Refused

ROLES = weighted.ROLES

#: On tensors.
OPERATORS: dict[str, Callable[[Node], Function]] = {
    **arithmetic.OPERATORS,
    **layout.OPERATORS,
    **resize.OPERATORS,
    **weighted.OPERATORS,
    **windows.OPERATORS,
    "Shape": shapes.shape,
    "Size": shapes.size,
}

#: On host values.
ON_HOST = shapes.OPERATORS

#: Inputs, by index, that have to be host values.
HOST_INPUTS: dict[str, tuple[int, ...]] = {**arithmetic.HOST_INPUTS, **layout.HOST_INPUTS, **resize.HOST_INPUTS}

__all__ = ["HOST_INPUTS", "ON_HOST", "OPERATORS", "ROLES", "Function", "Node", "Refused"]
