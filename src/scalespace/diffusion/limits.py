"""Limits of a process: what lies above them is a slip of the pen, and would take hours before it failed.

Everything about a process is exact and made beforehand: a table over all timesteps, and for every level two dense matrices with
their singular values. What lies below the limits is made in seconds.
"""

from __future__ import annotations

from scalespace.operators.linear import Size

__all__ = ["LARGEST_SIDE", "MOST_TIMESTEPS", "check_sides", "check_timesteps"]

MOST_TIMESTEPS = 100_000
"""Most grid points T; the paper has 1000."""

LARGEST_SIDE = 4096
"""Largest height or width of a picture, in pixels."""


def check_timesteps(timesteps: int) -> None:
    """Refuse what is no number of timesteps.

    Raises:
        ValueError: If it is not in 1..MOST_TIMESTEPS.
    """
    if timesteps < 1:
        raise ValueError(f"a process of {timesteps} timesteps has no noise in it; give at least 1 (the paper has 1000)")
    if timesteps > MOST_TIMESTEPS:
        raise ValueError(
            f"a process of {timesteps} timesteps is out of proportion; give at most {MOST_TIMESTEPS} (the paper has 1000)"
        )


def check_sides(size: Size) -> None:
    """Refuse pictures with a side that is too large.

    Raises:
        ValueError: If a side has more than LARGEST_SIDE pixels.
    """
    if max(size) > LARGEST_SIDE:
        raise ValueError(
            f"pictures of {size[0]}x{size[1]} pixels are too large; give at most {LARGEST_SIDE} pixels a side, since the maps "
            "between the resolutions are dense matrices"
        )
