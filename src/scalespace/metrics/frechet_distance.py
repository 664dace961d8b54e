"""Frechet distance of two sets of pictures by their features x in R^d (FID where the features are Inception's).

It is the squared 2-Wasserstein distance of the Gaussians with the sets' means and covariances,

    |m_1 - m_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1^(1/2) S_2 S_1^(1/2))^(1/2).

With any factors S = F F^T the last trace is the sum of the singular values of F_1^T F_2 = P D Q^T. Its derivative tells how
much a picture with c = x - m_1 adds to the distance, and for its interval the distance without a group of pictures is what the
others add,

    2 c.(m_1 - m_2) + |c|^2 - |D^(1/2) P^T F_1^+ c|^2.

Sources: Dowson and Landau 1982, The Frechet distance between multivariate normal distributions; Heusel et al. 2017, GANs
trained by a two time-scale update rule; Chong and Forsyth 2020, Effectively unbiased FID (on its bias).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scalespace.metrics.feature_sets import check_features, mean_of, rows_at_once
from scalespace.metrics.resampling import GROUPS, Groups, Measurement, interval

__all__ = ["Moments", "frechet", "frechet_distance"]


@dataclass(frozen=True)
class Moments:
    """Mean (d,) and covariance (d, d) of the features of ``count`` pictures, float64."""

    mean: Tensor
    covariance: Tensor
    count: int

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Compute the moments of features, shape (N, d), where N is at least 2.

        Raises:
            ValueError: If there are fewer than two rows, or one that is not finite.
        """
        check_features(features)
        mean = mean_of(features)
        scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        for part in features.split(rows_at_once(features.shape[1])):
            centred = part.cpu().double() - mean
            scatter.addmm_(centred.mT, centred)
        return cls(mean, scatter / (len(features) - 1), len(features))

    @property
    def full_rank(self) -> bool:
        """Whether there are enough pictures for the covariance to have an inverse."""
        return self.count > len(self.mean)


def frechet_distance(first: Moments, second: Moments) -> float:
    """Frechet distance of two Gaussians, in the unit of a squared feature; covariances may be singular.

    Raises:
        ValueError: If the dimensions differ, or a covariance is zero.
    """
    return _Transport.between(first, second).distance


def frechet(first: Tensor | Moments, second: Tensor | Moments, intervals: bool = True, seed: int = 0) -> Measurement:
    """Frechet distance of two sets of pictures, biased upwards by about the inverse of their number.

    Args:
        first: Features, shape (N, d), or their moments, of which nothing can be left out.
        second: Features, shape (M, d), or their moments.
        intervals: Whether to compute the interval.
        seed: Seed of the groups that are left out for the interval.

    Raises:
        ValueError: If there are fewer than two rows, one is not finite, dimensions differ, or all rows are the same.
    """
    moments = [side if isinstance(side, Moments) else Moments.of(side) for side in (first, second)]
    transport = _Transport.between(*moments)
    drawn = [(number, side) for number, side in enumerate((first, second)) if not isinstance(side, Moments)]
    if not drawn or not intervals:
        return Measurement(transport.distance)
    repeats = min([GROUPS, *(len(side) for _, side in drawn)])
    without = torch.zeros(repeats, dtype=torch.float64)
    for number, side in drawn:
        without += Groups.of_side(len(side), seed, number, repeats).means(transport.influence(side, number))
    return interval(transport.distance, without, least=0.0)


@dataclass(frozen=True)
class _Transport:
    """The Frechet distance of two Gaussians, with what is needed for its derivative.

    Args:
        moments: Moments of both sides.
        maps: D^(1/2) P^T F_1^+ and D^(1/2) Q^T F_2^+, each of shape (r, d).
        overlap: Sum of D.
    """

    moments: tuple[Moments, Moments]
    maps: tuple[Tensor, Tensor]
    overlap: float

    @classmethod
    def between(cls, first: Moments, second: Moments) -> _Transport:
        if first.mean.shape != second.mean.shape:
            raise ValueError(
                f"features of {len(first.mean)} and {len(second.mean)} dimensions; take both from one extractor"
            )
        (F_1, inverse_1), (F_2, inverse_2) = (_factor(side.covariance) for side in (first, second))
        P, D, Qt = torch.linalg.svd(F_1.mT @ F_2, full_matrices=False)
        scale = D.sqrt()[:, None]
        return cls((first, second), (scale * P.mT @ inverse_1, scale * Qt @ inverse_2), float(D.sum()))

    @property
    def distance(self) -> float:
        first, second = self.moments
        traces = first.covariance.trace() + second.covariance.trace()
        # Rounding may leave the distance of equal Gaussians a little below zero.
        return max(0.0, float((first.mean - second.mean).square().sum() + traces) - 2 * self.overlap)

    def influence(self, features: Tensor, side: int) -> Tensor:
        """How much each picture of a side adds to the distance, up to a constant, shape (N,), float64."""
        own, other = self.moments[side], self.moments[1 - side]
        parts = []
        for part in features.split(rows_at_once(features.shape[1])):
            c = part.cpu().double() - own.mean
            moved = (c @ self.maps[side].mT).square().sum(1)
            parts.append(2 * c @ (own.mean - other.mean) + c.square().sum(1) - moved)
        return torch.cat(parts)


def _factor(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """F (d, r) with F F^T the covariance, r its rank, and the pseudo-inverse F^+ (r, d)."""
    values, vectors = torch.linalg.eigh(covariance)
    largest = float(values[-1])
    # What eigenvalues of zero are computed as.
    kept = values > len(values) * torch.finfo(values.dtype).eps * largest
    if largest <= 0 or not bool(kept.any()):
        raise ValueError("the features of one side do not vary at all; its pictures are all the same")
    roots, basis = values[kept].sqrt(), vectors[:, kept]
    return basis * roots, (basis / roots).mT
