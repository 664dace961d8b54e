"""The Gaussian oracle: the exact covariance of what a sampler draws with an exact denoiser, without drawing anything.

For data N(0, C) the exact denoiser is a matrix, E[x0_s | x_t] = K_{t,s} x_t, so every step of a solver is linear in its
state and its noise, x_s = P x_t + D xi, and covariances follow

    Sigma_s = P Sigma_t P^T + D D^T,   from Sigma_T = I down to Sigma_0.

The difference between Sigma_0 and C is the error of solver, grid and process together, free of training and of Monte-Carlo
noise. It is measured as the Frechet distance of the two Gaussians,

    d^2(N(0, A), N(0, B)) = tr A + tr B - 2 tr (A^(1/2) B A^(1/2))^(1/2).

Sources: Dowson and Landau 1982, The Frechet distance between multivariate normal distributions; Field 1987, for power laws as
the spectra of natural pictures.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from scalespace.diffusion.denoiser import GaussianDenoiser
from scalespace.diffusion.solvers import Solver
from scalespace.operators.dct import dct_matrix
from scalespace.operators.linear import Size

__all__ = [
    "chain_covariance",
    "frechet_distance_squared",
    "lorentzian",
    "octave_variances",
    "power_law",
    "sampled_covariance",
    "spectral_covariance",
]


def power_law(size: Size, exponent: float = 2.0, mean: float = 0.25) -> Tensor:
    """The spectrum (1 + k)^(-exponent) of every DCT frequency, k = |(k_h, k_w)|, scaled to a mean variance.

    Args:
        size: Height and width of the pictures; one of them may be 1.
        exponent: Exponent with which the spectrum falls.
        mean: Mean of the spectrum, which is the variance of a pixel averaged over the picture.

    Returns:
        Variance of every coefficient, shape (H, W), float64.
    """
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in size)
    spectrum = (1 + torch.hypot(rows[:, None], columns[None, :])) ** -exponent
    return spectrum * (mean / spectrum.mean())


def lorentzian(size: Size, mean: float = 0.25) -> Tensor:
    """The spectrum 1 / (1 + k_h^2 + k_w^2) of every DCT frequency, scaled to a mean variance.

    Args:
        size: Height and width of the pictures.
        mean: Mean of the spectrum, which is the variance of a pixel averaged over the picture.

    Returns:
        Variance of every coefficient, shape (H, W), float64.
    """
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in size)
    spectrum = 1 / (1 + rows[:, None] ** 2 + columns[None, :] ** 2)
    return spectrum * (mean / spectrum.mean())


def octave_variances(covariance: Tensor, size: Size) -> dict[tuple[int, int], float]:
    """Mean variance of the DCT coefficients of every octave, which is what one halving removes.

    Args:
        covariance: Covariance of the flattened picture, shape (H W, H W), float64.
        size: Height and width (H, W) of the picture.

    Returns:
        The mean variance of each octave. Keys are its first and last frequency max(k_h, k_w): (0, 0), (1, 1), (2, 3), (4, 7)
        and so on.
    """
    height, width = size
    basis = torch.kron(dct_matrix(height), dct_matrix(width))
    variances = torch.einsum("ij,jk,ik->i", basis, covariance, basis).reshape(size)
    frequency = torch.maximum(torch.arange(height)[:, None], torch.arange(width)[None, :])
    found, first, after = {}, 0, 1
    while first < max(size):
        found[first, after - 1] = float(variances[(frequency >= first) & (frequency < after)].mean())
        first, after = after, 2 * after
    return found


def spectral_covariance(spectrum: Tensor) -> Tensor:
    """Covariance of pictures whose coefficients in the orthonormal DCT-II basis are independent.

    Args:
        spectrum: Variance of every coefficient, shape (H, W), float64, not negative.

    Returns:
        Covariance of the flattened picture, shape (H W, H W), float64.
    """
    height, width = spectrum.shape
    basis = torch.kron(dct_matrix(height), dct_matrix(width))
    return basis.mT @ (spectrum.flatten()[:, None] * basis)


def sampled_covariance(solver: Solver, denoiser: GaussianDenoiser, grid: tuple[int, ...], end: int = 0) -> Tensor:
    """Covariance of what a sampler draws from x_T ~ N(0, I) with the exact denoiser of zero-mean Gaussian data.

    The solver's own ``step`` is applied to unit vectors, so the result judges the code of the sampler.

    Args:
        solver: Solver whose ``step`` is linear and does not depend on earlier steps.
        denoiser: Exact denoiser of zero-mean data, on the solver's process.
        grid: Timesteps that the sampler stops at, strictly descending from T. Those up to ``end`` are left out.
        end: Timestep where sampling ends, 0..T-1.

    Returns:
        Covariance of the flattened x_end, shape (h w, h w) with (h, w) = r(end), float64.

    Raises:
        ValueError: If the data has a mean, which covariances do not carry.
    """
    _check_no_mean(denoiser)
    covariance = _unit_pictures(denoiser.process.size(grid[0])).flatten(1)
    for t, s in pairwise([t for t in grid if t > end] + [end]):
        states, targets = (_unit_pictures(denoiser.process.size(point)) for point in (t, s))
        # Row i is what becomes of unit vector i, so these are the transposes of P and D.
        carried = solver.step(states, denoiser(states, t, s), t, s, targets.new_zeros(len(states), *targets.shape[1:]))
        drawn = solver.step(states.new_zeros(len(targets), *states.shape[1:]), 0 * targets, t, s, targets)
        P_transposed, D_transposed = carried.flatten(1), drawn.flatten(1)
        covariance = P_transposed.mT @ covariance @ P_transposed + D_transposed.mT @ D_transposed
    return covariance


def chain_covariance(solver: Solver, denoiser: GaussianDenoiser, grid: tuple[int, ...]) -> Tensor:
    """Covariance of what a solver draws that remembers earlier steps and uses noise only at changes of resolution.

    A chain with exact predictions is linear in x_T and in the noise of all changes together. So the chain is run once, on a
    batch of the unit vectors of all of these, and Sigma_0 is the Gram matrix of the results.

    Args:
        solver: Solver that has taken no step yet, and whose ``step`` uses no noise inside a level.
        denoiser: Exact denoiser of zero-mean data, on the solver's process.
        grid: Timesteps that the sampler stops at, strictly descending from T.

    Returns:
        Covariance of the flattened x_0, shape (H W, H W), float64.

    Raises:
        ValueError: If the data has a mean.
    """
    _check_no_mean(denoiser)
    size = denoiser.process.size
    steps = list(pairwise([*grid, 0]))
    drawn = [size(grid[0]), *(size(s) for t, s in steps if size(t) != size(s))]
    total = sum(height * width for height, width in drawn)
    first = 0

    def units(picture: Size) -> Tensor:
        nonlocal first
        rows = torch.zeros(total, 1, *picture, dtype=torch.float64)
        pictures = _unit_pictures(picture)
        rows[first : first + len(pictures)] = pictures
        first += len(pictures)
        return rows

    states = units(drawn[0])
    for t, s in steps:
        x0_s = denoiser(states, t, s)
        noise = units(size(s)) if size(t) != size(s) else torch.zeros_like(x0_s)
        states = solver.step(states, x0_s, t, s, noise)
    ends = states.flatten(1)
    return ends.mT @ ends


def frechet_distance_squared(first: Tensor, second: Tensor) -> float:
    """Squared Frechet distance of two zero-mean Gaussians.

    Args:
        first: Covariance, shape (n, n), float64.
        second: Covariance, shape (n, n), float64.

    Returns:
        The squared distance, in the unit of a variance.
    """
    # (A^1/2 B A^1/2)^1/2 has the singular values of A^1/2 B^1/2, which lose fewer digits where B is nearly singular.
    overlap = torch.linalg.matrix_norm(_square_root(first) @ _square_root(second), ord="nuc")
    return float(first.trace() + second.trace() - 2 * overlap)


def _check_no_mean(denoiser: GaussianDenoiser) -> None:
    if denoiser.mean is not None:
        raise ValueError("the denoiser's data has a mean, but only covariances are propagated; leave the mean out")


def _unit_pictures(size: Size) -> Tensor:
    height, width = size
    return torch.eye(height * width, dtype=torch.float64).reshape(-1, 1, height, width)


def _square_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt() @ vectors.mT
