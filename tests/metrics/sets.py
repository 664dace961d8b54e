"""Sets to compare: features that are the same everywhere, and pictures."""

import numpy as np
import torch
from torch import Tensor

from scalespace.data.shapes import shapes

__all__ = ["AsTheyAre", "normal", "pictures"]


def normal(seed: int, *shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """Gaussian features, float64, from NumPy's legacy generator, as golden numbers were computed from."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape)) * scale + shift


def pictures(count: int, size: tuple[int, int] = (32, 32), first: int = 0) -> Tensor:
    """Procedural pictures, uint8, shape (count, 3, H, W)."""
    return torch.stack([torch.from_numpy(shapes(first + k, size)).permute(2, 0, 1) for k in range(count)])


class AsTheyAre(torch.nn.Module):
    """For torchmetrics: features in the place of pictures."""

    def __init__(self, dimensions: int):
        super().__init__()
        self.num_features = dimensions

    def forward(self, x: Tensor) -> Tensor:
        return x
