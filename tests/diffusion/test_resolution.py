"""Resolution schedules: the authors' change points, and what a schedule promises."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.golden_vectors import golden_folder

from scalespace.diffusion.resolution import ChangesAt, ConvexDecay, Equal, ResolutionSchedule, SigmoidLike, TanhLike

FORMULAS = {"equal": Equal, "ConvexDecay": ConvexDecay, "SigmoidLikeDecay": SigmoidLike, "TanhLikeDecay": TanhLike}


def released_schedule(name: str) -> ResolutionSchedule:
    """A schedule by the released code's name, like ConvexDecay_0.5/3."""
    formula, levels = name.split("/")
    kind, *gamma = formula.split("_")
    return FORMULAS[kind](int(levels), *map(float, gamma))


def test_change_points_are_those_of_the_released_code():
    name = "resolution_schedules"
    golden = json.loads((golden_folder(name) / f"{name}.json").read_text())
    ours = {name: [t - 1 for t in released_schedule(name).change_points(1000)] for name in golden}
    assert ours == {name: entry["changes"] for name, entry in golden.items()}
    kinds = {name.split("/")[0].split("_")[0] for name in golden}
    assert kinds == set(FORMULAS)


@given(
    formula=st.sampled_from([ConvexDecay, SigmoidLike, TanhLike]),
    levels=st.integers(1, 6),
    gamma=st.floats(1.0, 3.0),
    timesteps=st.integers(1000, 3000),
)
def test_every_level_has_its_place_on_the_grid(formula, levels, gamma, timesteps):
    points = formula(levels, gamma).change_points(timesteps)
    assert len(points) == levels - 1
    assert list(points) == sorted(set(points))
    assert all(2 <= point <= timesteps for point in points)


@given(levels=st.integers(1, 8), timesteps=st.integers(20, 2000))
def test_equal_levels_have_equal_shares(levels, timesteps):
    bounds = (1, *Equal(levels).change_points(timesteps), timesteps + 1)
    shares = [after - before for before, after in pairwise(bounds)]
    # The last grid point is tau = 1 and belongs to the level before the one it would begin.
    assert max(shares) - min(shares) <= 2


@given(gamma=st.floats(0.3, 0.95), levels=st.integers(2, 5))
def test_convex_decay_below_one_stays_longer_at_high_resolution(gamma, levels):
    slow, equal = (schedule.change_points(1000) for schedule in (ConvexDecay(levels, gamma), Equal(levels)))
    assert all(ours >= theirs for ours, theirs in zip(slow, equal, strict=True))
    assert slow != equal


def test_convex_decay_of_one_is_equal():
    assert ConvexDecay(4, 1.0).change_points(1000) == Equal(4).change_points(1000)


@given(formula=st.sampled_from([SigmoidLike, TanhLike]), gamma=st.floats(1.0, 3.0), levels=st.integers(2, 5))
def test_sigmoid_and_tanh_are_symmetric_in_time(formula, gamma, levels):
    points = formula(levels, gamma).change_points(1001)
    for point, mirrored in zip(points, reversed(points), strict=True):
        assert abs(point + mirrored - 1002) <= 1


def test_points_by_hand_are_kept():
    assert ChangesAt((2, 1000)).change_points(1000) == (2, 1000)
    assert ChangesAt().change_points(1) == ()


@pytest.mark.parametrize("points", [(1,), (0, 5), (5, 5), (6, 5), (1001,)])
def test_points_that_leave_an_empty_level_are_refused(points):
    with pytest.raises(ValueError, match="without a grid point; give ascending points between 2 and 1000"):
        ChangesAt(points).change_points(1000)


@pytest.mark.parametrize("formula", [Equal, ConvexDecay, SigmoidLike, TanhLike])
def test_more_levels_than_grid_points_are_refused(formula):
    with pytest.raises(ValueError, match="without a grid point"):
        formula(8).change_points(5)


@pytest.mark.parametrize("formula", [Equal, ConvexDecay, SigmoidLike, TanhLike])
def test_no_levels_are_refused(formula):
    with pytest.raises(ValueError, match="schedule of 0 levels; give at least 1"):
        formula(0).change_points(1000)


@pytest.mark.parametrize("formula", [ConvexDecay, SigmoidLike, TanhLike])
@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan")])
def test_shapes_outside_their_definition_are_refused(formula, gamma):
    with pytest.raises(ValueError, match=r"gamma is .*; this schedule needs it"):
        formula(3, gamma)


@pytest.mark.parametrize("formula", [SigmoidLike, TanhLike])
def test_sigmoid_and_tanh_below_one_are_refused_since_they_would_not_be_monotone(formula):
    with pytest.raises(ValueError, match=r"gamma is 0\.5; this schedule needs it at least 1"):
        formula(3, 0.5)
