"""Which times a training batch has.

The network is trained on single steps t -> s = t - 1, and runs other layers for every pair (r(t), r(s)); so all pictures of a
batch share that pair. Where r(s) = r(t) every picture has a time of its own; at a resolution change all have the one t that
makes it. With ``change_share`` left out every grid point is as likely as every other, which leaves a change one batch in T.

Source: Mukhopadhyay et al. 2026 (arXiv 2603.08709), training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

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
        change_share: Share of the batches at resolution changes, all changes together alike; None leaves every group its
            share of the grid points.

    Raises:
        ValueError: If the share is not in [0, 1], or is above 0 where no resolution changes.
    """

    def __init__(self, process: ScaleSpaceProcess, change_share: float | None = None):
        self.groups = _groups(process)
        changes = [group.is_change for group in self.groups]
        weights = [float(len(group)) for group in self.groups]
        if change_share is not None:
            if not 0 <= change_share <= 1 or (change_share > 0 and not any(changes)):
                raise ValueError(
                    f"a share of {change_share} of the batches at {sum(changes)} resolution changes; "
                    "give a share between 0 and 1, and leave it out where no resolution changes"
                )
            inside = sum(weight for weight, change in zip(weights, changes, strict=True) if not change)
            weights = [
                change_share / sum(changes) if change else (1 - change_share) * weight / inside
                for weight, change in zip(weights, changes, strict=True)
            ]
        self.probabilities = torch.tensor(weights, dtype=torch.float64) / sum(weights)

    def draw(self, generator: torch.Generator) -> TimeGroup:
        """The group of one batch; processes that share a step must draw it from equal generators."""
        return self.groups[int(torch.multinomial(self.probabilities, 1, generator=generator))]


def _groups(process: ScaleSpaceProcess) -> Sequence[TimeGroup]:
    def sizes(t: int) -> tuple[Size, Size]:
        return process.size(t), process.size(t - 1)

    groups = []
    for (size, target_size), points in groupby(range(1, process.timesteps + 1), key=sizes):
        members = list(points)
        groups.append(TimeGroup(members[0], members[-1], size, target_size))
    return groups
