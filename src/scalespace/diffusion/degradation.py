"""Degradations: the family of linear maps M_{s->t} that the process applies besides adding noise.

M_{0->0} is the identity, M_{s->t} M_{0->s} = M_{0->t} exactly, and M_{s->t} is the identity wherever r(s) = r(t). The
identity everywhere is DDPM; resizing is the paper's process.

Source: Mukhopadhyay et al. 2026 (arXiv 2603.08709), generalized linear degradation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Self

from scalespace.diffusion.resolution import ResolutionSchedule
from scalespace.operators.linear import Identity, LinearOperator, Size
from scalespace.operators.resize import OrthonormalResize, Resize

__all__ = ["Degradation", "Levels", "OrthonormalResizing", "Resizing", "Unchanged"]


class Degradation(ABC):
    """Abstract: the operators M_{s->t} and the sizes r(t) on the grid 0..T."""

    timesteps: int
    """T, the last grid point."""
    change_points: tuple[int, ...]
    """The grid points t with r(t) != r(t - 1), ascending."""

    @abstractmethod
    def size(self, t: int) -> Size:
        """r(t), height and width of the states at t."""

    @abstractmethod
    def operator(self, s: int, t: int) -> LinearOperator:
        """M_{s->t}, from pictures of r(s) to pictures of r(t), for s <= t.

        Raises:
            ValueError: If not 0 <= s <= t <= T.
        """


@dataclass(frozen=True)
class Unchanged(Degradation):
    """The identity at every step: DDPM.

    Args:
        image_size: Height and width of the pictures.
        timesteps: T.
    """

    image_size: Size
    timesteps: int = 1000

    change_points = ()

    def size(self, t: int) -> Size:
        return self.image_size

    def operator(self, s: int, t: int) -> LinearOperator:
        _check_order(s, t, self.timesteps)
        return Identity(self.image_size)


@dataclass(frozen=True)
class Levels(Degradation):
    """Abstract: one linear map from each level to the next, at every change point, and none in between.

    Args:
        sizes: Height and width of every level, highest resolution first.
        change_points: First grid point of every level but the highest, ascending.
        timesteps: T.

    Raises:
        ValueError: If the sizes do not shrink, or sizes and change points do not fit each other or the grid.
    """

    sizes: tuple[Size, ...]
    change_points: tuple[int, ...]
    timesteps: int = 1000

    def __post_init__(self):
        if len(self.sizes) != len(self.change_points) + 1:
            raise ValueError(
                f"{len(self.sizes)} sizes and {len(self.change_points)} change points do not fit; "
                "give one size more than change points"
            )
        if min(min(size) for size in self.sizes) < 1:
            possible = sum(min(size) >= 1 for size in self.sizes)
            raise ValueError(
                f"sizes {self.sizes[0]} and {len(self.sizes)} levels leave 0 pixels at the smallest; "
                f"use at most {possible} levels or a smaller factor"
            )
        for above, below in pairwise(self.sizes):
            if below == above or below[0] > above[0] or below[1] > above[1]:
                raise ValueError(
                    f"level {above} is followed by {below}; every level must be smaller than the one before"
                )
        bounds = (1, *self.change_points, self.timesteps + 1)
        if any(after <= before for before, after in pairwise(bounds)):
            raise ValueError(
                f"change points {self.change_points} leave a level without a grid point; "
                f"give ascending points between 2 and {self.timesteps}"
            )

    @classmethod
    def octaves(cls, image_size: Size, schedule: ResolutionSchedule, timesteps: int = 1000) -> Self:
        """Halve both sides, rounding down, at every change of the schedule.

        Raises:
            ValueError: If the picture is too small for the number of levels.
        """
        points = schedule.change_points(timesteps)
        height, width = image_size
        sizes = tuple((height >> level, width >> level) for level in range(len(points) + 1))
        return cls(sizes, points, timesteps)

    def level(self, t: int) -> int:
        """Level at t, 0 for the highest resolution."""
        return bisect_right(self.change_points, t)

    def size(self, t: int) -> Size:
        return self.sizes[self.level(t)]

    def operator(self, s: int, t: int) -> LinearOperator:
        _check_order(s, t, self.timesteps)
        return self._between_levels(self.level(s), self.level(t))

    @abstractmethod
    def _next_level(self, size: Size, next_size: Size) -> LinearOperator:
        """The map from a level of ``size`` to the one after it."""

    def _between_levels(self, first: int, last: int) -> LinearOperator:
        if (first, last) not in self._operators:
            M: LinearOperator = Identity(self.sizes[first])
            for level in range(first, last):
                M = self._next_level(self.sizes[level], self.sizes[level + 1]) @ M
            self._operators[first, last] = M
        return self._operators[first, last]

    @cached_property
    def _operators(self) -> dict[tuple[int, int], LinearOperator]:
        return {}


@dataclass(frozen=True)
class Resizing(Levels):
    """Bilinear resizing with antialiasing; the paper's process."""

    def _next_level(self, size: Size, next_size: Size) -> LinearOperator:
        return Resize(size, next_size)


@dataclass(frozen=True)
class OrthonormalResizing(Levels):
    """Resizing by ``OrthonormalResize``, with which no retained mode loses SNR at a change when the noise is ``Shifted``."""

    def _next_level(self, size: Size, next_size: Size) -> LinearOperator:
        return OrthonormalResize(size, next_size)


def _check_order(s: int, t: int, timesteps: int) -> None:
    if not 0 <= s <= t <= timesteps:
        raise ValueError(f"no map from grid point {s} to {t}; need 0 <= s <= t <= {timesteps}")
