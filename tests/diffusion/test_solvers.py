"""Solvers, and the grid points they stop at."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.golden_vectors import golden_case
from tests.strategies import normal

from scalespace.diffusion.degradation import Resizing
from scalespace.diffusion.noise import LinearBeta
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.resolution import ConvexDecay
from scalespace.diffusion.solvers import Ancestral, uniform_grid


@pytest.mark.parametrize(("t", "s"), [(12, 10), (9, 8), (9, 2), (5, 4), (3, 0)])
def test_ancestral_step_is_a_draw_from_the_posterior(t, s):
    process = ScaleSpaceProcess(LinearBeta(12, 0.05, 0.6), Resizing(((8, 6), (4, 3), (3, 2)), (4, 9), 12))
    x_t, x0_s = normal(process.size(t), 0, batch=(2, 3)), normal(process.size(s), 1, batch=(2, 3))
    generator = torch.Generator().manual_seed(5)
    drawn = process.posterior(x_t, x0_s, t, s).sample(generator)
    noise = torch.randn(x0_s.shape, generator=generator.manual_seed(5), dtype=torch.float64)
    assert torch.equal(Ancestral(process).step(x_t, x0_s, t, s, noise), drawn)


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


def test_grid_is_the_released_respacing():
    case = golden_case("respaced50_64_4L")
    grid = uniform_grid(1000, 50, ConvexDecay(4).change_points(1000))
    assert tuple(t - 1 for t in reversed(grid)) == case.timestep_map


@pytest.mark.parametrize("steps", [-1, 0, 1, 1001])
def test_step_counts_that_make_no_grid_are_refused(steps):
    with pytest.raises(ValueError, match=f"{steps} sampling steps; give a number from 2 to 1000"):
        uniform_grid(1000, steps)
