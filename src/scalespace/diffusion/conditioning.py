"""Conditioning augmentation: noise in the small picture that the second model of a cascade is given.

    z' = sqrt(1 - a^2) z + a eps

The second model is trained with a drawn uniformly for every picture, and is told it, so that it bears with what is wrong in the
small pictures that the first model draws; when sampling, a is chosen.

Source: Ho et al. 2021, Cascaded Diffusion Models (arXiv 2106.15282), section 4, non-truncated augmentation. Theirs draws the
time of the first model's process uniformly, where this draws the level a.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["augmented"]


def augmented(picture: Tensor, level: Tensor, noise: Tensor) -> Tensor:
    """Small pictures with noise laid over them, z'.

    Args:
        picture: z, in [-1, 1], shape (B, C, h, w).
        level: a of every picture, in [0, 1], shape (B,).
        noise: White noise of the shape of the pictures.

    Returns:
        Shape (B, C, h, w).
    """
    a = level.reshape(-1, 1, 1, 1)
    return (1 - a**2).sqrt() * picture + a * noise
