"""Other bridges between resolutions, which ours is compared with."""

from dataclasses import dataclass

import pytest
import torch
from tests.strategies import box_average, normal
from torch.testing import assert_close

from scalespace.diffusion.bridges import Isotropic, SpectralExpansion, UpsampledPrediction, UpsampledState
from scalespace.diffusion.degradation import DCTResizing, Levels, Resizing, Unchanged
from scalespace.diffusion.noise import Cosine, LinearBeta
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.resolution import ConvexDecay
from scalespace.diffusion.shifted import Shifted
from scalespace.diffusion.solvers import DDIM, Ancestral, Corrected, Multistep
from scalespace.operators.linear import LinearOperator, Size

DEGRADATION = Resizing.octaves((8, 8), ConvexDecay(3))
SHIFTED = ScaleSpaceProcess(Shifted(LinearBeta(), DEGRADATION), DEGRADATION)
PAPERS = ScaleSpaceProcess(LinearBeta(), DEGRADATION)
CHANGE = DEGRADATION.change_points[0]


@dataclass(frozen=True)
class BoxAverages(Levels):
    """Averages over 2 x 2 pixels, as a function that nothing is known of."""

    def next_level(self, size: Size, next_size: Size) -> LinearOperator:
        return box_average(size)


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


@pytest.mark.parametrize("kind", [Multistep, Corrected])
def test_bridges_leave_the_levels_to_their_solver_and_drop_its_history(kind: type[Multistep] | type[Corrected]):
    bridge, alone = UpsampledPrediction(SHIFTED, kind(SHIFTED)), kind(SHIFTED)
    x, x0 = normal((4, 4), 0, batch=(2, 1)), normal((4, 4), 1, batch=(2, 1))
    for t in (CHANGE + 200, CHANGE + 100):
        assert_close(bridge.step(x, x0, t, t - 100, x), alone.step(x, x0, t, t - 100, x))
    large = normal((8, 8), 2, batch=(2, 1))
    after = bridge.step(x, large, CHANGE, CHANGE - 1, large)
    fresh = kind(SHIFTED)
    arguments = after, large, CHANGE - 1, CHANGE - 50, large
    assert_close(bridge.step(*arguments), fresh.step(*arguments))


@pytest.mark.parametrize("kind", [Resizing, BoxAverages])
def test_isotropic_has_white_noise_of_the_posterior_s_total_variance(kind: type[Levels]):
    process = ScaleSpaceProcess(LinearBeta(), kind(((8, 8), (4, 4)), (CHANGE,)))
    s = CHANGE - 1
    x_t, x0_s, noise = (normal(size, seed, batch=(2, 3)) for seed, size in enumerate(((4, 4), (8, 8), (8, 8))))
    posterior = process.posterior(x_t, x0_s, CHANGE, s)
    drawn = Isotropic(process, Ancestral(process)).step(x_t, x0_s, CHANGE, s, noise) - posterior.mean
    deviation = float((drawn / noise).mean())
    assert_close(drawn, deviation * noise, rtol=0, atol=1e-12)
    total = posterior.covariance(white((8, 8))).flatten(1).trace()
    assert 64 * deviation**2 == pytest.approx(float(total), rel=1e-10)


def test_upsampled_state_is_refused_where_the_enlarged_noise_is_too_strong():
    with pytest.raises(ValueError, match=rf"needs an SNR 4 times higher at t = {CHANGE} .* it is 0.988 times"):
        UpsampledState(PAPERS, Ancestral(PAPERS))
    degradation = Resizing(((9, 8), (6, 4)), (500,))
    odd = ScaleSpaceProcess(Shifted(Cosine(), degradation), degradation)
    with pytest.raises(ValueError, match=r"copies whole pixels, and \(6, 4\) does not divide \(9, 8\)"):
        UpsampledState(odd, Ancestral(odd))
    one_level = ScaleSpaceProcess(LinearBeta(), Unchanged((8, 8)))
    x = normal((8, 8), batch=(1, 1))
    assert_close(
        UpsampledState(one_level, Ancestral(one_level)).step(x, x, 5, 4, x), Ancestral(one_level).step(x, x, 5, 4, x)
    )


def test_spectral_expansion_is_the_lift_of_a_prediction_without_its_new_octave():
    degradation = DCTResizing.octaves((8, 12), ConvexDecay(3))
    process = ScaleSpaceProcess(Shifted(LinearBeta(), degradation), degradation)
    for t in degradation.change_points:
        M, size, small = degradation.operator(t - 1, t), process.size(t - 1), process.size(t)
        x_t, x0_s, noise = normal(small, batch=(2, 1)), normal(size, 1, batch=(2, 1)), normal(size, 2, batch=(2, 1))
        found = SpectralExpansion(process, Ancestral(process)).step(x_t, x0_s, t, t - 1, noise)
        known = M.adjoint_function(lambda e: 1 / e, M(x0_s))
        assert_close(found, DDIM(process).step(x_t, known, t, t - 1, noise))


def test_spectral_expansion_aligns_times_as_flow_matching_does():
    # With x = (1 - sigma) x_0 + sigma eps the noise of a state at twice the sides is sigma' = r sigma / (1 + (r - 1) sigma).
    degradation = DCTResizing.octaves((8, 8), ConvexDecay(2))
    noise = Shifted(LinearBeta(), degradation)
    (t,) = degradation.change_points
    flow = {point: noise.sigma(point) / (noise.alpha(point) + noise.sigma(point)) for point in (t - 1, t)}
    step = LinearBeta().log_snr(t - 1) - LinearBeta().log_snr(t)
    aligned = 2 * flow[t] / (1 + flow[t])
    assert flow[t - 1] < aligned < flow[t - 1] + step / 2


def test_dct_resizing_keeps_low_frequencies_brightness_and_white_noise():
    M = DCTResizing(((12, 8), (6, 4)), (5,), 10).operator(0, 5)
    assert_close(M(torch.ones(1, 1, 12, 8, dtype=torch.float64)), torch.ones(1, 1, 6, 4, dtype=torch.float64))
    assert_close(M(M.adjoint(white((6, 4)))), white((6, 4)) / 4)
    assert M.norm_squared() == pytest.approx(0.25)
