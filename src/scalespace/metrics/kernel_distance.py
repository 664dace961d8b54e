"""Kernel distance of two sets of pictures by their features (KID where the features are Inception's).

It is the unbiased squared maximum mean discrepancy of k(x, y) = (x.y / d + 1)^3,

    mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{ij} k(x_i, y_j),

which is 0 on average for sets of one distribution, and may fall below.

Source: Binkowski et al. 2018, Demystifying MMD GANs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scalespace.metrics.feature_sets import check_features, rows_at_once
from scalespace.metrics.resampling import Measurement, Resampling, interval

__all__ = ["KID", "kid"]


@dataclass(frozen=True)
class KID:
    """Kernel distances.

    Args:
        all_pairs: Over all pairs of pictures.
        subset_mean: Mean over random subsets of pictures, as the field reports it.
        subset_std: Standard deviation over the subsets.
        subsets: Number of them.
        subset_size: Pictures of each side in a subset.
    """

    all_pairs: Measurement
    subset_mean: float
    subset_std: float
    subsets: int
    subset_size: int


def kid(
    first: Tensor,
    second: Tensor,
    subsets: int = 100,
    subset_size: int = 1000,
    resamples: int = 100,
    seed: int = 0,
) -> KID:
    """Kernel distances of two sets of pictures, computed in the features' own precision and summed in float64.

    Args:
        first: Features, shape (N, d).
        second: Features, shape (M, d).
        subsets: Number of random subsets.
        subset_size: Pictures of a side in each, drawn without replacement; at most N and M are taken.
        resamples: Of the interval of the distance over all pairs.
        seed: Of subsets and resamples.

    Raises:
        ValueError: If there are fewer than two rows, one is not finite, or dimensions differ.
    """
    check_features(first, second)
    generator = torch.Generator().manual_seed(seed)
    size = min(subset_size, len(first), len(second))
    values = torch.tensor(
        [
            _mmd(*(side[torch.randperm(len(side), generator=generator)[:size]] for side in (first, second)))
            for _ in range(subsets)
        ],
        dtype=torch.float64,
    )
    sides = [Resampling.of(len(side), resamples, generator) for side in (first, second)]
    within = [_kernel_within(side, groups) for side, groups in zip((first, second), sides, strict=True)]
    across = _kernel_across(first, second, *sides)
    ones = [torch.ones(1, groups.groups, dtype=torch.float64) for groups in sides]
    value = float(_weighted_mmd(within, across, ones, sides))
    drawn = _weighted_mmd(within, across, [groups.weights for groups in sides], sides)
    spread = float(values.std(correction=0))
    return KID(interval(value, drawn), float(values.mean()), spread, subsets, size)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return torch.addmm(x.new_ones(()), x, y.mT, alpha=1 / x.shape[1]).pow_(3)


def _mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased squared MMD of as many pictures of either side."""
    count = len(x)
    within = sum(
        kernel.sum(dtype=torch.float64) - kernel.diagonal().sum(dtype=torch.float64)
        for kernel in (_kernel(x, x), _kernel(y, y))
    )
    return float(within / (count * (count - 1)) - 2 * _kernel(x, y).mean(dtype=torch.float64))


def _kernel_within(x: Tensor, groups: Resampling) -> Tensor:
    """Sums of the kernel over the pairs of different pictures of two groups, shape (G, G), float64."""
    members = groups.members(x)
    total = torch.zeros(groups.groups, groups.groups, dtype=torch.float64)
    # Each pair once: rows against themselves and all that follow.
    for rows in torch.arange(len(x)).split(rows_at_once(len(x))):
        first, after = int(rows[0]), int(rows[-1]) + 1
        kernel = _kernel(x[first:after], x[first:])
        kernel[:, : after - first].tril_(-1)
        total.index_add_(0, groups.group[rows], (kernel @ members[first:]).double().cpu())
    return total + total.mT


def _kernel_across(x: Tensor, y: Tensor, x_groups: Resampling, y_groups: Resampling) -> Tensor:
    """Sums of the kernel over the pairs of pictures of a group of x and one of y, shape (G_x, G_y), float64."""
    members = y_groups.members(y)
    total = torch.zeros(x_groups.groups, y_groups.groups, dtype=torch.float64)
    for rows in torch.arange(len(x)).split(rows_at_once(len(y))):
        kernel = _kernel(x[rows[0] : rows[-1] + 1], y)
        total.index_add_(0, x_groups.group[rows], (kernel @ members).double().cpu())
    return total


def _weighted_mmd(within: list[Tensor], across: Tensor, weights: list[Tensor], sides: list[Resampling]) -> Tensor:
    """Unbiased squared MMD of every resample, shape (R,)."""
    totals = [w @ side.counts for w, side in zip(weights, sides, strict=True)]
    first, second = (
        torch.einsum("rg,gh,rh->r", w, kernel, w) / (total * (total - 1))
        for kernel, w, total in zip(within, weights, totals, strict=True)
    )
    return first + second - 2 * torch.einsum("rg,gh,rh->r", weights[0], across, weights[1]) / (totals[0] * totals[1])
