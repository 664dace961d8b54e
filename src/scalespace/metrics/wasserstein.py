"""Wasserstein distance W_1 of numbers: the area between two distribution functions, or between two quantile functions.

    W_1 = integral |F(x) - G(x)| dx = integral_0^1 |F^-1(u) - G^-1(u)| du.

The second form is exact for samples, sorted; the first is quick for histograms of groups, of which any can be added up.

Source: Villani 2003, Topics in optimal transportation, section 2.2.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

__all__ = ["group_histograms", "histogram_distance", "wasserstein"]


def wasserstein(x: Tensor, y: Tensor) -> float:
    """W_1 of two samples, shapes (N,) and (M,), on the CPU."""
    x_places, y_places, lengths = _common_pieces(len(x), len(y))
    # NumPy sorts in half of torch's time.
    ordered_x, ordered_y = (torch.from_numpy(np.sort(values.numpy())) for values in (x, y))
    return float((ordered_x[x_places] - ordered_y[y_places]).abs().double() @ lengths)


def group_histograms(bins: Tensor, group: Tensor, groups: int, number: int) -> Tensor:
    """Histograms of the values of every group.

    Args:
        bins: Bin of every value, shape (N,), int64 in 0..number-1.
        group: Group of every value, shape (N,), int64 in 0..groups-1.
        groups: G.
        number: Of bins.

    Returns:
        Shape (G, number), float64.
    """
    return torch.bincount(group * number + bins, minlength=groups * number).reshape(groups, number).double()


def histogram_distance(first: Tensor, second: Tensor) -> Tensor:
    """W_1 of histograms, shape (R, bins) to (R,), in widths of a bin."""
    a, b = (h.cumsum(-1) / h.sum(-1, keepdim=True) for h in (first, second))
    return (a - b).abs().sum(-1)


@lru_cache(maxsize=1)
def _common_pieces(first: int, second: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pieces of (0, 1) on which neither quantile function jumps: the place in either sorted sample, and the length."""
    if first == second:
        places = torch.arange(first)
        return places, places, torch.full((first,), 1 / first, dtype=torch.float64)
    # In units of 1 / (first second) all ends are whole numbers.
    ends = torch.cat([torch.arange(1, first + 1) * second, torch.arange(1, second + 1) * first]).unique()
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    return starts // second, starts // first, (ends - starts).double() / (first * second)
