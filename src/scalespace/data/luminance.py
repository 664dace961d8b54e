"""Grey out of colour."""

import numpy as np

__all__ = ["luminance"]

_WEIGHTS = np.array([19595, 38470, 7471], np.uint32)  # 0.299, 0.587 and 0.114 of 2^16


def luminance(pixels: np.ndarray) -> np.ndarray:
    """The luminance of pixels by ITU-R 601-2, rounded as Pillow rounds it. Of a grey pixel it is its grey.

    Args:
        pixels: RGB values, uint8, shape (..., 3).

    Returns:
        uint8, shape (..., 1).
    """
    return ((pixels.astype(np.uint32) @ _WEIGHTS + 0x8000) >> 16).astype(np.uint8)[..., None]
