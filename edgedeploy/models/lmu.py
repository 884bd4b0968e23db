"""The Legendre memory unit's memory: a window of the past of one signal, held in a few coefficients.

Of a signal u the memory m (order d, window theta steps) follows theta dm/dt = A m + B u with

    A[i, j] = (2i + 1) (-1 if i < j else (-1)^(i-j+1)),    B[i] = (2i + 1) (-1)^i

(Voelker, Kajic and Eliasmith 2019), held constant over each step (zero-order hold). The memory has no feedback into u,
so three forms give the same numbers: the recurrence m[t] = Abar m[t-1] + Bbar u[t], and the convolution of u with the
impulse response Abar^k Bbar, directly or by FFT (Chilkuri and Eliasmith 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

Form = Literal["fft", "fir", "recurrence"]
#: What the impulse response is cut at, as a share of its largest value: below rounding in float64.
_SILENCE = 1e-17


def zoh(order: int, theta: float) -> tuple[Tensor, Tensor]:
    """The constants of the recurrence: Abar float64 (order, order) and Bbar float64 (order,).

    Both are read off one matrix exponential, of [[A, B], [0, 0]] / theta.
    """
    row = torch.arange(order, dtype=torch.float64)[:, None]
    column = row.T
    signs = torch.where(row < column, -1.0, 1.0 - 2.0 * ((row - column + 1) % 2))
    system = torch.zeros(order + 1, order + 1, dtype=torch.float64)
    system[:order, :order] = (2 * row + 1) * signs
    system[:order, order:] = (2 * row + 1) * (1.0 - 2.0 * (row % 2))
    held = torch.linalg.matrix_exp(system / theta)
    return held[:order, :order].clone(), held[:order, order].clone()


def impulse(transition: Tensor, drive: Tensor, steps: int) -> Tensor:
    """The memory after an input of 1: column k of (order, n) is Abar^k Bbar; n is at least ``steps``.

    Longer where it takes longer to die down.
    """
    now, columns = drive, list[Tensor]()
    largest = 0.0
    while len(columns) < steps or float(now.abs().max()) > _SILENCE * largest:
        columns.append(now)
        largest = max(largest, float(now.abs().max()))
        now = transition @ now
    return torch.stack(columns, dim=1)


@lru_cache(maxsize=8)
def _rounded(order: int, theta: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    transition, drive = zoh(order, theta)
    return transition.to(dtype), drive.to(dtype)


@lru_cache(maxsize=8)
def _response(order: int, theta: int, dtype: torch.dtype) -> Tensor:
    """The impulse response of the rounded constants, computed in float64.

    Of the rounded ones, because the matrix is far from normal: what rounding does to it is seen in the response, and
    the three forms have to be of one system.
    """
    transition, drive = _rounded(order, theta, dtype)
    return impulse(transition.double(), drive.double(), theta).to(dtype)


class Recurrence(nn.Module):
    """The memory step by step.

    Args:
        order: coefficients.
        theta: steps that the window is long.

    The constants are computed, never trained and not part of a state dict; in another dtype they are computed anew.
    """

    transition: Tensor
    drive: Tensor

    def __init__(self, order: int, theta: int) -> None:
        super().__init__()
        self.order, self.theta = order, theta
        for name, constant in self._constants(torch.get_default_dtype()).items():
            self.register_buffer(name, constant, persistent=False)

    def step(self, signal: Tensor, memory: Tensor) -> Tensor:
        """The memory (batch, order) after one more value (batch, 1) of the signal."""
        return functional.linear(memory, self.transition) + signal * self.drive

    def extra_repr(self) -> str:
        """For printing the network."""
        return f"order={self.order}, theta={self.theta}"

    def _constants(self, dtype: torch.dtype) -> dict[str, Tensor]:
        return dict(zip(("transition", "drive"), _rounded(self.order, self.theta, dtype), strict=True))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """A dtype is another system: rounded constants are not made exact by a wider one."""
        before = self.drive.dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.drive.dtype != before:
            for name, constant in self._constants(self.drive.dtype).items():
                setattr(self, name, constant.to(self.drive.device))
        return self


class Memory(Recurrence):
    """One signal float (batch, 1, steps) to its memory (batch, order, steps); any number of steps.

    ``form`` is how that is computed; all give the same. The convolution is the default: with no more taps than the
    clip or the response is long, and no complex numbers, it is the fastest of them on a CPU for clips of a second.
    """

    response: Tensor

    def __init__(self, order: int, theta: int, form: Form = "fir") -> None:
        super().__init__(order, theta)
        self.form: Form = form

    def forward(self, signal: Tensor) -> Tensor:
        if self.form == "recurrence":
            found = [signal.new_zeros(signal.shape[0], self.order)]
            for now in signal.unbind(-1):
                found.append(self.step(now, found[-1]))
            return torch.stack(found[1:], dim=-1)
        steps = signal.shape[-1]
        response = self.response[:, :steps]
        if self.form == "fir":
            return _convolved(signal, response.flip(-1)[:, None])
        length = 1 << (steps + response.shape[1] - 1).bit_length()
        spectrum = torch.fft.rfft(signal, length) * torch.fft.rfft(response, length)
        memory: Tensor = torch.fft.irfft(spectrum, length)
        return memory[..., :steps]

    def window(self, steps: int) -> Window:
        """The same for signals of at most so many ``steps``."""
        return Window(self.response[:, :steps].flip(-1)[:, None].contiguous())

    def _constants(self, dtype: torch.dtype) -> dict[str, Tensor]:
        return {**super()._constants(dtype), "response": _response(self.order, self.theta, dtype)}


class Window(nn.Module):
    """The memory as a convolution whose ``kernel`` (order, 1, steps) is a constant, as backends want it."""

    kernel: Tensor

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.register_buffer("kernel", kernel)

    def forward(self, signal: Tensor) -> Tensor:
        return _convolved(signal, self.kernel)


def _convolved(signal: Tensor, kernel: Tensor) -> Tensor:
    convolved: Tensor = functional.conv1d(functional.pad(signal, (kernel.shape[-1] - 1, 0)), kernel)
    return convolved
