"""One engine at work: its buffers, its stream, its state, and the launches of a call.

Every input and output has one buffer, as large as the plan's largest shapes need, so that addresses never change: what
TensorRT is told once stays true, and a recorded CUDA graph stays valid until the shapes change.

State has two buffers, of which a call reads one and writes the other; the next call does it the other way round, so
that nothing is copied. A CUDA graph knows the addresses that it was recorded with, so there is one for either way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgedeploy.errors import Incompatible, UsageError
from edgedeploy.runtime import Outputs
from edgedeploy.tensors import Array, Signature, StateSpec
from edgedeploy_tensorrt.api import Library, Refused, last_error, listening
from edgedeploy_tensorrt.cuda import Buffer, Cuda
from edgedeploy_tensorrt.plan import Plan

#: TensorRT's names of types, as numpy's.
DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}


class Execution:
    """A loaded engine with everything that a call needs.

    Raises:
        Incompatible: the engine takes or gives other tensors than the signature says.
        CudaError: the GPU has not enough memory.
        Refused: TensorRT cannot make a context.
    """

    def __init__(self, library: Library, cuda: Cuda, engine: Any, signature: Signature, plan: Plan) -> None:
        self._library, self._cuda, self._signature, self._plan = library, cuda, signature, plan
        self._types = _types(engine)
        _check(self._types, signature)
        with listening(library) as lines:
            self._context = engine.create_execution_context()
        if self._context is None:
            raise Refused(f"{library.title} cannot prepare the engine to run: {last_error(lines)}")
        self._engine = engine  # the context needs it, and it its runtime
        self._stream = cuda.call("cudaStreamCreate")
        self._buffers: dict[str, Buffer] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._turn, self._recorded = 0, dict[int, Any]()
        try:
            self._allocate()
            self.reset()
        except BaseException:
            self.close()
            raise

    def run(self, inputs: Mapping[str, Array], record: bool) -> Outputs:
        """Copy in, compute, copy out; new arrays each time.

        Raises:
            UsageError: an input is larger or smaller than the engine was built for.
            CudaError, Refused: the GPU or TensorRT gave up.
        """
        self._set_shapes({name: tuple(array.shape) for name, array in inputs.items()}, inputs)
        for name, array in inputs.items():
            host = self._buffers[name].view(array.shape, array.dtype)
            np.copyto(host, array)
            self._cuda.copy_in(self._buffers[name].device, host, self._stream)
        self._launch(record)
        self._swap()
        views = {}
        for spec in self._signature.outputs:
            views[spec.name] = self._buffers[spec.name].view(self._out(spec.name), self._types[spec.name])
            self._cuda.copy_out(views[spec.name], self._buffers[spec.name].device, self._stream)
        self._cuda.call("cudaStreamSynchronize", self._stream)
        return {name: view.copy() for name, view in views.items()}

    def compute(self, record: bool) -> None:
        """Compute on what the last `run` copied in, and copy nothing."""
        self._launch(record)
        self._cuda.call("cudaStreamSynchronize", self._stream)

    def reset(self) -> None:
        """Put the state back to zeros."""
        for spec in self._signature.state:
            buffer = self._held(spec)
            self._cuda.call("cudaMemsetAsync", buffer.device, 0, buffer.count, self._stream)
        self._cuda.call("cudaStreamSynchronize", self._stream)

    def state(self) -> dict[str, Array]:
        """The state as it is now, copied to the host."""
        views = {}
        for spec in self._signature.state:
            views[spec.input] = self._held(spec).view(spec.shape, np.dtype(spec.dtype))
            self._cuda.copy_out(views[spec.input], self._held(spec).device, self._stream)
        self._cuda.call("cudaStreamSynchronize", self._stream)
        return {name: view.copy() for name, view in views.items()}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Go on from checked ``state``, which may have that of other graphs too."""
        for spec in self._signature.state:
            host = self._held(spec).view(spec.shape, np.dtype(spec.dtype))
            np.copyto(host, state[spec.input])
            self._cuda.copy_in(self._held(spec).device, host, self._stream)
        self._cuda.call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        """Free everything, the engine last."""
        self._forget_recording()
        while self._buffers:
            self._buffers.popitem()[1].free()
        self._cuda.call("cudaStreamDestroy", self._stream)
        self._context = self._engine = None

    def _held(self, spec: StateSpec) -> Buffer:
        """The buffer that the next call reads the state from."""
        return self._buffers[spec.output if self._turn else spec.input]

    def _swap(self) -> None:
        """What was written is what the next call reads."""
        if not self._signature.state:
            return
        self._turn = 1 - self._turn
        for spec in self._signature.state:
            read, written = self._buffers[spec.input], self._buffers[spec.output]
            read, written = (written, read) if self._turn else (read, written)
            self._context.set_tensor_address(spec.input, read.device)
            self._context.set_tensor_address(spec.output, written.device)

    def _launch(self, record: bool) -> None:
        if record and self._turn not in self._recorded:
            self._enqueue()  # TensorRT allocates in its first call, which cannot be recorded
            self._cuda.call("cudaStreamSynchronize", self._stream)
            self._cuda.begin_capture(self._stream)
            try:
                self._enqueue()
            finally:
                self._recorded[self._turn] = self._cuda.end_capture(self._stream)
        if record:
            self._cuda.call("cudaGraphLaunch", self._recorded[self._turn], self._stream)
        else:
            self._enqueue()

    def _enqueue(self) -> None:
        with listening(self._library) as lines:
            started = self._context.execute_async_v3(int(self._stream))
        if not started:
            raise Refused(last_error(lines))

    def _forget_recording(self) -> None:
        while self._recorded:
            self._cuda.call("cudaGraphExecDestroy", self._recorded.popitem()[1])

    def _set_shapes(self, shapes: dict[str, tuple[int, ...]], inputs: Mapping[str, Array]) -> None:
        if shapes == self._shapes:
            return
        for name, array in inputs.items():
            allowed = self._plan.shapes.get(name)
            if allowed is not None and not allowed.take(array):
                raise UsageError(
                    f"Input '{name}' is {list(array.shape)}, but the engine was built for {list(allowed.min)} to "
                    f"{list(allowed.max)}. Export it with other shapes."
                )
        self._forget_recording()
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise Refused(f"the engine does not take {list(shape)} as '{name}'")
        self._shapes = shapes

    def _out(self, name: str) -> tuple[int, ...]:
        return tuple(int(size) for size in self._context.get_tensor_shape(name))

    def _allocate(self) -> None:
        """Buffers for the largest shapes; the shapes that the engine is tuned for are not set before the first call."""
        largest = {spec.name: spec.shape for spec in self._signature.inputs}
        largest |= {name: shapes.max for name, shapes in self._plan.shapes.items()}
        for name, shape in largest.items():
            if not self._context.set_input_shape(name, tuple(shape)):
                raise Refused(f"The engine does not take {list(shape)} as '{name}'.")
        for state in self._signature.state:
            self._context.set_input_shape(state.input, state.shape)
        for name, dtype in self._types.items():
            shape = self._out(name)
            if any(size < 0 for size in shape):
                raise Incompatible(
                    f"The shape of output '{name}' depends on the values in the input, which this runtime does not "
                    "offer. Export the model without what selects boxes (NMS); the task does that after the network."
                )
            self._buffers[name] = Buffer(self._cuda, int(np.prod(shape)) * dtype.itemsize)
            self._context.set_tensor_address(name, self._buffers[name].device)


def _types(engine: Any) -> dict[str, np.dtype[Any]]:
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    kinds = {name: engine.get_tensor_dtype(name).name for name in names}
    for name, kind in kinds.items():
        if kind not in DTYPES:
            raise Incompatible(f"The engine takes or gives '{name}' as {kind}, which has no type in numpy.")
    return {name: np.dtype(DTYPES[kind]) for name, kind in kinds.items()}


def _check(types: Mapping[str, np.dtype[Any]], signature: Signature) -> None:
    wanted = {spec.name: spec.dtype for spec in (*signature.inputs, *signature.outputs)}
    wanted |= {name: s.dtype for s in signature.state for name in (s.input, s.output)}
    found = {name: str(dtype) for name, dtype in types.items()}
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            raise Incompatible(
                f"The bundle says that '{name}' is {wanted.get(name, 'not there')}, and its engine that it is "
                f"{found.get(name, 'not there')}. Export it again."
            )
