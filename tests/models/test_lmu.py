"""The memory: its constants, and that its three forms are one."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from edgedeploy.models.lmu import Form, Memory, Recurrence, impulse, zoh

FORMS: tuple[Form, ...] = ("fft", "fir", "recurrence")


def test_the_constants_of_a_small_memory() -> None:
    transition, drive = zoh(4, 4)
    expected = [
        [0.75513, -0.19139, -0.09352, -0.002614],
        [0.57417, 0.27448, -0.393825, -0.046802],
        [-0.467599, 0.656375, -0.146317, -0.260945],
        [0.0183, -0.109205, 0.365323, 0.005422],
    ]
    torch.testing.assert_close(transition, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=6e-6)
    torch.testing.assert_close(
        drive, torch.tensor([0.24487, -0.57417, 0.467599, -0.0183], dtype=torch.float64), rtol=0, atol=6e-6
    )


@pytest.mark.parametrize(("order", "theta"), [(4, 4), (256, 128)])
def test_the_hold_is_that_of_scipy(order: int, theta: int) -> None:
    signal = pytest.importorskip("scipy.signal")
    system = [[(2 * i + 1) * (-1.0 if i < j else (-1.0) ** (i - j + 1)) for j in range(order)] for i in range(order)]
    inputs = [[(2 * i + 1) * (-1.0) ** i] for i in range(order)]
    a, b = torch.tensor(system, dtype=torch.float64) / theta, torch.tensor(inputs, dtype=torch.float64) / theta
    held = signal.cont2discrete((a.numpy(), b.numpy(), torch.eye(order).numpy(), b.numpy() * 0), 1.0, method="zoh")
    transition, drive = zoh(order, theta)
    torch.testing.assert_close(transition, torch.from_numpy(held[0]), rtol=0, atol=1e-9)
    torch.testing.assert_close(drive, torch.from_numpy(held[1][:, 0]), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("order", "theta", "steps"), [(256, 128, 128), (6, 8, 1), (6, 8, 150)])
def test_three_forms_are_one(order: int, theta: int, steps: int, dtype: torch.dtype, near: float) -> None:
    """The last case is longer than the response: nothing is lost where that is cut."""
    generator = torch.Generator().manual_seed(0)
    signal = torch.rand(2, 1, steps, generator=generator, dtype=dtype)
    memory = Memory(order, theta).to(dtype)
    found = {}
    for form in FORMS:
        memory.form = form
        found[form] = memory(signal)
        assert found[form].shape == (2, order, steps)
        torch.testing.assert_close(found[form], found["fft"], rtol=0, atol=near)
    assert float(found["fir"].abs().max()) > 0.1
    torch.testing.assert_close(memory.window(steps)(signal), found["fir"], rtol=0, atol=0)


def test_the_response_is_cut_where_it_has_died_down() -> None:
    transition, drive = zoh(6, 8)
    response = impulse(transition, drive, 10)
    assert 10 < response.shape[1] < 1000
    torch.testing.assert_close(response[:, 7], torch.linalg.matrix_power(transition, 7) @ drive)
    left = torch.linalg.matrix_power(transition, response.shape[1]) @ drive
    assert float(left.abs().max()) <= 1e-17 * float(response.abs().max())


def test_another_dtype_has_constants_of_its_own() -> None:
    """Widening rounded constants would leave the error of float32 in them."""
    wide = Memory(4, 4).double()
    torch.testing.assert_close(wide.transition, zoh(4, 4)[0], rtol=0, atol=0)
    torch.testing.assert_close(wide.float().response, Memory(4, 4).response, rtol=0, atol=0)
    assert not Recurrence(4, 4).state_dict(), "constants are no weights"


def test_what_the_memory_is_for() -> None:
    """Its first coefficient is the mean of the window, so of a constant it is that, once the window is full."""
    memory = Memory(16, 32).double()(torch.full((1, 1, 64), 3.0, dtype=torch.float64))
    assert float(memory[0, 0, 40]) == pytest.approx(3.0, abs=1e-2)
    assert float(memory[0, 0, 16]) == pytest.approx(3.0 * 17 / 32, abs=1e-2)
