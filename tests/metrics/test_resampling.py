import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalespace.metrics.resampling import Resampling, interval


@given(count=st.integers(2, 300), groups=st.sampled_from([2, 7, 50]))
def test_every_resample_is_half_of_the_groups_and_the_groups_are_equal(count, groups):
    side = Resampling.of(count, 20, torch.Generator().manual_seed(count), groups)
    assert side.counts.sum() == count
    assert side.counts.max() - side.counts.min() <= 1
    assert set(side.weights.unique().tolist()) <= {0.0, 1.0}
    assert (side.weights.sum(1) == side.groups / 2).all()


def test_the_mean_of_a_random_half_varies_as_the_mean_of_all_does():
    values = torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    side = Resampling.of(2000, 5000, torch.Generator().manual_seed(1))
    spread = side.means(values).std()
    # A standard deviation from 50 groups has a standard error of a tenth.
    assert abs(spread / (values.std() / 2000**0.5) - 1) < 3 / (2 * 50) ** 0.5


def test_means_of_a_resample_are_those_of_its_pictures():
    values = torch.randn(31, 2, 3)
    side = Resampling.of(31, 4, torch.Generator().manual_seed(0), 8)
    held = side.weights[2][side.group] > 0
    torch.testing.assert_close(side.means(values)[2], values[held].double().mean(0))


def test_an_interval_lies_around_its_figure_and_not_around_the_biased_resamples():
    drawn = torch.linspace(10, 11, 101, dtype=torch.float64)
    found = interval(3.0, drawn)
    assert (found.value, found.low, found.high) == (3.0, pytest.approx(2.525), pytest.approx(3.475))
    assert interval(0.1, drawn, least=0.0).low == 0.0
    assert interval(3.0, drawn[:1]).low is None
