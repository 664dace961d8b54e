"""The Gaussian pyramid: from every level to the next, a blur and then every second pixel, or at any other factor as many."""

from __future__ import annotations

from dataclasses import dataclass

from scalespace.diffusion.degradation import Levels
from scalespace.operators.gaussian_resize import GaussianResize
from scalespace.operators.linear import LinearOperator, Size

__all__ = ["GaussianPyramid"]


@dataclass(frozen=True)
class GaussianPyramid(Levels):
    """Levels that are blurred before they are made smaller (``GaussianResize``).

    Args:
        sizes: Height and width of every level, highest resolution first.
        change_points: First grid point of every level but the highest, ascending.
        timesteps: Number of timesteps, T.
        blur: Standard deviation of the blur in pixels of the next level, 0.1 to 4.

    Raises:
        ValueError: If the sizes do not shrink, sizes and change points do not fit each other or the grid, or the blur is out of
            its range.
    """

    blur: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        GaussianResize((1, 1), (1, 1), self.blur)

    def next_level(self, size: Size, next_size: Size) -> LinearOperator:
        return GaussianResize(size, next_size, self.blur)
