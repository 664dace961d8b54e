"""Which times a training batch has.

The network is trained on single steps t -> s = t - 1, and runs other layers for every pair (r(t), r(s)); so all pictures of a
batch share that pair. Between two changes every picture has a time of its own; at a change all have the one t that makes it.
(A blur that grows with every step is no such change: there every picture has a blur of its own.) With ``change_share`` left
out every grid point is as likely as every other, which leaves a change of resolution one batch in T.

Source: Mukhopadhyay et al. 2026 (arXiv 2603.08709), training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.operators.linear import Size

__all__ = ["TimeGroup", "TimeSampler"]


@dataclass(frozen=True)
class TimeGroup:
    """Neighbouring grid points whose steps take the same pair of resolutions.

    Args:
        first: First grid point t.
        last: Last grid point t.
        size: r(t).
        target_size: r(t - 1).
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

    def times(self, count: int, generator: torch.Generator) -> Tensor:
        """Grid points of the group, each as likely as every other, shape (count,)."""
        return torch.randint(self.first, self.last + 1, (count,), generator=generator)


class TimeSampler:
    """Draws the group of a batch.

    Args:
        process: The process to train on.
        change_share: Share of the batches at resolution changes, where there are any, all changes alike; None leaves every
            group its share of the grid points.
        weighted: Whether ``weight`` makes up for the share, so that the objective is that of equally likely grid points.

    Raises:
        ValueError: If the share is not in [0, 1].
    """

    def __init__(self, process: ScaleSpaceProcess, change_share: float | None = None, weighted: bool = False):
        self.groups = _groups(process)
        changes = [group.is_change for group in self.groups]
        weights = [float(len(group)) for group in self.groups]
        if change_share is not None and not 0 <= change_share <= 1:
            raise ValueError(
                f"a share of {change_share} of the batches at resolution changes; give a share between 0 and 1"
            )
        if change_share is not None and any(changes):
            inside = sum(weight for weight, change in zip(weights, changes, strict=True) if not change)
            weights = [
                change_share / sum(changes) if change else (1 - change_share) * weight / inside
                for weight, change in zip(weights, changes, strict=True)
            ]
        self.probabilities = torch.tensor(weights, dtype=torch.float64) / sum(weights)
        self._weighted = weighted

    def draw(self, generator: torch.Generator) -> TimeGroup:
        """The group of one batch; processes that share a step must draw it from equal generators."""
        return self.groups[int(torch.multinomial(self.probabilities, 1, generator=generator))]

    def weight(self, group: TimeGroup) -> float:
        """Share of the grid points over share of the batches where batches are weighted, and otherwise 1."""
        if not self._weighted:
            return 1.0
        natural = len(group) / sum(map(len, self.groups))
        return natural / float(self.probabilities[self.groups.index(group)])


def _groups(process: ScaleSpaceProcess) -> Sequence[TimeGroup]:
    # A change is a group of its own, and so is every stretch between two of them.
    changes = set(process.degradation.jumps)
    starts = sorted({1, *changes, *(t + 1 for t in changes if t < process.timesteps)})
    return [
        TimeGroup(first, after - 1, process.size(first), process.size(first - 1))
        for first, after in pairwise([*starts, process.timesteps + 1])
    ]
