"""The objective and its weights."""

import pytest
import torch
from tests.strategies import normal
from torch.testing import assert_close

from scalespace.diffusion.loss import ConstantWeight, MaxSNR, MinSNR, SNRWeight, x0_loss
from scalespace.diffusion.noise import LinearBeta

SNR = torch.tensor([1e-4, 0.5, 1.0, 4.99, 5.0, 5.01, 1e4], dtype=torch.float64)


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (MinSNR(), [1e-4, 0.5, 1.0, 4.99, 5.0, 5.0, 5.0]),
        (MinSNR(0.7), [1e-4, 0.5, 0.7, 0.7, 0.7, 0.7, 0.7]),
        (MaxSNR(), [1.0, 1.0, 1.0, 4.99, 5.0, 5.01, 1e4]),
        (MaxSNR(0.2), [0.2, 0.5, 1.0, 4.99, 5.0, 5.01, 1e4]),
        (SNRWeight(), [1e-4, 0.5, 1.0, 4.99, 5.0, 5.01, 1e4]),
        (ConstantWeight(), [1.0] * 7),
    ],
)
def test_weights_are_their_formulas(weight, expected):
    assert weight(SNR).tolist() == expected


def test_snr_weight_is_the_error_of_the_noise():
    # eps = (x_t - alpha x_0) / sigma, so an error of x_0 is one of eps times alpha / sigma.
    noise, x_0, prediction = LinearBeta(), normal((4, 4), 0, batch=(3, 2)), normal((4, 4), 1, batch=(3, 2))
    t = torch.tensor([1, 400, 1000])
    ratio = (noise.alpha(t) / noise.sigma(t)).reshape(-1, 1, 1, 1)
    expected = (ratio * (prediction - x_0)).square().mean(dim=(1, 2, 3))
    assert_close(x0_loss(prediction, x_0, SNRWeight()(noise.snr(t))), expected)


def test_loss_is_the_weighted_mean_over_pixels_and_channels():
    prediction, x_0 = torch.zeros(2, 3, 4, 5), torch.stack([torch.full((3, 4, 5), 2.0), torch.full((3, 4, 5), -3.0)])
    loss = x0_loss(prediction, x_0, torch.tensor([0.5, 2.0], dtype=torch.float64))
    assert loss.tolist() == [2.0, 18.0]
    assert loss.dtype == torch.float32


def test_gradient_is_that_of_the_weighted_squared_error():
    prediction, x_0 = normal((3, 3), 0, batch=(2, 2)).requires_grad_(), normal((3, 3), 1, batch=(2, 2))
    weight = torch.tensor([0.3, 5.0], dtype=torch.float64)
    x0_loss(prediction, x_0, weight).sum().backward()
    expected = 2 * weight.reshape(2, 1, 1, 1) * (prediction.detach() - x_0) / 18
    assert_close(prediction.grad, expected)
    torch.autograd.gradcheck(lambda p: x0_loss(p, x_0, weight), prediction)
