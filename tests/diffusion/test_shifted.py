import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import shrinking_sizes
from torch.testing import assert_close

from scalespace.diffusion.degradation import OrthonormalResizing, Resizing, Unchanged
from scalespace.diffusion.denoiser import dense
from scalespace.diffusion.noise import Cosine, LinearBeta
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.resolution import ConvexDecay
from scalespace.diffusion.shifted import Shifted

KINDS = (Resizing, OrthonormalResizing)


def degradation_of(kind, sizes, timesteps=200):
    points = tuple(timesteps * (k + 1) // (len(sizes) + 1) for k in range(len(sizes) - 1))
    return kind(sizes, points, timesteps)


@pytest.mark.parametrize("base", [LinearBeta(200), Cosine(200)])
@given(sizes=st.integers(1, 4).flatmap(shrinking_sizes), kind=st.sampled_from(KINDS))
def test_shift_falls_inside_every_level_and_makes_a_valid_process(base, sizes, kind):
    degradation = degradation_of(kind, sizes)
    noise = Shifted(base, degradation)
    steps = noise.log_snr_table.diff()
    inside = [t for t in range(1, 201) if t not in degradation.change_points]
    assert (steps[[t - 1 for t in inside]] < 0).all()
    ScaleSpaceProcess(noise, degradation)


@given(sizes=st.integers(1, 4).flatmap(shrinking_sizes), kind=st.sampled_from(KINDS))
def test_shift_ends_as_noisy_as_the_base_and_starts_alike(sizes, kind):
    degradation, base = degradation_of(kind, sizes), LinearBeta(200)
    table = Shifted(base, degradation).log_snr_table
    assert table[-1] <= base.log_snr_table[-1] + 1e-12
    first = min(degradation.change_points, default=201)
    assert_close(table[:first], base.log_snr_table[:first], rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_shift_is_all_that_the_transition_allows_as_steps_get_small(kind):
    margins = []
    for timesteps in (100, 1000, 10000):
        degradation = kind.octaves((64, 64), ConvexDecay(4), timesteps)
        noise = LinearBeta(timesteps, 0.1 / timesteps, 20 / timesteps)
        margins.append(max(ScaleSpaceProcess(Shifted(noise, degradation), degradation).margins().values()))
    assert margins == sorted(margins, reverse=True)
    assert 1 <= margins[-1] < 1.005


def test_nothing_is_shifted_where_nothing_is_averaged():
    base = LinearBeta(50)
    assert_close(Shifted(base, Unchanged((8, 8), 50)).log_snr_table, base.log_snr_table, rtol=0, atol=0)


def test_shift_refuses_another_grid():
    with pytest.raises(ValueError, match=r"50 timesteps and the degradation 60; give both the same"):
        Shifted(LinearBeta(50), Unchanged((8, 8), 60))


def test_orthonormal_resize_with_the_shift_costs_no_retained_mode_any_snr():
    degradation = OrthonormalResizing.octaves((32, 32), ConvexDecay(3))
    noise = Shifted(LinearBeta(), degradation)
    for t in degradation.change_points:
        M = dense(degradation.operator(t - 1, t))
        # SNR of every retained mode at t over that at t - 1: a factor e_i^2 from M, and the step of the schedule.
        ratio = noise.snr(t) * torch.linalg.eigvalsh(M @ M.mT) / noise.snr(t - 1)
        one_step = noise.snr(t - 1) / noise.snr(t - 2)
        assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-12, atol=0)
        assert one_step**2 < ratio.mean() < 1
