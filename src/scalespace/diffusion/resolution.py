"""Resolution schedules: at which grid point the process goes down to the next level.

With n levels counted from the highest resolution, and tau = i / (T - 1) for i = t - 1, the paper's schedules are

    Equal            floor(n tau)
    ConvexDecay(g)   floor(n (1 - (1 - tau)^g))
    TanhLike(g)      floor(n (1 - H(1 - tau))),  H(z) = h(z - 1/2) / 2 + 1/2,  h(u) = S(u) / S(1/2),
                     S(u) = 3 x^2 - 2 x^3 - 1/2,  x = sign(u) |u|^g + 1/2
    SigmoidLike(g)   the same with the inverse function of h / 2, normalised alike, in the place of h,

all capped at n - 1. A schedule is a choice of change points and nothing else: the sizes belong to the degradation.

They do not ask what is in the pictures. ``FromSpectrum`` does: with S(f) the mean power of the data at frequency f, a level is
left at the first grid point where the octave that the next one cannot hold is drowned in noise,

    SNR_t * mean of S over the octave < tolerance.

Source: Mukhopadhyay et al. 2026 (arXiv 2603.08709); ``FromSpectrum`` is ours.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scalespace.operators.linear import Size

if TYPE_CHECKING:
    # A noise schedule may itself depend on the resolutions (``Shifted``), so that its module imports this one.
    from scalespace.diffusion.noise import NoiseSchedule

__all__ = [
    "ChangesAt",
    "ConvexDecay",
    "Equal",
    "FromSpectrum",
    "ResolutionSchedule",
    "SigmoidLike",
    "TanhLike",
    "check_tolerance",
]

# Below this share of the largest, a squared float64 coefficient is rounding and no picture.
_ROUNDING = 1e-24


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


@dataclass(frozen=True, eq=False)
class FromSpectrum(ResolutionSchedule):
    """Every level is left as soon as the octave that it alone holds is drowned in noise.

    Args:
        spectrum: S, mean square of the orthonormal DCT-II coefficients of the clean pictures in [-1, 1] at full resolution,
            shape (H, W), lowest frequency first.
        sizes: Height and width of every level, highest resolution first; the first is (H, W).
        noise: Gives SNR_t. The base schedule, also for a process whose noise is then ``Shifted``: the shift is what a change
            gives back, and does not exist before it.
        tolerance: Mode-SNR below which an octave counts as drowned, in (0, 1).

    Raises:
        ValueError: If spectrum, sizes and tolerance make no schedule.
    """

    spectrum: Tensor = field(repr=False)
    sizes: tuple[Size, ...]
    noise: NoiseSchedule
    tolerance: float = 0.01

    def __post_init__(self):
        check_tolerance(self.tolerance)
        if not self.sizes or tuple(self.spectrum.shape) != tuple(self.sizes[0]):
            raise ValueError(
                f"a spectrum of shape {tuple(self.spectrum.shape)} is not one of pictures of the first of the sizes "
                f"{self.sizes}; measure it at that size"
            )
        for above, below in pairwise(self.sizes):
            if below == above or not (1 <= below[0] <= above[0] and 1 <= below[1] <= above[1]):
                raise ValueError(
                    f"level {above} is followed by {below}; every level must hold pixels, and fewer than the one before"
                )
        finite = self.spectrum.isfinite()
        wrong = ~finite | (self.spectrum <= _ROUNDING * self.spectrum.where(finite, 0.0).max())
        if wrong.any():
            row, column = (int(index) for index in wrong.nonzero()[0])
            raise ValueError(
                f"the spectrum is zero, negative or not finite in {int(wrong.sum())} of {wrong.numel()} coefficients "
                f"(the first is {float(self.spectrum[row, column]):g} at ({row}, {column})); "
                "measure it on more pictures, and on such as are not flat or enlarged"
            )

    @cached_property
    def octaves(self) -> tuple[float, ...]:
        """Mean of S over what each change removes: the frequencies that a level has and the next one has not."""
        spectrum = self.spectrum.double()
        means = []
        for (height, width), (next_height, next_width) in pairwise(self.sizes):
            removed = torch.ones(height, width, dtype=torch.bool)
            removed[:next_height, :next_width] = False
            means.append(float(spectrum[:height, :width][removed].mean()))
        return tuple(means)

    def mode_snr(self, t: int) -> tuple[float, ...]:
        """SNR_t times each of the ``octaves``, for t in 1..T."""
        return tuple(self.noise.snr(t) * octave for octave in self.octaves)

    def change_points(self, timesteps: int) -> tuple[int, ...]:
        if timesteps != self.noise.timesteps:
            raise ValueError(
                f"the noise schedule has {self.noise.timesteps} timesteps and the process {timesteps}; give both the same"
            )
        log_snr = self.noise.log_snr_table[1:]
        points: list[int] = []
        for level, octave in enumerate(self.octaves):
            size, lost = _pixels(self.sizes[level]), f"the octave from {_change(self.sizes, level)}"
            drowned = log_snr < math.log(self.tolerance) - math.log(octave)
            if not drowned.any():
                raise ValueError(
                    f"{lost} never sinks below the tolerance {self.tolerance:g}: its mode-SNR is still "
                    f"{self.mode_snr(timesteps)[level]:.2g} at t = {timesteps}; give a larger tolerance or fewer levels"
                )
            # The table starts at t = 1. (Published points are indices i = t - 1: 191, 318, 451 for a line of 64 samples.)
            point = int(drowned.int().argmax()) + 1
            if point == 1:
                raise ValueError(
                    f"{lost} is below the tolerance {self.tolerance:g} from t = 1 on (mode-SNR "
                    f"{self.mode_snr(1)[level]:.2g}), which leaves level {size} without a grid point; "
                    "give a smaller tolerance or smaller pictures"
                )
            if points and point <= points[-1]:
                raise ValueError(
                    f"{lost} sinks below the tolerance {self.tolerance:g} at t = {point}, no later than the one from "
                    f"{_change(self.sizes, level - 1)} at t = {points[-1]}, which leaves level {size} without a grid "
                    "point; give another tolerance, or sizes without that level"
                )
            points.append(point)
        return tuple(points)


def check_tolerance(tolerance: float) -> None:
    """Refuse what is no tolerance of ``FromSpectrum``.

    Raises:
        ValueError: If it is not in (0, 1).
    """
    if not 0 < tolerance < 1:
        raise ValueError(
            f"tolerance is {tolerance}; give a mode-SNR above 0 and below 1 (0.01 loses next to nothing, 0.1 a little)"
        )


def _pixels(size: Size) -> str:
    return "{}x{}".format(*size)


def _change(sizes: tuple[Size, ...], level: int) -> str:
    return f"{_pixels(sizes[level])} to {_pixels(sizes[level + 1])}"


def _check_gamma(gamma: float, least: float = 0.0) -> None:
    if not (gamma >= least and gamma > 0):
        bound = f"at least {least:g}" if least else "above 0"
        raise ValueError(f"gamma is {gamma}; this schedule needs it {bound} (the paper uses 0.5, 1, 2 and 3)")


def _h(u: Tensor, gamma: float) -> Tensor:
    def smooth_step(u: Tensor) -> Tensor:
        x = u.sign() * u.abs() ** gamma + 0.5
        return 3 * x**2 - 2 * x**3 - 0.5

    return smooth_step(u) / smooth_step(u.new_tensor(0.5))
