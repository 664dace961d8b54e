"""The exact denoiser of Gaussian data."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import normal
from torch.testing import assert_close

from scalespace.diffusion.degradation import Resizing
from scalespace.diffusion.denoiser import GaussianDenoiser, dense
from scalespace.diffusion.noise import LinearBeta
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.operators.resize import Resize

PROCESS = ScaleSpaceProcess(LinearBeta(12, 0.05, 0.6), Resizing(((4, 6), (3, 3), (1, 2)), (4, 9), 12))
FACTOR = normal((24, 24), batch=())
COVARIANCE = FACTOR @ FACTOR.mT / 24 + 0.1 * torch.eye(24, dtype=torch.float64)
MEAN = normal((4, 6), 1, batch=())
times = st.tuples(st.integers(0, 12), st.integers(0, 12)).filter(lambda pair: pair[0] != pair[1]).map(sorted)


@given(pair=times)
def test_prediction_is_the_posterior_mean_in_information_form(pair):
    # precision = C^-1 + (alpha / sigma)^2 M^T M, another route to the same conditional expectation
    s, t = pair
    M, alpha, sigma = dense(PROCESS.degradation.operator(0, t)), PROCESS.noise.alpha(t), PROCESS.noise.sigma(t)
    x_t = normal(PROCESS.size(t), 2)
    precision = COVARIANCE.inverse() + (alpha / sigma) ** 2 * M.mT @ M
    surprise = x_t.flatten(1) - alpha * MEAN.flatten() @ M.mT
    x_0 = MEAN.flatten() + torch.linalg.solve(precision, alpha / sigma**2 * M.mT @ surprise.mT).mT
    expected = PROCESS.degradation.operator(0, s)(x_0.unflatten(1, (4, 6)))
    assert_close(GaussianDenoiser(PROCESS, COVARIANCE, MEAN)(x_t, t, s), expected, rtol=0, atol=1e-11)


@given(pair=times)
def test_error_of_the_prediction_is_uncorrelated_with_the_state(pair):
    s, t = pair
    M_t, M_s = (dense(PROCESS.degradation.operator(0, point)) for point in (t, s))
    alpha, sigma = PROCESS.noise.alpha(t), PROCESS.noise.sigma(t)
    state = alpha**2 * M_t @ COVARIANCE @ M_t.mT + sigma**2 * torch.eye(len(M_t), dtype=torch.float64)
    correlation = alpha * M_s @ COVARIANCE @ M_t.mT - GaussianDenoiser(PROCESS, COVARIANCE).gain(t, s) @ state
    assert_close(correlation, torch.zeros_like(correlation), rtol=0, atol=1e-12)


def test_state_at_its_mean_predicts_the_mean():
    x_t = PROCESS.noise.alpha(10) * PROCESS.degradation.operator(0, 10)(MEAN)
    expected = PROCESS.degradation.operator(0, 5)(MEAN)
    assert_close(GaussianDenoiser(PROCESS, COVARIANCE, MEAN)(x_t, 10, 5), expected)


def test_channels_and_dtypes_are_kept():
    denoiser = GaussianDenoiser(PROCESS, COVARIANCE)
    x_t = normal(PROCESS.size(5), 0, torch.float32, (2, 3))
    prediction = denoiser(x_t, 5, 1)
    assert (prediction.shape, prediction.dtype) == ((2, 3, 4, 6), torch.float32)
    assert_close(prediction[1, 2], denoiser(x_t[1, 2], 5, 1))


def test_dense_is_the_matrix_on_flattened_pictures():
    M, x = Resize((4, 6), (3, 2)), normal((4, 6))
    assert dense(M).shape == (6, 24)
    assert_close(x.flatten(1) @ dense(M).mT, M(x).flatten(1))
    assert_close(dense(M), torch.kron(*M.matrices))


@pytest.mark.parametrize("t", [1, 12])
def test_little_noise_is_believed_and_much_is_not(t):
    x_t = normal(PROCESS.size(t))
    sharp = ScaleSpaceProcess(LinearBeta(12, 1e-9, 0.999), PROCESS.degradation)
    prediction = GaussianDenoiser(sharp, COVARIANCE, MEAN)(x_t, t, 0)
    expected = x_t if t == 1 else MEAN.expand_as(prediction)
    assert_close(prediction, expected, rtol=0, atol=1e-3)
