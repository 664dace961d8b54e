"""Grid points that a sampler stops at.

A network was trained to change resolution in the single step from the first grid point of a level, so of every change both
points are kept where the calls suffice for it.

Where the calls of a second-order solver should go was found in closed form (docs/results/quality.md): equally far apart in
log-SNR inside a level, but for a short first step after a change, which is one of first order; and to the levels in
proportion to the way through them.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from scalespace.diffusion.process import ScaleSpaceProcess

__all__ = ["calls_by_level", "divided_grid", "log_snr_grid", "trailing_grid", "uniform_grid"]

Grid = tuple[int, ...]


def uniform_grid(timesteps: int, steps: int, keep: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Grid points a sampler stops at: ``steps`` of them from T down to 1, equally spaced, and those to keep.

    A network was trained to change resolution only from the first grid point of a level, so the points of a change are
    to be kept besides; the number of network calls is the length of the result.

    Args:
        timesteps: Number of timesteps, T.
        steps: Number of equally spaced points, 2..T.
        keep: Further points, in 1..T.

    Returns:
        Strictly descending points, T first and 1 last; sampling goes on from 1 to 0.

    Raises:
        ValueError: If ``steps`` is not in 2..T.
    """
    if not 2 <= steps <= timesteps:
        raise ValueError(f"{steps} sampling steps; give a number from 2 to {timesteps}, the process's timesteps")
    spaced = torch.linspace(1, timesteps, steps, dtype=torch.float64).round().int().tolist()
    return tuple(sorted({*spaced, *keep}, reverse=True))


def trailing_grid(timesteps: int, steps: int, keep: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Grid points a sampler stops at: ``steps`` of them from T down, all steps of them equally long, and those to keep.

    In ``uniform_grid`` the last step, from 1 to 0, is that of the training, and all others are longer. diffusers calls these
    spacings "trailing" and "linspace".

    Args:
        timesteps: Number of timesteps, T.
        steps: Number of equal steps, 1..T.
        keep: Further points, in 1..T, as in ``uniform_grid``.

    Returns:
        Strictly descending points, T first; sampling goes on from the last one to 0.

    Raises:
        ValueError: If ``steps`` is not in 1..T.
    """
    if not 1 <= steps <= timesteps:
        raise ValueError(f"{steps} sampling steps; give a number from 1 to {timesteps}, the process's timesteps")
    spaced = [round(timesteps * left / steps) for left in range(1, steps + 1)]
    return tuple(sorted({*spaced, *keep}, reverse=True))


def log_snr_grid(process: ScaleSpaceProcess, calls: int, first: float = 0.4, tilt: float = 0.03) -> Grid:
    """Points of every level equally spaced in log-SNR, but for a shorter first step after a change.

    Points go where steps are longest, so levels get calls in proportion to the way through them. Where the calls do not
    suffice for both points of every change, the first point of the lower level is the one kept.

    Args:
        process: The process, of which the noise and the levels are used.
        calls: Number of network calls, the length of the result: from levels + 1 to T.
        first: Length of the first step after a change, as a share of the level's other steps.
        tilt: The way is the integral of SNR^tilt over log-SNR: above 0 steps get shorter towards the clean end.

    Returns:
        Strictly descending points, T first and 1 last; sampling goes on from 1 to 0.

    Raises:
        ValueError: If the calls do not suffice for the points that must be there, or are more than T.
    """
    levels = _levels(process, tilt)
    sizes = [len(way) for _, way in levels]
    lowest = len(levels) - 1
    # Sampling starts at T and has to reach the lowest level's first point; a level above it can be left where it is entered.
    counts = [min(2, size) if level == lowest else 1 for level, size in enumerate(sizes)]
    if not sum(counts) <= calls <= process.timesteps:
        raise ValueError(
            f"{calls} sampling steps; a process of {len(levels)} levels needs at least {sum(counts)} "
            f"and has at most {process.timesteps}"
        )
    ways = [float(way[0] - way[-1]) for _, way in levels]
    while sum(counts) < calls:
        steps = [_step(ways[level], counts[level], sizes[level], first, level < lowest) for level in range(len(levels))]
        counts[steps.index(max(steps))] += 1
    return divided_grid(process, tuple(counts), first, tilt)


def divided_grid(process: ScaleSpaceProcess, counts: Grid, first: float = 0.4, tilt: float = 0.03) -> Grid:
    """``log_snr_grid`` with the number of points of every level chosen by hand.

    Args:
        process: The process, of which the levels are used.
        counts: Number of points in every level, the highest resolution first; at least 1, and at most the points it has.
        first: Length of the first step after a change, as in ``log_snr_grid``.
        tilt: Exponent of the SNR, as in ``log_snr_grid``.

    Returns:
        Strictly descending points, as many as counted.
    """
    points: list[int] = []
    for level, ((start, way), count) in enumerate(zip(_levels(process, tilt), counts, strict=True)):
        # 0 at the level's last point, where it is entered, 1 at its first.
        u = torch.arange(count, dtype=torch.float64) if count > 1 else torch.ones(1, dtype=torch.float64)
        if count > 2 and level < len(counts) - 1:
            u[1:] += first - 1
        wanted = way[-1] + u.flip(0) / float(u[-1]) * (way[0] - way[-1])
        nearest = _nearest(way, wanted)
        # Towards the clean end the grid is coarse in log-SNR; what would fall onto one point takes neighbours.
        spare = torch.arange(count)
        distinct = ((nearest - spare).cummax(0).values + spare).minimum(len(way) - count + spare)
        points += (start + distinct).tolist()
    return tuple(reversed(points))


def calls_by_level(process: ScaleSpaceProcess, grid: Grid) -> Grid:
    """How many points of a grid lie in each level, the highest resolution first."""
    bounds = (1, *process.degradation.jumps, process.timesteps + 1)
    return tuple(sum(first <= t < after for t in grid) for first, after in pairwise(bounds))


def _nearest(falling: Tensor, wanted: Tensor) -> Tensor:
    # Of every wanted value the index of the nearest one; all of them against all would fill the memory.
    after = torch.searchsorted(-falling, -wanted).clamp_max(len(falling) - 1)
    before = (after - 1).clamp_min(0)
    return torch.where((falling[before] - wanted).abs() <= (falling[after] - wanted).abs(), before, after)


def _step(way: float, count: int, size: int, first: float, after_change: bool) -> float:
    # Length of the steps of a level; what cannot take another point is never the longest, what has but one comes first.
    if count == size:
        return -1.0
    if count == 1:
        return float("inf")
    return way / (count - 2 + (first if after_change else 1.0))


def _levels(process: ScaleSpaceProcess, tilt: float) -> list[tuple[int, Tensor]]:
    # First point of every level, and the way left from each of its points to the clean end, which falls with t.
    table = process.noise.log_snr_table
    steps = -table[1:].diff() * (tilt * table[1:-1]).exp()
    way = torch.cat([steps.new_zeros(2), -steps.cumsum(0)])
    bounds = (1, *process.degradation.jumps, process.timesteps + 1)
    return [(start, way[start:after]) for start, after in pairwise(bounds)]
