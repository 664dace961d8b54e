"""Where a sampler should stop: grids to compare in closed form, and searches for better ones."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.solvers import uniform_grid

__all__ = [
    "best_division",
    "best_points",
    "calls_by_level",
    "divided_grid",
    "kept_points",
    "level_grid",
    "uniform_calls",
]

Grid = tuple[int, ...]
Error = Callable[[Grid], float]


def kept_points(process: ScaleSpaceProcess) -> set[int]:
    """T, 1 and both points of every change."""
    changes = process.degradation.change_points
    return {process.timesteps, 1, *changes, *(t - 1 for t in changes)}


def uniform_calls(process: ScaleSpaceProcess, calls: int) -> Grid:
    """Points equally spaced in t and both points of every change, at most ``calls`` of them in all."""
    kept = tuple(kept_points(process))
    grids = (uniform_grid(process.timesteps, steps, kept) for steps in range(2, calls + 1))
    return max((grid for grid in grids if len(grid) <= calls), key=len)


def level_grid(process: ScaleSpaceProcess, calls: int, first: float = 0.4, tilt: float = 0.03) -> Grid:
    """Points of every level equally spaced, but for a shorter first step after a change; both points of every change.

    A second-order solver starts every level anew, with a step of first order, which therefore has to be short. Points go
    where steps are longest, so levels get calls in proportion to the way through them.

    Args:
        process: Its noise and its levels.
        calls: Number of network calls, the length of the result up to the rounding of points onto each other.
        first: Length of the first step after a change, as a share of the level's other steps.
        tilt: The way is the integral of SNR^tilt over log-SNR: above 0 steps get shorter towards the clean end.

    Returns:
        Strictly descending points, T first and 1 last; sampling goes on from 1 to 0.

    Raises:
        ValueError: If the calls do not suffice for the points that must be there, or are more than T.
    """
    if not len(kept_points(process)) <= calls <= process.timesteps:
        raise ValueError(
            f"{calls} network calls; this process needs at least {len(kept_points(process))} "
            f"and has at most {process.timesteps}"
        )
    ways = [float(way[0] - way[-1]) for _, way in _levels(process, tilt)]
    counts = [min(2, len(way)) for _, way in _levels(process, tilt)]
    lowest = len(ways) - 1
    while sum(counts) < calls:
        steps = [
            way / (count - 2 + (1 if level == lowest else first)) if count > 1 else 0.0
            for level, (way, count) in enumerate(zip(ways, counts, strict=True))
        ]
        counts[steps.index(max(steps))] += 1
    return divided_grid(process, tuple(counts), first, tilt)


def divided_grid(process: ScaleSpaceProcess, counts: Grid, first: float = 0.4, tilt: float = 0.03) -> Grid:
    """``level_grid`` with the number of points of every level chosen by hand.

    Args:
        process: Its levels.
        counts: For every level, the highest resolution first; at least 2, or 1 where it has one point.
        first: As in ``level_grid``.
        tilt: As in ``level_grid``.

    Returns:
        Strictly descending points; where two fall onto each other there are fewer than counted.
    """
    points: set[int] = set()
    for level, ((start, way), count) in enumerate(zip(_levels(process, tilt), counts, strict=True)):
        u = torch.arange(count, dtype=torch.float64)
        if count > 2 and level < len(counts) - 1:
            u[1:] += first - 1
        wanted = way[-1] + u / max(1.0, float(u[-1])) * (way[0] - way[-1])
        points.update((start + (way[None] - wanted[:, None]).abs().argmin(1)).tolist())
    return tuple(sorted(points, reverse=True))


def calls_by_level(process: ScaleSpaceProcess, grid: Grid) -> Grid:
    """How many points of a grid lie in each level, the highest resolution first."""
    bounds = (1, *process.degradation.change_points, process.timesteps + 1)
    return tuple(sum(first <= t < after for t in grid) for first, after in pairwise(bounds))


def _levels(process: ScaleSpaceProcess, tilt: float) -> list[tuple[int, Tensor]]:
    # First point of every level, and the way left from each of its points to the clean end, which falls with t.
    table = process.noise.log_snr_table
    steps = -table[1:].diff() * (tilt * table[1:-1]).exp()
    way = torch.cat([steps.new_zeros(2), -steps.cumsum(0)])
    bounds = (1, *process.degradation.change_points, process.timesteps + 1)
    return [(first, way[first:after]) for first, after in pairwise(bounds)]


def best_division(process: ScaleSpaceProcess, counts: Grid, error: Error) -> Grid:
    """The ``divided_grid`` from whose counts moving one point to another level brings nothing."""
    best, least = counts, error(divided_grid(process, counts))
    while True:
        moves = []
        for giver in range(len(best)):
            for taker in range(len(best)):
                if giver != taker and best[giver] > 2:
                    moved = list(best)
                    moved[giver] -= 1
                    moved[taker] += 1
                    moves.append(tuple(moved))
        found, moved = min(((error(divided_grid(process, move)), move) for move in moves), default=(least, best))
        if found >= least:
            return divided_grid(process, best)
        best, least = moved, found


def best_points(process: ScaleSpaceProcess, grid: Grid, error: Error, rounds: int) -> Grid:
    """A grid from which moving one point a little brings nothing, or as far as ``rounds`` of trying every point go."""
    kept, best, least = kept_points(process), list(grid), error(grid)
    strides = [32] * len(best)
    for _ in range(rounds):
        for index in range(1, len(best) - 1):
            if best[index] in kept:
                continue
            before = least
            for stride in (strides[index], -strides[index]):
                moved = best[index] + stride
                if best[index + 1] < moved < best[index - 1]:
                    trial = [*best[:index], moved, *best[index + 1 :]]
                    found = error(tuple(trial))
                    if found < least:
                        best, least = trial, found
                        break
            if least == before:
                strides[index] = max(1, strides[index] // 2)
    return tuple(best)
