"""Blurring and resizing in one: a step of a Gaussian pyramid, as a separable operator with everything about it exact.

A picture is blurred by a Gaussian of standard deviation sigma and taken at the centres of the new pixels,

    A_{i,j} = sum over the mirror images x of source pixel j of exp(-(x - c_i)^2 / (2 sigma^2)), rows scaled to sum to one,

with c_i = (i + 1/2) H / h, and sigma a share of the new pixel, H / h. Beyond its border the picture goes on as its mirror
image. With half a new pixel the filter of a halving is close to (1, 4, 6, 4, 1) / 16, whose standard deviation is one pixel.

Source: Burt and Adelson 1983, The Laplacian Pyramid as a Compact Image Code, whose filter is a small binomial one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from scalespace.errors import UserError
from scalespace.operators.checks import check_shrinks
from scalespace.operators.resize import Resampling

__all__ = ["GaussianResize"]

_REACH = 9.0  # standard deviations beyond which a Gaussian is nothing to float64
_NARROWEST, _WIDEST = 0.1, 4.0  # below, a pixel may fall between two centres; above, hardly anything is left


@dataclass(frozen=True)
class GaussianResize(Resampling):
    """A Gaussian blur, taken at the centres of a smaller picture's pixels.

    Args:
        source_size: Height and width it takes.
        target_size: Height and width it gives, neither above the source's.
        blur: Standard deviation of the Gaussian in pixels of the smaller picture, 0.1 to 4. In a direction that keeps its size
            there is no blur.

    Raises:
        UserError: If a side is less than 1 or grows, or the blur is out of its range.
    """

    blur: float = 0.5

    def __post_init__(self):
        check_shrinks("step of a pyramid", self.source_size, self.target_size)
        if not _NARROWEST <= self.blur <= _WIDEST:
            raise UserError(
                f"blur is {self.blur}; give a standard deviation of {_NARROWEST} to {_WIDEST} pixels of the smaller picture"
            )

    def matrix(self, length: int, new_length: int) -> Tensor:
        return _gaussian(length, new_length, self.blur)


@lru_cache(maxsize=128)
def _gaussian(length: int, new_length: int, blur: float) -> Tensor:
    # Made once, and not in inference mode even where that is when it is asked for first: autograd would refuse it later.
    with torch.inference_mode(False):
        if new_length == length:
            return torch.eye(length, dtype=torch.float64)
        factor = length / new_length
        centres = (torch.arange(new_length, dtype=torch.float64) + 0.5) * factor
        # Pixels of the picture and of its mirror images on both sides, as far as a Gaussian reaches.
        reach = int(_REACH * blur * factor) + 1
        places = torch.arange(-reach, length + reach)
        inside = places.remainder(2 * length)
        sources = torch.where(inside < length, inside, 2 * length - 1 - inside)
        weights = torch.exp(-(((places + 0.5)[None, :] - centres[:, None]) ** 2) / (2 * (blur * factor) ** 2))
        matrix = torch.zeros(new_length, length, dtype=torch.float64).index_add_(1, sources, weights)
        return matrix / matrix.sum(dim=1, keepdim=True)
