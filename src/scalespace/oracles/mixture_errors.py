"""How far the pictures that a sampler draws with the exact denoiser of a Gaussian mixture are from that mixture.

Such a chain is not linear, so pictures are drawn and compared with fresh draws of the mixture in three ways. From each error,
the error of as many true pictures is subtracted, so it is zero for a perfect sampler, up to its standard error:

    Frechet            d^2 of the drawn mean and covariance to the true ones, over the trace of the true covariance,
    sliced Wasserstein mean over random directions of the squared W_2 of projections, over their mean variance,
    log-likelihood gap mean of log p over true pictures less that over drawn ones, in nats a pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from scalespace.diffusion.denoiser import GaussianMixture, GaussianMixtureDenoiser
from scalespace.diffusion.solvers import Solver
from scalespace.oracles.gaussian import frechet_distance_squared
from scalespace.oracles.mixture import (
    log_likelihood,
    mixture_moments,
    sample_mixture,
    sliced_wasserstein_squared,
)

__all__ = ["Estimate", "MixtureErrors", "draw_chain", "mixture_errors"]


def draw_chain(
    solver: Solver, denoiser: GaussianMixtureDenoiser, grid: tuple[int, ...], count: int, generator: torch.Generator
) -> Tensor:
    """Draw pictures from white noise with a solver and the exact denoiser.

    Args:
        solver: Solver on the denoiser's process that has taken no step yet.
        denoiser: Exact denoiser of the data.
        grid: Timesteps that the sampler stops at, strictly descending from T.
        count: Number of pictures.
        generator: Source of the noise.

    Returns:
        The pictures, shape (count, 1, H, W), float64.
    """
    size = denoiser.process.size

    def white(point: int) -> Tensor:
        return torch.randn(count, 1, *size(point), generator=generator, dtype=torch.float64)

    x = white(grid[0])
    for t, s in pairwise([*grid, 0]):
        x = solver.step(x, denoiser(x, t, s), t, s, white(s))
    return x


@dataclass(frozen=True)
class Estimate:
    """A mean over independent repeats and its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, repeats: Tensor) -> Estimate:
        """Estimate from one value per repeat. At least 2 repeats are needed."""
        return cls(float(repeats.mean()), float(repeats.std() / len(repeats) ** 0.5))


@dataclass(frozen=True)
class MixtureErrors:
    """The three errors of drawn pictures. All are zero for a perfect sampler, up to their standard errors."""

    frechet: Estimate
    sliced_wasserstein: Estimate
    log_likelihood_gap: Estimate


def mixture_errors(
    mixture: GaussianMixture,
    draw: Callable[[int, torch.Generator], Tensor],
    count: int,
    repeats: int = 4,
    directions: int = 256,
    seed: int = 0,
) -> MixtureErrors:
    """Compare a sampler with the mixture it should draw from.

    Args:
        mixture: The true distribution.
        draw: Function from a number of pictures and a generator to pictures, shape (count, 1, H, W).
        count: Number of pictures in a repeat, for the sampler and for each of two true samples.
        repeats: Number of repeats, at least 2. The standard errors are over them.
        directions: Number of directions of the sliced distance.
        seed: Seed of the first repeat; the next ones take the next seeds. Samplers with equal seeds meet equal true samples.

    Returns:
        The three errors.
    """
    mean, covariance = mixture_moments(mixture)
    trace = float(covariance.trace())

    def frechet(pictures: Tensor) -> float:
        return float((pictures.mean(0) - mean).square().sum()) + frechet_distance_squared(pictures.T.cov(), covariance)

    rows = []
    for repeat in range(seed, seed + repeats):
        generator = torch.Generator().manual_seed(repeat)
        true, other = (sample_mixture(mixture, count, generator).flatten(1) for _ in range(2))
        drawn = draw(count, generator).flatten(1)
        sliced = [
            sliced_wasserstein_squared(sample, other, directions, torch.Generator().manual_seed(repeat + 1_000_000))
            for sample in (drawn, true)
        ]
        densities = [
            float(log_likelihood(mixture, sample.unflatten(1, (1, *mixture.means.shape[1:]))).mean())
            for sample in (true, drawn)
        ]
        rows.append(
            (
                (frechet(drawn) - frechet(true)) / trace,
                (sliced[0] - sliced[1]) * len(mean) / trace,
                (densities[0] - densities[1]) / len(mean),
            )
        )
    columns = torch.tensor(rows, dtype=torch.float64).T
    return MixtureErrors(*(Estimate.of(column) for column in columns))
