"""Denoisers: what predicts x0_s = M_{0->s} x_0 from x_t, and the exact ones for Gaussian and Gaussian-mixture data.

For x_0 ~ N(m, C) and x_t = alpha M x_0 + sigma eps with M = M_{0->t},

    E[x_0 | x_t] = m + alpha C M^T (alpha^2 M C M^T + sigma^2 I)^(-1) (x_t - alpha M m),

and E[x0_s | x_t] is M_{0->s} of it. With it in the place of a network, a sampler is a linear map of its noise, and what
it draws is known in closed form.

For a mixture, x_0 = m_k + F_k z + sqrt(v) e with probability w_k, z and e white, the state of every component is Gaussian
with covariance D + alpha^2 M F_k F_k^T M^T, where D = alpha^2 v M M^T + sigma^2 I is common to all. So

    E[x_0 | x_t] = sum_k r_k (m_k + F_k z_k + alpha v M^T D^(-1) (x_t - alpha M (m_k + F_k z_k))),
    z_k = H_k^(-1) alpha F_k^T M^T D^(-1) (x_t - alpha M m_k),  H_k = I + alpha^2 F_k^T M^T D^(-1) M F_k,

with r_k the probability of the component given x_t. Source: mixtures of probabilistic principal components, Tipping and
Bishop 1999, seen through M.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.operators.linear import LinearOperator
from scalespace.operators.singular import dense

__all__ = ["Denoiser", "GaussianDenoiser", "GaussianMixture", "GaussianMixtureDenoiser", "dense"]

# Steps of which a mixture's matrices are kept, a few megabytes each.
_KEPT = 32


class Denoiser(Protocol):
    """Predicts the clean image at r(s) from the state at t."""

    def __call__(self, x_t: Tensor, t: int, s: int) -> Tensor:
        """x0_s, shape (B, C, H, W), from x_t, shape (B, C, h, w)."""
        ...


@dataclass(frozen=True, eq=False)
class GaussianDenoiser:
    """The exact denoiser E[x0_s | x_t] of Gaussian data, alike for every channel.

    Args:
        process: The process that made x_t.
        covariance: Covariance of the flattened picture, shape (H W, H W), float64.
        mean: Shape (H, W); zero if left out.
    """

    process: ScaleSpaceProcess
    covariance: Tensor
    mean: Tensor | None = None
    _gains: dict[tuple[int, int], Tensor] = field(default_factory=dict, init=False, repr=False)
    _seen: list[tuple[LinearOperator, LinearOperator, Tensor, Tensor]] = field(
        default_factory=list, init=False, repr=False
    )

    def gain(self, t: int, s: int) -> Tensor:
        """K of E[x0_s | x_t] = M_{0->s} m + K (x_t - alpha_t M_{0->t} m), shape (H_s W_s, h_t w_t), float64."""
        if (t, s) not in self._gains:
            cross, within = self._seen_through(*(self.process.degradation.operator(0, point) for point in (t, s)))
            alpha, sigma = self.process.noise.alpha(t), self.process.noise.sigma(t)
            marginal = alpha**2 * within + sigma**2 * torch.eye(len(within), dtype=torch.float64)
            self._gains[t, s] = torch.linalg.solve(marginal, alpha * cross, left=False)
        return self._gains[t, s]

    def _seen_through(self, at_t: LinearOperator, at_s: LinearOperator) -> tuple[Tensor, Tensor]:
        """M_s C M_t^T and M_t C M_t^T. Those of the last step are kept, since inside a level they are those of the next."""
        if not self._seen or self._seen[0][0] is not at_t or self._seen[0][1] is not at_s:
            M_t, M_s = dense(at_t), dense(at_s)
            self._seen[:] = [(at_t, at_s, M_s @ self.covariance @ M_t.mT, M_t @ self.covariance @ M_t.mT)]
        return self._seen[0][2:]

    def __call__(self, x_t: Tensor, t: int, s: int) -> Tensor:
        operator = self.process.degradation.operator
        mean = torch.zeros(self.process.size(0), dtype=torch.float64) if self.mean is None else self.mean
        centred = x_t.double() - self.process.noise.alpha(t) * operator(0, t)(mean)
        x0_s = operator(0, s)(mean) + (centred.flatten(-2) @ self.gain(t, s).mT).unflatten(-1, self.process.size(s))
        return x0_s.to(x_t.dtype)


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Pictures from one of K Gaussians of low rank and common noise: x_0 = m_k + F_k z + sqrt(v) e.

    Args:
        weights: Probabilities w_k of the components, shape (K,), float64.
        means: m_k, shape (K, H, W), float64.
        factors: F_k, shape (K, H W, q), float64.
        variance: v, above 0.

    Raises:
        ValueError: If the shapes do not fit each other, the weights are no probabilities or the variance is not positive.
    """

    weights: Tensor
    means: Tensor
    factors: Tensor
    variance: float

    def __post_init__(self):
        components, *size = self.means.shape
        if self.weights.shape != (components,) or self.factors.shape[:-1] != (components, size[0] * size[1]):
            raise ValueError(
                f"weights {tuple(self.weights.shape)}, means {tuple(self.means.shape)} and factors "
                f"{tuple(self.factors.shape)} do not fit; give (K,), (K, H, W) and (K, H W, q)"
            )
        if not (bool((self.weights > 0).all()) and abs(float(self.weights.sum()) - 1) < 1e-6):
            raise ValueError("the weights of a mixture are probabilities; give positive numbers that sum to 1")
        if not self.variance > 0:
            raise ValueError(f"the variance that all components share is {self.variance}; give one above 0")


@dataclass(frozen=True)
class _MixtureGains:
    """What the mixture's prediction needs of a step; whitening divides by the root of D."""

    whitening: Tensor
    """Matrix from x_t to its whitened form, shape (h w, h w)."""
    means: Tensor
    """Whitened alpha M m_k, shape (K, h w)."""
    projection: Tensor
    """P with P_k^T (whitened x_t - mean_k) = w_k, shape (h w, K q); |w_k|^2 is what the factors explain of it."""
    offsets: Tensor
    """P_k^T mean_k, shape (K, q)."""
    log_weights: Tensor
    """The part of the log-probability of a component that does not depend on x_t, shape (K,)."""
    carried: Tensor
    """Matrix from x_t to its part of the prediction, shape (h w, H_s W_s)."""
    component: Tensor
    """What every component adds to the prediction, shape (K, H_s W_s)."""
    factors: Tensor
    """Matrix from w to its part of the prediction, shape (K q, H_s W_s)."""


@dataclass(frozen=True, eq=False)
class GaussianMixtureDenoiser:
    """The exact denoiser E[x0_s | x_t] of Gaussian-mixture data, alike for every channel and each channel by itself.

    Args:
        process: The process that made x_t.
        mixture: The data, of size r(0).
    """

    process: ScaleSpaceProcess
    mixture: GaussianMixture
    _gains: dict[tuple[int, int], _MixtureGains] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, x_t: Tensor, t: int, s: int) -> Tensor:
        gains, rank = self._gains_of(t, s), self.mixture.factors.shape[-1]
        state = x_t.double().flatten(-2)
        whitened = state @ gains.whitening.mT
        w = (whitened @ gains.projection).unflatten(-1, (-1, rank)) - gains.offsets
        logits = gains.log_weights + whitened @ gains.means.mT + w.square().sum(-1) / 2
        r = logits.softmax(-1)
        x0_s = state @ gains.carried + r @ gains.component + (r[..., None] * w).flatten(-2) @ gains.factors
        return x0_s.unflatten(-1, self.process.size(s)).to(x_t.dtype)

    def _gains_of(self, t: int, s: int) -> _MixtureGains:
        if (t, s) not in self._gains:
            while len(self._gains) >= _KEPT:
                self._gains.pop(next(iter(self._gains)))
            self._gains[t, s] = self._compute(t, s)
        return self._gains[t, s]

    def _compute(self, t: int, s: int) -> _MixtureGains:
        M_t, M_s = (dense(self.process.degradation.operator(0, point)) for point in (t, s))
        alpha, sigma = self.process.noise.alpha(t), self.process.noise.sigma(t)
        v, F, means = self.mixture.variance, self.mixture.factors, self.mixture.means.flatten(1)
        D = alpha**2 * v * M_t @ M_t.mT + sigma**2 * torch.eye(len(M_t), dtype=torch.float64)
        L = torch.linalg.cholesky(D)
        whitening = torch.linalg.solve_triangular(L, torch.eye(len(D), dtype=torch.float64), upper=False)
        seen = alpha * whitening @ M_t
        G, seen_means = seen @ F, means @ seen.mT
        R = torch.linalg.cholesky(G.mT @ G + torch.eye(F.shape[-1], dtype=torch.float64))
        # P_k = G_k R_k^-T, so that H_k^-1 G_k^T = R_k^-T P_k^T.
        P = torch.linalg.solve_triangular(R, G.mT, upper=False).mT
        carried = v * M_s @ seen.mT @ whitening
        rest = M_s - alpha * carried @ M_t
        z_to_picture = torch.linalg.solve_triangular(R, (rest @ F).mT, upper=False)
        return _MixtureGains(
            whitening=whitening,
            means=seen_means,
            projection=P.permute(1, 0, 2).flatten(1),
            offsets=(P.mT @ seen_means[..., None]).squeeze(-1),
            log_weights=self.mixture.weights.log()
            - seen_means.square().sum(-1) / 2
            - R.diagonal(dim1=-2, dim2=-1).log().sum(-1),
            carried=carried.mT,
            component=means @ rest.mT,
            factors=z_to_picture.flatten(0, 1),
        )
