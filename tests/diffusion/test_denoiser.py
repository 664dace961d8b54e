"""The exact denoisers of Gaussian and of Gaussian-mixture data."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import normal
from torch.testing import assert_close

from scalespace.diffusion.degradation import Resizing
from scalespace.diffusion.denoiser import GaussianDenoiser, GaussianMixture, GaussianMixtureDenoiser, dense
from scalespace.diffusion.noise import LinearBeta
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.operators.resize import Resize

PROCESS = ScaleSpaceProcess(LinearBeta(12, 0.05, 0.6), Resizing(((4, 6), (3, 3), (1, 2)), (4, 9), 12))
FACTOR = normal((24, 24), batch=())
COVARIANCE = FACTOR @ FACTOR.mT / 24 + 0.1 * torch.eye(24, dtype=torch.float64)
MEAN = normal((4, 6), 1, batch=())
MIXTURE = GaussianMixture(
    torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64),
    normal((4, 6), 3, batch=(3,)),
    normal((24, 2), 4, batch=(3,)),
    0.1,
)
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


@given(pair=times)
def test_mixture_predicts_the_mean_of_its_components_by_their_probabilities(pair):
    s, t = pair
    M, alpha, sigma = dense(PROCESS.degradation.operator(0, t)), PROCESS.noise.alpha(t), PROCESS.noise.sigma(t)
    x_t = normal(PROCESS.size(t), 5, batch=(4, 1))
    joint, predictions = [], []
    for weight, mean, factor in zip(MIXTURE.weights, MIXTURE.means, MIXTURE.factors, strict=True):
        covariance = factor @ factor.mT + MIXTURE.variance * torch.eye(24, dtype=torch.float64)
        marginal = alpha**2 * M @ covariance @ M.mT + sigma**2 * torch.eye(len(M), dtype=torch.float64)
        density = torch.distributions.MultivariateNormal(alpha * M @ mean.flatten(), marginal)
        joint.append(weight.log() + density.log_prob(x_t.flatten(1)))
        predictions.append(GaussianDenoiser(PROCESS, covariance, mean)(x_t, t, s))
    responsibilities = torch.stack(joint).softmax(0)
    expected = torch.einsum("kb,kbchw->bchw", responsibilities, torch.stack(predictions))
    assert_close(GaussianMixtureDenoiser(PROCESS, MIXTURE)(x_t, t, s), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("t", "s"), [(2, 0), (6, 0), (6, 5), (9, 7)])
def test_mixture_predicts_what_integration_over_all_pictures_gives(t, s):
    # Pictures of two pixels, so that E[x_0 | x_t] = integral of x_0 p(x_0) p(x_t | x_0) is a sum over a fine grid.
    process = ScaleSpaceProcess(LinearBeta(9, 0.05, 0.6), Resizing(((1, 2), (1, 1)), (6,), 9))
    mixture = GaussianMixture(
        torch.tensor([0.3, 0.7], dtype=torch.float64),
        torch.tensor([[[1.0, -1.0]], [[-0.5, 0.5]]], dtype=torch.float64),
        torch.tensor([[[0.3], [0.5]], [[0.4], [-0.2]]], dtype=torch.float64),
        0.05,
    )
    axis = torch.linspace(-5, 5, 801, dtype=torch.float64)
    x_0 = torch.cartesian_prod(axis, axis)
    density = torch.zeros(len(x_0), dtype=torch.float64)
    for weight, mean, factor in zip(mixture.weights, mixture.means, mixture.factors, strict=True):
        covariance = factor @ factor.mT + mixture.variance * torch.eye(2, dtype=torch.float64)
        density += weight * torch.distributions.MultivariateNormal(mean.flatten(), covariance).log_prob(x_0).exp()
    alpha, sigma, operator = process.noise.alpha(t), process.noise.sigma(t), process.degradation.operator
    for x_t in normal(process.size(t), 6, batch=(3, 1)):
        residual = x_t.flatten() - alpha * x_0 @ dense(operator(0, t)).mT
        joint = density * (-(residual**2).sum(1) / (2 * sigma**2)).exp()
        mean = (joint @ x_0 / joint.sum()).reshape(1, 1, 2)
        assert_close(GaussianMixtureDenoiser(process, mixture)(x_t, t, s), operator(0, s)(mean), rtol=0, atol=1e-8)


@given(pair=times)
def test_mixture_of_one_is_a_gaussian(pair):
    s, t = pair
    factor = normal((24, 5), 7, batch=())
    alone = GaussianMixture(torch.ones(1, dtype=torch.float64), MEAN[None], factor[None], 0.2)
    covariance = factor @ factor.mT + 0.2 * torch.eye(24, dtype=torch.float64)
    x_t = normal(PROCESS.size(t), 8, batch=(2, 3))
    expected = GaussianDenoiser(PROCESS, covariance, MEAN)(x_t, t, s)
    assert_close(GaussianMixtureDenoiser(PROCESS, alone)(x_t, t, s), expected, rtol=0, atol=1e-11)


def test_mixture_keeps_channels_and_dtypes_and_forgets_nothing_it_needs():
    denoiser = GaussianMixtureDenoiser(PROCESS, MIXTURE)
    x_t = normal(PROCESS.size(5), 0, torch.float32, (2, 3))
    before = denoiser(x_t, 5, 1)
    assert (before.shape, before.dtype) == ((2, 3, 4, 6), torch.float32)
    assert_close(before[1, 2], denoiser(x_t[1, 2], 5, 1))
    # More steps than it keeps matrices of.
    for t in range(1, 13):
        for s in range(t):
            denoiser(normal(PROCESS.size(t)), t, s)
    assert_close(denoiser(x_t, 5, 1), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("weights", "factors", "variance", "message"),
    [
        ([0.5, 0.5], (3, 24, 2), 0.1, r"weights \(2,\), means \(3, 4, 6\) and factors .* do not fit"),
        ([0.5, 0.3, 0.2], (3, 20, 2), 0.1, "do not fit; give"),
        ([0.5, 0.5, 0.5], (3, 24, 2), 0.1, "are probabilities"),
        ([1.5, -0.3, -0.2], (3, 24, 2), 0.1, "are probabilities"),
        ([0.5, 0.3, 0.2], (3, 24, 2), 0.0, "is 0.0; give one above 0"),
    ],
)
def test_what_is_no_mixture_is_refused(weights, factors, variance, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(torch.tensor(weights), torch.zeros(3, 4, 6), torch.zeros(factors), variance)
