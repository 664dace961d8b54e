"""What the oracle bench compares with: other bridges between resolutions, and other grids."""

import pytest
import torch
from benchmarks.bridges import UpsampledPrediction, UpsampledState
from benchmarks.placement import best_division, best_points, even_grid, uniform_calls
from tests.strategies import normal
from torch.testing import assert_close

from scalespace.diffusion.degradation import Resizing, Unchanged
from scalespace.diffusion.grids import calls_by_level, divided_grid
from scalespace.diffusion.noise import LinearBeta, Shifted
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.resolution import ConvexDecay
from scalespace.diffusion.solvers import Ancestral, Multistep

DEGRADATION = Resizing.octaves((8, 8), ConvexDecay(3))
SHIFTED = ScaleSpaceProcess(Shifted(LinearBeta(), DEGRADATION), DEGRADATION)
PAPERS = ScaleSpaceProcess(LinearBeta(), DEGRADATION)
ONE_LEVEL = ScaleSpaceProcess(LinearBeta(), Unchanged((8, 8)))
CHANGE = DEGRADATION.change_points[0]


def white(size):
    """Unit pictures: what a linear map does to them has the covariance of what it does to white noise."""
    return torch.eye(size[0] * size[1], dtype=torch.float64).reshape(-1, 1, *size)


def test_upsampled_state_has_white_noise_of_the_right_level():
    bridge = UpsampledState(SHIFTED, Ancestral(SHIFTED))
    nothing = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    old = SHIFTED.noise.sigma(CHANGE) * white((4, 4))
    carried = bridge.step(old, nothing.expand(16, 1, 8, 8), CHANGE, CHANGE - 1, nothing.expand(16, 1, 8, 8)).flatten(1)
    empty = torch.zeros(64, 1, 4, 4, dtype=torch.float64)
    fresh = bridge.step(empty, nothing.expand(64, 1, 8, 8), CHANGE, CHANGE - 1, white((8, 8))).flatten(1)
    expected = SHIFTED.noise.sigma(CHANGE - 1) ** 2 * torch.eye(64, dtype=torch.float64)
    # lambda_max is a little over 1/4, so the shift stays a little under 4 and the copied noise a little too strong.
    assert_close(carried.mT @ carried + fresh.mT @ fresh, expected, rtol=0, atol=0.03 * float(expected[0, 0]))


def test_upsampled_prediction_repeats_the_small_picture():
    bridge = UpsampledPrediction(PAPERS, Ancestral(PAPERS))
    x0_s, s = normal((8, 8), batch=(2, 1)), CHANGE - 1
    small = DEGRADATION.operator(s, CHANGE)(x0_s)
    drawn = bridge.step(torch.zeros_like(small), x0_s, CHANGE, s, torch.zeros_like(x0_s))
    assert_close(drawn[..., 1::2, ::2], PAPERS.noise.alpha(s) * small)
    assert_close(drawn[..., ::2, 1::2], PAPERS.noise.alpha(s) * small)
    noise = normal((8, 8), 1, batch=(2, 1))
    assert_close(bridge.step(small, x0_s, CHANGE, s, noise) - drawn, PAPERS.noise.sigma(s) * noise)


def test_bridges_leave_the_levels_to_their_solver_and_drop_its_history():
    bridge, alone = UpsampledPrediction(SHIFTED, Multistep(SHIFTED)), Multistep(SHIFTED)
    x, x0 = normal((4, 4), 0, batch=(2, 1)), normal((4, 4), 1, batch=(2, 1))
    for t in (CHANGE + 200, CHANGE + 100):
        assert_close(bridge.step(x, x0, t, t - 100, x), alone.step(x, x0, t, t - 100, x))
    large = normal((8, 8), 2, batch=(2, 1))
    after = bridge.step(x, large, CHANGE, CHANGE - 1, large)
    fresh = Multistep(SHIFTED)
    arguments = after, large, CHANGE - 1, CHANGE - 50, large
    assert_close(bridge.step(*arguments), fresh.step(*arguments))


@pytest.mark.parametrize("process", [SHIFTED, PAPERS, ONE_LEVEL])
@pytest.mark.parametrize("calls", [6, 13, 30, 55])
@pytest.mark.parametrize("rule", [even_grid, uniform_calls])
def test_grids_hold_both_points_of_every_change_and_keep_to_the_calls(process, calls, rule):
    grid = rule(process, calls)
    changes = process.degradation.change_points
    assert list(grid) == sorted(set(grid), reverse=True)
    assert (grid[0], grid[-1]) == (1000, 1)
    assert {*changes, *(t - 1 for t in changes)} <= set(grid)
    assert 0.85 * calls - 1 <= len(grid) <= calls
    assert sum(calls_by_level(process, grid)) == len(grid)


def test_searches_find_what_is_better_where_it_is_known():
    # An error that only counts how far the division is from one that is given.
    wanted = (6, 9, 5)
    far = lambda grid: sum(abs(a - b) for a, b in zip(calls_by_level(SHIFTED, grid), wanted, strict=True))  # noqa: E731
    assert calls_by_level(SHIFTED, best_division(SHIFTED, (12, 4, 4), far)) == wanted
    start = divided_grid(ONE_LEVEL, (5,))
    aim = (1000, 700, 400, 200, 1)
    apart = lambda grid: sum(abs(a - b) for a, b in zip(grid, aim, strict=True))  # noqa: E731
    assert best_points(ONE_LEVEL, start, apart, rounds=60) == aim
