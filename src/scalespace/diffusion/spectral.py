"""Resolutions read off a spectrum: a level is left as soon as noise has drowned what it alone holds.

With S(f) the mean power of the data at frequency f, a level is left at the first grid point where the octave that the next
one cannot hold is drowned in noise,

    SNR_t * mean of S over the octave < tolerance.

This is ours. Near to it: Xiao et al. 2026, Spectral Progressive Diffusion (arXiv 2605.18736), which places the changes of a
pretrained model on the spectrum of its latents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from scalespace.diffusion.noise import NoiseSchedule
from scalespace.diffusion.resolution import ResolutionSchedule
from scalespace.operators.linear import Size

__all__ = ["FromSpectrum", "check_tolerance"]

# Below this share of the largest, a squared float64 coefficient is rounding and no picture.
_ROUNDING = 1e-24


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
