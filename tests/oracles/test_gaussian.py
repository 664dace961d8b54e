"""Sampling as a distribution, in closed form: with the exact denoiser a sampler draws a Gaussian that is known."""

import math

import pytest
import torch
from hypothesis import given
from tests.strategies import normal, seeds
from torch.testing import assert_close

from scalespace.diffusion.bridges import Isotropic
from scalespace.diffusion.degradation import Levels, OrthonormalResizing, Resizing
from scalespace.diffusion.degradations.pyramid import GaussianPyramid
from scalespace.diffusion.denoiser import GaussianDenoiser, dense
from scalespace.diffusion.grids import log_snr_grid, uniform_grid
from scalespace.diffusion.noise import LinearBeta
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.resolution import ConvexDecay
from scalespace.diffusion.shifted import Shifted
from scalespace.diffusion.solvers import DDIM, Ancestral, Corrected, Multistep
from scalespace.diffusion.spectral import FromSpectrum
from scalespace.operators.resize import Separable
from scalespace.oracles.gaussian import (
    chain_covariance,
    frechet_distance_squared,
    lorentzian,
    octave_variances,
    power_law,
    sampled_covariance,
    spectral_covariance,
)

LENGTH = 64
DATA = spectral_covariance(power_law((1, LENGTH)))


def line_process(levels: int) -> ScaleSpaceProcess:
    """The paper's noise and resolutions, on pictures that are one row of 64 pixels."""
    sizes = tuple((1, LENGTH >> level) for level in range(levels))
    return ScaleSpaceProcess(LinearBeta(), Resizing(sizes, ConvexDecay(levels).change_points(1000)))


def shifted_process(kind: type[Levels], size: tuple[int, int], changes: tuple[int, ...]) -> ScaleSpaceProcess:
    """The noise shifted at the changes, to half the sides each."""
    sizes = tuple((max(1, size[0] >> level), size[1] >> level) for level in range(len(changes) + 1))
    degradation = kind(sizes, changes)
    return ScaleSpaceProcess(Shifted(LinearBeta(), degradation), degradation)


def ancestral_error(process: ScaleSpaceProcess, data: torch.Tensor = DATA) -> float:
    """Of all 1000 ancestral steps."""
    drawn = sampled_covariance(Ancestral(process), GaussianDenoiser(process, data), tuple(range(1000, 0, -1)))
    return frechet_distance_squared(drawn, data) / float(data.trace())


def multistep_error(process: ScaleSpaceProcess, calls: int, solver: type = Multistep) -> float:
    drawn = chain_covariance(solver(process), GaussianDenoiser(process, DATA), log_snr_grid(process, calls))
    return frechet_distance_squared(drawn, DATA) / float(DATA.trace())


def isotropic(process: ScaleSpaceProcess) -> Isotropic:
    """A sampler that is wrong in one place: white noise, of the right total variance, where the resolution changes."""
    return Isotropic(process, Ancestral(process))


def grid_with_changes(process: ScaleSpaceProcess, steps: int) -> tuple[int, ...]:
    """Both points of every change, so that the jump between resolutions is one step long, as in training."""
    changes = process.degradation.change_points
    return uniform_grid(1000, steps, (*changes, *(t - 1 for t in changes)))


def error(solver, process: ScaleSpaceProcess, steps: int) -> float:
    drawn = sampled_covariance(solver, GaussianDenoiser(process, DATA), grid_with_changes(process, steps))
    return frechet_distance_squared(drawn, DATA) / float(DATA.trace())


@pytest.mark.parametrize(
    ("steps", "levels", "expected"),
    [
        (1000, 1, 0.00006),
        (1000, 2, 0.00006),
        (1000, 3, 0.00016),
        (1000, 4, 0.00063),
        (50, 1, 0.00767),
        (50, 2, 0.00767),
        (50, 3, 0.00812),
        (50, 4, 0.00910),
    ],
)
def test_ancestral_sampling_recovers_gaussian_data(steps, levels, expected):
    process = line_process(levels)
    # Within 5 %, and half a unit of the last digit that was printed.
    assert error(Ancestral(process), process, steps) == pytest.approx(expected, rel=0.05, abs=0.000005)


def test_levels_cost_nothing_once_the_noise_is_shifted():
    one_level = ancestral_error(line_process(1))
    assert one_level == pytest.approx(0.00006, rel=0.05)
    # The loss that the shift removes.
    assert ancestral_error(line_process(6)) == pytest.approx(0.00079, rel=0.05)
    for levels in (4, 6):
        for kind in (Resizing, OrthonormalResizing):
            process = shifted_process(kind, (1, LENGTH), ConvexDecay(levels).change_points(1000))
            assert ancestral_error(process) < 1.15 * one_level


@pytest.mark.parametrize("kind", [Resizing, OrthonormalResizing])
@pytest.mark.parametrize("levels", [4, 6])
def test_second_order_steps_need_few_calls_on_the_shifted_process(levels, kind):
    process = shifted_process(kind, (1, LENGTH), ConvexDecay(levels).change_points(1000))
    assert multistep_error(process, 60) <= 0.00001
    assert multistep_error(process, 30) <= 0.0003
    # Without the shift, the jumps at the changes stay, however good the solver is.
    assert multistep_error(line_process(levels), 60) > 0.0001


def test_a_gaussian_pyramid_samples_gaussian_data():
    changes = ConvexDecay(4).change_points(1000)
    process = shifted_process(GaussianPyramid, (1, LENGTH), changes)
    assert isinstance(process.degradation.operator(0, 1000), Separable)
    # As good as DDPM, which is at 0.00006.
    assert ancestral_error(process) == pytest.approx(0.00006, rel=0.1)
    assert multistep_error(process, 60) <= 0.00001


def test_two_dimensions_have_the_same_order():
    data = spectral_covariance(lorentzian((16, 16)))
    changes = ConvexDecay(3).change_points(1000)
    papers = ScaleSpaceProcess(LinearBeta(), Resizing(((16, 16), (8, 8), (4, 4)), changes))
    assert ancestral_error(papers, data) == pytest.approx(0.00022, rel=0.05)
    assert ancestral_error(shifted_process(Resizing, (16, 16), changes), data) == pytest.approx(0.00006, rel=0.05)


@pytest.mark.parametrize(
    ("tolerance", "changes", "papers", "shifted", "orthonormal", "second_order"),
    [
        (None, (439, 751, 938), 0.00063, 0.00006, 0.00006, 0.000005),
        # The change points are the indices 191, 318 and 451 of a grid that starts at t = 1.
        (0.01, (192, 319, 452), 0.00209, 0.00007, 0.00006, 0.000003),
        (0.03, (117, 215, 343), 0.00239, 0.00007, 0.00007, 0.00002),
        (0.1, (64, 126, 226), 0.00231, 0.00012, 0.00008, 0.00014),
    ],
)
def test_changes_placed_by_the_data(tolerance, changes, papers, shifted, orthonormal, second_order):
    sizes = tuple((1, LENGTH >> level) for level in range(4))
    if tolerance is not None:
        rule = FromSpectrum(power_law((1, LENGTH)), sizes, LinearBeta(), tolerance)
        assert rule.change_points(1000) == changes
    unshifted = ScaleSpaceProcess(LinearBeta(), Resizing(sizes, changes))
    cured = {kind: shifted_process(kind, (1, LENGTH), changes) for kind in (Resizing, OrthonormalResizing)}
    # Within 10 %, and half a unit of the last digit that was printed.
    assert ancestral_error(unshifted) == pytest.approx(papers, rel=0.1)
    assert abs(ancestral_error(cured[Resizing]) - shifted) < 0.1 * shifted + 0.000005
    assert abs(ancestral_error(cured[OrthonormalResizing]) - orthonormal) < 0.1 * orthonormal + 0.000005
    last_digit = 0.000001 if second_order < 0.00001 else 0.00001
    assert multistep_error(cured[Resizing], 58) <= 1.1 * second_order + last_digit / 2


@pytest.mark.parametrize("changes", [(439, 751, 938), (192, 319, 452)])
def test_a_corrector_costs_no_calls_and_takes_away_most_of_the_error_of_few(changes):
    process = shifted_process(Resizing, (1, LENGTH), changes)
    assert multistep_error(process, 20, Corrected) < multistep_error(process, 20)
    assert multistep_error(process, 30, Corrected) < 0.4 * multistep_error(process, 30)


@pytest.mark.parametrize("kind", [Resizing, OrthonormalResizing])
def test_a_chain_and_its_steps_have_one_covariance(kind):
    # DDIM(0) has no memory and draws noise at the changes alone, so both ways of propagating it apply.
    process = shifted_process(kind, (1, LENGTH), ConvexDecay(4).change_points(1000))
    denoiser, grid = GaussianDenoiser(process, DATA), log_snr_grid(process, 20)
    by_steps, at_once = (draw(DDIM(process), denoiser, grid) for draw in (sampled_covariance, chain_covariance))
    assert_close(at_once, by_steps, rtol=0, atol=1e-12)


def test_a_long_step_across_a_change_costs_quality():
    process, changes = line_process(4), line_process(4).degradation.change_points
    denoiser = GaussianDenoiser(process, DATA)
    crossed_in_one = frechet_distance_squared(
        sampled_covariance(Ancestral(process), denoiser, grid_with_changes(process, 50)), DATA
    )
    crossed_in_many = frechet_distance_squared(
        sampled_covariance(Ancestral(process), denoiser, uniform_grid(1000, 50, changes)), DATA
    )
    # 0.0091 against 0.0098 of the data's variance.
    assert crossed_in_one < 0.95 * crossed_in_many


@pytest.mark.parametrize("levels", [3, 4])
def test_isotropic_noise_at_the_changes_changes_the_error(levels):
    process = line_process(levels)
    right, wrong = (error(solver(process), process, 1000) for solver in (Ancestral, isotropic))
    # It can even come out smaller, since the noise that it adds makes up for what ancestral steps lack elsewhere.
    assert abs(wrong - right) > 0.3 * right


@pytest.mark.parametrize("steps", [1000, 50])
@pytest.mark.parametrize("levels", [2, 3, 4])
def test_isotropic_noise_at_a_change_leaves_the_marginal(steps, levels):
    # Right after every change, where the marginal alpha^2 M C M^T + sigma^2 I says what x_s has to be.
    process = line_process(levels)
    denoiser, grid = GaussianDenoiser(process, DATA), grid_with_changes(process, steps)
    for change in process.degradation.change_points:
        s = change - 1
        M, alpha, sigma = dense(process.degradation.operator(0, s)), process.noise.alpha(s), process.noise.sigma(s)
        marginal = alpha**2 * M @ DATA @ M.mT + sigma**2 * torch.eye(len(M), dtype=torch.float64)
        right, wrong = (
            frechet_distance_squared(sampled_covariance(solver(process), denoiser, grid, end=s), marginal)
            / float(marginal.trace())
            for solver in (Ancestral, isotropic)
        )
        assert right < 0.0002
        assert wrong > 0.006


def test_chain_keeps_the_true_marginals_up_to_the_one_step_posterior():
    # A denoiser of a point mass is a constant, the posterior is then exact, and so is the chain's end.
    process = line_process(4)
    nothing = GaussianDenoiser(process, torch.zeros(LENGTH, LENGTH, dtype=torch.float64))
    grid = grid_with_changes(process, 50)
    for end in (937, 500, 100, 0):
        drawn = sampled_covariance(Ancestral(process), nothing, grid, end)
        variance = process.noise.sigma(end) ** 2
        # x_T is drawn from N(0, I) where its marginal has sigma_T^2, smaller by alpha_T^2.
        assert_close(drawn, variance * torch.eye(len(drawn), dtype=torch.float64), rtol=0, atol=1e-4)


def test_covariance_of_data_with_a_mean_is_refused():
    process = line_process(1)
    denoiser = GaussianDenoiser(process, DATA, torch.ones(1, LENGTH, dtype=torch.float64))
    with pytest.raises(ValueError, match="data has a mean"):
        sampled_covariance(Ancestral(process), denoiser, (1000, 1))


def test_power_law_has_its_mean_and_falls_as_told():
    spectrum = power_law((1, 64))
    assert float(spectrum.mean()) == pytest.approx(0.25)
    assert_close(spectrum[0] / spectrum[0, 0], torch.arange(1, 65, dtype=torch.float64) ** -2)
    plane = power_law((5, 4), exponent=3.0, mean=2.0)
    assert float(plane.mean()) == pytest.approx(2.0)
    assert float(plane[3, 0] / plane[0, 0]) == pytest.approx(4.0**-3)
    assert float(plane[4, 3] / plane[0, 0]) == pytest.approx(6.0**-3)


def test_lorentzian_falls_as_told():
    spectrum = lorentzian((4, 6), mean=2.0)
    assert float(spectrum.mean()) == pytest.approx(2.0)
    assert float(spectrum[3, 4] / spectrum[0, 0]) == pytest.approx(1 / 26)


def test_octaves_share_out_the_variance():
    spectrum = power_law((8, 8))
    found = octave_variances(spectral_covariance(spectrum), (8, 8))
    assert list(found) == [(0, 0), (1, 1), (2, 3), (4, 7)]
    assert found[1, 1] == pytest.approx(float((spectrum[0, 1] + spectrum[1, 0] + spectrum[1, 1]) / 3))
    # 1, 3, 12 and 48 coefficients.
    shares = [count * value for count, value in zip((1, 3, 12, 48), found.values(), strict=True)]
    assert sum(shares) == pytest.approx(float(spectrum.sum()))


def test_spectral_covariance_has_cosines_as_eigenvectors():
    spectrum = power_law((3, 4))
    covariance = spectral_covariance(spectrum)
    assert float(covariance.trace()) == pytest.approx(float(spectrum.sum()))
    rows, columns = torch.arange(3, dtype=torch.float64) + 0.5, torch.arange(4, dtype=torch.float64) + 0.5
    for k_h in range(3):
        for k_w in range(4):
            wave = torch.outer(torch.cos(math.pi * k_h * rows / 3), torch.cos(math.pi * k_w * columns / 4)).flatten()
            assert_close(covariance @ wave, spectrum[k_h, k_w] * wave)


@given(seed=seeds())
def test_frechet_distance_is_known_where_covariances_commute(seed):
    vectors, _ = torch.linalg.qr(normal((6, 6), seed, batch=()))
    first, second = normal((2, 6), seed, batch=()).square()
    distance = frechet_distance_squared(vectors * first @ vectors.mT, vectors * second @ vectors.mT)
    assert distance == pytest.approx(float((first.sqrt() - second.sqrt()).square().sum()), abs=1e-12)


@given(seed=seeds())
def test_frechet_distance_is_symmetric_and_zero_at_home(seed):
    first, second = (factor @ factor.mT for factor in normal((6, 4), seed))
    assert frechet_distance_squared(first, first) == pytest.approx(0, abs=1e-6)
    assert frechet_distance_squared(first, second) == pytest.approx(frechet_distance_squared(second, first))
    assert frechet_distance_squared(first, second) > 0


@given(seed=seeds())
def test_frechet_distance_is_the_optimal_transport_cost(seed):
    # The map T = A^-1/2 (A^1/2 B A^1/2)^1/2 A^-1/2 takes N(0, A) to N(0, B); its mean squared motion is the distance.
    A, B = (factor @ factor.mT + 0.1 * torch.eye(5, dtype=torch.float64) for factor in normal((5, 5), seed))

    def power(S: torch.Tensor, exponent: float) -> torch.Tensor:
        values, vectors = torch.linalg.eigh(S)
        return vectors * values**exponent @ vectors.mT

    transport = power(A, -0.5) @ power(power(A, 0.5) @ B @ power(A, 0.5), 0.5) @ power(A, -0.5)
    motion = transport - torch.eye(5, dtype=torch.float64)
    assert frechet_distance_squared(A, B) == pytest.approx(float((motion @ A @ motion.mT).trace()), rel=1e-8)
