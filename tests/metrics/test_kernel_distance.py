import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.metrics.sets import AsTheyAre, normal
from torchmetrics.image.kid import KernelInceptionDistance

from scalespace.metrics.kernel_distance import kid


def _by_definition(x, y):
    def k(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    within = [np.mean([k(a, b) for a, b in itertools.permutations(side, 2)]) for side in (x, y)]
    return sum(within) - 2 * np.mean([k(a, b) for a in x for b in y])


@pytest.mark.parametrize("entries", [1 << 25, 50])
def test_all_pairs_are_the_definition_in_any_number_of_parts(entries, monkeypatch):
    monkeypatch.setattr("scalespace.metrics.feature_sets._ENTRIES", entries)
    x, y = normal(0, 23, 4), normal(1, 17, 4, scale=1.5, shift=0.4)
    assert kid(x, y).all_pairs.value == pytest.approx(_by_definition(x, y), rel=1e-9)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_torchmetrics_on_one_subset_of_all(dtype):
    x, y = normal(0, 200, 32).to(dtype), normal(1, 200, 32, scale=1.2, shift=0.3).to(dtype)
    other = KernelInceptionDistance(AsTheyAre(32), subsets=1, subset_size=200).set_dtype(dtype)
    other.update(x, real=True)
    other.update(y, real=False)
    expected = float(other.compute()[0])
    found = kid(x, y, subsets=3)
    assert found.all_pairs.value == pytest.approx(expected, rel=1e-4)
    assert (found.subset_mean, found.subset_std) == (pytest.approx(expected, rel=1e-4), pytest.approx(0, abs=1e-6))
    assert found.subset_size == 200


def test_subsets_agree_with_all_pairs_within_their_standard_error():
    x, y = normal(0, 600, 16), normal(1, 500, 16, scale=1.1, shift=0.1)
    found = kid(x, y, subsets=200, subset_size=100)
    assert found.subset_mean == pytest.approx(found.all_pairs.value, abs=4 * found.subset_std / 200**0.5)


@given(seed=st.integers(0, 10**6))
def test_has_no_bias_and_is_symmetric(seed):
    x, y, z = (normal(seed + k, 120, 6) for k in range(3))
    found = kid(x, y, subsets=1)
    assert found.all_pairs.value == pytest.approx(kid(y, x, subsets=1).all_pairs.value, rel=1e-9)
    # Zero lies within twice the interval of sets of one distribution, and far outside for another one.
    half = ((found.all_pairs.high or 0) - (found.all_pairs.low or 0)) / 2
    assert abs(found.all_pairs.value) < 2 * half
    assert kid(x, z + 1, subsets=1).all_pairs.value > 4 * half


def test_intervals_are_as_wide_as_independent_draws_vary():
    found = [
        kid(normal(2 * k, 300, 8), normal(2 * k + 1, 300, 8, scale=1.2, shift=0.2), subsets=1).all_pairs
        for k in range(40)
    ]
    width = sum((f.high or 0) - (f.low or 0) for f in found) / len(found)
    assert 0.75 < width / (2 * 1.96 * float(torch.tensor([f.value for f in found]).std())) < 1.4


@pytest.mark.parametrize(("mean", "deviation"), [(50, 0.01), (-300, 1e-3), (0.4, 0.4), (0, 5)])
def test_features_far_from_zero_keep_their_digits_in_float32(mean, deviation):
    x, y = (normal(k, n, 16, scale=deviation * (1 + k / 10), shift=mean).float() for k, n in ((0, 120), (1, 90)))
    # By the definition, with all digits of the same float32 features.
    a, b = ([[Fraction(float(v)) for v in row] for row in side.tolist()[:12]] for side in (x, y))
    exact = _by_definition_of_fractions(a, b)
    found = kid(x[:12], y[:12], subsets=2)
    scale = 3 * (mean**2 + 1) ** 2 * deviation**2
    for value in (found.all_pairs.value, found.subset_mean):
        assert value == pytest.approx(exact, abs=2e-6 * scale)
    wide, narrow = kid(x.double(), y.double()).all_pairs, kid(x, y).all_pairs
    for end in ("value", "low", "high"):
        assert getattr(narrow, end) == pytest.approx(getattr(wide, end), abs=2e-6 * scale)


def _by_definition_of_fractions(x, y):
    def k(a, b):
        return (sum(v * w for v, w in zip(a, b, strict=True)) / len(a) + 1) ** 3

    within = [sum(k(a, b) for a, b in itertools.permutations(s, 2)) / (len(s) * (len(s) - 1)) for s in (x, y)]
    return float(sum(within) - 2 * sum(k(a, b) for a in x for b in y) / (len(x) * len(y)))
