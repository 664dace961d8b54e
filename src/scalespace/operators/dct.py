"""The orthonormal discrete cosine transform (DCT-II), the frequencies of a picture with even borders, and filters in it.

    C_{k,n} = a_k cos(pi k (n + 1/2) / N),  a_0 = sqrt(1/N), a_k = sqrt(2/N),  C C^T = I.

Coefficient k has frequency k / (2N) cycles per pixel; those of a halved picture are the first half.

Source: Ahmed, Natarajan and Rao 1974, Discrete cosine transform.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from scalespace.operators.linear import LinearOperator, Size, check_size, condition, on_spectrum

__all__ = ["DCTFilter", "dct_matrix"]


@dataclass(frozen=True, eq=False)
class DCTFilter(LinearOperator):
    """A gain for every frequency: C^T diag(gains) C, symmetric, with its exact eigenbasis.

    Args:
        gains: Shape (H, W), float64, lowest frequency first; or (B, 1, H, W), another filter for each picture of a batch.
    """

    gains: Tensor = field(repr=False)

    def __post_init__(self):
        if self.gains.is_inference():
            # Autograd refuses tensors made in inference mode, and the operator outlives it.
            with torch.inference_mode(False):
                object.__setattr__(self, "gains", self.gains.clone())

    @property
    def in_size(self) -> Size:
        height, width = self.gains.shape[-2:]
        return height, width

    @property
    def out_size(self) -> Size:
        return self.in_size

    def __call__(self, x: Tensor) -> Tensor:
        return self._filtered(self.gains, x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._filtered(self.gains, y)

    @property
    def T(self) -> LinearOperator:
        return self

    def gram_function(self, f: Callable[[Tensor], Tensor], x: Tensor, kernel: float | None = None) -> Tensor:
        return self._filtered(on_spectrum(f, self.gains**2, kernel), x)

    def adjoint_function(self, f: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        # One product of gains, since f may undo what two filters after each other would first round away.
        return self._filtered(self.gains * on_spectrum(f, self.gains**2, 0.0), y)

    def norm_squared(self) -> float:
        return float(self.gains.square().max())

    def condition(self) -> float:
        return condition(self.gains.abs())

    def mean_square(self) -> float:
        return float(self.gains.square().mean())

    def _filtered(self, gains: Tensor, x: Tensor) -> Tensor:
        check_size(x, self.in_size)
        rows, columns = (dct_matrix(length).to(x.device, x.dtype) for length in self.in_size)
        return rows.mT @ (gains.to(x.device, x.dtype) * (rows @ x @ columns.mT)) @ columns


@lru_cache(maxsize=32)
def dct_matrix(length: int) -> Tensor:
    """C, shape (length, length), float64; a picture's coefficients are C_h x C_w^T."""
    # Made once, and not in inference mode even where that is when it is asked for first: autograd would refuse it later.
    with torch.inference_mode(False):
        frequencies = torch.arange(length, dtype=torch.float64)
        matrix = torch.cos(math.pi / length * frequencies[:, None] * (frequencies + 0.5)) * math.sqrt(2 / length)
        matrix[0] /= math.sqrt(2)
        return matrix
