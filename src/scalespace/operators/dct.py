"""The orthonormal discrete cosine transform (DCT-II) as a matrix: the basis of frequencies of a picture with even borders.

    C_{k,n} = a_k cos(pi k (n + 1/2) / N),  a_0 = sqrt(1/N), a_k = sqrt(2/N),  C C^T = I.

Coefficient k has frequency k / (2N) cycles per pixel; those of a halved picture are the first half.

Source: Ahmed, Natarajan and Rao 1974, Discrete cosine transform.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["dct_matrix"]


def dct_matrix(length: int) -> Tensor:
    """C, shape (length, length), float64; a picture's coefficients are C_h x C_w^T."""
    frequencies, samples = torch.arange(length, dtype=torch.float64), torch.arange(length, dtype=torch.float64) + 0.5
    matrix = torch.cos(math.pi / length * frequencies[:, None] * samples[None, :]) * math.sqrt(2 / length)
    matrix[0] /= math.sqrt(2)
    return matrix
