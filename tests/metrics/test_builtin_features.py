import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.metrics.sets import pictures
from torch.testing import assert_close

from scalespace.metrics.builtin_features import builtin_features, builtin_fingerprint
from scalespace.metrics.frechet_distance import frechet


def _blurred(x, level):
    for _ in range(level):
        x = torch.nn.functional.avg_pool2d(x.float(), 3, 1, 1, count_include_pad=False).round().byte()
    return x


def _noisy(x, level):
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * 4 * level
    return (x + noise).round().clamp(0, 255).byte()


def _tinted(x, level):
    return (x.float() + torch.tensor([12.0 * level, 0.0, -12.0 * level])[:, None, None]).round().clamp(0, 255).byte()


def _shuffled(x, level):
    """Tiles in another order, 4, 16 or 64 of them."""
    tiles = 2**level
    side = x.shape[-1] // tiles
    cut = x.unflatten(3, (tiles, side)).unflatten(2, (tiles, side)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    generator = torch.Generator().manual_seed(0)
    cut = torch.stack([picture[torch.randperm(tiles**2, generator=generator)] for picture in cut])
    return cut.unflatten(1, (tiles, tiles)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


@pytest.mark.parametrize("corrupt", [_blurred, _noisy, _tinted, _shuffled])
def test_the_distance_grows_with_every_known_corruption(corrupt):
    x, y = pictures(300), pictures(300, first=300)
    reference = builtin_features(y)
    distances = [
        frechet(builtin_features(corrupt(x, level) if level else x), reference, intervals=False).value
        for level in range(4)
    ]
    assert distances == sorted(distances)
    assert distances[1] > 1.1 * distances[0]
    assert distances[3] > 2 * distances[0]


def test_the_weights_are_what_they_always_were():
    # A change here makes distances incomparable: let the version in the name change with it.
    assert builtin_fingerprint() == "a8b14159301abf229cc1c301bf69fc5003ab70380130da4b9b1d2754dea90fd7"
    torch.manual_seed(1)
    first = builtin_features(pictures(2))
    torch.manual_seed(2)
    assert_close(first, builtin_features(pictures(2)), rtol=0, atol=0)


@given(height=st.integers(16, 48), width=st.integers(16, 48))
def test_pictures_of_any_size_have_as_many_finite_features_each_by_itself(height, width):
    x = torch.randint(0, 256, (3, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x[1] = 200  # flat
    features = builtin_features(x)
    assert features.shape == (3, 219)
    assert bool(features.isfinite().all())
    assert_close(features[1:2], builtin_features(x[1:2]), rtol=1e-4, atol=1e-4)


def test_pictures_under_16_pixels_are_refused():
    with pytest.raises(ValueError, match="pictures of 15x16 are too small for the built-in features"):
        builtin_features(torch.zeros(2, 3, 15, 16, dtype=torch.uint8))
