"""Precision and recall, density and coverage of generated pictures, by neighbourhoods in the space of features.

Every picture owns the ball that reaches to its k-th nearest neighbour in its own set:

    precision  share of generated pictures that lie in the ball of any reference picture,
    recall     share of reference pictures that lie in the ball of any generated picture,
    density    mean number of reference balls that a generated picture lies in, over k,
    coverage   share of reference pictures whose ball holds any generated picture.

For the intervals each figure is computed again without a group of pictures, whose neighbours' balls grow. A ball then reaches
to one of its owner's next neighbours, so that only the pairs matter that are closer than the 2k-th.

Squared distances are |x|^2 + |y|^2 - 2 x.y around the mean, in the features' own precision. Where a ball is so small that
rounding would decide what lies in it, as among copies of pictures, they are computed in float64.

Sources: Kynkaanniemi et al. 2019, Improved precision and recall metric for assessing generative models; Naeem et al. 2020,
Reliable fidelity and diversity metrics for generative models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scalespace.metrics.feature_sets import check_features, mean_of, rows_at_once
from scalespace.metrics.resampling import Groups, Measurement, both_sides, rate_interval, share_interval

__all__ = ["PRDC", "prdc"]

_SURE = 1e4  # roundings of |x|^2 that the square of a radius must exceed
_COPY = 1e-14  # of |x|^2 + |y|^2, below which float64 cannot tell a distance from zero
_PAIRS = 1 << 19  # of a point and a ball at once


@dataclass(frozen=True)
class PRDC:
    """Precision, recall, density and coverage by ``neighbours`` nearest neighbours."""

    precision: Measurement
    recall: Measurement
    density: Measurement
    coverage: Measurement
    neighbours: int


def prdc(generated: Tensor, reference: Tensor, neighbours: int = 5, intervals: bool = True, seed: int = 0) -> PRDC:
    """Precision, recall, density and coverage.

    Args:
        generated: Features, shape (N, d).
        reference: Features, shape (M, d).
        neighbours: k; both sides need more pictures than that.
        intervals: Whether to compute the intervals.
        seed: Seed of the groups that are left out for the intervals.

    Raises:
        ValueError: If there are too few rows, one is not finite, dimensions differ, or most pictures of a side are the
            same as k others, so that their balls are points.
    """
    check_features(generated, reference)
    for name, side in (("generated", generated), ("reference", reference)):
        if len(side) <= neighbours:
            raise ValueError(
                f"there are {len(side)} {name} pictures and {neighbours} neighbours are asked for; give more pictures"
            )
    centre = mean_of(reference)
    dealt = _dealt((len(generated), len(reference)), neighbours, intervals, seed)
    ours, theirs = (
        _Balls.around(side, centre, neighbours, g) for side, g in zip((generated, reference), dealt, strict=True)
    )
    # The first column is of all pictures, the others are without a group.
    balls_of_theirs = torch.zeros_like(ours.kept)
    points_of_ours, balls_of_ours = torch.zeros_like(theirs.kept), torch.zeros_like(theirs.kept)
    for rows in _row_slices(len(generated), len(reference)):
        distances = _squared_distances(ours, theirs, rows)
        for point, owner, inside in _held(distances, theirs.reach, theirs.rank):
            balls_of_theirs.index_add_(0, point + rows.start, inside)
            points_of_ours.index_add_(0, owner, inside * ours.kept[point + rows.start])
        for point, _, inside in _held(distances.mT, ours.reach[rows], ours.rank[rows]):
            balls_of_ours.index_add_(0, point, inside)

    def share(counts: Tensor, side: _Balls) -> Measurement:
        shares = ((counts > 0) * side.kept).double().sum(0) / side.kept.sum(0)
        return share_interval(float(shares[0]), shares[1:], len(counts))

    density = (balls_of_theirs * ours.kept).double().sum(0) / (neighbours * ours.kept.sum(0))
    return PRDC(
        precision=share(balls_of_theirs, ours),
        recall=share(balls_of_ours, theirs),
        density=rate_interval(float(density[0]), density[1:], 1 / (neighbours * len(generated))),
        coverage=share(points_of_ours, theirs),
        neighbours=neighbours,
    )


@dataclass(frozen=True)
class _Balls:
    """The pictures of one side with their balls.

    Args:
        features: Features of the pictures, shape (N, d).
        centre: Shape (d,), float64 on the CPU.
        x: Features less the centre, rounded to their type and on their device.
        reach: Squared distances to the K nearest others, ascending, shape (N, K).
        rank: How many neighbours the ball reaches to, shape (N, 1 + R), int32 on the CPU: k for all pictures, more where
            some of them are left out, 0 where the owner is.
        kept: 1 where a picture is there and 0 where it is left out, shape (N, 1 + R), int32 on the CPU.
        small: Numbers of the pictures whose distances need float64.
    """

    features: Tensor
    centre: Tensor
    x: Tensor
    reach: Tensor
    rank: Tensor
    kept: Tensor
    small: Tensor

    @classmethod
    def around(cls, features: Tensor, centre: Tensor, neighbours: int, groups: Groups) -> _Balls:
        x = torch.empty_like(features)
        for rows in _row_slices(len(features), features.shape[1]):
            x[rows] = features[rows].cpu().double() - centre
        reach, nearest = _nearest(x, min(2 * neighbours, len(x) - 1))
        small = (reach[:, neighbours - 1] < _SURE * torch.finfo(x.dtype).eps * x.square().sum(1)).nonzero().flatten()
        for some in small.split(rows_at_once(len(x))):
            exact = _exact(features[some], features, centre)
            exact[torch.arange(len(some)), some.cpu()] = torch.inf
            closest = exact.topk(reach.shape[1], largest=False)
            reach[some], nearest[some] = closest.values.to(reach), closest.indices.to(nearest)
        if bool((reach[:, neighbours - 1] <= 0).double().mean() > 0.5):
            raise ValueError(
                f"most pictures of one side are the same as {neighbours} others of it, so that they have no neighbourhoods"
            )
        left_out = torch.cat([groups.kept.new_zeros(1, groups.number), 1 - groups.kept])
        kept = (1 - left_out[:, groups.group].mT).int()
        # How often each neighbour is there, added up; the k-th that is there has all smaller sums before it.
        there = kept[nearest.cpu()].cumsum(1)
        rank = ((there < neighbours).sum(1) + 1).clamp_max(reach.shape[1]).int() * kept
        return cls(features, centre, x, reach, rank, kept, small)


def _dealt(counts: tuple[int, int], neighbours: int, intervals: bool, seed: int) -> tuple[Groups, Groups]:
    """The groups to leave out, which are none where too few pictures would remain to have so many neighbours."""
    dealt = both_sides(counts, intervals, seed)
    if all(bool((side.kept_counts > neighbours).all()) for side in dealt):
        return dealt
    return both_sides(counts, False, seed)


def _held(distances: Tensor, reach: Tensor, rank: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The pairs of a point and a ball that may hold it.

    Args:
        distances: Squared distances, shape (P, N).
        reach: ``_Balls.reach`` of the balls, shape (N, K).
        rank: ``_Balls.rank`` of the balls, shape (N, 1 + R).

    Yields:
        Points and balls, shape (n,), and whether the balls hold the points, shape (n, 1 + R), int32; on the CPU.
    """
    points, owners = (distances < reach[:, -1]).nonzero(as_tuple=True)
    for point, owner in zip(points.split(_PAIRS), owners.split(_PAIRS), strict=True):
        nearer = (reach[owner] <= distances[point, owner, None]).sum(1).cpu()
        point, owner = point.cpu(), owner.cpu()
        yield point, owner, (nearer[:, None] < rank[owner]).int()


def _row_slices(rows: int, columns: int) -> list[slice]:
    step = rows_at_once(columns)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _squared_distances(ours: _Balls, theirs: _Balls, rows: slice) -> Tensor:
    """Squared distances of some pictures of one side to all of the other, shape (n, M), in float64 for small balls."""
    distances = _rounded(ours.x[rows], theirs.x)
    if len(theirs.small):
        distances[:, theirs.small] = _exact(ours.features[rows], theirs.features[theirs.small], ours.centre).to(
            distances
        )
    few = ours.small[(ours.small >= rows.start) & (ours.small < rows.stop)]
    if len(few):
        distances[few - rows.start] = _exact(ours.features[few], theirs.features, ours.centre).to(distances)
    return distances


def _rounded(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances in the features' own precision, shape (N, M); rounding may not make them negative."""
    distances = torch.addmm(y.square().sum(1), x, y.mT, alpha=-2)
    return distances.add_(x.square().sum(1, keepdim=True)).clamp_min_(0)


def _exact(x: Tensor, y: Tensor, centre: Tensor) -> Tensor:
    """Squared distances in float64, shape (N, M), on the CPU; 0 of copies."""
    x, y = x.cpu().double() - centre, y.cpu().double() - centre
    squares = y.square().sum(1) + x.square().sum(1, keepdim=True)
    distances = torch.addmm(squares, x, y.mT, alpha=-2)
    return distances.masked_fill_(distances < _COPY * squares, 0)


def _nearest(x: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Squared distances of every picture to its nearest others, ascending, and their numbers, each of shape (N, number)."""
    reach = x.new_full((len(x), number), torch.inf)
    nearest = torch.zeros_like(reach, dtype=torch.int32)

    def meet(rows: slice, others: Tensor, first: int) -> None:
        found = others.topk(min(number, others.shape[1]), largest=False)
        candidates = torch.cat([reach[rows], found.values], 1)
        numbers = torch.cat([nearest[rows], (found.indices + first).int()], 1)
        closest = candidates.topk(number, largest=False)
        reach[rows], nearest[rows] = closest.values, numbers.gather(1, closest.indices)

    # Each pair once: rows against themselves and all that follow.
    for rows in _row_slices(len(x), len(x)):
        distances = _rounded(x[rows], x[rows.start :])
        own = rows.stop - rows.start
        distances.diagonal().fill_(torch.inf)
        meet(rows, distances, rows.start)
        if rows.stop < len(x):
            meet(slice(rows.stop, len(x)), distances[:, own:].mT, rows.start)
    return reach, nearest
