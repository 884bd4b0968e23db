"""A session of Core ML itself, on macOS. Written by Apple's documentation; no machine here could run it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgedeploy.errors import RunFailed
from edgedeploy.runtime import Outputs, check_state
from edgedeploy.tensors import Array, Signature
from edgedeploy_coreml.package import PIXELS, Package
from edgedeploy_coreml.state import REST, joined, parted, plain_name
from edgedeploy_coreml.vendor import coremltools

_UNITS = {"all": "ALL", "cpu": "CPU_ONLY", "cpu_and_gpu": "CPU_AND_GPU", "cpu_and_ne": "CPU_AND_NE"}


class AppleSession:
    """Compiled packages, predicted with; state is carried from call to call."""

    def __init__(
        self, packages: Mapping[str, Package], signatures: Mapping[str, Signature], compute_units: str
    ) -> None:
        ct = coremltools()
        self._packages, self._signatures = dict(packages), dict(signatures)
        self._units = getattr(ct.ComputeUnit, _UNITS[compute_units])
        try:
            self._models = {
                name: ct.models.MLModel(str(p.path), compute_units=self._units) for name, p in packages.items()
            }
        except Exception as error:  # NSError comes as RuntimeError, and others
            raise RunFailed(f"Core ML cannot load the package: {_line(error)}") from error
        self._pixels = {name: json.loads(p.facts[PIXELS]) for name, p in packages.items() if PIXELS in p.facts}
        self._state: dict[str, Any] = {}
        self.reset()
        self._facts: dict[str, str | int | float] = {
            "runtime": "coreml",
            "version": ct.__version__,
            "threads": "default",
            "compute_units": compute_units,
            "placement": self._placement(),
        }

    @property
    def facts(self) -> Mapping[str, str | int | float]:
        """Version, the units allowed, and how many operations Core ML places on which."""
        return self._facts

    def run(self, inputs: Mapping[str, Array], graph: str = "main") -> Outputs:
        """See `Session.run`."""
        signature, description = self._signatures[graph], self._packages[graph].spec.description
        signature.check(inputs)
        feed = {}
        for i, (spec, taken) in enumerate(zip(signature.inputs, description.input, strict=True)):
            image = graph in self._pixels and i == 0
            feed[taken.name] = self._image(inputs[spec.name], graph) if image else _fed(inputs[spec.name])
        try:
            state = self._state.get(graph)
            model = self._models[graph]
            found = model.predict(feed) if state is None else model.predict(feed, state=state)
        except Exception as error:  # NSError comes as RuntimeError, and others
            raise RunFailed(f"Core ML failed in graph '{graph}': {_line(error)}") from error
        return {
            spec.name: np.asarray(found[given.name]).astype(spec.dtype, copy=False)
            for spec, given in zip(signature.outputs, description.output, strict=True)
        }

    def reset(self) -> None:
        """See `Session.reset`."""
        stateful = {name for name, package in self._packages.items() if package.spec.description.state}
        self._state = {name: self._models[name].make_state() for name in stateful}

    def state(self) -> dict[str, Array]:
        """See `edgedeploy.runtime.Carrying.state`."""
        found: dict[str, Array] = {}
        for graph, kept in self._state.items():
            parts = {name: np.asarray(kept.read_state(name)) for name in self._parts(graph)}
            specs = self._signatures[graph].state
            found |= {spec.input: joined(spec, plain_name(spec.input), parts) for spec in specs}
        return found

    def restore(self, state: Mapping[str, Array]) -> None:
        """See `edgedeploy.runtime.Carrying.restore`. What is kept in fp16 alone is rounded to it."""
        check_state(self._signatures.values(), state)
        for graph, kept in self._state.items():
            known = self._parts(graph)
            for spec in self._signatures[graph].state:
                name = plain_name(spec.input)
                for part, value in parted(name, state[spec.input], name + REST in known):
                    kept.write_state(part, value)

    def _parts(self, graph: str) -> list[str]:
        return [feature.name for feature in self._packages[graph].spec.description.state]

    def close(self) -> None:
        """See `Session.close`."""
        self._models.clear()
        self._state.clear()

    def _image(self, array: Array, graph: str) -> Any:
        """The prepared image as the picture that an app would give."""
        from PIL import Image

        pixels = self._pixels[graph]
        bias = np.array(pixels["bias"], np.float32)
        hwc = np.rint((array[0].transpose(1, 2, 0).astype(np.float32) - bias) / np.float32(pixels["scale"]))
        order = slice(None) if pixels["color"] == "RGB" else slice(None, None, -1)
        return Image.fromarray(np.ascontiguousarray(hwc[..., order].clip(0, 255).astype(np.uint8)))

    def _placement(self) -> str:
        """Operations by the unit that Core ML prefers for them, such as ``NeuralEngine 170, CPU 5``."""
        try:
            from coremltools.models.compute_plan import MLComputePlan

            counted: Counter[str] = Counter()
            for name in self._models:
                plan = MLComputePlan.load_from_path(self._models[name].get_compiled_model_path(), self._units)
                for function in plan.model_structure.program.functions.values():
                    for operation in function.block.operations:
                        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
                        if usage is not None:
                            kind = type(usage.preferred_compute_device).__name__
                            counted[kind.removeprefix("ML").removesuffix("ComputeDevice")] += 1
            return ", ".join(f"{unit} {count}" for unit, count in counted.most_common())
        except Exception as error:  # a report that cannot be had must not cost the session
            return f"unknown ({_line(error)})"


def _fed(array: Array) -> Array:
    """Core ML takes float32, float16 and int32."""
    if array.dtype in (np.float32, np.float16, np.int32):
        return np.ascontiguousarray(array)
    kind = np.float32 if np.issubdtype(array.dtype, np.floating) else np.int32
    return np.ascontiguousarray(array.astype(kind))


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
