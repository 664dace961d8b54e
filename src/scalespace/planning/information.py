"""How much of a picture survives at t: counted in pixels, in modes, and in the pixels of a resolution.

Pixels, as the paper counts them (section 3.2). In x_t = alpha_t x_0 + sigma_t eps a pixel is signal-dominated where
|sigma_t eps| <= |alpha_t x_0|. For a given x_0 that has the probability 1 - 2 Phi(-s |x_0|) = erf(s |x_0| / sqrt 2) with
s^2 = SNR_t, and averaged over the values of pixels x_0 in [-1, 1]

    pixels(t) = E erf(a |x_0|),  a = sqrt(SNR_t / 2).

The paper takes x_0 uniform, for which this is erf(a) - (1 - exp(-a^2)) / (a sqrt pi).

Modes, as resizing counts them. With S(f) the mean square of the orthonormal DCT coefficient f of the pictures,

    modes(t) = share of the frequencies f with SNR_t S(f) >= 1.

pixels(t) counts every pixel that signal dominates, even if its neighbours tell the same; modes(t) counts such a thing once. A
resolution r(t) can hold the block of lowest frequencies that has its size.

Resolution: area(t) is the share of the pixels that r(t) has, the paper's Info(r) = r^2. The equal-information resolution r*(t)
has the share of the pixels that signal dominates at t.

Source: Mukhopadhyay et al. 2026 (arXiv 2603.08709), section 3.2, for pixels and area; modes are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from scalespace.operators.linear import Size

__all__ = [
    "area",
    "closest_area",
    "distance",
    "equal_information_side",
    "signal_modes",
    "signal_modes_outside",
    "signal_pixels",
    "signal_pixels_if_uniform",
]

# Below this share of the constant's power, a frequency's is rounding and no picture.
_ROUNDING = 1e-24


def signal_pixels(values: Tensor, counts: Tensor, snr: Tensor) -> Tensor:
    """Share of signal-dominated pixels, E erf(|x_0| sqrt(SNR / 2)).

    Args:
        values: Values x_0 that a pixel can have, in [-1, 1], shape (N,).
        counts: Number of pixels that have each value, shape (N,).
        snr: SNR_t, shape (T,).

    Returns:
        Shape (T,), float64, in [0, 1].

    Raises:
        ValueError: If there is no pixel.
    """
    if counts.sum() <= 0:
        raise ValueError("no pixels were counted; give at least one picture")
    weights = counts.double() / counts.sum()
    return torch.erf((snr.double() / 2).sqrt()[:, None] * values.double().abs()) @ weights


def signal_pixels_if_uniform(snr: Tensor) -> Tensor:
    """Share of signal-dominated pixels if x_0 were uniform in [-1, 1], the paper's simplification.

    Args:
        snr: SNR_t > 0, shape (T,).

    Returns:
        Shape (T,), float64, in [0, 1].
    """
    a = (snr.double() / 2).sqrt()
    return torch.erf(a) + torch.expm1(-a.square()) / (a * math.sqrt(math.pi))


def signal_modes(spectrum: Tensor, snr: Tensor) -> Tensor:
    """Share of signal-dominated modes, which are the frequencies f with SNR S(f) >= 1.

    Args:
        spectrum: S, mean square of the orthonormal DCT-II coefficients of pictures in [-1, 1], shape (H, W).
        snr: SNR_t > 0, shape (T,).

    Returns:
        Shape (T,), float64, in [0, 1].

    Raises:
        ValueError: If this is no spectrum of pictures, or the spectrum of flat ones.
    """
    _check(spectrum)
    return _at_least(spectrum, 1 / snr.double()) / spectrum.numel()


def signal_modes_outside(spectrum: Tensor, snr: Tensor, sizes: Sequence[Size], changes: Sequence[int]) -> Tensor:
    """Share of the modes that are signal-dominated at t but that r(t) cannot hold.

    Args:
        spectrum: Spectrum of the pictures, as in ``signal_modes``, shape (H, W).
        snr: SNR_t for t = 1..T, shape (T,).
        sizes: Height and width of every level, from (H, W) down.
        changes: First t of every level but the highest.

    Returns:
        The share of the signal that the schedule throws away, shape (T,), float64, in [0, 1].

    Raises:
        ValueError: As in ``signal_modes``.
    """
    _check(spectrum)
    lost = torch.zeros_like(snr, dtype=torch.float64)
    for (height, width), steps in zip(sizes, _levels(changes, len(snr)), strict=True):
        outside = torch.ones_like(spectrum, dtype=torch.bool)
        outside[:height, :width] = False
        lost[steps] = _at_least(spectrum[outside], 1 / snr[steps].double())
    return lost / spectrum.numel()


def area(sizes: Sequence[Size], changes: Sequence[int], timesteps: int) -> Tensor:
    """Share of the pixels that a resolution schedule has at t, for t = 1..T.

    Args:
        sizes: Height and width of every level, highest resolution first.
        changes: First t of every level but the highest.
        timesteps: Number of timesteps, T.

    Returns:
        Shape (T,), float64, in (0, 1], never growing.
    """
    shares = torch.empty(timesteps, dtype=torch.float64)
    for share, steps in zip(_areas(sizes), _levels(changes, timesteps), strict=True):
        shares[steps] = share
    return shares


def closest_area(share: Tensor, sizes: Sequence[Size]) -> Tensor:
    """At every t, the level whose share of the pixels is closest to ``share``. No schedule of these levels comes closer.

    Args:
        share: Share of the information at every t, shape (T,).
        sizes: Height and width of every level.

    Returns:
        That level's share of the pixels, shape (T,), float64.
    """
    areas = _areas(sizes)
    return areas[(share[:, None] - areas).abs().argmin(dim=1)]


def equal_information_side(share: Tensor, size: Size) -> Tensor:
    """r*(t): the side of the square that has the given share of a picture's pixels.

    Args:
        share: Share of signal-dominated pixels or modes, any shape.
        size: Height and width of the picture.

    Returns:
        The side in pixels, in the shape of ``share``.
    """
    return (share * math.prod(size)).sqrt()


def distance(first: Tensor, second: Tensor) -> float:
    """Mean over t of the absolute difference of two shares of shape (T,). 0 is the same curve, and 1 is the largest."""
    return float((first - second).abs().mean())


def _areas(sizes: Sequence[Size]) -> Tensor:
    pixels = torch.tensor([math.prod(size) for size in sizes], dtype=torch.float64)
    return pixels / pixels[0]


def _levels(changes: Sequence[int], timesteps: int) -> list[slice]:
    """The slice of a tensor over t = 1..T that each level takes."""
    bounds = [1, *changes, timesteps + 1]
    return [slice(first - 1, after - 1) for first, after in pairwise(bounds)]


def _at_least(values: Tensor, bounds: Tensor) -> Tensor:
    """For each bound, the number of values that are at least as large."""
    ordered = values.double().flatten().sort().values
    return (len(ordered) - torch.searchsorted(ordered, bounds.contiguous())).double()


def _check(spectrum: Tensor) -> None:
    if spectrum.ndim != 2 or not spectrum.isfinite().all() or (spectrum < 0).any():
        raise ValueError(
            f"a spectrum of shape {tuple(spectrum.shape)} with values from {float(spectrum.min()):g} to "
            f"{float(spectrum.max()):g} is not one of pictures; give mean squares of shape (H, W)"
        )
    if spectrum.flatten()[1:].sum() <= _ROUNDING * spectrum[0, 0]:
        raise ValueError(
            "the pictures are flat: all their power is in the constant; give pictures with something in them"
        )
