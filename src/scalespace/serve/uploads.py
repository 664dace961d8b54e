"""Pictures that visitors send: looked at before they are decoded, and decoded as training decodes its own."""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor

from scalespace.data.luminance import luminance
from scalespace.data.sources.decoding import FORMATS, decode_image, reason
from scalespace.errors import UserError
from scalespace.operators.linear import Size
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.tasks.upscaling import brought_down

__all__ = ["MOST_BYTES", "MOST_PIXELS", "check_upload", "given_picture"]

MOST_BYTES = 10 << 20
"""Largest file that is taken."""
MOST_PIXELS = 50_000_000
"""Largest picture that is decoded, whatever the size of its file: a few bytes can stand for gigabytes of pixels."""


def check_upload(data: bytes) -> None:
    """Refuse what is no picture, or too large a one, by its first bytes alone. No pixel is decoded.

    Args:
        data: The bytes of the file.

    Raises:
        UserError: If it is refused.
    """
    if not data:
        raise UserError("the file is empty; choose a picture")
    if len(data) > MOST_BYTES:
        raise UserError(f"the file is larger than {MOST_BYTES >> 20} MiB; choose a smaller picture")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large() from error
    except Exception as error:  # Pillow raises nearly any type.
        raise UserError("the file is no PNG, JPEG, WebP or BMP picture; choose another one") from error
    if width * height > MOST_PIXELS:
        raise _too_large(f" {width} x {height} pixels, which is")


def given_picture(data: bytes, pipeline: ScaleSpacePipeline, size: Size) -> Tensor:
    """An uploaded picture at a size of the model: cropped around its centre and brought to it.

    A picture that is large enough gets the model's full size first, and is brought down from there by the model's own maps.
    Those of other programs leave fringes that a model takes for a part of the picture.

    Args:
        data: The bytes of the file, which ``check_upload`` has let through.
        pipeline: The model, of 3 channels, or 1 for the luminance.
        size: That height and width.

    Returns:
        Pixels in [-1, 1], shape (1, channels, *size).

    Raises:
        UserError: If the file is damaged.
    """
    full = pipeline.scheduler.image_size
    with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        # The file's orientation may still swap its sides.
        large = min(picture.size) >= max(full)
    try:
        pixels, _ = decode_image(data, full if large else size)
    except Exception as error:  # Pillow raises nearly any type.
        raise UserError(f"the picture cannot be read ({reason(error)}); choose another one") from error
    pixels = luminance(pixels) if pipeline.unet.in_channels == 1 else pixels
    given = torch.tensor(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    return brought_down(pipeline, given, size) if large else given


def _too_large(what: str = "") -> UserError:
    return UserError(f"the picture has{what} more than {MOST_PIXELS // 1_000_000} million pixels; choose a smaller one")
