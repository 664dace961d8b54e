"""The Gaussian-mixture oracle: its densities, draws, fit and distances, and samplers that are right or wrong."""

from itertools import pairwise

import pytest
import torch
from tests.strategies import normal
from torch.testing import assert_close

from scalespace.diffusion.degradation import Resizing
from scalespace.diffusion.denoiser import GaussianMixture, GaussianMixtureDenoiser
from scalespace.diffusion.grids import log_snr_grid
from scalespace.diffusion.noise import LinearBeta
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.shifted import Shifted
from scalespace.diffusion.solvers import Ancestral, Multistep
from scalespace.oracles.mixture import (
    fit_mixture,
    grey_patches,
    log_likelihood,
    mixture_moments,
    sample_mixture,
    sliced_wasserstein_squared,
)
from scalespace.oracles.mixture_errors import Estimate, draw_chain, mixture_errors

MIXTURE = GaussianMixture(
    torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64),
    normal((2, 4), 1, batch=(3,)),
    0.5 * normal((8, 2), 2, batch=(3,)),
    0.05,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_log_likelihood_is_that_of_torch_distributions():
    pictures = normal((2, 4), 3, batch=(7, 1))
    components = torch.distributions.LowRankMultivariateNormal(
        MIXTURE.means.flatten(1), MIXTURE.factors, torch.full((3, 8), MIXTURE.variance, dtype=torch.float64)
    )
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(MIXTURE.weights), components)
    assert_close(log_likelihood(MIXTURE, pictures), mixture.log_prob(pictures.flatten(1)))
    channels = log_likelihood(MIXTURE, pictures[:6].reshape(2, 3, 2, 4))
    assert_close(channels, log_likelihood(MIXTURE, pictures[:6]).reshape(2, 3).sum(1))


def test_draws_have_the_moments_of_the_mixture():
    mean, covariance = mixture_moments(MIXTURE)
    count = 40_000
    drawn = sample_mixture(MIXTURE, count, seeded()).flatten(1)
    # Five standard errors; those of a covariance from the spread of the products themselves.
    assert ((drawn.mean(0) - mean).abs() < 5 * (covariance.diagonal() / count).sqrt()).all()
    products = torch.einsum("bi,bj->bij", drawn - mean, drawn - mean)
    assert ((products.mean(0) - covariance).abs() < 5 * products.std(0) / count**0.5).all()


def test_fit_comes_as_close_as_the_truth():
    truth = GaussianMixture(MIXTURE.weights, 4 * MIXTURE.means, MIXTURE.factors, MIXTURE.variance)
    train, test = (sample_mixture(truth, 4000, seeded(seed)) for seed in (1, 2))
    scores: list[float] = []
    fitted = fit_mixture(train[:, 0], 3, 2, seeded(6), iterations=8, on_iteration=scores.append)
    assert all(after > before - 1e-9 for before, after in pairwise(scores))
    assert fitted.variance == pytest.approx(truth.variance, rel=0.05)
    assert sorted(fitted.weights.tolist()) == pytest.approx(sorted(truth.weights.tolist()), abs=0.03)
    # 68 parameters fitted to 4000 pictures cost about 68 / 2 / 4000 nats a picture.
    gaps = log_likelihood(truth, test) - log_likelihood(fitted, test)
    assert abs(float(gaps.mean())) < 3 * 68 / 2 / 4000 + 3 * float(gaps.std()) / 4000**0.5


def test_fit_refuses_what_it_cannot_fit():
    with pytest.raises(ValueError, match="3 components of rank 2 from 10 patches of 8 pixels; give at least 4 patches"):
        fit_mixture(torch.zeros(10, 2, 4), 3, 2, seeded())
    with pytest.raises(ValueError, match="a rank below the number of pixels"):
        fit_mixture(torch.zeros(100, 2, 4), 3, 8, seeded())


def test_patches_are_cut_from_the_pictures():
    rows, columns = torch.meshgrid(torch.arange(9), torch.arange(12), indexing="ij")
    pictures = (10 * rows + columns).to(torch.uint8).expand(5, 3, 9, 12)
    patches = grey_patches(pictures, 4, 300, seeded())
    assert patches.shape == (300, 4, 4)
    levels = ((patches + 1) * 127.5).round()
    offsets = levels - 10 * rows[:4, :4] - columns[:4, :4]
    assert_close(offsets, offsets[:, :1, :1].expand_as(offsets))
    # Every place of a 4 x 4 patch in 9 x 12 pixels is met.
    assert len(offsets[:, 0, 0].unique()) == 6 * 9
    with pytest.raises(ValueError, match="patches of 10 pixels from pictures of 9x12"):
        grey_patches(pictures, 10, 1, seeded())


def test_sliced_wasserstein_of_a_shift_is_known():
    sample, shift = normal((200, 6), batch=()), normal((6,), 1, batch=())
    directions = 5_000
    found = sliced_wasserstein_squared(sample, (sample + shift).flip(0), directions, seeded())
    # The mean of (shift . a)^2 over unit vectors a is |shift|^2 / n; its spread over directions is below sqrt(2) of that.
    expected = float(shift.square().sum()) / 6
    assert found == pytest.approx(expected, rel=5 * 2**0.5 / directions**0.5)
    assert sliced_wasserstein_squared(sample, sample.flip(0), 50, seeded()) == pytest.approx(0, abs=1e-20)
    with pytest.raises(ValueError, match="give both the same"):
        sliced_wasserstein_squared(sample, sample[:10], 5, seeded())


def test_estimate_is_a_mean_and_its_standard_error():
    found = Estimate.of(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert (found.value, found.error) == (3.0, pytest.approx((14 / 3 / 4) ** 0.5))


def test_true_draws_have_no_error():
    errors = mixture_errors(MIXTURE, lambda count, noise: sample_mixture(MIXTURE, count, noise), 1000, repeats=16)
    for found in (errors.frechet, errors.sliced_wasserstein, errors.log_likelihood_gap):
        assert 0 < found.error < 0.02
        assert abs(found.value) < 4 * found.error


@pytest.mark.parametrize("levels", [1, 2])
def test_a_fine_chain_draws_the_mixture_and_a_coarse_one_does_not(levels):
    degradation = Resizing(((2, 4), (1, 2))[:levels], (600,)[: levels - 1])
    process = ScaleSpaceProcess(Shifted(LinearBeta(), degradation), degradation)
    denoiser = GaussianMixtureDenoiser(process, MIXTURE)
    fine = mixture_errors(
        MIXTURE,
        lambda count, noise: draw_chain(Multistep(process), denoiser, log_snr_grid(process, 60), count, noise),
        1000,
        repeats=8,
        directions=64,
    )
    for found in (fine.frechet, fine.sliced_wasserstein, fine.log_likelihood_gap):
        assert abs(found.value) < 4 * found.error + 1e-3
    coarse = mixture_errors(
        MIXTURE,
        lambda count, noise: draw_chain(Ancestral(process), denoiser, log_snr_grid(process, 10), count, noise),
        1000,
        repeats=8,
        directions=64,
    )
    # Too few ancestral steps end too close to the means of the components.
    assert coarse.frechet.value > 0.01 + 4 * coarse.frechet.error
    assert coarse.log_likelihood_gap.value < -0.01 - 4 * coarse.log_likelihood_gap.error
