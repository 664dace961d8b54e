import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.metrics.sets import pictures
from torch.testing import assert_close

from scalespace.metrics.picture_distances import (
    _histogram_distance,
    colour_distances,
    colour_histograms,
    radial_power,
    spectrum_distance,
)
from scalespace.metrics.resampling import Groups


def _noise(seed, count, deviation, size=(32, 32)):
    x = torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed)) * deviation
    return (x + 127.5).round().clamp(0, 255).byte()


def test_white_noise_differs_by_its_variance_at_all_frequencies():
    found = spectrum_distance(_noise(0, 300, 20), _noise(1, 300, 10))
    # 20 log10 2 decibels; what is added by rounding is 1/12 to 100 and to 400.
    assert found.value == pytest.approx(6.02, abs=0.05)
    assert found.low is not None
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.2


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (8, 64)])
def test_a_cosine_has_all_its_power_at_its_frequency(size):
    height, width = size
    wave = torch.cos(torch.pi * 3 * (torch.arange(width) + 0.5) / width)
    pictures = (127.5 + 100 * wave).expand(2, 3, height, width).round().byte()
    power = radial_power(pictures, Groups.of_side(2, 0, 0))[0]
    assert int(power[1:].argmax()) + 1 == max(1, round(3 * min(size) / width))


def test_the_spectrum_is_zero_for_equal_sets_symmetric_and_grows_with_blur():
    x, y = pictures(60), pictures(60, first=60)
    assert spectrum_distance(x, x).value == 0
    assert spectrum_distance(x, y).value == pytest.approx(spectrum_distance(y, x).value)
    blurred = [
        torch.nn.functional.avg_pool2d(x.float(), k, 1, k // 2, count_include_pad=False).byte() for k in (1, 3, 5)
    ]
    distances = [spectrum_distance(b, y).value for b in blurred]
    assert distances == sorted(distances)
    assert distances[1] > 3 * distances[0]


def test_constant_pictures_have_a_spectrum():
    flat = torch.full((4, 3, 16, 16), 90, dtype=torch.uint8)
    assert spectrum_distance(flat, flat).value == 0
    assert 0 < spectrum_distance(flat, _noise(0, 4, 10, (16, 16))).value < 60


def test_a_shift_of_all_colours_moves_values_and_brightness_alone():
    x = _noise(0, 40, 20)
    found = colour_distances(x + 10, x)
    assert (found.channels.value, found.brightness.value) == (10, pytest.approx(10))
    assert (found.saturation.value, found.contrast.value) == (0, pytest.approx(0, abs=1e-9))


def test_grey_pictures_lack_saturation_and_flat_ones_contrast():
    x = _noise(0, 40, 20)
    grey = x.float().mean(1, keepdim=True).round().byte().expand(-1, 3, -1, -1)
    found = colour_distances(grey, x)
    pixels = x.long()
    assert found.saturation.value == pytest.approx(float((pixels.amax(1) - pixels.amin(1)).double().mean()))
    assert found.brightness.value < 0.5
    flat = x.float().mean((1, 2, 3), keepdim=True).round().byte().expand_as(x)
    assert colour_distances(flat, x).contrast.value == pytest.approx(20, abs=0.6)


def test_colours_are_symmetric_and_the_sets_may_differ_in_number():
    x, y = _noise(0, 30, 20), _noise(1, 45, 35)
    there, back = colour_distances(x, y), colour_distances(y, x)
    for name in ("channels", "saturation", "brightness", "contrast"):
        assert getattr(there, name).value == pytest.approx(getattr(back, name).value)
        assert getattr(there, name).low <= getattr(there, name).value <= getattr(there, name).high


@given(
    first=st.lists(st.integers(0, 18), min_size=1, max_size=7),
    second=st.lists(st.integers(0, 18), min_size=1, max_size=7),
)
def test_the_distance_of_histograms_is_the_area_between_the_distribution_functions(first, second):
    counted = [torch.bincount(torch.tensor(side), minlength=19)[None].double() for side in (first, second)]
    below = [(torch.tensor(side)[:, None] <= torch.arange(19)).double().mean(0) for side in (first, second)]
    assert float(_histogram_distance(*counted)) == pytest.approx(float((below[0] - below[1]).abs().sum()), abs=1e-12)


def test_groups_of_pictures_add_up():
    # More pictures than are worked on at once.
    x, groups = _noise(0, 600, 20, (8, 8)), Groups.of_side(600, 3, 1)
    power, colours = radial_power(x, groups), colour_histograms(x, groups)
    assert power.shape[0] == colours.shape[1] == groups.number == 50
    for group in (0, 49):
        own = x[groups.group == group]
        alone = Groups(torch.zeros(len(own), dtype=torch.int64), torch.ones(0, 1))
        assert_close(power[group], radial_power(own, alone)[0])
        assert torch.equal(colours[:, group], colour_histograms(own, alone)[:, 0])
    # By other means: levels of red.
    assert torch.equal(colours[0].sum(0), torch.bincount(x[:, 0].flatten().long(), minlength=256))
    assert colour_distances(x, x).channels.value == 0


def test_brightness_and_contrast_are_not_rounded():
    # All pictures of a side are a few levels, whose means and deviations lie between whole levels.
    x, y = _noise(0, 50, 3, (5, 7)), _noise(1, 50, 3.3, (5, 7))
    found = colour_distances(x, y)
    for name, values in (
        ("brightness", [np.sort(side.numpy().reshape(50, -1).mean(1)) for side in (x, y)]),
        ("contrast", [np.sort(side.numpy().reshape(50, -1).std(1, ddof=1)) for side in (x, y)]),
    ):
        # Of as many numbers on either side the distance is that of the sorted ones.
        assert getattr(found, name).value == pytest.approx(np.abs(values[0] - values[1]).mean(), rel=1e-9)


def test_the_spectrum_of_large_bright_pictures_keeps_its_digits():
    x = _noise(0, 2, 0.3, (256, 256)) + 110
    expected = _power_in_float64(x)
    assert_close(radial_power(x, Groups.of_side(2, 0, 0)).sum(0), expected, rtol=1e-4, atol=0)


def _power_in_float64(pictures):
    """The same from the DCT in float64."""
    side = pictures.shape[-1]
    C = torch.cos(torch.pi * (torch.arange(side).double() + 0.5) * torch.arange(side)[:, None].double() / side)
    C *= torch.where(torch.arange(side) == 0, 1.0, 2.0).double().div(side).sqrt()[:, None]
    power = (C @ pictures.double() @ C.mT).square().mean(1).sum(0).flatten()
    shell = torch.hypot(*torch.meshgrid(*2 * [torch.arange(side).double()], indexing="ij")).round().long().flatten()
    total = torch.zeros(int(shell.max()) + 1, dtype=torch.float64)
    return total.index_add(0, shell, power) / torch.bincount(shell)
