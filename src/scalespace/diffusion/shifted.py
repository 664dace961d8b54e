"""Noise tied to a degradation: the log-SNR rises at every change of resolution by what averaging gains.

    log-SNR_t = base_t + sum of -log lambda_max(M M^T) over the changes up to t - ramp_t

Source: the shift of log-SNR with resolution, Hoogeboom, Heek and Salimans 2023, simple diffusion (arXiv 2301.11093), tied here
to the transition's own bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scalespace.diffusion.degradation import Degradation
from scalespace.diffusion.noise import NoiseSchedule
from scalespace.errors import UserError

__all__ = ["Shifted"]


@dataclass(frozen=True)
class Shifted(NoiseSchedule):
    """A schedule whose log-SNR rises, at every change of resolution, by as much as the transition allows.

    A change averages noise away: the transition needs no more than SNR_t lambda_max(M M^T) <= SNR_s, so that the state at
    the lower resolution may have an SNR higher by 1 / lambda_max (4 for an octave in two dimensions). Schedules that keep
    sigma across the change throw that away, and the reverse step has to win it back in one jump. Here

        log-SNR_t = base_t + sum of -log lambda_max over the changes up to t - ramp_t,

    where the ramp, linear from the first change to T, takes the whole shift back, so that T is as noisy as in the base
    schedule. Inside a level log-SNR falls strictly, and at a change the inequality is an equality in the limit of small
    steps. Where nothing is averaged, as in blurring, the shift is zero.

    Args:
        base: Schedule to shift.
        degradation: On the same grid; tells the changes and their lambda_max.

    Raises:
        ValueError: If the grids differ; or, when the schedule is first used, if the degradation leaves nothing of the pictures.

    Source: the shift of log-SNR with resolution, Hoogeboom, Heek and Salimans 2023, simple diffusion (arXiv 2301.11093),
    tied here to the transition's own bound.
    """

    base: NoiseSchedule
    degradation: Degradation

    def __post_init__(self):
        if self.base.timesteps != self.degradation.timesteps:
            raise ValueError(
                f"the noise schedule has {self.base.timesteps} timesteps and the degradation "
                f"{self.degradation.timesteps}; give both the same"
            )

    @property
    def timesteps(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """T, the last grid point."""
        return self.base.timesteps

    @cached_property
    def log_snr_table(self) -> Tensor:
        table, changes, T = self.base.log_snr_table.clone(), self.degradation.change_points, self.timesteps
        for t in changes:
            norm = self.degradation.norm_squared(t)
            if norm == 0:
                raise UserError(
                    f"the degradation takes everything away at t = {t}, so no shift of the noise fits it; "
                    "let it keep something of the pictures"
                )
            shift = max(0.0, -math.log(norm))
            table[t:] += shift
            # What this change adds is taken back in equal parts over all steps from the first change on.
            start = changes[0] - 1
            table[start:] -= shift * torch.linspace(0, 1, T - start + 1, dtype=torch.float64)
        return table
