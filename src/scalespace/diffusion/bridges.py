"""Other ways from a level to the next larger one, to hold ours against: baselines.

Inside the levels each of them leaves the step to any solver; where the resolution changes, from x_t at t to x_s at s, it
draws x_s in its own way. With M = M_{s->t}, U the upsampling by repeated pixels, A the average over its blocks of b pixels
(so A U = I), x0_s the exact prediction and xi white noise:

    Isotropic            the posterior's mean + white noise of the posterior's mean variance
    UpsampledPrediction  alpha_s U (M x0_s) + sigma_s xi
    UpsampledState       (alpha_s / alpha_t) U x_t + sigma_s (xi - U A xi + kappa U A xi),
                         kappa^2 = max(0, 1 - b SNR_s / SNR_t)
    SpectralExpansion    C_s^T [ sqrt(b) (alpha_s / alpha_a) C x_a in the old band, sigma_s xi in the new one ],
                         x_a = alpha_a M x0_s + sigma_a eps_t, SNR_a = b SNR_s

Isotropic takes the posterior for DDPM's, whose noise is white.

UpsampledPrediction is what a cascade does: the small picture is finished (here predicted), enlarged, and noised anew. Relay
Diffusion (Teng et al. 2023, arXiv 2309.03350) starts its larger stage so. Approximate in it here: Relay Diffusion enlarges a
fully drawn picture, where this is the mean of it given x_t; its larger stage is a network trained to blur back from the
enlarged picture, with noise correlated in blocks, where here the exact denoiser of our marginals goes on.

UpsampledState is the jump of Pyramidal Flow Matching (Jin et al. 2024, arXiv 2410.05954): the noisy state itself is enlarged,
which copies its noise into every block, and noise that sums to zero in each block makes the sum white again (their
correlation of -1/3 inside blocks of 4). It exists where the SNR of the smaller state is b times higher, so only for shifted
noise; they get there by a jump in time. Where the SNR is a little less, the noise of the blocks' means comes out too strong;
more than a quarter is refused. Approximate in it here: their larger stage is trained to start at the enlarged picture, which
lacks its highest octave, and ours is not.

SpectralExpansion is the step of Spectral Progressive Diffusion (Xiao et al. 2026, arXiv 2605.18736), with C the orthonormal DCT
and C_s that of the larger picture. Noise of flow matching, sigma in x = (1 - sigma) x_0 + sigma eps, becomes
sigma' = r sigma / (1 + (r - 1) sigma) there, with r = sqrt(b) the ratio of the sides: the SNR falls by b. So the state is
first taken, inside its level, to SNR_a = b SNR_s. What differs from DDIM's step over DCT-truncated pictures is one thing: of a
prediction x0_s, the new octave is not used. For a network that cannot go up the two are the same step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.solvers import Solver
from scalespace.operators.dct import dct_matrix

__all__ = ["Bridge", "Isotropic", "SpectralExpansion", "UpsampledPrediction", "UpsampledState"]

# How much too strong the copied noise may be: lambda_max of a halving is a little over 1/4, most of all for small pictures.
_TOO_STRONG = 1.25


@dataclass(eq=False)
class Bridge(ABC):
    """Abstract: a solver inside the levels, and ``cross`` between them.

    Args:
        process: The process that the solver is for.
        solver: Takes the steps inside the levels.
    """

    process: ScaleSpaceProcess
    solver: Solver

    def step(self, x_t: Tensor, x0_s: Tensor, t: int, s: int, noise: Tensor) -> Tensor:
        """x_s from x_t; arguments as ``Ancestral.step``. A solver with a memory begins anew after ``cross``."""
        if self.process.size(t) == self.process.size(s):
            return self.solver.step(x_t, x0_s, t, s, noise)
        return self.cross(x_t, x0_s, t, s, noise)

    @abstractmethod
    def cross(self, x_t: Tensor, x0_s: Tensor, t: int, s: int, noise: Tensor) -> Tensor:
        """x_s from x_t where r(s) is larger than r(t)."""


class Isotropic(Bridge):
    """The posterior with white noise of its total variance."""

    def cross(self, x_t: Tensor, x0_s: Tensor, t: int, s: int, noise: Tensor) -> Tensor:
        M, _, rho = self.process.bridge(s, t)
        variance = self.process.noise.sigma(s) ** 2 * (1 - rho * M.mean_square())
        return self.process.posterior(x_t, x0_s, t, s).mean + variance**0.5 * noise


class UpsampledPrediction(Bridge):
    """The predicted small picture, enlarged and noised anew."""

    def cross(self, x_t: Tensor, x0_s: Tensor, t: int, s: int, noise: Tensor) -> Tensor:
        schedule = self.process.noise
        small = self.process.degradation.operator(s, t)(x0_s)
        return schedule.alpha(s) * _enlarged(small, x0_s) + schedule.sigma(s) * noise


@dataclass(eq=False)
class UpsampledState(Bridge):
    """The small state, enlarged, with noise that makes the noise of every block white again.

    Raises:
        ValueError: If a level is no whole number of times as large as the next one, or the SNR rises too little at a change.
    """

    def __post_init__(self):
        size, snr = self.process.size, self.process.noise.snr
        for t in self.process.degradation.jumps:
            (height, width), (large_height, large_width) = size(t), size(t - 1)
            if large_height % height or large_width % width:
                raise ValueError(
                    f"upsampled-state copies whole pixels, and {size(t)} does not divide {size(t - 1)}; use another bridge"
                )
            block = large_height * large_width // (height * width)
            if block * snr(t - 1) > _TOO_STRONG * snr(t):
                raise ValueError(
                    f"upsampled-state needs an SNR {block} times higher at t = {t} than before it, and there it is "
                    f"{snr(t) / snr(t - 1):.3g} times; use another bridge, or a model trained with shifted noise "
                    "(--process.shifted)"
                )

    def cross(self, x_t: Tensor, x0_s: Tensor, t: int, s: int, noise: Tensor) -> Tensor:
        schedule = self.process.noise
        block = noise[0, 0].numel() // x_t[0, 0].numel()
        kappa = max(0.0, 1 - block * schedule.snr(s) / schedule.snr(t)) ** 0.5
        factors = noise.shape[-2] // x_t.shape[-2], noise.shape[-1] // x_t.shape[-1]
        averages = _enlarged(avg_pool2d(noise, factors), noise)
        fresh = noise + (kappa - 1) * averages
        return schedule.alpha(s) / schedule.alpha(t) * _enlarged(x_t, noise) + schedule.sigma(s) * fresh


class SpectralExpansion(Bridge):
    """The small state in the low frequencies of the DCT, and noise in the others."""

    def cross(self, x_t: Tensor, x0_s: Tensor, t: int, s: int, noise: Tensor) -> Tensor:
        schedule = self.process.noise
        (height, width), (large_height, large_width) = x_t.shape[-2:], noise.shape[-2:]
        block = large_height * large_width / (height * width)
        small = self.process.degradation.operator(s, t)(x0_s)
        eps_t = (x_t - schedule.alpha(t) * small) / schedule.sigma(t)
        # log-SNR_a = log-SNR_s + log b, and alpha_a^2 = sigmoid(log-SNR_a).
        snr = block * schedule.snr(s)
        alpha, sigma = (snr / (1 + snr)) ** 0.5, (1 / (1 + snr)) ** 0.5
        x_a = alpha * small + sigma * eps_t
        rows, columns, large_rows, large_columns = (
            dct_matrix(side).to(x_t.device, x_t.dtype) for side in (height, width, large_height, large_width)
        )
        coefficients = schedule.sigma(s) * (large_rows @ noise @ large_columns.mT)
        old = block**0.5 * schedule.alpha(s) / alpha * (rows @ x_a @ columns.mT)
        coefficients[..., :height, :width] = old
        return large_rows.mT @ coefficients @ large_columns


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return interpolate(x, size=like.shape[-2:], mode="nearest")
