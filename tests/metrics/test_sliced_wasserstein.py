import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.metrics.sets import pictures
from torch.testing import assert_close

from scalespace.metrics import patches as patches_module
from scalespace.metrics.patches import Projections, laplacian_pyramid, project, projected_histograms
from scalespace.metrics.resampling import Groups
from scalespace.metrics.sliced_wasserstein import (
    _group_influences,
    histogram_distances,
    patches_of_pictures,
    sliced_wasserstein,
    sliced_wasserstein_bands,
)


def _directions(count, dimensions):
    v = torch.randn(count, dimensions, generator=torch.Generator().manual_seed(7))
    return v / v.norm(dim=1, keepdim=True)


def _distances(x, y, directions):
    return histogram_distances(*(projected_histograms(side, [len(side)], directions)[0] for side in (x, y)))


def _area(x, y):
    """W_1 of two samples: the area between their distribution functions, exactly, piece by piece."""
    ends = torch.cat([x, y]).sort().values.double()
    below = [
        torch.searchsorted(side.double().sort().values, ends[:-1], right=True).double() / len(side) for side in (x, y)
    ]
    return float((below[0] - below[1]).abs() @ ends.diff())


@given(
    counts=st.tuples(st.integers(200, 900), st.integers(200, 900)), scale=st.floats(0.3, 8.0), seed=st.integers(0, 99)
)
def test_the_distance_of_projections_is_the_area_between_their_distribution_functions(counts, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    # Products of normal numbers have heavy tails, as the bands of photographs do.
    x, y = (torch.randn(n, 6, generator=generator) * torch.randn(n, 1, generator=generator) for n in counts)
    directions, y = _directions(5, 6), scale * y
    expected = torch.tensor([_area(x @ v, y @ v) for v in directions], dtype=torch.float64)
    assert_close(_distances(x, y, directions), expected, rtol=0.02, atol=0.002)


def test_equal_samples_have_no_distance_whatever_their_order_and_number():
    x = torch.randn(300, 12)
    assert float(_distances(x, x.flip(0).repeat(2, 1), _directions(20, 12)).max()) == 0


def test_a_shift_moves_every_projection_by_its_part_along_it():
    x, shift, directions = torch.randn(500, 12), torch.randn(12), _directions(20, 12)
    assert_close(_distances(x, x + shift, directions).float(), (directions @ shift).abs(), rtol=0.01, atol=0.005)


@pytest.mark.parametrize("count", [20_000, 15_000])
def test_shifted_gaussians_have_the_closed_form_within_the_standard_error(count):
    # E |<v, m>| over unit vectors v of n dimensions is |m| Gamma(n/2) / (sqrt(pi) Gamma((n+1)/2)).
    n, shift = 9, 2.0
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(20_000, n, generator=generator), torch.randn(count, n, generator=generator)
    y[:, 0] += shift
    found = _distances(x, y, _directions(600, n))
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
    found = sliced_wasserstein_bands(pictures(6, size), pictures(8, size, 6), patches=8, directions=4)
    assert list(found) == [*bands, "mean"]
    assert found["mean"].value == pytest.approx(sum(found[band].value for band in bands) / len(bands))


def test_groups_are_counted_apart_and_add_up():
    x, directions = torch.randn(90, 12), _directions(70, 12)
    histograms, of_groups = projected_histograms(x, [20, 40, 30], directions)
    assert histograms.shape == (70, 1024)
    assert of_groups.shape == (70, 3, 64)
    assert of_groups.sum(2).unique(dim=0).tolist() == [[20, 40, 30]]
    assert torch.equal(of_groups.sum(1), histograms.unflatten(1, (64, 16)).sum(2))
    assert torch.equal(of_groups[:, 1], projected_histograms(x[20:60], [40], directions)[1][:, 0])


def test_a_side_is_projected_the_same_whoever_the_other_is_and_can_be_kept():
    x = pictures(10)
    one = project(x, 1, patches=4, directions=3, seed=5)
    kept = Projections.from_tensors(Projections.as_tensors(one))
    assert list(kept) == list(one) == ["32x32", "16x16"]
    for band, projections in project(x, 1, patches=4, directions=3, seed=5).items():
        for name, tensor in vars(projections).items():
            assert torch.equal(tensor, getattr(kept[band], name))
    first = project(pictures(8, first=10), 0, patches=4, directions=3, seed=5)
    direct = sliced_wasserstein_bands(pictures(8, first=10), x, 4, 3, seed=5)
    assert sliced_wasserstein(first, kept, (8, 10), seed=5) == direct


def test_what_a_group_adds_is_what_leaving_it_out_takes_away(monkeypatch):
    # Pictures of very different contrast, so that leaving some out changes what all are normalised by.
    count, generator = 300, torch.Generator().manual_seed(0)
    contrast = torch.rand(2, count, 1, 1, 1, generator=generator) + 0.5
    patches = torch.randn(2, count, 8, 3, 49, generator=generator) * contrast
    patches[1] = patches[1].sign() * patches[1].abs() ** 1.5 + torch.randn(count, 1, 3, 1, generator=generator)
    # Every picture says which it is.
    numbered = torch.arange(count)[:, None, None, None].expand(-1, 3, 16, 16)

    def project_these(side, numbers):
        monkeypatch.setattr(
            patches_module, "_random_patches", lambda p, which, *_: patches[side, p[which, 0, 0, 0]].flatten(0, 1)
        )
        return project(numbered[numbers], side, patches=8, directions=32)["16x16"]

    sides = [project_these(side, torch.arange(count)) for side in (0, 1)]
    value = histogram_distances(sides[0].histograms, sides[1].histograms).mean()
    for side in (0, 1):
        groups = Groups.of_side(count, 0, side)
        added = _group_influences(sides[side], sides[1 - side], count)
        # Of every group less what its pictures would add if they were as others.
        expected = -(added - groups.counts * added.sum() / count) / (count - groups.counts)
        found = []
        for group in range(groups.number):
            left = project_these(side, (groups.group != group).nonzero().flatten())
            found.append(float(histogram_distances(left.histograms, sides[1 - side].histograms).mean() - value))
        found = torch.tensor(found, dtype=torch.float64)
        # To first order, and up to a constant.
        assert float(torch.corrcoef(torch.stack([found, expected]))[0, 1]) > 0.99
        assert float(found.std() / expected.std()) == pytest.approx(1, abs=0.04)


# Sides of very different numbers


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((1000, 1000), (128, 128)),
        ((2, 16384), (128, 1)),
        ((16384, 36), (4, 128)),
        ((1000, 8000), (128, 128)),
        ((1000, 8001), (128, 128)),
        ((1000, 16384), (128, 64)),
    ],
)
def test_a_side_of_many_more_pictures_gives_fewer_patches_of_each(counts, expected):
    assert patches_of_pictures(counts) == expected
    # At least 8 times those of the other side, or 128 of each.
    for own, other in ((0, 1), (1, 0)):
        assert expected[own] == 128 or expected[own] * counts[own] >= 8 * 128 * counts[other] or expected[own] == 1


@pytest.mark.parametrize("order", [1, -1])
def test_fewer_patches_of_the_larger_side_change_the_figures_by_less_than_their_intervals(order):
    small, large = pictures(12), pictures(800, first=12)
    sides = (small, large)[::order]
    assert patches_of_pictures((12, 800)) == (128, 16)
    found = sliced_wasserstein_bands(*sides, directions=64)
    full = sliced_wasserstein_bands(*sides, patches=128, directions=64)
    for band, measured in found.items():
        assert measured.low is not None
        assert measured.high is not None
        # Much less: at most 6 % is due to chance, and a fifth of the interval is what other patches of the same pictures do.
        assert abs(measured.value - full[band].value) < 0.2 * (measured.high - measured.low)
        assert full[band].low == pytest.approx(measured.low, abs=0.2 * (measured.high - measured.low))
        assert full[band].high == pytest.approx(measured.high, abs=0.2 * (measured.high - measured.low))


def test_no_more_pictures_are_taken_than_so_many(monkeypatch):
    monkeypatch.setattr(patches_module, "PICTURES", 6)
    for projections in project(pictures(20), 0, patches=4, directions=3).values():
        assert projections.histograms.sum(1).tolist() == [24] * 3


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
        for k in range(150)
    ]
    width = sum((f.high or 0) - (f.low or 0) for f in found) / len(found)
    # The spread of 150 has a standard error of 6 %.
    assert 0.7 < width / (2 * 1.96 * float(torch.tensor([f.value for f in found]).std())) < 1.5


def test_flat_pictures_have_no_texture_and_small_ones_no_patches():
    flat = torch.arange(1, 9, dtype=torch.uint8)[:, None, None, None].expand(8, 3, 16, 16) * 20
    assert sliced_wasserstein_bands(flat, flat, patches=4, directions=4)["mean"].value < 200
    with pytest.raises(ValueError, match="pictures of 6x16 hold no patches of 7 pixels"):
        sliced_wasserstein_bands(pictures(2, (6, 16)), pictures(2, (6, 16)))
    with pytest.raises(ValueError, match="pictures of 16x16 and of 32x32 pixels"):
        sliced_wasserstein_bands(pictures(2, (16, 16)), pictures(2))
