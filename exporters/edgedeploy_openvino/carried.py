"""A graph with state whose tensors are set once: no call copies the state, and none allocates for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgedeploy.runtime import Outputs
from edgedeploy.tensors import Array, Signature


class Carried:
    """One graph at work, with its state in two sets of tensors that swap roles after every call.

    Two requests of the same compiled graph take turns: one reads the first set and writes the second, the other the
    other way round. Inputs are copied into tensors of their own and outputs out of them.

    Args:
        ov: the package openvino.
        compiled: the graph.
        signature: of the graph; see `fits`.
    """

    def __init__(self, ov: Any, compiled: Any, signature: Signature) -> None:
        self._turn = 0
        self._inputs = {spec.name: np.zeros(spec.resolve({}), spec.dtype) for spec in signature.inputs}
        self._outputs = {spec.name: np.zeros(spec.resolve({}), spec.dtype) for spec in signature.outputs}
        self._sets = [{spec.input: np.zeros(spec.shape, spec.dtype) for spec in signature.state} for _ in range(2)]
        self._requests = []
        for read, written in (self._sets, self._sets[::-1]):
            request = compiled.create_infer_request()
            new = {spec.output: written[spec.input] for spec in signature.state}
            for name, buffer in {**self._inputs, **read, **self._outputs, **new}.items():
                request.set_tensor(name, ov.Tensor(buffer, shared_memory=True))
            self._requests.append(request)

    @property
    def last(self) -> Any:
        """The request of the last call."""
        return self._requests[1 - self._turn]

    @staticmethod
    def fits(signature: Signature) -> bool:
        """Whether the graph carries state and has fixed shapes."""
        shapes = [spec.shape for spec in (*signature.inputs, *signature.outputs)]
        return bool(signature.state) and all(isinstance(d, int) for shape in shapes for d in shape)

    def run(self, inputs: Mapping[str, Array]) -> Outputs:
        """The outputs for checked inputs, in new arrays. A call that fails leaves the state as it was."""
        for name, buffer in self._inputs.items():
            np.copyto(buffer, inputs[name])
        self._requests[self._turn].infer(share_outputs=True)
        self._turn = 1 - self._turn
        return {name: buffer.copy() for name, buffer in self._outputs.items()}

    def state(self) -> dict[str, Array]:
        """The state as it is now, copied."""
        return {name: buffer.copy() for name, buffer in self._sets[self._turn].items()}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Go on from checked ``state``, which may have that of other graphs too."""
        for name, buffer in self._sets[self._turn].items():
            np.copyto(buffer, state[name])

    def reset(self) -> None:
        """Put the state back to zeros."""
        for buffer in self._sets[self._turn].values():
            buffer.fill(0)
