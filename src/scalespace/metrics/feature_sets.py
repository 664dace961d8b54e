"""Sets of features, one row a picture: which are fit to be compared, and how many rows are worked on at once."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_features", "mean_of", "rows_at_once"]

_ENTRIES = 1 << 25  # of a matrix over all pairs that are held at once


def check_features(*sides: Tensor) -> None:
    """Refuse sets that cannot be compared, each of shape (N, d).

    Raises:
        ValueError: If there are fewer than two rows, one is not finite, or dimensions differ.
    """
    if len({side.shape[1] for side in sides}) > 1:
        raise ValueError(
            f"features of {' and '.join(str(side.shape[1]) for side in sides)} dimensions; take both from one extractor"
        )
    for side in sides:
        if len(side) < 2:
            raise ValueError(f"a distance of sets needs at least 2 pictures on each side, and there are {len(side)}")
        if not all(bool(part.isfinite().all()) for part in side.split(rows_at_once(side.shape[1]))):
            raise ValueError("features are not finite; the extractor or its weights are damaged")


def mean_of(features: Tensor) -> Tensor:
    """Mean of features, shape (N, d) to (d,), summed in float64 on the CPU."""
    total = torch.zeros(features.shape[1], dtype=torch.float64)
    for part in features.split(rows_at_once(features.shape[1])):
        total += part.cpu().double().sum(0)
    return total / len(features)


def rows_at_once(columns: int) -> int:
    """Rows of so many columns that are held at once."""
    return max(1, _ENTRIES // columns)
