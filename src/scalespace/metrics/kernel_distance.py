"""Kernel distance of two sets of pictures by their features (KID where the features are Inception's).

It is the unbiased squared maximum mean discrepancy of k(x, y) = (x.y / d + 1)^3,

    mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{ij} k(x_i, y_j),

which is 0 on average for sets of one distribution, and may fall below.

Features that lie far from zero would leave no digit of it in float32. With a centre m, x = m + u, a = m.u / d and
c = |m|^2 / d + 1, the base of the kernel is g + p with g = c + a_x + a_y and p = u_x.u_y / d, and

    (g + p)^3 - c^3 = (g^3 - c^3) + 3 g^2 p + (3 g + p) p^2.

c^3 cancels in the distance. The next two terms are polynomials in a and u, whose sums over pairs are products of sums over
pictures, taken in float64. Only the last is summed over all pairs in the features' own precision, and it is as small as the
features' scatter.

Source: Binkowski et al. 2018, Demystifying MMD GANs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scalespace.metrics.feature_sets import check_features, mean_of, rows_at_once
from scalespace.metrics.resampling import Groups, Measurement, both_sides, interval

__all__ = ["KID", "kid"]


@dataclass(frozen=True)
class KID:
    """Kernel distances.

    Args:
        all_pairs: Mean over all pairs of pictures.
        subset_mean: Mean over random subsets of pictures, as the field reports it.
        subset_std: Standard deviation over the subsets.
        subsets: Number of subsets.
        subset_size: Pictures of each side in a subset.
    """

    all_pairs: Measurement
    subset_mean: float
    subset_std: float
    subsets: int
    subset_size: int


def kid(
    first: Tensor,
    second: Tensor,
    subsets: int = 100,
    subset_size: int = 1000,
    intervals: bool = True,
    seed: int = 0,
) -> KID:
    """Kernel distances of two sets of pictures.

    Args:
        first: Features, shape (N, d).
        second: Features, shape (M, d).
        subsets: Number of random subsets.
        subset_size: Pictures of a side in each, drawn without replacement; at most N and M are taken.
        intervals: Whether to compute the interval of the distance over all pairs.
        seed: Seed of the subsets, and of the groups that are left out for the interval.

    Raises:
        ValueError: If there are fewer than two rows, one is not finite, or dimensions differ.
    """
    check_features(first, second)
    generator = torch.Generator().manual_seed(seed)
    centre = (mean_of(first) + mean_of(second)) / 2
    sides = [_Centred.of(side, centre) for side in (first, second)]
    size = min(subset_size, len(first), len(second))
    values = torch.tensor(
        [
            _all_pairs(*(side.chosen(torch.randperm(side.count, generator=generator)[:size]) for side in sides))
            for _ in range(subsets)
        ],
        dtype=torch.float64,
    )
    dealt = both_sides((len(first), len(second)), intervals, seed)
    measured = interval(*_distances(sides, dealt))
    return KID(measured, float(values.mean()), float(values.std(correction=0)), subsets, size)


_Moments = tuple[list[Tensor], list[Tensor]]


@dataclass(frozen=True)
class _Centred:
    """Features x = m + u of one side.

    Args:
        u: Shape (N, d), of the features' type and on their device.
        a: m.u / d, shape (N,), float64 on the CPU.
        b: |u|^2 / d, shape (N,), float64 on the CPU.
        c: |m|^2 / d + 1.
    """

    u: Tensor
    a: Tensor
    b: Tensor
    c: float

    @classmethod
    def of(cls, features: Tensor, centre: Tensor) -> _Centred:
        u = torch.empty_like(features)
        a, b = torch.empty(2, len(features), dtype=torch.float64)
        for rows in torch.arange(len(features)).split(rows_at_once(features.shape[1])):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            u[part] = features[part].cpu().double() - centre
            # Of u as it was rounded, so that g + p is the base of exactly one kernel.
            rounded = u[part].cpu().double()
            a[part], b[part] = rounded @ centre / features.shape[1], rounded.square().mean(1)
        return cls(u, a, b, float(centre.square().mean()) + 1)

    @property
    def count(self) -> int:
        return len(self.u)

    def chosen(self, rows: Tensor) -> _Centred:
        return _Centred(self.u[rows.to(self.u.device)], self.a[rows], self.b[rows], self.c)

    def moments(self, groups: Groups) -> _Moments:
        """Sums over every group of a^k for k to 3, shape (G,), and of a^k u for k to 2, shape (G, d)."""
        powers = [self.a**k for k in range(4)]
        weighted = [torch.zeros(groups.number, self.u.shape[1], dtype=torch.float64) for _ in range(3)]
        for rows in torch.arange(self.count).split(rows_at_once(self.u.shape[1])):
            part = self.u[int(rows[0]) : int(rows[-1]) + 1].cpu().double()
            members = torch.nn.functional.one_hot(groups.group[rows], groups.number).double()
            for total, power in zip(weighted, powers, strict=False):
                total.addmm_((power[rows, None] * members).mT, part)
        return [groups.sums(power) for power in powers], weighted


def _distances(sides: Sequence[_Centred], groups: Sequence[Groups]) -> tuple[float, Tensor]:
    """The distance of all pictures, and those without each of the groups, shape (R,)."""
    moments = [side.moments(g) for side, g in zip(sides, groups, strict=True)]
    kernels = [
        _within(sides[0], groups[0], moments[0]),
        _within(sides[1], groups[1], moments[1]),
        _across(sides, groups, moments),
    ]

    def distance(kept: list[Tensor]) -> Tensor:
        n, m = (w @ side.counts for w, side in zip(kept, groups, strict=True))
        xx, yy, xy = (
            torch.einsum("rg,gh,rh->r", kept[i], kernel, kept[j])
            for kernel, i, j in zip(kernels, (0, 1, 0), (0, 1, 1), strict=True)
        )
        return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)

    everything = [torch.ones(1, side.number, dtype=torch.float64) for side in groups]
    return float(distance(everything)), distance([side.kept for side in groups])


def _all_pairs(first: _Centred, second: _Centred) -> float:
    groups = [Groups(torch.zeros(side.count, dtype=torch.long), torch.zeros(0, 1).double()) for side in (first, second)]
    return _distances([first, second], groups)[0]


def _within(x: _Centred, groups: Groups, moments: _Moments) -> Tensor:
    """Sums of the kernel less c^3 over the pairs of different pictures of two groups, shape (G, G), float64."""
    # Pictures with themselves, which the products of sums hold too.
    a = 2 * x.a
    themselves = a * (3 * x.c * (x.c + a) + a**2) + 3 * (x.c + a) ** 2 * x.b
    total = torch.zeros(groups.number, groups.number, dtype=torch.float64)
    members = groups.members(x.u)
    # Each pair once: rows against themselves and all that follow.
    for rows in torch.arange(x.count).split(rows_at_once(x.count)):
        start, end = int(rows[0]), int(rows[-1]) + 1
        terms = _last_term(x, x, slice(start, end), slice(start, None))
        terms[:, : end - start].tril_(-1)
        total.index_add_(0, groups.group[rows], (terms @ members[start:]).cpu().double())
    return total + total.mT + _first_terms(moments, moments, x) - groups.sums(themselves).diag()


def _across(sides: Sequence[_Centred], groups: Sequence[Groups], moments: Sequence[_Moments]) -> Tensor:
    """Sums of the kernel less c^3 over the pairs of pictures of a group of x and one of y, shape (G, G), float64."""
    x, y = sides
    members = groups[1].members(y.u)
    total = torch.zeros(groups[0].number, groups[1].number, dtype=torch.float64)
    for rows in torch.arange(x.count).split(rows_at_once(y.count)):
        terms = _last_term(x, y, slice(int(rows[0]), int(rows[-1]) + 1), slice(None))
        total.index_add_(0, groups[0].group[rows], (terms @ members).cpu().double())
    return total + _first_terms(moments[0], moments[1], x)


def _first_terms(first: _Moments, second: _Moments, x: _Centred) -> Tensor:
    """Sums of (g^3 - c^3) + 3 g^2 p over the pairs of pictures of two groups, shape (G, G)."""
    (A, U), (B, V) = first, second
    c, d = x.c, x.u.shape[1]
    h = [
        A[1].outer(B[0]) + A[0].outer(B[1]),
        A[2].outer(B[0]) + 2 * A[1].outer(B[1]) + A[0].outer(B[2]),
        A[3].outer(B[0]) + 3 * A[2].outer(B[1]) + 3 * A[1].outer(B[2]) + A[0].outer(B[3]),
    ]
    squares = (c**2 * U[0] + 2 * c * U[1] + U[2]) @ V[0].mT + 2 * (c * U[0] + U[1]) @ V[1].mT + U[0] @ V[2].mT
    return 3 * c**2 * h[0] + 3 * c * h[1] + h[2] + 3 / d * squares


def _last_term(x: _Centred, y: _Centred, rows: slice, columns: slice) -> Tensor:
    """(3 g + p) p^2 of the pairs of some pictures, in the features' own precision."""
    p = x.u[rows] @ y.u[columns].mT / x.u.shape[1]
    return (p + 3 * (x.c + x.a[rows]).to(p)[:, None]).add_(3 * y.a[columns].to(p)).mul_(p).mul_(p)
