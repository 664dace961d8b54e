"""Solvers: from x_t and a prediction of x0_s to x_s; and the grid points they stop at.

Ancestral sampling draws x_s from the posterior q(x_s | x_t, x_0) with the prediction in the place of x_0; for M the
identity it is DDPM's sampler.

Source: Mukhopadhyay et al. 2026 (arXiv 2603.08709); Ho, Jain and Abbeel 2020 (arXiv 2006.11239).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scalespace.diffusion.process import ScaleSpaceProcess

__all__ = ["Ancestral", "uniform_grid"]


@dataclass(frozen=True)
class Ancestral:
    """Draws from the posterior with the predicted clean image.

    Args:
        process: The process that the network was trained on.
    """

    process: ScaleSpaceProcess

    def step(self, x_t: Tensor, x0_s: Tensor, t: int, s: int, noise: Tensor) -> Tensor:
        """x_s from x_t.

        Args:
            x_t: State at t, shape (B, C, h, w).
            x0_s: Predicted clean image at r(s), shape (B, C, H, W).
            t: Grid point of x_t, 1..T.
            s: Grid point to go to, 0..t-1; at 0 the step returns x0_s.
            noise: White noise of the shape of x0_s.

        Returns:
            Shape (B, C, H, W).

        Raises:
            ValueError: As ``ScaleSpaceProcess.posterior``.
        """
        return self.process.posterior(x_t, x0_s, t, s).draw(noise)


def uniform_grid(timesteps: int, steps: int, keep: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Grid points a sampler stops at: ``steps`` of them from T down to 1, equally spaced, and those to keep.

    A network was trained to change resolution only from the first grid point of a level, so the points of a change are
    to be kept besides; the number of network calls is the length of the result.

    Args:
        timesteps: T.
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
