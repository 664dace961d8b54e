"""Which times a training batch has.

The network is trained on single steps t -> s = t - 1, and runs other layers for every pair (r(t), r(s)); so all pictures of a
batch share that pair. Between two changes every picture has a time of its own; at a change all have the one t that makes it.
(A blur that grows with every step is no such change: there every picture has a blur of its own.)

Times have a density q(t) on the grid points 1..T, and the objective is the mean of the weighted loss under it:

    uniform      q(t) = 1 / T, the paper's
    log-snr      q(t) in proportion to the fall of log-SNR from t - 1 to t
    log-normal   the same, times the density of log(sigma_t / alpha_t) under a normal with mean -1.2 and deviation 1.2 (EDM's)

Sources: Mukhopadhyay et al. 2026 (arXiv 2603.08709), training; Karras et al. 2022, EDM, section 5 (arXiv 2206.00364).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from scalespace.diffusion.noise import NoiseSchedule
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.operators.linear import Size

__all__ = ["Density", "TimeGroup", "TimeSampler", "time_density"]

Density = Literal["uniform", "log-snr", "log-normal"]

# Mean and standard deviation of log(sigma / alpha) in EDM, for pictures in [-1, 1].
_EDM_MEAN, _EDM_DEVIATION = -1.2, 1.2


@dataclass(frozen=True)
class TimeGroup:
    """Neighbouring grid points whose steps take the same pair of resolutions.

    Args:
        first: First grid point t.
        last: Last grid point t.
        size: Height and width r(t) of the states.
        target_size: Height and width r(t - 1) of the predictions.
    """

    first: int
    last: int
    size: Size
    target_size: Size

    def __len__(self) -> int:
        return self.last - self.first + 1

    @property
    def is_change(self) -> bool:
        """Whether its step changes the resolution."""
        return self.size != self.target_size


class TimeSampler:
    """Draws the group of a batch, and the times of its pictures.

    Args:
        process: The process to train on.
        change_share: Fraction of the batches at resolution changes, where there are any, all changes alike; None leaves every
            group what the density gives it.
        level_shares: How the other batches are shared by the levels, highest resolution first, as numbers above 0 in any unit,
            where there are several levels. None leaves every level what the density gives it.
        weighted: Whether ``weight`` makes up for the share, so that the objective is that of the density alone.
        density: Density of the grid points.

    Raises:
        ValueError: If the share is not in [0, 1], or there are not as many level shares as levels.
    """

    def __init__(
        self,
        process: ScaleSpaceProcess,
        change_share: float | None = None,
        weighted: bool = False,
        density: Density = "uniform",
        level_shares: Sequence[float] | None = None,
    ):
        if change_share is not None and not 0 <= change_share <= 1:
            raise ValueError(
                f"a share of {change_share} of the batches at resolution changes; give a share between 0 and 1"
            )
        self.groups = _groups(process)
        self._density = time_density(process.noise, density)
        shares = torch.stack([self._density[group.first - 1 : group.last].sum() for group in self.groups])
        self.shares = shares / shares.sum()
        """Probability of every group under the density, float64; they sum to 1."""
        self.probabilities = self.shares
        """Fraction of the batches that every group gets, float64."""
        changes = torch.tensor([group.is_change for group in self.groups])
        inside = self.shares
        if level_shares is not None and changes.any():
            levels = int((~changes).sum())
            if len(level_shares) != levels:
                raise ValueError(
                    f"{len(level_shares)} shares were given for the batches of {levels} levels; give one for each"
                )
            inside = torch.zeros_like(self.shares).masked_scatter(~changes, torch.tensor(level_shares).double())
            inside *= self.shares[~changes].sum() / inside.sum()
            self.probabilities = torch.where(changes, self.shares, inside)
        if change_share is not None and changes.any():
            inside = (1 - change_share) * inside / inside[~changes].sum()
            self.probabilities = torch.where(changes, change_share / int(changes.sum()), inside)
        self._weighted = weighted

    def draw(self, generator: torch.Generator) -> TimeGroup:
        """The group of one batch; processes that share a step must draw it from equal generators."""
        return self.groups[int(torch.multinomial(self.probabilities, 1, generator=generator))]

    def times(self, group: TimeGroup, count: int, generator: torch.Generator) -> Tensor:
        """Grid points of a group, each as likely as its density, shape (count,), int64."""
        density = self._density[group.first - 1 : group.last]
        return group.first + torch.multinomial(density, count, replacement=True, generator=generator)

    def weight(self, group: TimeGroup) -> float:
        """The group's share under the density over its share of the batches where these are weighted, and otherwise 1."""
        if not self._weighted:
            return 1.0
        index = self.groups.index(group)
        return float(self.shares[index] / self.probabilities[index])


def time_density(noise: NoiseSchedule, density: Density) -> Tensor:
    """The probability of the grid points t = 1..T, shape (T,), float64; see the top of this file.

    Where log-SNR rises, at a change of resolution under a shifted schedule, the fall of the step after it counts.
    """
    if density == "uniform":
        return torch.full((noise.timesteps,), 1 / noise.timesteps, dtype=torch.float64)
    log_snr = noise.log_snr_table[1:]
    # log-SNR is infinite at t = 0, so t = 1 takes the fall of the next step too.
    fall = torch.cat([-log_snr.diff()[:1], -log_snr.diff()])
    for t in reversed((fall <= 0).nonzero().flatten().tolist()):
        fall[t] = fall[t + 1] if t + 1 < len(fall) else fall[fall > 0].min()
    if density == "log-normal":
        fall = fall * torch.exp(-0.5 * ((-log_snr / 2 - _EDM_MEAN) / _EDM_DEVIATION) ** 2)
    return fall / fall.sum()


def _groups(process: ScaleSpaceProcess) -> Sequence[TimeGroup]:
    # A change is a group of its own, and so is every stretch between two of them.
    changes = set(process.degradation.jumps)
    starts = sorted({1, *changes, *(t + 1 for t in changes if t < process.timesteps)})
    return [
        TimeGroup(first, after - 1, process.size(first), process.size(first - 1))
        for first, after in pairwise([*starts, process.timesteps + 1])
    ]
