"""Resolution schedules: at which grid point the process goes down to the next level.

With n levels counted from the highest resolution, and tau = i / (T - 1) for i = t - 1, the paper's schedules are

    Equal            floor(n tau)
    ConvexDecay(g)   floor(n (1 - (1 - tau)^g))
    TanhLike(g)      floor(n (1 - H(1 - tau))),  H(z) = h(z - 1/2) / 2 + 1/2,  h(u) = S(u) / S(1/2),
                     S(u) = 3 x^2 - 2 x^3 - 1/2,  x = sign(u) |u|^g + 1/2
    SigmoidLike(g)   the same with the inverse function of h / 2, normalised alike, in the place of h,

all capped at n - 1. A schedule is a choice of change points and nothing else: the sizes belong to the degradation.

They do not ask what is in the pictures; ``spectral`` has the schedule that does.

Source: Mukhopadhyay et al. 2026 (arXiv 2603.08709).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from scalespace.diffusion.limits import check_timesteps

__all__ = [
    "ChangesAt",
    "ConvexDecay",
    "Equal",
    "ResolutionSchedule",
    "SigmoidLike",
    "TanhLike",
]


class ResolutionSchedule(ABC):
    """Abstract: where the levels begin."""

    @abstractmethod
    def change_points(self, timesteps: int) -> tuple[int, ...]:
        """First grid point t of every level but the highest, ascending, n - 1 of them.

        Args:
            timesteps: T; the points lie in 2..T.

        Raises:
            ValueError: If a level would have no grid point.
        """


@dataclass(frozen=True)
class ChangesAt(ResolutionSchedule):
    """Change points written down by hand.

    Args:
        points: First grid point t of every level but the highest, ascending; none for one level.
    """

    points: tuple[int, ...] = ()

    def change_points(self, timesteps: int) -> tuple[int, ...]:
        bounds = (1, *self.points, timesteps + 1)
        if any(after <= before for before, after in pairwise(bounds)):
            raise ValueError(
                f"change points {self.points} leave a level without a grid point; "
                f"give ascending points between 2 and {timesteps}"
            )
        return self.points


class _Formula(ResolutionSchedule):
    # The paper's schedules give a level for every tau; a change is where a level is first reached.
    levels: int

    @abstractmethod
    def _first_indices(self, tau: Tensor) -> Tensor:
        """First index i of each of the levels 1..n-1, shape (T,) to (n - 1,)."""

    def change_points(self, timesteps: int) -> tuple[int, ...]:
        if self.levels < 1:
            raise ValueError(f"a schedule of {self.levels} levels; give at least 1")
        check_timesteps(timesteps)
        if self.levels > timesteps:
            raise ValueError(
                f"{self.levels} levels leave a level without a grid point among {timesteps}; give at most as many levels as "
                "timesteps"
            )
        tau = torch.arange(timesteps, dtype=torch.float64) / max(timesteps - 1, 1)
        return ChangesAt(tuple(int(i) + 1 for i in self._first_indices(tau))).change_points(timesteps)

    def _first_reaching(self, fraction: Tensor) -> Tensor:
        level = torch.floor(self.levels * fraction).clamp(0, self.levels - 1)
        return torch.searchsorted(level, torch.arange(1, self.levels, dtype=torch.float64))


@dataclass(frozen=True)
class Equal(_Formula):
    """Every level takes an equal share of the grid."""

    levels: int

    def _first_indices(self, tau: Tensor) -> Tensor:
        return self._first_reaching(tau)


@dataclass(frozen=True)
class ConvexDecay(_Formula):
    """Long at high resolution for gamma < 1 (the paper's choice is 0.5), short for gamma > 1."""

    levels: int
    gamma: float = 0.5

    def __post_init__(self):
        _check_gamma(self.gamma)

    def _first_indices(self, tau: Tensor) -> Tensor:
        return self._first_reaching(1 - (1 - tau) ** self.gamma)


@dataclass(frozen=True)
class TanhLike(_Formula):
    """Long in the middle levels, short at the highest and the lowest resolution."""

    levels: int
    gamma: float = 2.0

    def __post_init__(self):
        # Below 1, x leaves [0, 1] and S is no longer monotone.
        _check_gamma(self.gamma, least=1.0)

    def _first_indices(self, tau: Tensor) -> Tensor:
        z = 1 - tau
        return self._first_reaching(1 - (_h(z - 0.5, self.gamma) / 2 + 0.5))


@dataclass(frozen=True)
class SigmoidLike(_Formula):
    """Long at the highest and the lowest resolution, short in the middle levels."""

    levels: int
    gamma: float = 2.0

    def __post_init__(self):
        # Below 1, x leaves [0, 1] and S is no longer monotone.
        _check_gamma(self.gamma, least=1.0)

    def _first_indices(self, tau: Tensor) -> Tensor:
        # The level is floor(n (1/2 + k(tau - 1/2))) with k the inverse of h / 2, so level j begins at
        # tau = 1/2 + h(j/n - 1/2) / 2.
        share = torch.arange(1, self.levels, dtype=torch.float64) / self.levels
        return torch.searchsorted(tau, _h(share - 0.5, self.gamma) / 2 + 0.5)


def _check_gamma(gamma: float, least: float = 0.0) -> None:
    if not (gamma >= least and gamma > 0):
        bound = f"at least {least:g}" if least else "above 0"
        raise ValueError(f"gamma is {gamma}; this schedule needs it {bound} (the paper uses 0.5, 1, 2 and 3)")


def _h(u: Tensor, gamma: float) -> Tensor:
    def smooth_step(u: Tensor) -> Tensor:
        x = u.sign() * u.abs() ** gamma + 0.5
        return 3 * x**2 - 2 * x**3 - 0.5

    return smooth_step(u) / smooth_step(u.new_tensor(0.5))
