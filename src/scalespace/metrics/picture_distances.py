"""Distances of two sets of pictures that need no network, each of one thing that pictures can be wrong in.

Power spectrum (sharpness and noise): with P(k) the mean square of the orthonormal DCT-II coefficients of radial frequency k,
over pictures and channels, the root mean square over k > 0 of the difference in decibels,

    10 log10((P_1(k) + 1/12) / (P_2(k) + 1/12)),

where 1/12 is the power that rounding to 8 bits adds at every frequency: what lies below it cannot be seen.

Colours: Wasserstein distances W_1, in levels of 0..255, of the channels' values, of a pixel's saturation (largest less
smallest channel), and of a picture's brightness and contrast (mean and standard deviation of all its values).

Sources: Field 1987, Relations between the statistics of natural images and the response properties of cortical cells
(spectra); Rubner et al. 2000, The earth mover's distance as a metric for image retrieval (colours).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scalespace.metrics.resampling import Groups, Measurement, both_sides, interval
from scalespace.operators.dct import dct_matrix
from scalespace.reports.progress import progress_bar

__all__ = [
    "ColourDistances",
    "brightness_and_contrast",
    "check_sizes",
    "colour_distances",
    "colour_distances_of",
    "colour_histograms",
    "radial_power",
    "spectrum_distance",
    "spectrum_distance_of",
]

_BATCH = 256
_ROUNDING_POWER = 1 / 12


@dataclass(frozen=True)
class ColourDistances:
    """Wasserstein distances in levels of 0..255."""

    channels: Measurement
    """Mean of the distances of the values of red, of green and of blue."""
    saturation: Measurement
    brightness: Measurement
    contrast: Measurement


def spectrum_distance(first: Tensor, second: Tensor, intervals: bool = True, seed: int = 0) -> Measurement:
    """Distance of the radial power spectra in decibels.

    Args:
        first: Pictures, uint8 of shape (N, C, H, W).
        second: Pictures, uint8 of shape (M, C, H, W).
        intervals: Whether to compute the interval.
        seed: Seed of the groups that are left out for the interval.

    Raises:
        ValueError: If the pictures of the sides differ in size.
    """
    check_sizes(first, second)
    groups = both_sides((len(first), len(second)), intervals, seed)
    return spectrum_distance_of(radial_power(first, groups[0]), radial_power(second, groups[1]), groups)


def spectrum_distance_of(first: Tensor, second: Tensor, groups: tuple[Groups, Groups]) -> Measurement:
    """Distance of the radial power spectra in decibels, from ``radial_power`` of either side."""

    def distance(a: Tensor, b: Tensor) -> Tensor:
        decibels = 10 * torch.log10((a + _ROUNDING_POWER) / (b + _ROUNDING_POWER))
        return decibels[..., 1:].square().mean(-1).sqrt()

    means = [power.sum(0) / len(g.group) for g, power in zip(groups, (first, second), strict=True)]
    without = [g.kept_means(power) for g, power in zip(groups, (first, second), strict=True)]
    return interval(float(distance(*means)), distance(*without), least=0.0)


def colour_distances(first: Tensor, second: Tensor, intervals: bool = True, seed: int = 0) -> ColourDistances:
    """Distances of the distributions of colours.

    Args:
        first: Pictures, uint8 of shape (N, 3, H, W).
        second: Pictures, uint8 of shape (M, 3, H, W). The sizes may differ.
        intervals: Whether to compute the intervals.
        seed: Seed of the groups that are left out for the intervals.
    """
    groups = both_sides((len(first), len(second)), intervals, seed)
    histograms = (colour_histograms(first, groups[0]), colour_histograms(second, groups[1]))
    return colour_distances_of(histograms, (brightness_and_contrast(first), brightness_and_contrast(second)), groups)


def colour_distances_of(
    histograms: tuple[Tensor, Tensor], pictures: tuple[Tensor, Tensor], groups: tuple[Groups, Groups]
) -> ColourDistances:
    """Distances of colours, from ``colour_histograms`` and ``brightness_and_contrast`` of either side."""
    # All pictures, and then those without each of the groups.
    kept = [torch.cat([torch.ones_like(side.counts)[None], side.kept]) for side in groups]

    def of_pixels(*rows: int) -> Measurement:
        pairs = [[weights @ side[row].double() for weights, side in zip(kept, histograms, strict=True)] for row in rows]
        found = torch.stack([_histogram_distance(*pair) for pair in pairs]).mean(0)
        return interval(float(found[0]), found[1:], least=0.0)

    def of_pictures(row: int) -> Measurement:
        places, order = torch.cat([side[row] for side in pictures]).sort()
        lengths = places.diff()
        found = []
        for first, second in zip(*kept, strict=True):
            a, b = (weights[side.group] for weights, side in zip((first, second), groups, strict=True))
            steps = torch.cat([a / a.sum(), -b / b.sum()])[order]
            found.append(steps.cumsum(0)[:-1].abs() @ lengths)
        return interval(float(found[0]), torch.stack(found)[1:], least=0.0)

    return ColourDistances(of_pixels(0, 1, 2), of_pixels(3), of_pictures(0), of_pictures(1))


def radial_power(pictures: Tensor, groups: Groups, progress: bool = False) -> Tensor:
    """Mean square DCT coefficient of each radial frequency, summed over the pictures of every group.

    Args:
        pictures: uint8, shape (N, C, H, W).
        groups: The groups of the pictures.
        progress: Whether work of more than two seconds shows a progress bar on stderr.

    Returns:
        Shape (G, K), float64. Frequency 0 is the mean alone.
    """
    height, width = pictures.shape[-2:]
    rows, columns = dct_matrix(height).float(), dct_matrix(width).float()
    shorter = min(height, width)
    radius = torch.hypot(*torch.meshgrid(*(torch.arange(n) * shorter / n for n in (height, width)), indexing="ij"))
    shell = radius.round().long().flatten()
    # Only the mean itself is frequency 0, also where one side is much longer and has frequencies below 1/2.
    shell[1:].clamp_min_(1)
    members = torch.nn.functional.one_hot(shell).float()
    members /= members.sum(0)
    total = torch.zeros(groups.number, members.shape[1], dtype=torch.float64)
    with progress_bar(len(pictures), "spectra", "pictures", progress) as bar:
        for part, group in zip(pictures.split(_BATCH), groups.group.split(_BATCH), strict=True):
            values = part.float()
            # The mean is by far the largest coefficient, and its rounding would show in all others of large pictures.
            means = values.mean((2, 3), keepdim=True, dtype=torch.float64).float()
            power = (rows @ (values - means) @ columns.mT).square()
            power[..., 0, 0] = means[..., 0, 0].square() * (height * width)
            total.index_add_(0, group, (power.mean(1).flatten(1) @ members).double())
            bar.update(len(part))
    return total


def colour_histograms(pictures: Tensor, groups: Groups, progress: bool = False) -> Tensor:
    """Histograms of the levels 0..255 in every group of pictures.

    Args:
        pictures: uint8, shape (N, 3, H, W).
        groups: The groups of the pictures.
        progress: Whether work of more than two seconds shows a progress bar on stderr.

    Returns:
        Shape (4, G, 256), int64: red, green, blue and saturation of pixels.
    """
    found = torch.zeros(4, groups.number, 256, dtype=torch.int64)
    parts = [(g, part) for g in range(groups.number) for part in (groups.group == g).nonzero().flatten().split(_BATCH)]
    with progress_bar(len(pictures), "colours", "pictures", progress) as bar:
        for group, numbers in parts:
            part = pictures[numbers]
            for row, levels in enumerate((*part.unbind(1), part.amax(1) - part.amin(1))):
                found[row, group] += torch.bincount(levels.flatten(), minlength=256)
            bar.update(len(part))
    return found


def brightness_and_contrast(pictures: Tensor) -> Tensor:
    """Mean and standard deviation of all values of every picture, in levels of 0..255, unrounded.

    Args:
        pictures: uint8, shape (N, C, H, W).

    Returns:
        Shape (2, N), float64.
    """
    found = torch.empty(2, len(pictures), dtype=torch.float64)
    for part, into in zip(pictures.split(_BATCH), found.split(_BATCH, dim=1), strict=True):
        into[1], into[0] = torch.std_mean(part.flatten(1).double(), 1)
    return found


def check_sizes(first: Tensor, second: Tensor) -> None:
    """Refuse sets of pictures of different sizes or channels.

    Raises:
        ValueError: If they differ.
    """
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(
            "pictures of {}x{} and of {}x{} pixels; give both sides one size".format(
                *first.shape[-2:], *second.shape[-2:]
            )
        )


def _histogram_distance(first: Tensor, second: Tensor) -> Tensor:
    """W_1 of histograms, shape (R, bins) to (R,), in widths of a bin: the area between the distribution functions."""
    a, b = (h.cumsum(-1) / h.sum(-1, keepdim=True) for h in (first, second))
    return (a - b).abs().sum(-1)
