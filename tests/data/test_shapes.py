"""The procedural pictures: deterministic, the same at every size, and with energy in all octaves."""

import os
import subprocess
import sys

import numpy as np
import pytest

from scalespace.data.shapes import shapes


def box_average(picture: np.ndarray, factor: int) -> np.ndarray:
    height, width, channels = picture.shape
    blocks = picture.reshape(height // factor, factor, width // factor, factor, channels)
    return blocks.mean(axis=(1, 3))


def octaves(pictures: np.ndarray) -> np.ndarray:
    """Power in the bands (0, 1], (1, 2], (2, 4], ... cycles a picture, in squared levels, averaged over the channels."""
    size = pictures.shape[1]
    power = (np.abs(np.fft.fft2(pictures, axes=(1, 2))) ** 2).mean(axis=(0, 3)) / size**4
    frequency = np.abs(np.fft.fftfreq(size) * size)
    radius = np.maximum(frequency[:, None], frequency[None, :])
    ends = 2 ** np.arange(int(np.log2(size)))
    return np.array([power[(radius > end // 2) & (radius <= end)].sum() for end in ends])


@pytest.mark.parametrize("size", [(32, 32), (17, 40), (48, 8), (1, 1)])
def test_pictures_come_at_any_size(size):
    picture = shapes(5, size)
    assert picture.shape == (*size, 3)
    assert picture.dtype == np.uint8


def test_another_process_draws_the_same_pictures():
    program = "import sys; from scalespace.data.shapes import shapes; sys.stdout.buffer.write(shapes(9, (24, 32)))"
    environment = os.environ | {"PYTHONHASHSEED": "123"}
    drawn = subprocess.run([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, check=True).stdout
    assert drawn == shapes(9, (24, 32)).tobytes()


def test_the_global_random_state_is_neither_read_nor_changed():
    np.random.seed(0)  # noqa: NPY002
    first, follows = shapes(3, (32, 32)), np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    assert np.random.random() == follows  # noqa: NPY002
    assert np.array_equal(first, shapes(3, (32, 32)))


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (32, 48)])
def test_one_scene_looks_the_same_at_every_size(size):
    double = (2 * size[0], 2 * size[1])
    for index in range(40):
        small = shapes(index, size).astype(float)
        large = box_average(shapes(index, double).astype(float), 2)
        other = box_average(shapes(index + 1, double).astype(float), 2)
        assert np.abs(small - large).mean() < 3
        assert np.abs(small - large).mean() < 0.1 * np.abs(small - other).mean()


@pytest.mark.parametrize("size", [32, 64, 128])
def test_every_octave_carries_energy(size):
    pictures = np.stack([shapes(index, (size, size)) for index in range(32)]).astype(float)
    energy = octaves(pictures)
    # Rounding to 256 levels adds 1/12 in all bands together.
    assert len(energy) == np.log2(size)
    assert energy.min() > 10
    # As in photographs, there is the less of it the finer it is.
    assert np.all(np.diff(energy) < 0)


def test_pictures_differ_from_each_other():
    pictures = np.stack([shapes(index, (32, 32)) for index in range(64)]).astype(float)
    distance = np.sqrt(((pictures[:, None] - pictures[None]) ** 2).mean(axis=(2, 3, 4)))
    assert distance[~np.eye(64, dtype=bool)].min() > 15
    assert pictures.std(axis=0).mean() > 40


def test_pictures_use_the_range_of_levels_without_sticking_to_its_ends():
    pictures = np.stack([shapes(index, (32, 32)) for index in range(64)])
    assert pictures.min() < 20
    assert pictures.max() > 235
    # A few of the palettes' colours have a channel at its end.
    assert np.isin(pictures, (0, 255)).mean() < 0.05


@pytest.mark.parametrize(("index", "size"), [(-1, (8, 8)), (0, (0, 8)), (0, (8, -2))])
def test_what_does_not_exist_is_refused(index, size):
    with pytest.raises(ValueError, match="does not exist; use an index >= 0 and a size >= 1x1"):
        shapes(index, size)


def test_five_hundred_32_pixel_pictures_take_under_a_second_of_one_core():
    shapes(0, (32, 32))
    before = os.times()
    for index in range(200):
        shapes(index, (32, 32))
    after = os.times()
    assert 200 / (after.user + after.system - before.user - before.system) > 500
