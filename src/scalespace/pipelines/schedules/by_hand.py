"""Timesteps that a user has chosen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

__all__ = ["grid_of_timesteps"]


def grid_of_timesteps(timesteps: Sequence[int], count: int) -> tuple[int, ...]:
    """Grid points of timesteps as diffusers counts them.

    Args:
        timesteps: Timesteps, each in 0..count - 1, in falling order; a list, a tensor or an array.
        count: Number of timesteps of the process, T.

    Raises:
        ValueError: If there is none, one is outside of the process, or one is no smaller than that before it.
    """
    grid = tuple(int(timestep) + 1 for timestep in timesteps)
    if not grid or not all(0 < t <= count for t in grid) or any(later >= t for t, later in pairwise(grid)):
        shown = ", ".join(str(t - 1) for t in grid[:5]) + (", ..." if len(grid) > 5 else "")
        raise ValueError(
            f"timesteps are {shown or 'none'}; give numbers from {count - 1} to 0, each smaller than the one before"
        )
    return grid
