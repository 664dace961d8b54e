"""The oracle: what a sampler draws when its denoiser is exact, known without drawing anything.

For data N(0, C) the exact denoiser is a matrix, E[x0_s | x_t] = K_{t,s} x_t, so every step of a solver is linear in its
state and its noise, x_s = P x_t + D xi, and covariances follow

    Sigma_s = P Sigma_t P^T + D D^T,   from Sigma_T = I down to Sigma_0.

What Sigma_0 lacks of C is the error of solver, grid and process together, free of training and of Monte-Carlo noise. It
is measured as the Frechet distance of the two Gaussians,

    d^2(N(0, A), N(0, B)) = tr A + tr B - 2 tr (A^(1/2) B A^(1/2))^(1/2).

Sources: Dowson and Landau 1982, The Frechet distance between multivariate normal distributions; spectra of power laws in
the DCT basis stand for natural pictures, Field 1987.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from scalespace.diffusion.denoiser import GaussianDenoiser
from scalespace.operators.linear import Size

__all__ = ["Solver", "frechet_distance_squared", "power_law", "sampled_covariance", "spectral_covariance"]


class Solver(Protocol):
    """One step of sampling, linear in state, prediction and noise together."""

    def step(self, x_t: Tensor, x0_s: Tensor, t: int, s: int, noise: Tensor) -> Tensor:
        """x_s from x_t, the predicted x0_s and white noise of its shape."""
        ...


def power_law(size: Size, exponent: float = 2.0, mean: float = 0.25) -> Tensor:
    """The spectrum (1 + k)^(-exponent) of every DCT frequency, k = |(k_h, k_w)|, scaled to a mean variance.

    Args:
        size: Height and width of the pictures; one of them may be 1.
        exponent: How fast the spectrum falls.
        mean: Mean of the spectrum, which is the variance of a pixel averaged over the picture.

    Returns:
        Variance of every coefficient, shape (H, W), float64.
    """
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in size)
    spectrum = (1 + torch.hypot(rows[:, None], columns[None, :])) ** -exponent
    return spectrum * (mean / spectrum.mean())


def spectral_covariance(spectrum: Tensor) -> Tensor:
    """Covariance of pictures whose coefficients in the orthonormal DCT-II basis are independent.

    Args:
        spectrum: Variance of every coefficient, shape (H, W), float64, not negative.

    Returns:
        Covariance of the flattened picture, shape (H W, H W), float64.
    """
    height, width = spectrum.shape
    basis = torch.kron(_dct(height), _dct(width))
    return basis.mT @ (spectrum.flatten()[:, None] * basis)


def sampled_covariance(solver: Solver, denoiser: GaussianDenoiser, grid: tuple[int, ...], end: int = 0) -> Tensor:
    """Covariance of what a sampler draws from x_T ~ N(0, I) with the exact denoiser of zero-mean Gaussian data.

    The solver's own step is applied to unit vectors, so it is the code of the sampler that is judged.

    Args:
        solver: Its ``step`` is linear and has no memory of earlier steps.
        denoiser: Of zero-mean data, on the solver's process.
        grid: Points the sampler stops at, strictly descending from T; those up to ``end`` are left out.
        end: Point where sampling ends, 0..T-1.

    Returns:
        Covariance of the flattened x_end, shape (h w, h w) with (h, w) = r(end), float64.

    Raises:
        ValueError: If the data has a mean: covariances alone do not carry it.
    """
    if denoiser.mean is not None:
        raise ValueError("the denoiser's data has a mean, but only covariances are propagated; leave the mean out")
    covariance = _unit_pictures(denoiser.process.size(grid[0])).flatten(1)
    for t, s in pairwise([t for t in grid if t > end] + [end]):
        states, targets = (_unit_pictures(denoiser.process.size(point)) for point in (t, s))
        # Row i is what becomes of unit vector i, so these are the transposes of P and D.
        carried = solver.step(states, denoiser(states, t, s), t, s, targets.new_zeros(len(states), *targets.shape[1:]))
        drawn = solver.step(states.new_zeros(len(targets), *states.shape[1:]), 0 * targets, t, s, targets)
        P_transposed, D_transposed = carried.flatten(1), drawn.flatten(1)
        covariance = P_transposed.mT @ covariance @ P_transposed + D_transposed.mT @ D_transposed
    return covariance


def frechet_distance_squared(first: Tensor, second: Tensor) -> float:
    """Squared Frechet distance of two zero-mean Gaussians.

    Args:
        first: Covariance, shape (n, n), float64.
        second: Covariance, shape (n, n), float64.

    Returns:
        The distance, in the unit of a variance.
    """
    # (A^1/2 B A^1/2)^1/2 has the singular values of A^1/2 B^1/2, which lose fewer digits where B is nearly singular.
    overlap = torch.linalg.matrix_norm(_square_root(first) @ _square_root(second), ord="nuc")
    return float(first.trace() + second.trace() - 2 * overlap)


def _unit_pictures(size: Size) -> Tensor:
    height, width = size
    return torch.eye(height * width, dtype=torch.float64).reshape(-1, 1, height, width)


def _dct(length: int) -> Tensor:
    frequencies, samples = torch.arange(length, dtype=torch.float64), torch.arange(length, dtype=torch.float64) + 0.5
    basis = torch.cos(math.pi / length * frequencies[:, None] * samples[None, :]) * math.sqrt(2 / length)
    basis[0] /= math.sqrt(2)
    return basis


def _square_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt() @ vectors.mT
