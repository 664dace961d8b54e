"""Where a sampler should stop: grids to compare in closed form, and searches for better ones."""

from __future__ import annotations

from collections.abc import Callable

import torch

from scalespace.diffusion.grids import divided_grid, uniform_grid
from scalespace.diffusion.process import ScaleSpaceProcess

__all__ = [
    "best_division",
    "best_points",
    "even_grid",
    "kept_points",
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


def even_grid(process: ScaleSpaceProcess, calls: int) -> Grid:
    """Equal steps of log-SNR over all levels alike, and the points of every change besides.

    Log-SNR jumps at a change, in a step that is taken anyhow, so the jumps do not count. Both points of every change are
    kept where the calls suffice for that, and otherwise the first low-resolution point alone.

    Args:
        process: The process, of which noise and changes are used.
        calls: Largest number of network calls, which is the length of the result; it is reached up to the rounding of
            close points onto each other. From levels + 1 to T.

    Returns:
        Strictly descending points, T first and 1 last; sampling goes on from 1 to 0.

    Raises:
        ValueError: If the calls do not suffice for the points that must be there, or are more than T.
    """
    T, changes = process.timesteps, process.degradation.change_points
    best = {T, 1, *changes}
    if not max(len(best), len(changes) + 2) <= calls <= T:
        raise ValueError(
            f"{calls} sampling steps; a process of {len(changes) + 1} levels needs at least {len(changes) + 2} "
            f"and has at most {T}"
        )
    both = best.union(t - 1 for t in changes)
    if len(both) <= calls:
        best = both
    travelled = process.noise.log_snr_table[1:].diff().abs()
    travelled[[t - 2 for t in changes]] = 0
    position = torch.cat([travelled.new_zeros(1), travelled.cumsum(0)])
    kept = best
    for count in range(2, calls + 1):
        wanted = torch.linspace(0, float(position[-1]), count, dtype=torch.float64)
        nearest = (torch.searchsorted(position, wanted).clamp_max(T - 1) + 1).tolist()
        points = kept.union(nearest)
        if len(points) > calls:
            break
        best = points
    return tuple(sorted(best, reverse=True))


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
