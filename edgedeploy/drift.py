"""Where a drift begins: the outputs of modules inside a form of a graph, held against the same modules in FP32.

The reference is the PyTorch network, watched by hooks, and the float ONNX graph for what lies between modules. The
first module, in the order in which they are computed, whose output is off more than those before it can explain is
where the drift begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgedeploy.capture import EagerSession
from edgedeploy.compare import EXACT_SNR, agreement, snr
from edgedeploy.exporter import FP32_SNR
from edgedeploy.model import Model
from edgedeploy.runtime import TAP, Outputs
from edgedeploy.tensors import Array

#: SNR (dB) that a first module has by nature: what is lost above it says nothing.
NATURAL: Mapping[str, float] = {
    "fp16": 60.0,
    "bf16": 45.0,
    "int8-weights": 40.0,
    "int8": 40.0,
    "fp8": 30.0,
    "fp4": 20.0,
}
#: A fall of so many dB at one module is a step and not the noise that adds up from layer to layer.
STEP = 10.0
#: Values are clipped where the reference leaves a range by this share of it, and what was found stays at its end.
BEYOND, AT_THE_END = 0.02, 0.9
#: So many modules on, a backend may have fused one with another; its tap is then nearer (dB) to the other's output.
FUSED, BETTER = 3, 1.0


@dataclass(frozen=True)
class ModuleDrift:
    """One module's output against its reference, the worst over the samples.

    Args:
        module: its path, the name of a node that belongs to none, or that of an input.
        snr: in dB; of the worst channel where the output has three dimensions, which may hold several quantities.
        nonfinite: values that are NaN or infinite where the reference is not, over all samples.
        clipped: largest share, 0 to 1, of reference values beyond a range at whose end the found ones stay.
        fused: the module that the backend has fused with this one, if the output is that of both.
    """

    module: str
    snr: float
    nonfinite: int = 0
    clipped: float = 0.0
    fused: str = ""


@dataclass(frozen=True)
class Drift:
    """What was seen inside one rung.

    Args:
        rung: the rung.
        begins: the first bad module; ``None`` where no module is.
        before: the last good one before it.
        sharp: whether it is a step at this module; else noise adds up, and this is where it grows most.
        repeats: whether the rung's outputs are as wrong while its inside is shown.
        modules: all, in the order in which they are computed.
    """

    rung: str
    begins: ModuleDrift | None
    before: ModuleDrift | None
    sharp: bool
    repeats: bool
    modules: tuple[ModuleDrift, ...]


class EagerTaps:
    """A PyTorch model that gives the outputs of all its modules, in the order in which they are done."""

    def __init__(self, model: Model) -> None:
        self._session = EagerSession(model)
        self._network = model.graphs["main"].network
        self._inputs = [spec.name for spec in model.graphs["main"].signature.inputs]

    def run(self, inputs: Mapping[str, Array]) -> Outputs:
        """One array per module with a single output, under `TAP` + its path, after the inputs under theirs."""
        import torch

        seen: Outputs = {TAP + name: inputs[name] for name in self._inputs}
        handles = []

        def hook(path: str) -> Any:
            def keep(module: Any, arguments: Any, output: Any) -> None:
                if isinstance(output, torch.Tensor) and output.is_floating_point():
                    # A copy: an in-place layer that follows would change it.
                    seen.pop(TAP + path, None)
                    seen[TAP + path] = output.detach().float().numpy().copy()

            return keep

        named = self._network.named_modules() if isinstance(self._network, torch.nn.Module) else ()
        try:
            handles = [module.register_forward_hook(hook(path)) for path, module in named if path]
            self._session.run(inputs)
        finally:
            for handle in handles:
                handle.remove()
        return seen


def merged(eager: Mapping[str, Array], graph: Mapping[str, Array]) -> Outputs:
    """Taps of the network, completed by those of its float graph, in one order.

    Where both have a module and do not agree, the graph has folded something into it, and is believed.
    """
    whole: Outputs = {}
    rest = list(eager)
    for key, value in graph.items():
        if key not in eager:
            whole[key] = value
            continue
        while key in rest:
            following = rest.pop(0)
            whole[following] = eager[following]
        same = eager[key].shape == value.shape and snr(eager[key], value) >= FP32_SNR
        whole[key] = eager[key] if same else value
    return {**whole, **{key: eager[key] for key in rest}}


@dataclass
class Watch:
    """Holds taps against their reference, sample after sample, and keeps the worst of each module."""

    worst: dict[str, ModuleDrift] = field(default_factory=dict)
    _fused: dict[str, str] | None = None

    def add(self, reference: Mapping[str, Array], found: Mapping[str, Array]) -> None:
        """One sample; taps that either side does not have, or in another shape, are passed over."""
        with np.errstate(invalid="ignore", over="ignore"):  # infinite values are counted, not warned of
            self._add(reference, found)

    def _add(self, reference: Mapping[str, Array], found: Mapping[str, Array]) -> None:
        if self._fused is None:
            self._fused = _fusions(reference, found)
        for key in reference:
            got = found.get(key)
            wanted = reference[self._fused.get(key, key)]
            if got is None or got.shape != wanted.shape or not got.size:
                continue
            now = _held(key.removeprefix(TAP), wanted, got, self._fused.get(key, "").removeprefix(TAP))
            self.worst[key] = _worse(self.worst.get(key, now), now)

    def rows(self) -> tuple[ModuleDrift, ...]:
        """All modules in the order of the reference."""
        return tuple(self.worst.values())


def begins(modules: Sequence[ModuleDrift], precision: str) -> tuple[ModuleDrift | None, ModuleDrift | None, bool]:
    """The first bad module, the last good one before it, and whether the fall between them is a step.

    In FP32 the first output below `edgedeploy.exporter.FP32_SNR` is bad. Lower precisions lose a little everywhere: bad
    is the first that is NaN or infinite, else the one whose SNR falls most below all before it.
    """
    for i, row in enumerate(modules):
        if row.nonfinite or (precision == "fp32" and row.snr < FP32_SNR):
            return row, _last_good(modules[:i], max(row.snr, -EXACT_SNR) + STEP), True
    if precision == "fp32" or not modules:
        return None, None, False
    falls = _falls(modules, precision)
    i = int(np.argmax(falls))
    if falls[i] <= 0:
        return None, None, False
    return modules[i], _last_good(modules[:i], modules[i].snr + falls[i] / 2), bool(falls[i] >= STEP)


def noisiest(modules: Sequence[ModuleDrift], precision: str, most: int) -> tuple[ModuleDrift, ...]:
    """At most so many modules at which the SNR falls, largest fall first."""
    falls = _falls(modules, precision)
    order = sorted(range(len(modules)), key=lambda i: -falls[i])[:most]
    return tuple(modules[i] for i in order if falls[i] > 0)


def _falls(modules: Sequence[ModuleDrift], precision: str) -> list[float]:
    """How far each module's SNR lies below all before it (dB)."""
    level, falls = NATURAL.get(precision, FP32_SNR), []
    for row in modules:
        falls.append(max(0.0, level - row.snr))
        level = min(level, row.snr)
    return falls


def _last_good(modules: Sequence[ModuleDrift], least: float) -> ModuleDrift | None:
    return next((row for row in reversed(modules) if row.snr >= least and not row.nonfinite), None)


def _held(module: str, reference: Array, found: Array, fused: str) -> ModuleDrift:
    agreed = agreement({module: reference}, {module: found})[0]
    ratio = agreed.worst_snr if reference.ndim == 3 else agreed.snr
    broken = int((~np.isfinite(found) & np.isfinite(reference)).sum())
    return ModuleDrift(module, ratio, broken, 0.0 if broken else _clipped(reference, found), fused)


def _worse(one: ModuleDrift, other: ModuleDrift) -> ModuleDrift:
    if one is other:
        return one
    nonfinite, clipped = one.nonfinite + other.nonfinite, max(one.clipped, other.clipped)
    return replace(one, snr=min(one.snr, other.snr), nonfinite=nonfinite, clipped=clipped)


def _clipped(reference: Any, found: Any) -> float:
    """The share of reference values beyond the range of what was found, if those stay at its ends."""
    low, high = float(found.min()), float(found.max())
    margin = BEYOND * (high - low)
    if margin <= 0:
        return 0.0
    above, below = reference > high + margin, reference < low - margin
    beyond = int(above.sum() + below.sum())
    if not beyond:
        return 0.0
    stays = int((found[above] >= high - margin).sum() + (found[below] <= low + margin).sum())
    return beyond / reference.size if stays >= AT_THE_END * beyond else 0.0


def _fusions(reference: Mapping[str, Array], found: Mapping[str, Array]) -> dict[str, str]:
    """Taps that are the output of a module further on, which the backend does not show: it has fused the two."""
    keys, fused = list(reference), {}
    for i, key in enumerate(keys):
        got = found.get(key)
        if got is None or got.shape != reference[key].shape:
            continue
        own = snr(reference[key], got)
        for other in keys[i + 1 : i + 1 + FUSED]:
            if other not in found and reference[other].shape == got.shape and snr(reference[other], got) > own + BETTER:
                fused[key] = other
                break
    return fused
