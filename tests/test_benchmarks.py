"""What the benches compare with: other grids, and processes that are what they are called."""

import argparse
from pathlib import Path

import pytest
import torch
from benchmarks.any_denoiser import FullResolution, Staying
from benchmarks.placement import best_division, best_points, even_grid, uniform_calls
from benchmarks.trained import configuration, over_ddpm

from scalespace.diffusion.degradation import Resizing, Unchanged
from scalespace.diffusion.denoiser import GaussianDenoiser
from scalespace.diffusion.grids import calls_by_level, divided_grid
from scalespace.diffusion.noise import LinearBeta
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.resolution import ConvexDecay
from scalespace.diffusion.shifted import Shifted
from scalespace.oracles.gaussian import power_law, spectral_covariance
from scalespace.training.build import build_scheduler

DEGRADATION = Resizing.octaves((8, 8), ConvexDecay(3))
SHIFTED = ScaleSpaceProcess(Shifted(LinearBeta(), DEGRADATION), DEGRADATION)
PAPERS = ScaleSpaceProcess(LinearBeta(), DEGRADATION)
ONE_LEVEL = ScaleSpaceProcess(LinearBeta(), Unchanged((8, 8)))


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


@pytest.mark.parametrize(
    ("arm", "levels", "shifted"),
    [
        *[("ddpm", 1, False), ("paper", 3, False), ("paper-share-0.1", 3, False), ("shifted", 3, True), ("v", 3, True)],
        ("transformer-ddpm-offset", 1, False),
    ],
)
def test_arms_have_the_noise_that_they_are_called_after(arm: str, levels: int, shifted: bool, tmp_path: Path):
    arguments = argparse.Namespace(
        arm=arm, size=16, data="pictures.zip", batch_size=64, seed=0, no_flip=False, mixed_precision="no"
    )
    process = build_scheduler(configuration(arguments, tmp_path)).process
    base = LinearBeta().log_snr_table
    assert len(process.degradation.change_points) == levels - 1
    assert torch.equal(process.noise.log_snr_table, base) is not shifted


def test_distances_are_compared_with_those_of_ddpm_with_the_same_seed():
    keys = ("frechet_features", "frechet_pixels", "swd_mean")
    records = [
        {"data": "a", "size": 16, "sampler": "corrected-50", "arm": arm, "seed": seed} | dict.fromkeys(keys, distance)
        for arm, seed, distance in [
            ("ddpm", 0, 1.0),
            ("ddpm", 1, 30.0),
            ("paper", 0, 2.0),
            ("paper", 1, 60.0),
            ("shifted", 2, 9.0),
        ]
    ]
    *_, row = over_ddpm(records).splitlines()
    assert row == "| paper | 2 |" + " 2.00 (2.00 to 2.00) |" * 3


def test_denoisers_of_full_resolution_pictures_are_exact_there_and_see_small_ones_as_parts_of_large_ones():
    exact = GaussianDenoiser(SHIFTED, spectral_covariance(power_law((8, 8), 2.0)))
    scale = float(power_law((8, 8), 2.0)[0, 0])
    ideal = FullResolution(SHIFTED, lambda k: scale * (1 + k) ** -2)
    state = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(ideal(state, 50, 49), exact(state, 50, 49))
    change = DEGRADATION.change_points[0]
    low = torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    M = SHIFTED.degradation.operator(change - 1, change)
    assert torch.allclose(M(Staying(exact)(low, change, change - 1)), exact(low, change, change))
    # To it a small picture has the power of a large one at the same frequency per pixel.
    flat = FullResolution(SHIFTED, torch.ones_like)
    alpha, sigma = SHIFTED.noise.alpha(change), SHIFTED.noise.sigma(change)
    assert torch.allclose(flat(low, change, change), alpha / (alpha**2 + sigma**2) * low)
