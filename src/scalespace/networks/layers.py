"""The smallest parts of the networks: embedding of time, normalisation, adapters, and layers that start at zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["adapter", "group_norm", "start_at_zero", "time_embedding"]


def time_embedding(timestep: Tensor, channels: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding of time, with the cosines first.

    Args:
        timestep: Times, shape (B,). They need not be integers.
        channels: Number of features, which is even.
        max_period: The slowest feature has angle timestep / max_period in the limit of many channels.

    Returns:
        float32 tensor of shape (B, channels).
    """
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timestep.device) / half
    angles = timestep.float()[:, None] * torch.exp(-math.log(max_period) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def group_norm(channels: int, min_channels_per_group: int) -> nn.GroupNorm:
    """Group normalisation with ADM's 32 groups, or the most that divide both 32 and the channels and are large enough.

    Groups of one channel would take the brightness of the whole picture out of every channel, and the head could not give it
    back. So narrow networks have fewer groups, as in EDM (Karras et al. 2022, arXiv 2206.00364).
    PyTorch's kernels accumulate the statistics of half-precision inputs in float32, so no cast is needed for safety.
    """
    groups = math.gcd(32, channels)
    while groups > 1 and channels // groups < min_channels_per_group:
        groups //= 2
    return nn.GroupNorm(groups, channels, eps=1e-5)


def adapter(in_channels: int, out_channels: int) -> nn.Module:
    """A 1 x 1 convolution between two numbers of channels, or the identity if they are equal."""
    return nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()


def start_at_zero(layer: nn.Conv2d | nn.Linear) -> None:
    """Set weight and bias of a layer to zero, in place."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
