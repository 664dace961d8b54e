"""Sampling as a distribution, by Monte Carlo: the real sampler's pictures against what is known of them in closed form.

With the exact denoiser of Gaussian data the states are N(mu, Sigma) with mu and Sigma known. Whitened by them, N states z
of d pixels have

    N |mean z|^2                                                 ~ chi^2 of d
    N (sum_{i<j} S_ij^2 + sum_i (S_ii - 1)^2 / 2),  S = mean z z^T    ~ chi^2 of d (d + 1) / 2, nearly,

the second one with its mean exact and its spread right for N much larger than d. Both are given as numbers of standard
deviations from their mean.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from tests.strategies import normal
from torch import Tensor

from scalespace.diffusion.bridges import Isotropic
from scalespace.diffusion.denoiser import GaussianDenoiser
from scalespace.diffusion.solvers import Ancestral
from scalespace.oracles.gaussian import power_law, sampled_covariance, spectral_covariance
from scalespace.pipelines.scheduler import ScaleSpaceScheduler

PICTURES = 20000
STEPS = 30
LEVELS = {
    "one level": (((8, 8),), ()),
    "two levels": (((8, 8), (4, 4)), (278,)),
    "three levels, not square, not octaves": (((6, 8), (4, 6), (2, 3)), (243, 588)),
}


def scheduler_of(name: str) -> ScaleSpaceScheduler:
    sizes, change_points = LEVELS[name]
    scheduler = ScaleSpaceScheduler(sizes=sizes, change_points=change_points, clip_sample=False)
    scheduler.set_timesteps(STEPS)
    return scheduler


def bridges(scheduler: ScaleSpaceScheduler) -> list[tuple[int, int]]:
    """The grid points (t, s) of every step."""
    return list(pairwise([int(index) + 1 for index in scheduler.timesteps] + [0]))


def ends(scheduler: ScaleSpaceScheduler) -> list[int]:
    """Where to look: right after every change of resolution, and at the finished pictures."""
    size = scheduler.process.size
    return [s for t, s in bridges(scheduler) if size(t) != size(s) or s == 0]


def sample(
    scheduler: ScaleSpaceScheduler, denoiser: GaussianDenoiser, step: Callable[..., Tensor]
) -> dict[int, Tensor]:
    """States at `ends`, shape (N, d), drawn as the pipeline draws them."""
    generator = torch.Generator().manual_seed(20)
    state = torch.randn(PICTURES, 1, *scheduler.noise_size, generator=generator)
    seen = {}
    for index, (t, s) in zip(scheduler.timesteps, bridges(scheduler), strict=True):
        state = step(denoiser(state, t, s), index, state, generator)
        if s in ends(scheduler):
            seen[s] = state.flatten(1).double()
    return seen


def expected(scheduler: ScaleSpaceScheduler, denoiser: GaussianDenoiser, end: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the states at one of `ends`."""
    solver = Ancestral(scheduler.process)
    mean = torch.zeros(1, *scheduler.noise_size, dtype=torch.float64)
    for t, s in bridges(scheduler):
        if s >= end:
            target = denoiser(mean, t, s)
            mean = solver.step(mean, target, t, s, torch.zeros_like(target))
    centred = GaussianDenoiser(denoiser.process, denoiser.covariance)
    grid = tuple(t for t, _ in bridges(scheduler))
    return mean.flatten(), sampled_covariance(solver, centred, grid, end)


def deviations(states: Tensor, mean: Tensor, covariance: Tensor) -> tuple[float, float]:
    """How many standard deviations mean and covariance are off."""
    count, dimension = states.shape
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (states - mean).mT, upper=False).mT
    of_mean = count * float(z.mean(0).square().sum())
    excess = z.mT @ z / count - torch.eye(dimension, dtype=torch.float64)
    # Off the diagonal every entry is in the sum twice.
    of_covariance = count * float(excess.square().sum()) / 2
    freedom = dimension * (dimension + 1) / 2
    return (of_mean - dimension) / math.sqrt(2 * dimension), (of_covariance - freedom) / math.sqrt(2 * freedom)


def data_denoiser(scheduler: ScaleSpaceScheduler) -> GaussianDenoiser:
    size = scheduler.image_size
    return GaussianDenoiser(scheduler.process, spectral_covariance(power_law(size)), 0.3 * normal(size, batch=()))


@pytest.mark.parametrize("name", LEVELS)
def test_sampler_draws_the_distribution_known_in_closed_form(name):
    scheduler = scheduler_of(name)
    denoiser = data_denoiser(scheduler)
    seen = sample(scheduler, denoiser, lambda *arguments: scheduler.step(*arguments).prev_sample)
    assert len(seen) == len(LEVELS[name][0])
    for end, states in seen.items():
        of_mean, of_covariance = deviations(states, *expected(scheduler, denoiser, end))
        assert abs(of_mean) < 4, f"mean at {end}"
        assert abs(of_covariance) < 4, f"covariance at {end}"


@pytest.mark.parametrize("name", list(LEVELS)[1:])
def test_isotropic_noise_at_the_changes_is_noticed(name):
    scheduler = scheduler_of(name)
    denoiser, solver, following = (
        data_denoiser(scheduler),
        Isotropic(scheduler.process, Ancestral(scheduler.process)),
        dict(bridges(scheduler)),
    )

    def step(x0_s: Tensor, index: Tensor, x_t: Tensor, generator: torch.Generator) -> Tensor:
        t = int(index) + 1
        return solver.step(x_t, x0_s, t, following[t], torch.randn(x0_s.shape, generator=generator))

    seen = sample(scheduler, denoiser, step)
    # Later steps wash it out of the finished pictures, so it is looked for where it arises.
    for end in ends(scheduler)[:-1]:
        _, of_covariance = deviations(seen[end], *expected(scheduler, denoiser, end))
        assert of_covariance > 10, f"covariance at {end}"
