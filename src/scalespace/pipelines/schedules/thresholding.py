"""Dynamic thresholding: a picture is clamped at a quantile of its own magnitudes, and divided by it.

With q the quantile of |x_0| over one picture,

    s = min(max(q, 1), largest),   x_0 <- clamp(x_0, -s, s) / s.

Source: Saharia et al. 2022, Imagen (arXiv 2205.11487), section 2.3; the largest s is diffusers'.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Thresholding"]


@dataclass(frozen=True)
class Thresholding:
    """Bounds predictions of the clean image by their own quantile.

    Args:
        ratio: Which quantile of the magnitudes, in [0, 1].
        largest: Largest s. 1 makes it plain clipping to [-1, 1].

    Raises:
        ValueError: If the ratio is no share, or the largest s is not above 0.
    """

    ratio: float = 0.995
    largest: float = 1.0

    def __post_init__(self):
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"dynamic_thresholding_ratio is {self.ratio}; give a share of the pixels from 0 to 1")
        if not self.largest > 0:
            raise ValueError(
                f"sample_max_value is {self.largest}; give a number above 0, and above 1 to allow brighter pixels"
            )

    def __call__(self, x_0: Tensor) -> Tensor:
        """Each picture of a batch by itself, shape (B, C, H, W)."""
        # Not by torch.quantile, which refuses pictures of more than 2^24 numbers.
        magnitudes = x_0.abs().float().flatten(1).sort(1).values
        place = self.ratio * (magnitudes.shape[1] - 1)
        below, above = int(place), min(int(place) + 1, magnitudes.shape[1] - 1)
        quantile = magnitudes[:, below].lerp(magnitudes[:, above], place - below)
        s = quantile.clamp_min(1).clamp_max(self.largest).to(x_0.dtype).reshape(-1, *[1] * (x_0.ndim - 1))
        return x_0.clamp(-s, s) / s
