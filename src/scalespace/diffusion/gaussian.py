"""Gaussians whose covariance is a function of a Gram matrix: N(mean, scale^2 f(M^T M)).

Every distribution of the process has this form, so its symmetric square root is sqrt(f)(M^T M), and a draw is one
application of it to white noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scalespace.operators.linear import LinearOperator

__all__ = ["Gaussian"]


@dataclass(frozen=True, eq=False)
class Gaussian:
    """N(mean, scale^2 f(M^T M)), independent between pictures and channels.

    Args:
        mean: Mean, shape (..., H, W).
        operator: M; takes pictures of size (H, W).
        function: f, nonnegative on the eigenvalues of M^T M, applied elementwise to float64 tensors.
        scale: Standard deviation where f is 1; a float, or a tensor that broadcasts against the mean.
    """

    mean: Tensor
    operator: LinearOperator
    function: Callable[[Tensor], Tensor]
    scale: float | Tensor

    def covariance(self, v: Tensor) -> Tensor:
        """The covariance applied to v, shape (..., H, W) to the same."""
        return self.scale**2 * self.operator.gram_function(self.function, v)

    def draw(self, noise: Tensor) -> Tensor:
        """The draw that white noise of the mean's shape stands for: mean + scale sqrt(f)(M^T M) noise.

        It is as exact as ``gram_function``; where f is zero, a deviation of the root of that, about 1e-8 or that of a float32
        operator, is left of the noise.
        """
        # Rounding can take f a little under zero where the covariance is singular.
        return self.mean + self.scale * self.operator.gram_function(
            lambda e: self.function(e).clamp_min(0).sqrt(), noise
        )

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A draw of the mean's shape, with the noise made on the generator's device."""
        device = generator.device if generator is not None else self.mean.device
        noise = torch.randn(self.mean.shape, generator=generator, device=device, dtype=self.mean.dtype)
        return self.draw(noise.to(self.mean.device))
