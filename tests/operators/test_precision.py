"""On a device without float64, operators and processes do what they do on the CPU."""

import pytest
import torch
from tests.strategies import OPERATORS, blur, blurred_subsample, normal
from tests.without_float64 import DEVICE, WithoutFloat64
from torch.testing import assert_close

from scalespace.diffusion.degradation import Blurring, Resizing
from scalespace.diffusion.noise import LinearBeta
from scalespace.diffusion.prediction import Epsilon, Velocity
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.operators.checks import examined
from scalespace.operators.krylov import KrylovFunctions
from scalespace.operators.precision import best_dtype


@pytest.fixture(autouse=True)
def a_device_without_float64():
    with WithoutFloat64():
        yield


def pictures(size, batch=(2, 1)):
    return normal(size, dtype=torch.float32, batch=batch)


def test_a_device_says_whether_it_has_float64():
    with pytest.raises(TypeError, match="doesn't support float64"):
        torch.zeros(2, device=DEVICE).double()
    assert best_dtype(DEVICE) == torch.float32
    assert best_dtype(torch.device("cpu")) == torch.float64


@pytest.mark.parametrize("kind", OPERATORS)
def test_functions_of_every_operator_are_those_of_the_cpu(kind):
    M = OPERATORS[kind]((6, 5))
    x, y = pictures(M.in_size), pictures(M.out_size)
    # A fresh operator, whose first pictures are on the device.
    on_device = OPERATORS[kind]((6, 5))
    found = (
        on_device.gram_function(torch.sqrt, x.to(DEVICE)),
        on_device.gram_function(torch.rsqrt, x.to(DEVICE), kernel=1.0),
        on_device.adjoint_function(torch.rsqrt, y.to(DEVICE)),
    )
    expected = (
        M.gram_function(torch.sqrt, x),
        M.gram_function(torch.rsqrt, x, kernel=1.0),
        M.adjoint_function(torch.rsqrt, y),
    )
    for result, of_cpu in zip(found, expected, strict=True):
        assert result.device == DEVICE
        assert_close(result.cpu(), of_cpu)
    assert on_device.norm_squared() == pytest.approx(M.norm_squared())


@pytest.mark.parametrize("make", [blur, blurred_subsample])
def test_iterated_functions_are_right_to_float64(make):
    M, x = make((12, 10)), pictures((12, 10))
    iterated = KrylovFunctions(examined(M, DEVICE))
    assert iterated.M.eps < 1e-14
    found = iterated.gram_function(torch.sqrt, x.to(DEVICE), None)
    assert found.device == DEVICE
    assert_close(found.cpu(), M.gram_function(torch.sqrt, x))
    y = pictures(M.out_size)
    assert_close(
        iterated.adjoint_function(torch.rsqrt, y.to(DEVICE)).cpu(),
        M.adjoint_function(torch.rsqrt, y),
        rtol=0,
        atol=1e-5,
    )


def test_a_process_takes_grid_points_of_the_device():
    noise = LinearBeta(20)
    process = ScaleSpaceProcess(noise, Resizing(((8, 8), (4, 4)), (11,), 20))
    t, x_0 = torch.tensor([12, 20]), pictures((8, 8))
    state = process.marginal(x_0.to(DEVICE), t.to(DEVICE)).draw(pictures((4, 4)).to(DEVICE))
    assert_close(state.cpu(), process.marginal(x_0, t).draw(pictures((4, 4))))
    assert noise.alpha(t.to(DEVICE)).dtype == torch.float32
    assert_close(noise.alpha(t.to(DEVICE)).cpu().double(), noise.alpha(t), rtol=1e-6, atol=0)
    assert noise.alpha(t).dtype == torch.float64
    M = process.degradation.operator(10, 12)
    predicted = Velocity(noise).x0(x_0.to(DEVICE), state, t.to(DEVICE), M)
    assert_close(predicted.cpu(), Velocity(noise).x0(x_0, state.cpu(), t, M))
    blurring = Blurring((8, 8), 20)
    degrades = blurring.operators(t.to(DEVICE) - 1, t.to(DEVICE))
    predicted = Epsilon(noise).x0(x_0.to(DEVICE), x_0.to(DEVICE), t.to(DEVICE), degrades)
    assert_close(predicted.cpu(), Epsilon(noise).x0(x_0, x_0, t, blurring.operators(t - 1, t)))
