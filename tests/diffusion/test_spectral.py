"""Resolutions read off the data: the rule, on spectra that are known, and what makes no schedule."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scalespace.diffusion.degradation import Resizing
from scalespace.diffusion.noise import Cosine, LinearBeta
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.shifted import Shifted
from scalespace.diffusion.spectral import FromSpectrum
from scalespace.oracles.gaussian import power_law

LINE = power_law((1, 64))
LINE_SIZES = ((1, 64), (1, 32), (1, 16), (1, 8))
SIZES = ((16, 12), (8, 6), (4, 3))


def octave_spectrum(*powers: float) -> Tensor:
    """16 x 12 pixels whose octaves have the given power, the last one being what is never lost."""
    spectrum = torch.empty(16, 12, dtype=torch.float64)
    for (height, width), power in zip(SIZES, powers, strict=True):
        spectrum[:height, :width] = power
    return spectrum


def test_a_line_of_natural_spectrum_gives_the_published_points():
    # Published as indices i of 0..T-1; grid point t is i + 1.
    points = FromSpectrum(LINE, LINE_SIZES, LinearBeta(), 0.01).change_points(1000)
    assert [point - 1 for point in points] == [191, 318, 451]
    assert float(LINE.mean()) == pytest.approx(0.25)


@settings(deadline=None)
@given(
    tolerance=st.floats(0.002, 0.1),
    exponent=st.floats(1.0, 2.0),
    noise=st.sampled_from([LinearBeta(), Cosine(), LinearBeta(400, 1e-3, 4e-2)]),
)
def test_every_change_is_at_the_first_point_where_its_octave_is_drowned(tolerance, exponent, noise):
    rows, columns = torch.arange(16.0)[:, None], torch.arange(16.0)[None, :]
    spectrum = 4.0 / (1 + rows**2 + columns**2) ** exponent
    schedule = FromSpectrum(spectrum, ((16, 16), (8, 8), (4, 4)), noise, tolerance)
    points = schedule.change_points(noise.timesteps)
    for level, point in enumerate(points):
        assert schedule.mode_snr(point)[level] < tolerance
        before = noise.snr(torch.arange(1, point)) * schedule.octaves[level]
        assert (before >= tolerance).all()
    assert all(above < below for above, below in pairwise(points))


def test_an_octave_is_what_a_level_has_and_the_next_one_has_not():
    schedule = FromSpectrum(octave_spectrum(0.02, 0.3, 5.0), SIZES, LinearBeta())
    assert schedule.octaves == pytest.approx((0.02, 0.3))
    snr = LinearBeta().snr(500)
    assert schedule.mode_snr(500) == pytest.approx((0.02 * snr, 0.3 * snr))


def test_a_level_may_lose_one_direction_and_any_factor():
    spectrum = torch.ones(9, 12, dtype=torch.float64)
    spectrum[:, 8:] = 0.1
    spectrum[6:, :8] = 0.5
    schedule = FromSpectrum(spectrum, ((9, 12), (9, 8), (6, 8)), LinearBeta())
    assert schedule.octaves == pytest.approx((0.1, 0.5))


def test_an_octave_of_uneven_power_counts_by_its_mean():
    spectrum = octave_spectrum(0.02, 0.3, 5.0)
    spectrum[15, 11] += 0.02 * (16 * 12 - 8 * 6)
    assert FromSpectrum(spectrum, SIZES, LinearBeta()).octaves == pytest.approx((0.04, 0.3))


def test_a_smaller_tolerance_and_stronger_pictures_keep_the_resolution_longer():
    base = FromSpectrum(LINE, LINE_SIZES, LinearBeta(), 0.03).change_points(1000)
    for later in (
        FromSpectrum(LINE, LINE_SIZES, LinearBeta(), 0.01),
        FromSpectrum(3 * LINE, LINE_SIZES, LinearBeta(), 0.03),
    ):
        assert all(ours < theirs for ours, theirs in zip(base, later.change_points(1000), strict=True))
    # Only their quotient counts.
    assert FromSpectrum(3 * LINE, LINE_SIZES, LinearBeta(), 0.09).change_points(1000) == base


def test_it_makes_a_process_with_and_without_the_shift():
    schedule = FromSpectrum(octave_spectrum(0.02, 0.3, 5.0), SIZES, LinearBeta(), 0.01)
    degradation = Resizing.octaves((16, 12), schedule)
    assert degradation.sizes == SIZES
    assert degradation.change_points == schedule.change_points(1000)
    for noise in (LinearBeta(), Shifted(LinearBeta(), degradation)):
        assert min(ScaleSpaceProcess(noise, degradation).margins().values()) >= 1


def test_one_level_has_nothing_to_lose():
    schedule = FromSpectrum(LINE, ((1, 64),), LinearBeta())
    assert schedule.octaves == schedule.change_points(1000) == ()


@pytest.mark.parametrize("tolerance", [0.0, -0.01, 1.0, float("nan"), float("inf")])
def test_a_tolerance_outside_of_its_range_is_refused(tolerance):
    with pytest.raises(ValueError, match=r"tolerance is .*; give a mode-SNR above 0 and below 1"):
        FromSpectrum(LINE, LINE_SIZES, LinearBeta(), tolerance)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e-30])
def test_a_spectrum_with_holes_is_refused_and_the_first_one_named(value):
    spectrum = octave_spectrum(0.02, 0.3, 5.0)
    spectrum[3, 7] = spectrum[5, 0] = value
    with pytest.raises(ValueError, match=r"zero, negative or not finite in 2 of 192 coefficients .* at \(3, 7\)"):
        FromSpectrum(spectrum, SIZES, LinearBeta())


def test_an_octave_that_never_drowns_is_refused():
    with pytest.raises(
        ValueError, match=r"the octave from 8x6 to 4x3 never sinks below the tolerance 0\.01.*t = 1000; give a larger"
    ):
        FromSpectrum(octave_spectrum(0.02, 1e4, 1e5), SIZES, LinearBeta()).change_points(1000)


def test_an_octave_that_is_drowned_from_the_start_is_refused():
    with pytest.raises(
        ValueError,
        match=r"the octave from 16x12 to 8x6 is below the tolerance 0\.5 from t = 1 on .* leaves level 16x12",
    ):
        FromSpectrum(octave_spectrum(1e-5, 0.3, 5.0), SIZES, LinearBeta(), 0.5).change_points(1000)


@pytest.mark.parametrize("second", [0.02, 0.001])
def test_a_level_that_would_be_left_as_soon_as_it_is_reached_is_refused(second):
    with pytest.raises(
        ValueError, match=r"the octave from 8x6 to 4x3 sinks .* no later than .* leaves level 8x6 without"
    ):
        FromSpectrum(octave_spectrum(0.02, second, 5.0), SIZES, LinearBeta()).change_points(1000)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((), "not one of pictures of the first of the sizes"),
        (((12, 16), (6, 8)), "not one of pictures of the first of the sizes"),
        (((16, 12), (16, 12)), "must hold pixels, and fewer than the one before"),
        (((16, 12), (8, 14)), "must hold pixels, and fewer than the one before"),
        (((16, 12), (8, 0)), "must hold pixels, and fewer than the one before"),
    ],
)
def test_sizes_that_are_not_levels_of_the_spectrum_are_refused(sizes, words):
    with pytest.raises(ValueError, match=words):
        FromSpectrum(octave_spectrum(0.02, 0.3, 5.0), sizes, LinearBeta())


def test_another_grid_than_the_noise_has_is_refused():
    with pytest.raises(
        ValueError, match="the noise schedule has 1000 timesteps and the process 500; give both the same"
    ):
        FromSpectrum(LINE, LINE_SIZES, LinearBeta()).change_points(500)
