"""One file becomes pixels: every format and mode, on white, upright, centred and downsized."""

import io

import numpy as np
import pytest
from PIL import Image
from tests.picture_files import encoded, flat, picture

from scalespace.data.sources.decoding import decode_image


def colour_of(data: bytes, image_size: tuple[int, int] = (8, 8)) -> list[int]:
    """The one colour of a flat picture, checked to be flat."""
    pixels, _ = decode_image(data, image_size)
    assert (pixels == pixels[0, 0]).all()
    return pixels[0, 0].tolist()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_formats_decode_to_their_colours(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    assert colour_of(encoded(flat((200, 100, 50)), kind, **options)) == pytest.approx([200, 100, 50], abs=3)


@pytest.mark.parametrize(
    ("source", "colour"),
    [
        (flat(77, "L"), [77, 77, 77]),
        (flat(1, "1"), [255, 255, 255]),
        (flat((10, 200, 30)).quantize(4), [10, 200, 30]),
        (flat((100, 0), "LA"), [255, 255, 255]),
        (flat((255, 0, 0, 0), "RGBA"), [255, 255, 255]),
        (flat((255, 0, 0, 51), "RGBA"), [255, 204, 204]),
        (flat((255, 0, 0, 255), "RGBA"), [255, 0, 0]),
    ],
    ids=["grey", "bits", "palette", "grey-alpha", "clear", "translucent", "opaque"],
)
def test_modes_are_laid_on_white(source, colour):
    assert colour_of(encoded(source)) == colour


def test_a_transparent_palette_entry_becomes_white():
    source = flat((10, 200, 30)).quantize(4)
    index = source.getpixel((0, 0))
    assert colour_of(encoded(source, transparency=index)) == [255, 255, 255]
    alphas = bytes(51 if entry == index else 255 for entry in range(256))
    assert colour_of(encoded(source, transparency=alphas)) == [206, 244, 210]


def test_a_transparent_edge_leaves_no_dark_fringe():
    # Black under full transparency next to white: resized before it is laid on white, it would show as grey.
    source = flat((0, 0, 0, 0), "RGBA", (32, 32))
    source.paste((255, 255, 255, 255), (0, 0, 13, 32))
    assert colour_of(encoded(source), (8, 8)) == [255, 255, 255]


@pytest.mark.parametrize(("level", "expected"), [(0, 0), (257 * 200, 200), (65535, 255), (300, 1)])
def test_sixteen_bits_are_scaled_and_not_clipped(level, expected):
    grey = Image.fromarray(np.full((16, 16), level, np.uint16))
    assert colour_of(encoded(grey)) == [expected] * 3


def test_a_transparent_sixteen_bit_level_becomes_white():
    grey = Image.fromarray(np.full((16, 16), 4660, np.uint16))
    assert colour_of(encoded(grey, transparency=4660)) == [255, 255, 255]


def test_cmyk_jpegs_decode():
    assert colour_of(encoded(flat((0, 255, 255, 0), "CMYK"), "JPEG")) == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pictures_are_turned_upright(kind):
    source = flat("black", size=(16, 32))
    source.paste((255, 255, 255), (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    pixels, _ = decode_image(encoded(source.rotate(90, expand=True), kind, exif=exif), (32, 16))
    assert pixels[:14].min() > 250
    assert pixels[18:].max() < 5


@pytest.mark.parametrize(("size", "box"), [((20, 16), (2, 0, 18, 16)), ((16, 21), (0, 2, 16, 18))])
def test_the_centre_is_cropped_and_kept_pixel_by_pixel_where_the_scale_is_one(size, box):
    source = picture(1, (size[1], size[0]))
    pixels, enlarged = decode_image(encoded(source), (16, 16))
    assert np.array_equal(pixels, np.asarray(source.crop(box)))
    assert not enlarged


def test_the_crop_has_the_aspect_of_the_image_size():
    source = picture(1, (60, 40))
    pixels, _ = decode_image(encoded(source), (16, 32))
    expected = np.asarray(source.crop((0, 20, 40, 40)).resize((32, 16), Image.Resampling.LANCZOS))
    assert np.array_equal(pixels, expected)


def test_downsizing_is_lanczos():
    source = picture(4, (64, 64))
    pixels, _ = decode_image(encoded(source), (16, 16))
    assert np.array_equal(pixels, np.asarray(source.resize((16, 16), Image.Resampling.LANCZOS)))


def test_large_jpegs_are_decoded_at_half_size_without_visible_loss():
    data = encoded(picture(6, (600, 800)), "JPEG", quality=92)
    whole = Image.open(io.BytesIO(data)).convert("RGB").crop((100, 0, 700, 600))
    expected = np.asarray(whole.resize((32, 32), Image.Resampling.LANCZOS)).astype(float)
    pixels, _ = decode_image(data, (32, 32))
    assert np.abs(pixels - expected).mean() < 0.5
    assert np.abs(pixels - expected).max() <= 6
