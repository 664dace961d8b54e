"""How one file becomes pixels.

A file is turned upright by its EXIF orientation, laid on white where it is transparent, cropped around its centre to the
aspect of the image size and resized with Pillow's Lanczos filter.
"""

import io

import numpy as np
import PIL
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from scalespace.errors import cause

__all__ = [
    "ANIMATED",
    "DECODING_RULE",
    "ENLARGED",
    "FORMATS",
    "cropped",
    "decode_image",
    "decoder",
    "reason",
    "stored_size",
]

ENLARGED, ANIMATED = "enlarged", "animated"
"""What there is to be told of a decoded picture: it was smaller than wanted, or only the first of its frames was taken."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
"""Formats that are read, in Pillow's words."""
# A JPEG decoder halves a picture for nothing, and where this many times the pixels are left no difference is seen. It
# could also divide by 4 or 8, but then edges differ by tens of levels.
_JPEG_GAP = 4
# Part of the fingerprint: to be changed with anything that changes the decoded pixels.
DECODING_RULE = "centre crop, Lanczos, on white, 1"


def decode_image(data: bytes, image_size: tuple[int, int]) -> tuple[np.ndarray, frozenset[str]]:
    """A picture file as pixels of one size.

    Args:
        data: The bytes of a PNG, JPEG, WebP or BMP file.
        image_size: (height, width) in pixels.

    Returns:
        Pixels, uint8 of shape (height, width, 3), and what there is to be told of them: some of ``ENLARGED``, ``ANIMATED``.

    Raises:
        Exception: If the file is damaged. Pillow raises nearly any type.
    """
    with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        # The orientation may still swap the sides, so the shorter one is held against the longer one asked for.
        if min(picture.size) >= 2 * _JPEG_GAP * max(image_size):
            picture.draft(None, (picture.width // 2, picture.height // 2))
        # Pictures of a telephone may hold a second, smaller one (MPO), which is no animation.
        animated = picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1
        picture.load()
        rgb = _on_white(_upright(picture))
    pixels, told = cropped(rgb, image_size)
    return pixels, told | {ANIMATED} if animated else told


def cropped(rgb: Image.Image, image_size: tuple[int, int]) -> tuple[np.ndarray, frozenset[str]]:
    """A picture of three channels cropped around its centre to the aspect of a size, and resized to it.

    Args:
        rgb: The picture.
        image_size: (height, width) in pixels.

    Returns:
        Pixels, uint8 of shape (height, width, 3), and ``ENLARGED`` if the picture was smaller.
    """
    height, width = image_size
    # The largest centred box of the wanted aspect, in whole pixels: nothing is resampled that need not be.
    box_width = min(rgb.width, max(1, round(rgb.height * width / height)))
    box_height = min(rgb.height, max(1, round(rgb.width * height / width)))
    left, top = (rgb.width - box_width) // 2, (rgb.height - box_height) // 2
    box = (left, top, left + box_width, top + box_height)
    resized = rgb.crop(box).resize((width, height), Image.Resampling.LANCZOS)
    enlarged = box_width < width or box_height < height
    return np.asarray(resized), frozenset({ENLARGED} if enlarged else ())


def decoder() -> str:
    """The versions of everything that turns bytes into pixels. Another decoder may round otherwise."""
    parts = {name: features.version(name) for name in ("jpg", "libjpeg_turbo", "webp", "zlib")}
    return ", ".join([f"Pillow {PIL.__version__}", *(f"{name} {version}" for name, version in parts.items())])


def reason(error: Exception) -> str:
    """Say in a few words of one line why reading or decoding failed."""
    if isinstance(error, UnidentifiedImageError):
        return "not a PNG, JPEG, WebP or BMP picture"
    if isinstance(error, Image.DecompressionBombError):
        return "more pixels than any camera takes"
    return cause(error)


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return picture if _orientation(picture) == 1 else ImageOps.exif_transpose(picture)
    except Exception:  # Damaged metadata is no reason to lose the picture.
        return picture


def stored_size(picture: Image.Image) -> tuple[int, int]:
    """(height, width) of the picture once it is upright."""
    # Orientations from 5 on swap the sides.
    return (picture.width, picture.height) if _orientation(picture) >= 5 else (picture.height, picture.width)


def _orientation(picture: Image.Image) -> int:
    return picture.getexif().get(ExifTags.Base.Orientation, 1)


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        # 16-bit grey, which Pillow would clip; 65535 / 257 = 255.
        levels = np.asarray(picture).astype(np.float32)
        levels[levels == picture.info.get("transparency", -1)] = 65535
        picture = Image.fromarray((levels / 257).round().clip(0, 255).astype(np.uint8))
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")
