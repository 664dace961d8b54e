"""Measurements of pictures: y = A x_0 + tau n, with A a linear operator and n white noise.

Two operators are here, and any other ``LinearOperator`` does as well:

    super-resolution   the bilinear resize with antialiasing, by a whole factor
    blur               a Gaussian, in the DCT basis: frequency k of N pixels is multiplied by exp(-(w pi k / N)^2 / 2), where w
                       is its standard deviation in pixels. Beyond its border the picture goes on as its mirror image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scalespace.errors import UserError
from scalespace.operators.dct import DCTFilter
from scalespace.operators.linear import LinearOperator, Size
from scalespace.operators.resize import Resize

__all__ = ["Measurement", "gaussian_blur", "super_resolution"]

_NARROWEST = 0.1  # pixels; a narrower blur is none
_QUIETEST = 1e-3  # about an eighth of a level of 255


@dataclass(frozen=True)
class Measurement:
    """How pictures are measured.

    Args:
        operator: A, from pictures to measurements, alike for every channel.
        noise: tau, standard deviation of the noise where pixels are in [-1, 1]; at least 0.001.

    Raises:
        UserError: If the noise is less, since what is measured without noise leaves no distribution to draw from.
    """

    operator: LinearOperator
    noise: float

    def __post_init__(self):
        if not _QUIETEST <= self.noise < math.inf:
            raise UserError(
                f"noise is {self.noise}; give its standard deviation, at least {_QUIETEST} (pixels are "
                "in [-1, 1], and the rounding of 8 bits alone is 0.0023)"
            )

    def taken(self, pictures: Tensor, noise: Tensor) -> Tensor:
        """Measurements of pictures.

        Args:
            pictures: In [-1, 1], shape (B, C, H, W).
            noise: White noise, shape (B, C, h, w).

        Returns:
            y, shape (B, C, h, w).
        """
        return self.operator(pictures) + self.noise * noise

    def misfit(self, measured: Tensor, pictures: Tensor) -> Tensor:
        """How far pictures are from their measurements: |y - A x| over what the noise is expected to have, shape (B,).

        Of the true pictures it is 1 up to chance.
        """
        rest = (measured - self.operator(pictures)).double()
        return rest.square().mean((1, 2, 3)).sqrt() / self.noise


def super_resolution(size: Size, factor: int) -> Resize:
    """The resize of pictures to a smaller size.

    Args:
        size: Height and width of the pictures.
        factor: How many times smaller both become.

    Raises:
        UserError: If the factor is less than 2, or does not divide both.
    """
    height, width = size
    if factor < 2 or height % factor or width % factor:
        raise UserError(f"factor is {factor}; give a whole number from 2 that divides both {height} and {width} pixels")
    return Resize(size, (height // factor, width // factor))


def gaussian_blur(size: Size, width: float) -> DCTFilter:
    """A Gaussian blur.

    Args:
        size: Height and width of the pictures.
        width: Standard deviation of the Gaussian in pixels, from 0.1 to the smaller side.

    Raises:
        UserError: If it is not in this range.
    """
    if not _NARROWEST <= width <= min(size):
        raise UserError(f"blur is {width}; give a standard deviation from {_NARROWEST} to {min(size)} pixels")
    rows, columns = (math.pi * torch.arange(side, dtype=torch.float64) / side for side in size)
    return DCTFilter(torch.exp(-(width**2) * (rows[:, None] ** 2 + columns[None, :] ** 2) / 2))
