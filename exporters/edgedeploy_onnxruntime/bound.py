"""A graph with state whose buffers are bound once: no call copies the state, and none allocates for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgedeploy.runtime import Outputs
from edgedeploy.tensors import Array, Signature, StateSpec, TensorSpec


class Bound:
    """One graph at work, with its state in two sets of buffers that swap roles after every call.

    A call reads the state from one set and writes the new state to the other. Inputs are copied into buffers of their
    own and outputs out of them: what a caller holds is never written over.

    Args:
        ort: the package onnxruntime.
        session: of the graph.
        signature: of the graph; see `fits`.
    """

    def __init__(self, ort: Any, session: Any, signature: Signature) -> None:
        self._session, self._signature, self._turn = session, signature, 0
        self._inputs = {spec.name: _empty(spec) for spec in signature.inputs}
        self._outputs = {spec.name: _empty(spec) for spec in signature.outputs}
        self._sets = [{spec.input: _zeros(spec) for spec in signature.state} for _ in range(2)]
        self._bindings = [self._binding(ort, read, written) for read, written in (self._sets, self._sets[::-1])]

    @staticmethod
    def fits(session: Any, signature: Signature) -> bool:
        """Whether the graph carries state, gives what its signature says and no more, and has fixed shapes."""
        given = {*(spec.name for spec in signature.outputs), *(spec.output for spec in signature.state)}
        shapes = [spec.shape for spec in (*signature.inputs, *signature.outputs)]
        fixed = all(isinstance(d, int) for shape in shapes for d in shape)
        return bool(signature.state) and fixed and given == {value.name for value in session.get_outputs()}

    def run(self, inputs: Mapping[str, Array]) -> Outputs:
        """The outputs for checked inputs, in new arrays. A call that fails leaves the state as it was."""
        for name, buffer in self._inputs.items():
            np.copyto(buffer, inputs[name])
        self._session.run_with_iobinding(self._bindings[self._turn])
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

    def _binding(self, ort: Any, read: Mapping[str, Array], written: Mapping[str, Array]) -> Any:
        binding = self._session.io_binding()
        for name, buffer in {**self._inputs, **read}.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(buffer))
        new = {spec.output: written[spec.input] for spec in self._signature.state}
        for name, buffer in {**self._outputs, **new}.items():
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(buffer))
        return binding


def _empty(spec: TensorSpec) -> Array:
    return np.zeros(spec.resolve({}), spec.dtype)


def _zeros(spec: StateSpec) -> Array:
    return np.zeros(spec.shape, spec.dtype)
