"""Sliced Wasserstein distance of two sets of pictures: how alike their details are at every scale.

Random 7 x 7 patches of the bands of a Laplacian pyramid (``patches``) are normalised over each set, so that neither colour nor
contrast counts here, but what the patches look like. The distance of a band is the mean over random unit vectors v of the
Wasserstein distance of the projected patches, times 1000:

    1000 mean_v W_1(<v, patches of one>, <v, patches of the other>) = 1000 mean_v integral |F_v - G_v|,

F_v and G_v being the distribution functions of the projections. A side is reduced to these, as histograms along every v, before
it meets the other side, so that a reference is projected only once. The integral is the trapezoidal sum over the edges of the
bins, where F_v and G_v are exact.

A patch at p adds int_p^inf sign(F - G) to its own side's F, and less what it moves by changing the mean and the variance of the
channels. For its interval the distance without a group of pictures is what the others add.

Sources: Karras et al. 2018, Progressive growing of GANs (with 128 patches of each of 16,384 pictures, and 512 directions);
Rabin et al. 2011, Wasserstein barycenter and its application to texture mixing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from scalespace.metrics.patches import DIRECTIONS, PATCHES, PICTURES, WIDE_BINS, Projections, bin_edges, project
from scalespace.metrics.picture_distances import check_sizes
from scalespace.metrics.resampling import Measurement, both_sides, interval

__all__ = ["histogram_distances", "patches_of_pictures", "sliced_wasserstein", "sliced_wasserstein_bands"]

_ENOUGH = 8  # times the patches of the other side


def sliced_wasserstein_bands(
    first: Tensor,
    second: Tensor,
    patches: int | None = None,
    directions: int = DIRECTIONS,
    intervals: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Measurement]:
    """Sliced Wasserstein distance of every band of the Laplacian pyramid, times 1000.

    Args:
        first: Pictures, uint8 of shape (N, C, H, W). Of more than 16,384 so many are taken at random.
        second: Pictures, uint8 of shape (M, C, H, W).
        patches: Number of patches of every picture and band; None takes ``patches_of_pictures``.
        directions: Number of directions in every band.
        intervals: Whether to compute the intervals.
        seed: Seed of patches and directions, and of the groups that are left out for the intervals.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The distances by the size of the band, such as "64x64", finest first, and at last their mean, "mean".

    Raises:
        ValueError: If the pictures of the sides differ in size, or are smaller than 7 pixels.
    """
    check_sizes(first, second)
    counts = (min(len(first), PICTURES), min(len(second), PICTURES))
    each = patches_of_pictures(counts) if patches is None else (patches, patches)
    sides = [project(p, side, each[side], directions, seed, progress) for side, p in enumerate((first, second))]
    return sliced_wasserstein(sides[0], sides[1], counts, intervals, seed)


def patches_of_pictures(counts: tuple[int, int]) -> tuple[int, int]:
    """Number of patches of each picture of either side: 128, and fewer where a side has many more pictures than the other.

    What chance adds to a distance of n and m independent patches is in proportion to (1/n + 1/m)^(1/2). So a side that has 8
    times as many patches as the other adds 6 % to it, and taking more of it takes time and gains nothing.

    Args:
        counts: Number of pictures of either side, at most ``PICTURES``.
    """

    def of(own: int, other: int) -> int:
        enough = min(PATCHES, max(1, _ENOUGH * PATCHES * other / own))
        # Powers of two, so that comparisons with sides of nearly as many pictures take the same patches.
        return 2 ** math.ceil(math.log2(enough))

    return of(*counts), of(counts[1], counts[0])


def sliced_wasserstein(
    first: Mapping[str, Projections],
    second: Mapping[str, Projections],
    counts: tuple[int, int],
    intervals: bool = True,
    seed: int = 0,
) -> dict[str, Measurement]:
    """Sliced Wasserstein distance of projected sides in every band, times 1000.

    Args:
        first: Bands of side 0, from ``project``.
        second: Bands of side 1, from ``project`` with the same seed.
        counts: Number of pictures that patches were taken of, on either side.
        intervals: Whether to compute the intervals.
        seed: The same seed, also of the groups that are left out for the intervals.

    Returns:
        The distances by the size of the band, such as "64x64", finest first, and at last their mean, "mean".
    """
    groups = both_sides(counts, intervals, seed)
    values: list[float] = []
    without: list[Tensor] = []
    for band, one in first.items():
        sides, both = (one, second[band]), (second[band], one)
        values.append(1e3 * float(histogram_distances(one.histograms, second[band].histograms).mean()))
        added = [_group_influences(*pair) for pair in zip(sides, both, counts, strict=True)]
        left = [1e3 * g.kept_means(a) for g, a in zip(groups, added, strict=True)]
        without.append(torch.stack(left).sum(0))
    values.append(sum(values) / len(values))
    without.append(torch.stack(without).mean(0))
    names = [*first, "mean"]
    return {name: interval(value, w, least=0.0) for name, value, w in zip(names, values, without, strict=True)}


def histogram_distances(first: Tensor, second: Tensor) -> Tensor:
    """W_1 of projections along every direction, from histograms of shape (D, 1024), to (D,), float64."""
    return (_distribution(first) - _distribution(second)).abs() @ _LENGTHS


def _lengths(edges: Tensor) -> Tensor:
    """What the trapezoidal sum takes an edge for, shape (1023,)."""
    gaps = edges.diff()
    return (torch.cat([gaps[:1], gaps]) + torch.cat([gaps, gaps[-1:]])) / 2


_LENGTHS = _lengths(bin_edges())


def _distribution(histograms: Tensor) -> Tensor:
    """The distribution function at the inner edges along every direction, shape (D, 1023), float64."""
    below = histograms.cumsum(1).double()
    return below[:, :-1] / below[:, -1:]


def _group_influences(own: Projections, other: Projections, count: int) -> Tensor:
    """Sum over the pictures of every group of what they add to the distance, up to a constant for each, (G,), float64."""
    slope = (_distribution(other.histograms) - _distribution(own.histograms)).sign()
    potential = torch.nn.functional.pad((slope * _LENGTHS).cumsum(1), (1, 0))
    slope = torch.nn.functional.pad(slope, (1, 0))
    weights = own.histograms.double().unflatten(1, (WIDE_BINS, -1))
    # Means over the patches of a wide bin, so that all groups together have what the narrow bins say.
    potential, slope = (
        (weights * values.unflatten(1, (WIDE_BINS, -1))).sum(2) / weights.sum(2).clamp_min(1)
        for values in (potential, slope)
    )
    shares = weights.sum(2) / weights.sum((1, 2))[:, None]
    by_mean = torch.einsum("dk,dk,dc->c", slope, shares, own.directions.sum(2).double())
    by_scale = torch.einsum("dk,dck->c", slope, own.channel_parts.double())
    patches = own.histograms[0].sum() / count
    added = torch.einsum("dgk,dk->g", own.group_histograms.double(), potential) / patches
    return (added - own.moments[:, 0] @ by_mean - own.moments[:, 1] @ by_scale / 2) / len(slope)
