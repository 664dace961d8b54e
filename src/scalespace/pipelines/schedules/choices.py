"""What the scheduler's options can be called."""

from __future__ import annotations

from collections.abc import Callable

from scalespace.diffusion.bridges import Isotropic, UpsampledPrediction, UpsampledState
from scalespace.diffusion.grids import log_snr_grid, trailing_grid, uniform_grid
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.solvers import Solver

__all__ = ["BRIDGES", "SPACINGS"]

BRIDGES: dict[str, Callable[[ScaleSpaceProcess, Solver], Solver]] = {
    "exact": lambda process, solver: solver,
    "isotropic": Isotropic,
    "upsampled-prediction": UpsampledPrediction,
    "upsampled-state": UpsampledState,
}
"""How a step raises the resolution: of a process and a solver the solver to take."""

SPACINGS: dict[str, Callable[..., tuple[int, ...]]] = {
    "linspace": uniform_grid,
    "trailing": trailing_grid,
    "log_snr": log_snr_grid,
}
"""Which grid points sampling stops at."""
