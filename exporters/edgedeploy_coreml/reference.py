"""A session of packages on a machine without Core ML, by the reference interpreter."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from edgedeploy.runtime import TAP, Outputs, check_state
from edgedeploy.tensors import Array, Signature, StateSpec
from edgedeploy_coreml.mil import Arithmetic, Interpreter
from edgedeploy_coreml.package import MODULES, PIXELS, Package
from edgedeploy_coreml.state import REST, joined, parted, plain_name
from edgedeploy_coreml.vendor import coremltools_version

EMULATED = "Core ML reference interpreter (torch), not a device"


@dataclass(frozen=True)
class Settings:
    """How to interpret: threads (torch's own number where ``None``), arithmetic, and whether modules are tapped."""

    threads: int | None = None
    arithmetic: Arithmetic = "program"
    tapped: bool = False


@dataclass(frozen=True)
class Loaded:
    """One graph: its interpreter, signature, variables to tap (by module path), scale and bias of an image input."""

    interpreter: Interpreter
    signature: Signature
    taps: Mapping[str, str]
    names: tuple[str, ...]
    pixels: Mapping[str, Any] | None = None
    quantised: bool = False

    @property
    def carried(self) -> list[tuple[StateSpec, str]]:
        """State of the signature, and what Core ML calls it."""
        return [(spec, plain_name(spec.input)) for spec in self.signature.state]


class ReferenceSession:
    """Graphs run operation by operation; state is carried from call to call."""

    def __init__(self, graphs: Mapping[str, Loaded], settings: Settings) -> None:
        self._graphs, self._settings = dict(graphs), settings

    @property
    def facts(self) -> Mapping[str, str | int | float]:
        """Version of Core ML Tools, threads, the arithmetic that is emulated, and that this is no device."""
        made = frozenset[str]().union(*(g.interpreter.precisions for g in self._graphs.values()))
        kinds = ["int8"] * any(g.quantised for g in self._graphs.values()) + sorted(made)
        exact = self._settings.arithmetic == "exact"
        return {
            "runtime": "coreml",
            "version": coremltools_version(),
            "threads": self._settings.threads or torch.get_num_threads(),
            "computes_in": "fp32" if exact else " and ".join(kinds) or "fp32",
            "emulated": EMULATED,
        }

    def run(self, inputs: Mapping[str, Array], graph: str = "main") -> Outputs:
        """See `Session.run`."""
        loaded = self._graphs[graph]
        loaded.signature.check(inputs)
        feed = {}
        for i, (name, spec) in enumerate(zip(loaded.names, loaded.signature.inputs, strict=True)):
            array = inputs[spec.name]
            feed[name] = to_pixels(array, loaded.pixels) if loaded.pixels and i == 0 else array
        with _threads(self._settings.threads):
            found = loaded.interpreter.run(feed)
        outputs = {
            spec.name: np.ascontiguousarray(found[name].astype(spec.dtype, copy=False))
            for spec, name in zip(loaded.signature.outputs, loaded.interpreter.outputs, strict=True)
        }
        if self._settings.tapped:
            outputs |= {TAP + path: found[name].astype(np.float32) for path, name in loaded.taps.items()}
        return outputs

    def reset(self) -> None:
        """See `Session.reset`."""
        for loaded in self._graphs.values():
            loaded.interpreter.reset()

    def state(self) -> dict[str, Array]:
        """See `edgedeploy.runtime.Carrying.state`."""
        return {
            spec.input: joined(spec, name, loaded.interpreter.state)
            for loaded in self._graphs.values()
            for spec, name in loaded.carried
        }

    def restore(self, state: Mapping[str, Array]) -> None:
        """See `edgedeploy.runtime.Carrying.restore`. What is kept in fp16 alone is rounded to it."""
        check_state([loaded.signature for loaded in self._graphs.values()], state)
        for loaded in self._graphs.values():
            kept = loaded.interpreter.state
            loaded.interpreter.state = {
                part: value
                for spec, name in loaded.carried
                for part, value in parted(name, state[spec.input], name + REST in kept)
            }

    def close(self) -> None:
        """See `Session.close`."""
        self._graphs.clear()


def load(package: Package, signature: Signature, settings: Settings) -> Loaded:
    """One graph of a saved package, ready to run.

    Raises:
        RunFailed: the package is damaged.
        Unavailable: it has operations that the interpreter does not know.
    """
    facts = package.facts
    taps = json.loads(facts.get(MODULES, "{}")) if settings.tapped else {}
    pixels = json.loads(facts[PIXELS]) if PIXELS in facts else None
    return loaded(package.program(), signature, settings, taps, pixels)


def loaded(
    program: Any,
    signature: Signature,
    settings: Settings,
    taps: Mapping[str, str] | None = None,
    pixels: Mapping[str, Any] | None = None,
) -> Loaded:
    """One graph of a program in memory."""
    interpreter = Interpreter(program, settings.arithmetic, keep=(taps or {}).values())
    kinds = {op.op_type for op in program.functions["main"].operations}
    return Loaded(interpreter, signature, taps or {}, interpreter.inputs, pixels, "quantize" in kinds)


def to_pixels(array: Array, pixels: Mapping[str, Any]) -> Array:
    """The pixels (0 to 255, whole numbers) behind a prepared image (1, 3, H, W), as an app would hand them over."""
    bias = np.array(pixels["bias"], np.float32).reshape(1, 3, 1, 1)
    whole: Array = (
        np.rint((array.astype(np.float32) - bias) / np.float32(pixels["scale"])).clip(0, 255).astype(np.float32)
    )
    return whole


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Torch's threads belong to the process: ours only while we run."""
    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
