"""The grid points that samplers stop at."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.golden_vectors import golden_case

from scalespace.diffusion.degradation import Blurring, Resizing, Unchanged
from scalespace.diffusion.grids import calls_by_level, divided_grid, log_snr_grid, trailing_grid, uniform_grid
from scalespace.diffusion.noise import LinearBeta
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.resolution import ConvexDecay
from scalespace.diffusion.shifted import Shifted

PLAIN = ScaleSpaceProcess(LinearBeta(), Unchanged((64, 64)))


def shifted(levels: int) -> ScaleSpaceProcess:
    degradation = Resizing.octaves((64, 64), ConvexDecay(levels))
    return ScaleSpaceProcess(Shifted(LinearBeta(), degradation), degradation)


@given(timesteps=st.integers(2, 1000), data=st.data())
def test_grid_goes_down_from_the_last_point_to_the_first(timesteps, data):
    steps = data.draw(st.integers(2, timesteps))
    keep = tuple(data.draw(st.lists(st.integers(1, timesteps), max_size=4)))
    grid = uniform_grid(timesteps, steps, keep)
    assert (grid[0], grid[-1]) == (timesteps, 1)
    assert list(grid) == sorted(set(grid), reverse=True)
    assert set(keep) <= set(grid)
    assert set(grid) - set(keep) <= set(uniform_grid(timesteps, steps))


@given(timesteps=st.integers(2, 1000), data=st.data())
def test_grid_is_equally_spaced(timesteps, data):
    steps = data.draw(st.integers(2, timesteps))
    grid = uniform_grid(timesteps, steps)
    assert len(grid) == steps
    gaps = {before - after for before, after in pairwise(grid)}
    assert max(gaps) - min(gaps) <= 1


def test_grid_of_all_steps_is_the_whole_grid():
    assert uniform_grid(1000, 1000, (439, 751)) == tuple(range(1000, 0, -1))


@given(timesteps=st.integers(1, 1000), data=st.data())
def test_trailing_steps_are_equally_long_down_to_the_clean_end(timesteps, data):
    steps = data.draw(st.integers(1, timesteps))
    keep = tuple(data.draw(st.lists(st.integers(1, timesteps), max_size=4)))
    grid = trailing_grid(timesteps, steps)
    assert (grid[0], len(grid)) == (timesteps, steps)
    gaps = {before - after for before, after in pairwise((*grid, 0))}
    assert max(gaps) - min(gaps) <= 1
    assert trailing_grid(timesteps, steps, keep) == tuple(sorted({*grid, *keep}, reverse=True))


@pytest.mark.parametrize("steps", [-1, 0, 1001])
def test_step_counts_that_make_no_trailing_grid_are_refused(steps):
    with pytest.raises(ValueError, match=f"{steps} sampling steps; give a number from 1 to 1000"):
        trailing_grid(1000, steps)


def test_grid_is_the_released_respacing():
    case = golden_case("respaced50_64_4L")
    grid = uniform_grid(1000, 50, ConvexDecay(4).change_points(1000))
    assert tuple(t - 1 for t in reversed(grid)) == case.timestep_map


@pytest.mark.parametrize("steps", [-1, 0, 1, 1001])
def test_step_counts_that_make_no_grid_are_refused(steps):
    with pytest.raises(ValueError, match=f"{steps} sampling steps; give a number from 2 to 1000"):
        uniform_grid(1000, steps)


@given(levels=st.integers(1, 5), data=st.data())
def test_log_snr_grid_has_every_change_and_as_many_calls_as_asked_for(levels, data):
    process = shifted(levels)
    calls = data.draw(st.integers(levels + 1, 1000))
    grid, changes = log_snr_grid(process, calls), process.degradation.change_points
    assert (grid[0], grid[-1]) == (1000, 1)
    assert all(t > s for t, s in pairwise(grid))
    assert len(grid) == calls
    assert set(changes) <= set(grid)
    if calls >= 2 * levels:
        assert {t - 1 for t in changes} <= set(grid)


def test_log_snr_grid_of_all_points_is_the_whole_grid():
    assert log_snr_grid(shifted(4), 1000) == tuple(range(1000, 0, -1))


def test_log_snr_grid_steps_equally_far_in_log_snr():
    grid = log_snr_grid(PLAIN, 20, tilt=0.0)
    steps = -torch.tensor([PLAIN.noise.log_snr(t) - PLAIN.noise.log_snr(s) for t, s in pairwise(grid)])
    # The last steps are as long as one step of the process, where log-SNR falls fastest.
    assert steps[:-3].max() < 1.5 * steps[:-3].min()


def test_log_snr_grid_tilts_towards_the_clean_end():
    even, tilted = (log_snr_grid(PLAIN, 20, tilt=tilt) for tilt in (0.0, 0.06))
    assert sum(t < 200 for t in tilted) > sum(t < 200 for t in even)


def test_log_snr_grid_shortens_the_first_step_after_a_change_alone():
    process = shifted(3)
    grid = log_snr_grid(process, 40, first=0.25, tilt=0.0)
    log_snr = process.noise.log_snr
    lengths = {t: log_snr(s) - log_snr(t) for t, s in pairwise(grid)}
    for after in (t - 1 for t in process.degradation.change_points):
        rest = [length for t, length in lengths.items() if t < after and process.size(t) == process.size(after)]
        # One grid point of rounding at either end.
        typical = sorted(rest)[len(rest) // 2]
        assert 0.1 * typical < lengths[after] < 0.4 * typical
    assert lengths[1000] == pytest.approx(sorted(lengths.values())[len(lengths) // 2], rel=0.5)


@given(data=st.data())
def test_divided_grid_gives_every_level_its_number_of_points(data):
    process = shifted(3)
    counts = tuple(data.draw(st.integers(1 if level < 2 else 2, 60)) for level in range(3))
    grid = divided_grid(process, counts)
    assert calls_by_level(process, grid) == counts
    assert list(grid) == sorted(set(grid), reverse=True)


@pytest.mark.parametrize("calls", [3, 1001])
def test_log_snr_grid_refuses_impossible_numbers_of_calls(calls):
    with pytest.raises(ValueError, match=f"{calls} sampling steps; a process of 4 levels needs at least 5"):
        log_snr_grid(shifted(4), calls)


@pytest.mark.parametrize("calls", [2, 7, 50])
def test_a_growing_blur_is_one_level(calls):
    blurred = ScaleSpaceProcess(LinearBeta(), Blurring((8, 8)))
    grid = log_snr_grid(blurred, calls)
    assert grid == log_snr_grid(PLAIN, calls)
    assert calls_by_level(blurred, grid) == (calls,)
