"""The best precision of a device: Apple's GPUs (MPS) have no float64."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["best_dtype", "in_float64"]


def best_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 for a device that has no float64."""
    try:
        torch.empty(0, dtype=torch.float64, device=device)
    except (RuntimeError, TypeError):
        return torch.float32
    return torch.float64


def in_float64(x: Tensor) -> Tensor:
    """Return ``x`` in float64, on its device or, where that has no float64, on the CPU."""
    return x.to(x.device if best_dtype(x.device) == torch.float64 else "cpu", torch.float64)
