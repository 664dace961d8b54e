"""Denoisers: what predicts x0_s = M_{0->s} x_0 from x_t, and the exact one for Gaussian data.

For x_0 ~ N(m, C) and x_t = alpha M x_0 + sigma eps with M = M_{0->t},

    E[x_0 | x_t] = m + alpha C M^T (alpha^2 M C M^T + sigma^2 I)^(-1) (x_t - alpha M m),

and E[x0_s | x_t] is M_{0->s} of it. With it in the place of a network, a sampler is a linear map of its noise, and what
it draws is known in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.operators.linear import LinearOperator

__all__ = ["Denoiser", "GaussianDenoiser", "dense"]


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
        covariance: Of the flattened picture, shape (H W, H W), float64.
        mean: Shape (H, W); zero if left out.
    """

    process: ScaleSpaceProcess
    covariance: Tensor
    mean: Tensor | None = None
    _gains: dict[tuple[int, int], Tensor] = field(default_factory=dict, init=False, repr=False)

    def gain(self, t: int, s: int) -> Tensor:
        """K of E[x0_s | x_t] = M_{0->s} m + K (x_t - alpha_t M_{0->t} m), shape (H_s W_s, h_t w_t), float64."""
        if (t, s) not in self._gains:
            M_t, M_s = (dense(self.process.degradation.operator(0, point)) for point in (t, s))
            alpha, sigma = self.process.noise.alpha(t), self.process.noise.sigma(t)
            cross = alpha * M_s @ self.covariance @ M_t.mT
            marginal = alpha**2 * M_t @ self.covariance @ M_t.mT + sigma**2 * torch.eye(len(M_t), dtype=torch.float64)
            self._gains[t, s] = torch.linalg.solve(marginal, cross, left=False)
        return self._gains[t, s]

    def __call__(self, x_t: Tensor, t: int, s: int) -> Tensor:
        operator = self.process.degradation.operator
        mean = torch.zeros(self.process.size(0), dtype=torch.float64) if self.mean is None else self.mean
        centred = x_t.double() - self.process.noise.alpha(t) * operator(0, t)(mean)
        x0_s = operator(0, s)(mean) + (centred.flatten(-2) @ self.gain(t, s).mT).unflatten(-1, self.process.size(s))
        return x0_s.to(x_t.dtype)


def dense(operator: LinearOperator) -> Tensor:
    """The matrix of an operator on flattened pictures, shape (h w, H W), float64."""
    height, width = operator.in_size
    basis = torch.eye(height * width, dtype=torch.float64).unflatten(-1, (height, width))
    return operator(basis).flatten(-2).mT.contiguous()
