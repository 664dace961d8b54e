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

import sys
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from scalespace.metrics.resampling import Measurement, Resampling, interval
from scalespace.operators.dct import dct_matrix

__all__ = [
    "ColourDistances",
    "check_sizes",
    "colour_distances",
    "colour_distances_of",
    "colour_histograms",
    "radial_power",
    "spectrum_distance",
    "spectrum_distance_of",
]

Groups = tuple[Resampling, Resampling]
"""The groups of both sides."""

_BATCH = 256
_ROUNDING_POWER = 1 / 12
_BAR_DELAY = 2.0  # seconds without a bar


@dataclass(frozen=True)
class ColourDistances:
    """Wasserstein distances in levels of 0..255."""

    channels: Measurement
    """Of the values of red, green and blue; their mean."""
    saturation: Measurement
    brightness: Measurement
    contrast: Measurement


def spectrum_distance(first: Tensor, second: Tensor, resamples: int = 100, seed: int = 0) -> Measurement:
    """Distance of the radial power spectra in decibels.

    Args:
        first: Pictures, uint8 of shape (N, C, H, W).
        second: Pictures, uint8 of shape (M, C, H, W).
        resamples: Number of resamples for the interval.
        seed: Seed of the resamples.

    Raises:
        ValueError: If the pictures of the sides differ in size.
    """
    check_sizes(first, second)
    groups = _groups(first, second, resamples, seed)
    return spectrum_distance_of(radial_power(first, groups[0]), radial_power(second, groups[1]), groups)


def spectrum_distance_of(first: Tensor, second: Tensor, groups: Groups) -> Measurement:
    """The same from ``radial_power`` of either side."""

    def distance(a: Tensor, b: Tensor) -> Tensor:
        decibels = 10 * torch.log10((a + _ROUNDING_POWER) / (b + _ROUNDING_POWER))
        return decibels[..., 1:].square().mean(-1).sqrt()

    means = [power.sum(0) / len(g.group) for g, power in zip(groups, (first, second), strict=True)]
    drawn = [g.half_means(power) for g, power in zip(groups, (first, second), strict=True)]
    return interval(float(distance(*means)), distance(*drawn), least=0.0)


def colour_distances(first: Tensor, second: Tensor, resamples: int = 100, seed: int = 0) -> ColourDistances:
    """Distances of the distributions of colours.

    Args:
        first: Pictures, uint8 of shape (N, 3, H, W).
        second: Pictures, uint8 of shape (M, 3, H, W). The sizes may differ.
        resamples: Number of resamples for the intervals.
        seed: Seed of the resamples.
    """
    groups = _groups(first, second, resamples, seed)
    return colour_distances_of(colour_histograms(first, groups[0]), colour_histograms(second, groups[1]), groups)


def colour_distances_of(first: Tensor, second: Tensor, groups: Groups) -> ColourDistances:
    """The same from ``colour_histograms`` of either side."""

    def distance(*rows: int) -> Measurement:
        pairs = [(first[row].double(), second[row].double()) for row in rows]
        value = sum(float(_histogram_distance(*(h.sum(0, keepdim=True) for h in pair))) for pair in pairs)
        drawn = [_histogram_distance(*(g.weights @ h for g, h in zip(groups, pair, strict=True))) for pair in pairs]
        return interval(value / len(rows), torch.stack(drawn).mean(0), least=0.0)

    return ColourDistances(distance(0, 1, 2), distance(3), distance(4), distance(5))


def radial_power(pictures: Tensor, groups: Resampling, progress: bool = False) -> Tensor:
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
    total = torch.zeros(groups.groups, members.shape[1], dtype=torch.float64)
    with _bar("spectra", len(pictures), progress) as bar:
        for part, group in zip(pictures.split(_BATCH), groups.group.split(_BATCH), strict=True):
            power = (rows @ part.float() @ columns.mT).square().mean(1).flatten(1) @ members
            total.index_add_(0, group, power.double())
            bar.update(len(part))
    return total


def colour_histograms(pictures: Tensor, groups: Resampling, progress: bool = False) -> Tensor:
    """Histograms of the levels 0..255 in every group of pictures.

    Args:
        pictures: uint8, shape (N, 3, H, W).
        groups: The groups of the pictures.
        progress: Whether work of more than two seconds shows a progress bar on stderr.

    Returns:
        Shape (6, G, 256), int64: red, green, blue and saturation of pixels, brightness and contrast of pictures.
    """
    found = torch.zeros(6, groups.groups, 256, dtype=torch.int64)
    parts = [(g, part) for g in range(groups.groups) for part in (groups.group == g).nonzero().flatten().split(_BATCH)]
    with _bar("colours", len(pictures), progress) as bar:
        for group, numbers in parts:
            part = pictures[numbers]
            values = part.flatten(1).double()
            of_pictures = (values.mean(1).round().byte(), values.std(1).round().byte())
            for row, levels in enumerate((*part.unbind(1), part.amax(1) - part.amin(1), *of_pictures)):
                found[row, group] += torch.bincount(levels.flatten(), minlength=256)
            bar.update(len(part))
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


def _bar(description: str, total: int, progress: bool) -> tqdm:
    return tqdm(
        desc=description, total=total, unit=" pictures", delay=_BAR_DELAY, disable=not progress, file=sys.stderr
    )


def _groups(first: Tensor, second: Tensor, resamples: int, seed: int) -> Groups:
    return Resampling.of_side(len(first), resamples, seed, 0), Resampling.of_side(len(second), resamples, seed, 1)


def _histogram_distance(first: Tensor, second: Tensor) -> Tensor:
    """W_1 of histograms, shape (R, bins) to (R,), in widths of a bin: the area between the distribution functions."""
    a, b = (h.cumsum(-1) / h.sum(-1, keepdim=True) for h in (first, second))
    return (a - b).abs().sum(-1)
