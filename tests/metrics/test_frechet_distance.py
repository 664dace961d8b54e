import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.metrics.sets import AsTheyAre, normal
from torch.testing import assert_close
from torchmetrics.image.fid import FrechetInceptionDistance

from scalespace.metrics.frechet_distance import Moments, frechet, frechet_distance
from scalespace.oracles.gaussian import frechet_distance_squared


@given(dimensions=st.integers(1, 8), seed=st.integers(0, 10**6))
def test_commuting_gaussians_have_the_closed_form(dimensions, seed):
    # Covariances with common eigenvectors: the distance is that of means and of standard deviations.
    basis, _ = torch.linalg.qr(normal(seed, dimensions, dimensions))
    deviations = [normal(seed + k, dimensions).abs() + 0.1 for k in (1, 2)]
    means = [normal(seed + k, dimensions) for k in (3, 4)]
    sides = [
        Moments(mean, basis @ (deviation.square()[:, None] * basis.mT), 100)
        for mean, deviation in zip(means, deviations, strict=True)
    ]
    expected = (means[0] - means[1]).square().sum() + (deviations[0] - deviations[1]).square().sum()
    assert frechet_distance(*sides) == pytest.approx(float(expected), rel=1e-9, abs=1e-10)


@pytest.mark.parametrize(("first", "second", "dimensions"), [(300, 250, 24), (40, 500, 64), (30, 20, 100)])
def test_agrees_with_torchmetrics_and_the_form_of_square_roots(first, second, dimensions):
    # The last two have covariances without an inverse.
    x, y = normal(0, first, dimensions), normal(1, second, dimensions, scale=1.2, shift=0.3)
    found = frechet_distance(Moments.of(x), Moments.of(y))
    other = FrechetInceptionDistance(AsTheyAre(dimensions))
    other.update(x, real=True)
    other.update(y, real=False)
    assert found == pytest.approx(float(other.compute()), rel=1e-4)
    a, b = Moments.of(x), Moments.of(y)
    between = (a.mean - b.mean).square().sum()
    assert found == pytest.approx(float(between + frechet_distance_squared(a.covariance, b.covariance)), rel=1e-6)


def test_moments_are_those_of_numpy_in_any_number_of_parts(monkeypatch):
    x = normal(0, 57, 6, shift=100.0).float()
    monkeypatch.setattr("scalespace.metrics.feature_sets._ENTRIES", 40)
    found = Moments.of(x)
    assert_close(found.mean, torch.from_numpy(x.double().numpy().mean(0)))
    assert_close(found.covariance, torch.from_numpy(np.cov(x.double().numpy().T)))


@given(seed=st.integers(0, 10**6))
def test_is_zero_for_equal_sets_and_symmetric(seed):
    x, y = normal(seed, 60, 5), normal(seed + 1, 50, 5, scale=1.3)
    assert frechet(x, x[torch.randperm(60)], intervals=False).value == pytest.approx(0, abs=1e-10)
    assert frechet(x, y, intervals=False).value == pytest.approx(frechet(y, x, intervals=False).value, rel=1e-9)


@pytest.mark.parametrize(("count", "dimensions"), [(400, 8), (100, 150)])
def test_intervals_are_as_wide_as_independent_draws_vary_or_a_little_wider(count, dimensions):
    found = [
        frechet(normal(2 * k, count, dimensions), normal(2 * k + 1, count, dimensions, scale=1.2, shift=0.2))
        for k in range(40)
    ]
    values = torch.tensor([f.value for f in found])
    width = sum((f.high or 0) - (f.low or 0) for f in found) / len(found)
    assert 0.8 < width / (2 * 1.96 * float(values.std())) < 1.7
    # Each lies around its figure.
    assert all(f.low is not None and f.high is not None and f.low < f.value < f.high for f in found)


def test_moments_alone_are_not_drawn_anew():
    x, y = normal(0, 80, 4), normal(1, 80, 4, shift=0.5)
    both, one = frechet(x, y), frechet(x, Moments.of(y))
    assert frechet(Moments.of(x), Moments.of(y)).low is None
    assert one.value == both.value
    assert (one.high or 0) - (one.low or 0) < (both.high or 0) - (both.low or 0)


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (torch.ones(9, 3), torch.randn(9, 3), "its pictures are all the same"),
        (torch.randn(1, 3), torch.randn(9, 3), "at least 2 pictures on each side, and there are 1"),
        (torch.full((9, 3), torch.nan), torch.randn(9, 3), "features are not finite"),
        (torch.randn(9, 3), torch.randn(9, 4), "features of 3 and 4 dimensions"),
    ],
)
def test_what_has_no_distance_is_refused(x, y, sentence):
    with pytest.raises(ValueError, match=sentence):
        frechet(x, y)
