import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalespace.metrics.resampling import GROUPS, Groups, both_sides, interval, rate_interval, share_interval


@given(counts=st.tuples(st.integers(2, 300), st.integers(2, 300)), seed=st.integers(0, 9))
def test_every_group_of_either_side_is_left_out_once_and_the_groups_are_equal(counts, seed):
    sides = both_sides(counts, seed=seed)
    for count, side in zip(counts, sides, strict=True):
        assert side.counts.sum() == count
        assert side.counts.max() - side.counts.min() <= 1
        assert side.number == min(GROUPS, count)
        assert side.kept.shape == (min(GROUPS, *counts), side.number)
        assert ((1 - side.kept).sum(0) == 1).all()
        assert ((1 - side.kept).sum(1) >= 1).all()


def test_the_groups_of_a_side_are_random_and_do_not_depend_on_the_other_side():
    alone = Groups.of_side(300, 3, 1)
    assert torch.equal(both_sides((20, 300), seed=3)[1].group, alone.group)
    assert not torch.equal(Groups.of_side(300, 3, 0).group, alone.group)
    assert not torch.equal(Groups.of_side(300, 4, 1).group, alone.group)


def test_pictures_that_lie_next_to_each_other_are_not_dealt_by_their_place():
    # Sliced Wasserstein distances deal the pictures that they have drawn at random with the same seed.
    drawn = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    group = torch.empty(500, dtype=torch.int64)
    group[drawn] = Groups.of_side(500, 0, 1).group
    assert not torch.equal(group, torch.arange(500) % GROUPS)


def test_means_without_a_group_are_those_of_the_other_pictures():
    values = torch.randn(310, 2, 3)
    side = Groups.of_side(310, 0, 0, 8)
    left = side.kept[2][side.group] > 0
    torch.testing.assert_close(side.means(values)[2], values[left].double().mean(0))


# From tables of Student's distribution, two-sided, 95 %.
STUDENT = {2: 12.706205, 3: 4.302653, 7: 2.446912, 12: 2.200985, 50: 2.009575}


@pytest.mark.parametrize("number", STUDENT)
def test_the_interval_of_a_mean_is_that_of_student(number):
    # With one number in each group the jackknife of a mean is exact.
    values = torch.randn(number, dtype=torch.float64)
    mean = float(values.mean())
    found = interval(mean, (values.sum() - values) / (number - 1))
    half = STUDENT[number] * float(values.std()) / math.sqrt(number)
    assert (found.low, found.high) == (pytest.approx(mean - half, rel=1e-5), pytest.approx(mean + half, rel=1e-5))


def _without(value, error, number=50):
    """Figures without a group whose jackknife has a standard error."""
    return value + error / math.sqrt(number - 1) * torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(number // 2)


def test_an_interval_keeps_to_what_is_possible_and_one_repeat_makes_none():
    without = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert interval(0.1, without, least=0.0).low == 0.0
    assert interval(0.1, without[:1]).low is None
    assert share_interval(0.1, without[:1], 9).low is None


@pytest.mark.parametrize("value", [0.01, 0.3, 0.99])
@pytest.mark.parametrize("independent", [20, 300])
def test_the_ends_of_a_share_are_where_the_share_is_just_not_surprising(value, independent):
    found = share_interval(value, _without(value, math.sqrt(value * (1 - value) / independent)), 300)
    for end in (found.low, found.high):
        assert abs(value - end) == pytest.approx(STUDENT[50] * math.sqrt(end * (1 - end) / independent), rel=1e-5)
    # More pictures than there are cannot be independent.
    assert share_interval(value, _without(value, 1e-9), 300).high == pytest.approx(
        share_interval(value, _without(value, math.sqrt(value * (1 - value) / 300)), 300).high
    )


@pytest.mark.parametrize("value", [0.01, 0.8])
def test_the_ends_of_a_rate_are_where_the_rate_is_just_not_surprising(value):
    found = rate_interval(value, _without(value, 0.05), 1e-4)
    for end in (found.low, found.high):
        # The variance of a rate is in proportion to it.
        assert abs(value - end) == pytest.approx(STUDENT[50] * math.sqrt(0.05**2 * end / value), rel=1e-5)


def test_a_rate_of_none_has_an_upper_end():
    found = rate_interval(0.0, torch.zeros(50, dtype=torch.float64), 1e-3)
    assert (found.low, found.high) == (0.0, pytest.approx(STUDENT[50] ** 2 * 1e-3, rel=1e-5))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_share_of_none_or_all_has_the_interval_of_wilson(value):
    found = share_interval(value, torch.full((50,), value, dtype=torch.float64), 400)
    far = STUDENT[50] ** 2 / (400 + STUDENT[50] ** 2)
    assert (found.low, found.high) == (pytest.approx(value and 1 - far), pytest.approx(value or far))


def test_a_share_of_none_that_changes_without_a_group_has_an_interval():
    without = torch.zeros(50, dtype=torch.float64)
    without[3] = 0.1
    found = share_interval(0.0, without, 300)
    assert found.low == 0
    assert found.high is not None
    assert 0.1 < found.high <= 1
