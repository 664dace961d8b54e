import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.metrics.sets import pictures
from torch.testing import assert_close

from scalespace.metrics.sliced_wasserstein import laplacian_pyramid, sliced_wasserstein, sliced_wasserstein_bands
from scalespace.metrics.wasserstein import group_histograms, histogram_distance, wasserstein


def _directions(count, dimensions):
    v = torch.randn(count, dimensions, generator=torch.Generator().manual_seed(7))
    return v / v.norm(dim=1, keepdim=True)


@given(
    first=st.lists(st.integers(-9, 9), min_size=1, max_size=7),
    second=st.lists(st.integers(-9, 9), min_size=1, max_size=7),
)
def test_the_distance_of_numbers_is_the_area_between_their_distribution_functions(first, second):
    grid = torch.arange(-9, 9)
    below = [(torch.tensor(x)[:, None] <= grid).double().mean(0) for x in (first, second)]
    x, y = (torch.tensor(side, dtype=torch.float32) for side in (first, second))
    area = float((below[0] - below[1]).abs().sum())
    assert wasserstein(x, y) == pytest.approx(area, abs=1e-6)
    counted = [group_histograms(side.long() + 9, torch.zeros(len(side), dtype=torch.long), 1, 19) for side in (x, y)]
    assert float(histogram_distance(*counted)) == pytest.approx(area, abs=1e-6)


def test_a_shift_moves_every_projection_by_its_part_along_it():
    x, shift, directions = torch.randn(500, 12), torch.randn(12), _directions(20, 12)
    assert_close(sliced_wasserstein(x, x + shift, directions).float(), (directions @ shift).abs(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [20_000, 15_000])
def test_shifted_gaussians_have_the_closed_form_within_the_standard_error(count):
    # E |<v, m>| over unit vectors v of n dimensions is |m| Gamma(n/2) / (sqrt(pi) Gamma((n+1)/2)).
    n, shift = 9, 2.0
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(20_000, n, generator=generator), torch.randn(count, n, generator=generator)
    y[:, 0] += shift
    found = sliced_wasserstein(x, y, _directions(600, n))
    expected = shift * math.gamma(n / 2) / (math.sqrt(math.pi) * math.gamma((n + 1) / 2))
    # The samples' own noise adds about N^(-1/2) where the projected shift is small.
    assert float(found.mean()) == pytest.approx(expected, abs=3 * float(found.std()) / 600**0.5 + count**-0.5)


@given(height=st.integers(7, 70), width=st.integers(7, 70))
def test_the_bands_add_up_to_the_picture_and_end_at_16_pixels(height, width):
    pictures = torch.rand(2, 3, height, width)
    bands = laplacian_pyramid(pictures)
    assert [min(band.shape[-2:]) >= 32 for band in bands[1:]].count(False) == (len(bands) > 1)
    assert bands[0].shape == pictures.shape
    whole = bands[-1]
    for band in reversed(bands[:-1]):
        spread = torch.zeros_like(band)
        spread[..., ::2, ::2] = whole
        kernel = torch.tensor([1.0, 4, 6, 4, 1])[:, None] * torch.tensor([1.0, 4, 6, 4, 1]) / 64
        padded = torch.nn.functional.pad(spread, (2, 2, 2, 2), mode="reflect")
        whole = band + torch.nn.functional.conv2d(padded, kernel.expand(3, 1, 5, 5), groups=3)
    assert_close(whole, pictures, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "bands"), [((64, 64), ["64x64", "32x32", "16x16"]), ((16, 16), ["16x16"]), ((24, 40), ["24x40"])]
)
def test_bands_are_named_by_their_size(size, bands):
    found = sliced_wasserstein_bands(pictures(6, size), pictures(8, size, 6), patches=8, directions=4, resamples=2)
    assert list(found) == [*bands, "mean"]
    assert found["mean"].value == pytest.approx(sum(found[band].value for band in bands) / len(bands))


def test_blur_is_seen_in_the_finest_band_and_colour_in_none():
    x, y = pictures(150), pictures(150, first=150)
    options = {"patches": 64, "directions": 32}
    base = sliced_wasserstein_bands(x, y, **options)
    blurred = torch.nn.functional.avg_pool2d(x.float(), 3, 1, 1, count_include_pad=False).byte()
    found = sliced_wasserstein_bands(blurred, y, **options)
    assert found["32x32"].value > 2 * base["32x32"].value
    assert found["16x16"].value < 1.5 * base["16x16"].value
    darker = sliced_wasserstein_bands((x.float() * 0.5 + 20).byte(), y, **options)
    assert darker["mean"].value == pytest.approx(base["mean"].value, rel=0.15)


def test_is_near_zero_for_equal_sets_and_symmetric_up_to_its_random_patches():
    x, y = pictures(60), (pictures(60, first=60).float() * 0.3).byte()
    options = {"patches": 64, "directions": 32}
    # What is left is the patches' own noise, some N^(-1/2) of their deviation.
    assert sliced_wasserstein_bands(x, x, **options)["mean"].value < 3e3 / (60 * 64) ** 0.5
    there, back = (sliced_wasserstein_bands(*pair, **options)["mean"].value for pair in ((x, y), (y, x)))
    assert there == pytest.approx(back, rel=0.2)


def test_intervals_are_as_wide_as_independent_pictures_vary():
    def draw(seed, smooth):
        # Waves of random frequency and brightness, so that pictures differ as a whole.
        generator = torch.Generator().manual_seed(seed)
        frequency, phase, light = (torch.rand(60, 3, 1, 1, generator=generator) for _ in range(3))
        wave = torch.sin(6 * frequency * torch.arange(16) / smooth + 7 * phase + 0.3 * torch.arange(16)[:, None])
        return (60 * wave + 60 + 120 * light).byte()

    found = [
        sliced_wasserstein_bands(draw(2 * k, 3.0), draw(2 * k + 1, 2.0), patches=16, directions=8, seed=0)["16x16"]
        for k in range(40)
    ]
    width = sum((f.high or 0) - (f.low or 0) for f in found) / len(found)
    # The spread of 40 has a standard error of a ninth.
    assert 0.7 < width / (2 * 1.96 * float(torch.tensor([f.value for f in found]).std())) < 1.5


def test_flat_pictures_have_no_texture_and_small_ones_no_patches():
    flat = torch.arange(1, 9, dtype=torch.uint8)[:, None, None, None].expand(8, 3, 16, 16) * 20
    assert sliced_wasserstein_bands(flat, flat, patches=4, directions=4)["mean"].value < 200
    with pytest.raises(ValueError, match="pictures of 6x16 hold no patches of 7 pixels"):
        sliced_wasserstein_bands(pictures(2, (6, 16)), pictures(2, (6, 16)))
    with pytest.raises(ValueError, match="pictures of 16x16 and of 32x32 pixels"):
        sliced_wasserstein_bands(pictures(2, (16, 16)), pictures(2))
