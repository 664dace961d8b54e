"""Files that a visitor sends: what is no picture, or too large a one, is refused before it is decoded."""

import struct
import zlib

import pytest
import torch
from tests.picture_files import encoded, flat, picture
from tests.small_models import small_pipeline

from scalespace import UserError
from scalespace.data.luminance import luminance
from scalespace.data.sources.decoding import decode_image
from scalespace.serve import uploads
from scalespace.serve.uploads import check_upload, given_picture

_GREY = {"in_channels": 1, "out_channels": 1}


def _png_of(width: int, height: int) -> bytes:
    """The beginning of a PNG file of any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "the file is empty"),
        (b"text that was named .png", "the file is no PNG, JPEG, WebP or BMP picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "the file is no PNG"),
        (encoded(flat("red"), "GIF"), "the file is no PNG"),
        (encoded(flat("red"), "TIFF"), "the file is no PNG"),
        (_png_of(8000, 7000), "the picture has 8000 x 7000 pixels, which is more than 50 million pixels"),
        # Pillow itself warns of the one and refuses the other.
        (_png_of(10_000, 10_000), "the picture has more than 50 million pixels"),
        (_png_of(2**31 - 1, 2**31 - 1), "the picture has more than 50 million pixels"),
    ],
)
def test_what_is_no_picture_or_an_enormous_one_is_one_sentence(data: bytes, sentence: str):
    with pytest.raises(UserError) as refused:
        check_upload(data)
    assert str(refused.value).startswith(sentence)


def test_a_large_file_is_not_even_looked_into(monkeypatch):
    monkeypatch.setattr(uploads, "MOST_BYTES", 1 << 20)
    with pytest.raises(UserError, match="the file is larger than 1 MiB"):
        check_upload(bytes((1 << 20) + 1))


def test_nothing_is_decoded_to_check_a_file(monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    check_upload(encoded(flat("red")))


def test_a_file_that_was_cut_is_one_sentence():
    data = encoded(picture(0, (64, 64)), "JPEG")
    check_upload(data[:-200])
    with pytest.raises(UserError, match="the picture cannot be read"):
        given_picture(data[:-200], small_pipeline(), (4, 4))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_a_large_picture_is_decoded_as_in_training_and_brought_down_by_the_model(kind: str):
    data = encoded(picture(0, (40, 24)), kind)
    check_upload(data)
    pixels = decode_image(data, (8, 8))[0]
    for pipeline, channels in ((small_pipeline(), pixels), (small_pipeline(**_GREY), luminance(pixels))):
        full = torch.tensor(channels).permute(2, 0, 1)[None] / 127.5 - 1
        assert torch.equal(given_picture(data, pipeline, (8, 8)), full)
        expected = torch.nn.functional.interpolate(full, (4, 4), mode="bilinear", antialias=True)
        torch.testing.assert_close(given_picture(data, pipeline, (4, 4)), expected, atol=1e-5, rtol=0)


def test_a_picture_of_that_size_stays_as_it_is():
    small = picture(1, (4, 4))
    found = given_picture(encoded(small), small_pipeline(), (4, 4))
    assert torch.equal(
        ((found + 1) * 127.5).round()[0].permute(1, 2, 0).byte(), torch.tensor(bytearray(small.tobytes())).view(4, 4, 3)
    )
