"""Degradations: a family of maps that is consistent with itself."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import normal, seeds, shrinking_sizes
from torch.testing import assert_close

from scalespace.diffusion.degradation import Blurring, Degradation, Levels, Resizing, Unchanged
from scalespace.diffusion.degradations.pyramid import GaussianPyramid
from scalespace.diffusion.noise import Cosine, LinearBeta
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.resolution import ChangesAt, ConvexDecay
from scalespace.diffusion.shifted import Shifted
from scalespace.errors import UserError
from scalespace.operators.dct import dct_matrix
from scalespace.operators.linear import Identity
from scalespace.operators.resize import Resize, Separable

POINTS = (3, 4, 9)


@given(sizes=shrinking_sizes(4), times=st.tuples(*[st.integers(0, 12)] * 3).map(sorted), seed=seeds())
def test_maps_are_a_semigroup(sizes, times, seed):
    # M_{s->t} M_{r->s} = M_{r->t}
    r, s, t = times
    degradation = Resizing(sizes, POINTS, 12)
    x = normal(degradation.size(r), seed)
    in_two = degradation.operator(s, t)(degradation.operator(r, s)(x))
    assert_close(in_two, degradation.operator(r, t)(x), rtol=0, atol=1e-13)


@given(sizes=shrinking_sizes(4), times=st.tuples(*[st.integers(0, 12)] * 2).map(sorted))
def test_maps_go_between_the_sizes_of_their_ends(sizes, times):
    s, t = times
    degradation = Resizing(sizes, POINTS, 12)
    M = degradation.operator(s, t)
    assert (M.in_size, M.out_size) == (degradation.size(s), degradation.size(t))
    if degradation.size(s) == degradation.size(t):
        assert Identity(degradation.size(s)) == M
    else:
        assert isinstance(M, Separable), "a chain of resizes must keep its exact Gram matrix"


def test_size_changes_at_the_change_points_and_nowhere_else():
    degradation = Resizing(((8, 8), (4, 5), (4, 4), (1, 2)), POINTS, 12)
    changes = [t for t in range(1, 13) if degradation.size(t) != degradation.size(t - 1)]
    assert tuple(changes) == degradation.change_points
    assert [degradation.level(t) for t in (0, 2, 3, 4, 8, 9, 12)] == [0, 0, 1, 2, 2, 3, 3]


def test_octaves_halve_and_round_down():
    degradation = Resizing.octaves((50, 36), ConvexDecay(4))
    assert degradation.sizes == ((50, 36), (25, 18), (12, 9), (6, 4))
    assert degradation.change_points == ConvexDecay(4).change_points(1000)


def test_unchanged_is_the_identity_on_the_whole_grid():
    degradation = Unchanged((6, 4), 10)
    assert degradation.change_points == ()
    assert degradation.size(0) == degradation.size(10) == (6, 4)
    assert degradation.operator(0, 10) == Identity((6, 4))


@pytest.mark.parametrize("degradation", [Unchanged((8, 8), 12), Resizing(((8, 8), (4, 4)), (5,), 12)])
@pytest.mark.parametrize(("s", "t"), [(-1, 3), (4, 3), (3, 13)])
def test_maps_off_the_grid_or_backwards_are_refused(degradation, s, t):
    with pytest.raises(ValueError, match=f"no map from grid point {s} to {t}; need 0 <= s <= t <= 12"):
        degradation.operator(s, t)


@pytest.mark.parametrize(
    ("sizes", "points", "message"),
    [
        (((8, 8), (4, 4)), (), "2 sizes and 0 change points do not fit"),
        (((8, 8),), (3,), "1 sizes and 1 change points do not fit"),
        (((8, 8), (8, 8)), (3,), r"level \(8, 8\) is followed by \(8, 8\)"),
        (((8, 8), (4, 9)), (3,), r"level \(8, 8\) is followed by \(4, 9\)"),
        (((8, 8), (4, 4)), (1,), "give ascending points between 2 and 12"),
        (((8, 8), (4, 4)), (13,), "give ascending points between 2 and 12"),
        (((8, 8), (4, 4), (2, 2)), (5, 5), "leave a level without a grid point"),
        (((8, 8), (4, 4), (0, 2)), (3, 5), r"sizes \(8, 8\) and 3 levels leave 0 pixels .* use at most 2 levels"),
    ],
)
def test_sizes_and_changes_that_do_not_fit_are_refused(sizes, points, message):
    with pytest.raises(ValueError, match=message):
        Resizing(sizes, points, 12)


def test_octaves_that_leave_no_pixels_are_refused():
    with pytest.raises(ValueError, match=r"sizes \(8, 2\) and 4 levels leave 0 pixels .* use at most 2 levels"):
        Resizing.octaves((8, 2), ChangesAt((100, 200, 300)))


def coefficients(x):
    return dct_matrix(x.shape[-2]) @ x @ dct_matrix(x.shape[-1]).mT


@given(times=st.tuples(*[st.integers(0, 12)] * 3).map(sorted), seed=seeds())
def test_blurs_are_a_semigroup(times, seed):
    r, s, t = times
    degradation, x = Blurring((6, 4), 12, sigma_blur=2.0), normal((6, 4), seed)
    in_two = degradation.operator(s, t)(degradation.operator(r, s)(x))
    assert_close(in_two, degradation.operator(r, t)(x), rtol=0, atol=1e-12)


def test_a_blur_is_the_heat_equation_in_the_cosine_basis():
    degradation, x = Blurring((6, 4), 10, sigma_blur=3.0, smallest_gain=0.01), normal((6, 4))
    blur = 3 * math.sin(math.pi / 4) ** 2
    ratio = coefficients(degradation.operator(0, 5)(x)) / coefficients(x)
    for k, m in ((0, 0), (1, 0), (2, 3), (5, 3)):
        heat = math.exp(-((math.pi * k / 6) ** 2 + (math.pi * m / 4) ** 2) * blur**2 / 2)
        assert float(ratio[0, k, m]) == pytest.approx(0.99 * heat + 0.01, rel=1e-9)


@pytest.mark.parametrize(("s", "t"), [(4, 5), (2, 9), (1, 12)])
def test_with_a_blur_the_process_is_blurring_diffusion(s, t):
    """Their posterior, written for each frequency: eq. 14 to 17 of arXiv 2209.05557."""
    process = ScaleSpaceProcess(Cosine(12), Blurring((6, 4), 12, sigma_blur=2.0))
    x_t, x_0 = normal((6, 4), 0), normal((6, 4), 1)
    noise, gains = process.noise, process.degradation.gains
    a_s, a_t, v_s, v_t = noise.alpha(s) * gains(s), noise.alpha(t) * gains(t), noise.sigma(s) ** 2, noise.sigma(t) ** 2
    step = a_t / a_s
    v_step = v_t - step**2 * v_s
    variance = 1 / (1 / v_s + step**2 / v_step)
    mean = variance * (step / v_step * coefficients(x_t) + a_s / v_s * coefficients(x_0))
    posterior = process.posterior(x_t, process.degradation.operator(0, s)(x_0), t, s)
    assert_close(coefficients(posterior.mean), mean, rtol=0, atol=1e-9)
    unit = normal((6, 4), 2)
    assert_close(coefficients(posterior.covariance(unit)), variance * coefficients(unit), rtol=0, atol=1e-9)


def test_a_blur_averages_no_noise_away_and_shifts_nothing():
    degradation = Blurring((6, 4), 12)
    assert torch.equal(Shifted(LinearBeta(12), degradation).log_snr_table, LinearBeta(12).log_snr_table)
    assert all(margin > 1 for margin in ScaleSpaceProcess(LinearBeta(12), degradation).margins().values())


def test_a_blur_changes_with_every_step_and_jumps_nowhere():
    degradation = Blurring((6, 4), 12)
    assert degradation.change_points == tuple(range(1, 13))
    assert degradation.jumps == ()
    assert Resizing(((8, 8), (4, 4)), (5,), 12).jumps == (5,)


def test_every_picture_of_a_batch_may_have_its_own_blur():
    degradation, x = Blurring((6, 4), 12, sigma_blur=2.0), normal((6, 4), batch=(3, 2))
    s, t = torch.tensor([0, 3, 7]), torch.tensor([5, 3, 12])
    M = degradation.operators(s, t)
    assert (M.in_size, M.out_size) == ((6, 4), (6, 4))
    for i in range(3):
        alone = degradation.operator(int(s[i]), int(t[i]))
        assert_close(M(x)[i], alone(x[i]), rtol=0, atol=1e-12)
        assert_close(M.gram_function(torch.exp, x)[i], alone.gram_function(torch.exp, x[i]), rtol=0, atol=1e-12)
    process = ScaleSpaceProcess(LinearBeta(12), degradation)
    together = process.marginal(x, t)
    for i in range(3):
        alone = process.marginal(x[i : i + 1], int(t[i]))
        assert_close(together.draw(x)[i], alone.draw(x[i : i + 1])[0], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="no map from grid point 7 to 6"):
        degradation.operators(s, torch.tensor([5, 3, 6]))


def test_pictures_on_both_sides_of_a_jump_are_no_batch():
    degradation = Resizing(((8, 8), (4, 4)), (5,), 12)
    within = degradation.operators(torch.tensor([0, 2, 4]), torch.tensor([5, 12, 9]))
    assert_close(within(normal((8, 8))), degradation.operator(0, 5)(normal((8, 8))))
    for s, t in (((4, 5), (9, 9)), ((0, 0), (4, 5))):
        with pytest.raises(ValueError, match="grid points 4 and 5 of one batch differ in resolution or blur"):
            degradation.operators(torch.tensor(s), torch.tensor(t))


@pytest.mark.parametrize(
    "options",
    [
        {"sigma_blur": -1.0},
        {"sigma_blur": 1e300},
        {"sigma_blur": float("inf")},
        {"smallest_gain": 0.0},
        {"smallest_gain": 1.0},
    ],
)
def test_blurs_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError, match="give a blur of 0 to 8192 pixels and a share"):
        Blurring((6, 4), 12, **options)


@pytest.mark.parametrize(
    "degradation",
    [
        Unchanged((4, 4), 12),
        Resizing(((8, 6), (4, 3)), (5,), 12),
        GaussianPyramid(((8, 6), (4, 3), (2, 3)), (5, 9), 12),
        Blurring((8, 6), 12),
    ],
)
def test_degradations_of_the_package_pass_the_tests_of_all(degradation):
    # They know that they compose and are not asked when a process is built.
    Degradation.check_operators(degradation)


def test_a_map_between_levels_that_goes_elsewhere_is_refused():
    class Thirds(Levels):
        def next_level(self, size, next_size):
            return Resize(size, (size[0] // 3, size[1] // 3))

    with pytest.raises(
        UserError, match=r"to the next level maps \(8, 6\) to \(2, 2\), where the degradation has \(8, 6\) and \(4, 3\)"
    ):
        ScaleSpaceProcess(LinearBeta(12, 0.05, 0.6), Thirds(((8, 6), (4, 3)), (5,), 12))
