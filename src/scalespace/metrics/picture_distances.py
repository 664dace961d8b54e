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

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scalespace.metrics.resampling import Measurement, Resampling, interval
from scalespace.metrics.wasserstein import group_histograms, histogram_distance
from scalespace.operators.dct import dct_matrix

__all__ = ["ColourDistances", "check_sizes", "colour_distances", "spectrum_distance"]

_BATCH = 256
_ROUNDING_POWER = 1 / 12


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
        resamples: Of the interval.
        seed: Of the resamples.

    Raises:
        ValueError: If the pictures of the sides differ in size.
    """
    check_sizes(first, second)
    generator = torch.Generator().manual_seed(seed)
    power = [_radial_power(side) for side in (first, second)]
    drawn = [Resampling.of(len(side), resamples, generator).means(side) for side in power]

    def distance(a: Tensor, b: Tensor) -> Tensor:
        decibels = 10 * torch.log10((a + _ROUNDING_POWER) / (b + _ROUNDING_POWER))
        return decibels[..., 1:].square().mean(-1).sqrt()

    return interval(float(distance(*(side.mean(0) for side in power))), distance(*drawn), least=0.0)


def colour_distances(first: Tensor, second: Tensor, resamples: int = 100, seed: int = 0) -> ColourDistances:
    """Distances of the distributions of colours.

    Args:
        first: Pictures, uint8 of shape (N, 3, H, W).
        second: Pictures, uint8 of shape (M, 3, H, W); the sizes may differ.
        resamples: Of the intervals.
        seed: Of the resamples.
    """
    generator = torch.Generator().manual_seed(seed)
    groups = [Resampling.of(len(side), resamples, generator) for side in (first, second)]
    counted = [_colour_histograms(side, g) for side, g in zip((first, second), groups, strict=True)]

    def distance(names: tuple[str, ...]) -> Measurement:
        pairs = [tuple(histograms[name] for histograms in counted) for name in names]
        value = sum(float(histogram_distance(*(h.sum(0, keepdim=True) for h in pair))) for pair in pairs)
        drawn = [histogram_distance(*(g.weights @ h for g, h in zip(groups, pair, strict=True))) for pair in pairs]
        return interval(value / len(names), torch.stack(drawn).mean(0), least=0.0)

    return ColourDistances(
        distance(("red", "green", "blue")),
        distance(("saturation",)),
        distance(("brightness",)),
        distance(("contrast",)),
    )


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


def _radial_power(pictures: Tensor) -> Tensor:
    """Mean square DCT coefficient of each radial frequency, shape (N, K), float64; frequency 0 is the mean alone."""
    height, width = pictures.shape[-2:]
    rows, columns = dct_matrix(height).float(), dct_matrix(width).float()
    shorter = min(height, width)
    radius = torch.hypot(*torch.meshgrid(*(torch.arange(n) * shorter / n for n in (height, width)), indexing="ij"))
    shell = radius.round().long().flatten()
    # Only the mean itself is frequency 0, also where one side is much longer and has frequencies below 1/2.
    shell[1:].clamp_min_(1)
    members = torch.nn.functional.one_hot(shell).float()
    members /= members.sum(0)
    parts = [
        (rows @ part.float() @ columns.mT).square().mean(1).flatten(1) @ members for part in pictures.split(_BATCH)
    ]
    return torch.cat(parts).double()


def _colour_histograms(pictures: Tensor, groups: Resampling) -> dict[str, Tensor]:
    """Histograms of every group over the levels 0..255, shape (G, 256), float64."""
    totals: dict[str, Tensor] = {}
    for names, levels, group in _levels(pictures, groups.group):
        for name, values in zip(names, levels, strict=True):
            counted = group_histograms(values, group, groups.groups, 256)
            totals[name] = totals.get(name, 0) + counted
    return totals


def _levels(pictures: Tensor, group: Tensor) -> Iterator[tuple[tuple[str, ...], list[Tensor], Tensor]]:
    for part, g in zip(pictures.split(_BATCH), group.split(_BATCH), strict=True):
        pixels = part.flatten(2).long()
        saturation = pixels.amax(1) - pixels.amin(1)
        of_pixels = [*(channel.flatten() for channel in pixels.unbind(1)), saturation.flatten()]
        yield ("red", "green", "blue", "saturation"), of_pixels, g.repeat_interleave(pixels.shape[2])
        means = pixels.double().flatten(1)
        yield ("brightness", "contrast"), [means.mean(1).round().long(), means.std(1).round().long()], g
