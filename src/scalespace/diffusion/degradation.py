"""Degradations: the family of linear maps M_{s->t} that the process applies besides adding noise.

M_{0->0} is the identity, and M_{s->t} M_{0->s} = M_{0->t} exactly. The
identity everywhere is DDPM, resizing is the paper's process, and a blur that grows with t is Blurring Diffusion.

Sources: Mukhopadhyay et al. 2026 (arXiv 2603.08709), generalized linear degradation; Hoogeboom and Salimans 2022, Blurring
Diffusion Models (arXiv 2209.05557).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

from scalespace.diffusion.limits import LARGEST_SIDE, check_sides
from scalespace.diffusion.resolution import ResolutionSchedule
from scalespace.errors import UserError
from scalespace.operators.checks import composition_defect
from scalespace.operators.dct import DCTFilter, dct_matrix
from scalespace.operators.linear import Identity, LinearOperator, Size
from scalespace.operators.resize import OrthonormalResize, Resize, SeparableProduct

__all__ = ["Blurring", "DCTResizing", "Degradation", "Levels", "OrthonormalResizing", "Resizing", "Unchanged"]


# Changes at which a degradation's operators are composed, and how far they may be off: float32 leaves about 1e-6.
_CHANGES_TRIED = 16
_COMPOSITION = 1e-5


class Degradation(ABC):
    """Abstract: the operators M_{s->t} and the sizes r(t) on the grid 0..T."""

    timesteps: int
    """T, the last grid point."""
    change_points: tuple[int, ...]
    """The grid points t whose M_{t-1->t} is not the identity, ascending."""

    @abstractmethod
    def size(self, t: int) -> Size:
        """r(t), height and width of the states at t."""

    @abstractmethod
    def operator(self, s: int, t: int) -> LinearOperator:
        """M_{s->t}, from pictures of r(s) to pictures of r(t), for s <= t.

        Raises:
            ValueError: If not 0 <= s <= t <= T.
        """

    def norm_squared(self, t: int) -> float:
        """lambda_max(M M^T) of M = M_{t-1->t}, at a change point t."""
        return self.operator(t - 1, t).norm_squared()

    def check_operators(self) -> None:
        """Refuse operators that are not of their sizes, or where M_{t-1->t} M_{0->t-1} is not M_{0->t}.

        A process calls this when it is built. Of more change points than 16 about 16 are tried, with a random picture.

        Raises:
            UserError: If sizes or operators do not fit each other.
        """
        changes, M = self.change_points, self.operator
        for t in changes[:: max(1, len(changes) // _CHANGES_TRIED)]:
            for first, last in ((0, t - 1), (t - 1, t), (0, t)):
                _check_sizes(M(first, last), self.size(first), self.size(last), f"from s = {first} to t = {last}")
            defect = composition_defect(M(t - 1, t), M(0, t - 1), M(0, t))
            if defect > _COMPOSITION:
                raise UserError(
                    f"the operators do not compose at t = {t}: the one from {t - 1} to {t} after the one from 0 to {t - 1} is "
                    f"off by {defect:.1e} of the one from 0 to {t}; let operator(s, t) be all that happens between s and t"
                )

    @property
    def jumps(self) -> tuple[int, ...]:
        """The change points that samplers cross in a single step, and that no batch has on both sides.

        All of them, unless the map changes little by little; then ``operators`` has to tell the maps of a batch apart.
        """
        return self.change_points

    def operators(self, s: Tensor, t: Tensor) -> LinearOperator:
        """M_{s->t} on a batch, where every picture has grid points of its own.

        Args:
            s: Grid points, shape (B,).
            t: Grid points, shape (B,), s <= t for every picture.

        Returns:
            An operator on pictures of shape (B, C, H, W).

        Raises:
            ValueError: If there is a jump between the points of different pictures, or not 0 <= s <= t <= T.
        """
        for points in (s, t):
            first, last = int(points.min()), int(points.max())
            if any(first < jump <= last for jump in self.jumps):
                raise ValueError(
                    f"grid points {first} and {last} of one batch differ in resolution or blur, "
                    f"{self.size(first)} and {self.size(last)}; group a batch by change points"
                )
        return self.operator(int(s.min()), int(t.min()))


@dataclass(frozen=True)
class Unchanged(Degradation):
    """The identity at every step: DDPM.

    Args:
        image_size: Height and width of the pictures.
        timesteps: Number of timesteps, T.
    """

    image_size: Size
    timesteps: int = 1000

    change_points = ()

    def size(self, t: int) -> Size:
        return self.image_size

    def check_operators(self) -> None:
        """Check nothing, since identities compose."""

    def operator(self, s: int, t: int) -> LinearOperator:
        _check_order(s, t, self.timesteps)
        return self._identity

    @cached_property
    def _identity(self) -> Identity:
        return Identity(self.image_size)


@dataclass(frozen=True)
class Levels(Degradation):
    """Abstract: one linear map from each level to the next, at every change point, and none in between.

    Args:
        sizes: Height and width of every level, highest resolution first.
        change_points: First grid point of every level but the highest, ascending.
        timesteps: Number of timesteps, T.

    Raises:
        ValueError: If the sizes do not shrink, or sizes and change points do not fit each other or the grid.
    """

    sizes: tuple[Size, ...]
    change_points: tuple[int, ...]
    timesteps: int = 1000

    def __post_init__(self):
        for size in self.sizes:
            check_sides(size)
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

    def check_operators(self) -> None:
        # They are composed here, of maps that may be the user's.
        for level, (size, next_size) in enumerate(pairwise(self.sizes)):
            _check_sizes(self._between_levels(level, level + 1), size, next_size, "to the next level")

    @abstractmethod
    def next_level(self, size: Size, next_size: Size) -> LinearOperator:
        """The map from a level of ``size`` to the one after it."""

    def _between_levels(self, first: int, last: int) -> LinearOperator:
        if (first, last) not in self._operators:
            M: LinearOperator = Identity(self.sizes[first])
            for level in range(first, last):
                M = self.next_level(self.sizes[level], self.sizes[level + 1]) @ M
            self._operators[first, last] = M
        return self._operators[first, last]

    @cached_property
    def _operators(self) -> dict[tuple[int, int], LinearOperator]:
        return {}


@dataclass(frozen=True)
class Resizing(Levels):
    """Bilinear resizing with antialiasing; the paper's process."""

    def next_level(self, size: Size, next_size: Size) -> LinearOperator:
        return Resize(size, next_size)


@dataclass(frozen=True)
class OrthonormalResizing(Levels):
    """Resizing by ``OrthonormalResize``, with which no retained mode loses SNR at a change when the noise is ``Shifted``."""

    def next_level(self, size: Size, next_size: Size) -> LinearOperator:
        return OrthonormalResize(size, next_size)


@dataclass(frozen=True)
class DCTResizing(Levels):
    """Resizing that keeps the lowest DCT frequencies and nothing of the others, times the root of the share of the pixels.

    It is orthonormal but for that factor, as ``OrthonormalResizing``, which is smoother at edges.
    """

    def next_level(self, size: Size, next_size: Size) -> LinearOperator:
        def kept(side: int, next_side: int) -> Tensor:
            return (next_side / side) ** 0.5 * dct_matrix(next_side).mT @ dct_matrix(side)[:next_side]

        return SeparableProduct(*(kept(side, next_side) for side, next_side in zip(size, next_size, strict=True)))


@dataclass(frozen=True)
class Blurring(Degradation):
    """A blur by the heat equation that grows with every step, at one resolution: Blurring Diffusion.

    In the DCT basis M_{0->t} is d_t = (1 - d_min) exp(-(w_h^2 + w_w^2) b_t^2 / 2) + d_min, with w = pi k / N the frequencies in
    radians a pixel and b_t = sigma_blur sin^2(pi t / (2 T)) the blur in pixels. What is left of the highest frequencies,
    d_min, keeps the map invertible.

    Args:
        image_size: Height and width of the pictures.
        timesteps: Number of timesteps, T.
        sigma_blur: Blur at T, standard deviation in pixels.
        smallest_gain: d_min, in (0, 1).

    Raises:
        ValueError: If the blur is negative or the smallest gain is not in (0, 1).

    Source: Hoogeboom and Salimans 2022, Blurring Diffusion Models (arXiv 2209.05557), section 4 and appendix A.
    """

    image_size: Size
    timesteps: int = 1000
    sigma_blur: float = 20.0
    smallest_gain: float = 0.001

    def __post_init__(self):
        check_sides(self.image_size)
        # Twice the picture is as good as any larger blur, and the square of a very large one would overflow.
        if not 0 <= self.sigma_blur <= 2 * LARGEST_SIDE or not 0 < self.smallest_gain < 1:
            raise ValueError(
                f"a blur of {self.sigma_blur} pixels that leaves {self.smallest_gain} of the highest frequencies; "
                f"give a blur of 0 to {2 * LARGEST_SIDE} pixels and a share in (0, 1)"
            )

    @property
    def change_points(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Every grid point but 0, since the blur grows with every step."""
        return tuple(range(1, self.timesteps + 1))

    @property
    def jumps(self) -> tuple[int, ...]:
        """No points, since the blur grows little by little."""
        return ()

    def size(self, t: int) -> Size:
        return self.image_size

    def norm_squared(self, t: int) -> float:
        # The constant is kept, and every other frequency shrinks.
        return 1.0

    def check_operators(self) -> None:
        """Check nothing, since ratios of gains compose."""

    def operator(self, s: int, t: int) -> LinearOperator:
        _check_order(s, t, self.timesteps)
        if s == t:
            return Identity(self.image_size)
        return DCTFilter(self.gains(t) / self.gains(s))

    def operators(self, s: Tensor, t: Tensor) -> LinearOperator:
        for first, last in zip(s.tolist(), t.tolist(), strict=True):
            _check_order(first, last, self.timesteps)
        return DCTFilter((self.gains(t) / self.gains(s))[:, None])

    def gains(self, t: int | Tensor) -> Tensor:
        """d_t, shape (H, W), float64, lowest frequency first; for grid points of shape (B,), shape (B, H, W)."""
        points = torch.as_tensor(t, dtype=torch.float64, device="cpu")[..., None, None]
        blur = self.sigma_blur * torch.sin(math.pi * points / (2 * self.timesteps)) ** 2
        height, width = (math.pi * torch.arange(side, dtype=torch.float64) / side for side in self.image_size)
        decay = torch.exp(-(height[:, None] ** 2 + width[None, :] ** 2) * blur**2 / 2)
        return (1 - self.smallest_gain) * decay + self.smallest_gain


def _check_sizes(M: LinearOperator, size: Size, next_size: Size, which: str) -> None:
    if (M.in_size, M.out_size) != (size, next_size):
        raise UserError(
            f"the operator {which} maps {M.in_size} to {M.out_size}, where the degradation has {size} and {next_size}; "
            "let operators and sizes agree"
        )


def _check_order(s: int, t: int, timesteps: int) -> None:
    if not 0 <= s <= t <= timesteps:
        raise ValueError(f"no map from grid point {s} to {t}; need 0 <= s <= t <= {timesteps}")
