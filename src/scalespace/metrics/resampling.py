"""How far a figure would move with other pictures of the same kind: a bootstrap by random halves of the pictures.

The pictures of a side are dealt into an even number G of groups at random, and a resample is a random half of the groups.
Every figure here is a function of sums over pictures, so that one pass collects the sums of the groups, and a resample
costs the sum of half of them. Where there are no more than G pictures, each is a group of its own.

The mean of a random half varies around that of all as the mean of all varies around the truth,
(1 / (N/2) - 1 / N) var = var / N. A half holds no picture twice and always as many: resamples with replacement would be as
wide for a mean, but their repeats change neighbourhoods, and their varying number of different pictures the bias that a
distance of samples has. A half has a bias too, and twice that of all pictures. So what an interval shows is the spread of
the resamples alone, laid around the figure:

    [figure + q_low - mean, figure + q_high - mean].

It says how sure a figure is at its number of pictures. It does not remove the figure's bias.

Sources: Efron 1979, Bootstrap methods: another look at the jackknife; Shao and Wu 1989, A general theory for jackknife
variance estimation (deleting half of the sample); Praestgaard and Wellner 1993, Exchangeably weighted bootstraps of the
general empirical process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LEVEL", "Measurement", "Resampling", "interval"]

LEVEL = 0.95
"""Share of the resamples that an interval holds."""

_GROUPS = 50


@dataclass(frozen=True)
class Measurement:
    """A value with the ends of its interval, which are None where nothing could be drawn anew."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Resampling:
    """The groups of one side's pictures, and which of them each resample holds.

    Args:
        group: Group of every picture, shape (N,), int64 in 0..G-1.
        weights: 1 where resample r holds group g and 0 elsewhere, shape (R, G), float64.
    """

    group: Tensor
    weights: Tensor

    @classmethod
    def of(cls, count: int, resamples: int, generator: torch.Generator, groups: int = _GROUPS) -> Resampling:
        """Deal ``count`` pictures, at least 2, into at most ``groups`` groups and draw ``resamples`` halves of them."""
        number = min(count, groups) // 2 * 2
        group = torch.randperm(count, generator=generator) % number
        order = torch.rand(resamples, number, generator=generator).argsort(1)
        return cls(group, (order < number // 2).double())

    @classmethod
    def of_side(cls, count: int, resamples: int, seed: int, side: int) -> Resampling:
        """The groups of one side of a comparison, 0 or 1, which depend neither on the other side nor on what is measured."""
        return cls.of(count, resamples, torch.Generator().manual_seed(2 * seed + side))

    @property
    def groups(self) -> int:
        """G."""
        return self.weights.shape[1]

    @property
    def counts(self) -> Tensor:
        """Pictures of every group, shape (G,), float64."""
        return torch.bincount(self.group, minlength=self.groups).double()

    def members(self, like: Tensor) -> Tensor:
        """1 where a picture is in a group and 0 elsewhere, shape (N, G), of the type and on the device of another tensor."""
        return torch.nn.functional.one_hot(self.group, self.groups).to(like)

    def sums(self, values: Tensor) -> Tensor:
        """Sums over the pictures of every group, shape (N, ...) to (G, ...), float64."""
        total = torch.zeros(self.groups, *values.shape[1:], dtype=torch.float64)
        return total.index_add_(0, self.group, values.double().cpu())

    def means(self, values: Tensor) -> Tensor:
        """Mean over the pictures of every resample, shape (N, ...) to (R, ...), float64."""
        return self.half_means(self.sums(values))

    def half_means(self, sums: Tensor) -> Tensor:
        """Mean over the pictures of every resample, from the sums of every group, shape (G, ...) to (R, ...), float64."""
        counts = self.weights @ self.counts
        return (self.weights @ sums.reshape(self.groups, -1) / counts[:, None]).reshape(-1, *sums.shape[1:])


def interval(value: float, resampled: Tensor, least: float = -math.inf, most: float = math.inf) -> Measurement:
    """A figure with its interval.

    Args:
        value: The figure of all pictures.
        resampled: The same of every resample, shape (R,), float64; fewer than two of them make no interval.
        least: What no such figure can be below.
        most: What no such figure can be above.
    """
    if len(resampled) < 2:
        return Measurement(value)
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = (value + torch.quantile(resampled, ends) - resampled.mean()).clamp(least, most).tolist()
    return Measurement(value, low, high)
