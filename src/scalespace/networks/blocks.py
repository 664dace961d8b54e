"""Building blocks of the ADM U-Net, on feature maps of any height and width.

- Residual block: h -> shortcut(h) + conv(dropout(silu((1 + scale) norm(conv(silu(norm(h)))) + shift))), where scale
  and shift are linear in the embedding of time and class.
- Self-attention over the pixels of a feature map, with a residual connection.
- Down by a stride-2 convolution (n pixels become ceil(n / 2)); up to an explicit size by nearest neighbours and a
  convolution, so that sizes need not be divisible by anything.

The last layer of every residual branch starts at zero, so that a new block is its shortcut.

Source: Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis, 2021, https://arxiv.org/abs/2105.05233.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "Block",
    "Downsample",
    "ResidualBlock",
    "SelfAttention",
    "Stage",
    "Upsample",
    "adapter",
    "attention",
    "group_norm",
    "start_at_zero",
    "time_embedding",
]

_PLAIN_TOKENS = 256


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


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut. The embedding scales and shifts the features between the convolutions.

    Args:
        in_channels: Number of channels of the input.
        out_channels: Channels of the output. If they differ from the input's, the shortcut is a 1 x 1 convolution.
        embedding_channels: Number of features of the embedding.
        dropout: Probability of dropping a feature before the last convolution.
        min_channels_per_group: Least channels that are normalised together.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        dropout: float = 0.0,
        min_channels_per_group: int = 4,
    ) -> None:
        super().__init__()
        self.norm_in = group_norm(in_channels, min_channels_per_group)
        self.conv_in = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.modulation = nn.Linear(embedding_channels, 2 * out_channels)
        self.norm_out = group_norm(out_channels, min_channels_per_group)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = adapter(in_channels, out_channels)
        start_at_zero(self.conv_out)

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        """Map features (B, in_channels, h, w) and an activated embedding (B, E) to features (B, out_channels, h, w)."""
        scale, shift = self.modulation(embedding).chunk(2, dim=1)
        hidden = self.conv_in(functional.silu(self.norm_in(features)))
        hidden = functional.silu(_modulated(self.norm_out, hidden, 1 + scale, shift))
        return self.shortcut(features) + self.conv_out(self.dropout(hidden))


class SelfAttention(nn.Module):
    """Multi-head self-attention over all pixels, added to the input.

    Args:
        channels: Channels of input and output.
        heads: Number of heads, which divides the channels.
        min_channels_per_group: Least channels that are normalised together.
    """

    def __init__(self, channels: int, heads: int, min_channels_per_group: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels, min_channels_per_group)
        # Rows are ordered (head, query-key-value, feature), as in the released checkpoints.
        self.qkv = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        start_at_zero(self.output)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, h, w) to features of the same shape."""
        tokens = self.norm(features).flatten(2).transpose(1, 2)
        # (B, N, heads, 3, d) -> three times (B, heads, N, d)
        query, key, value = self.qkv(tokens).unflatten(2, (self.heads, 3, -1)).transpose(1, 2).unbind(3)
        mixed = attention(query, key, value).transpose(1, 2).flatten(2)
        return features + self.output(mixed).transpose(1, 2).unflatten(2, features.shape[2:])


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, in the form that is fastest on the device.

    PyTorch's fused kernel for the CPU is slow in bf16, its backward pass slower than in float32. There the plain products,
    which oneDNN computes in bf16, take half its time; above ``_PLAIN_TOKENS`` their matrix of weights is too large
    for the caches, and the fused kernel runs in float32.

    Args:
        query: Shape (B, heads, N, d).
        key: Shape (B, heads, N, d).
        value: Shape (B, heads, N, d).

    Returns:
        Shape (B, heads, N, d).
    """
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return functional.scaled_dot_product_attention(query, key, value)
    with torch.autocast("cpu", enabled=False):
        if query.shape[-2] > _PLAIN_TOKENS:
            mixed = functional.scaled_dot_product_attention(query.float(), key.float(), value.float())
            return mixed.to(query.dtype)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        return scores.softmax(-1) @ value


class Block(nn.Module):
    """The unit of encoder and decoder: join the input with a skip, then a residual block, then attention if the level has it.

    Args:
        in_channels: Channels of the input, including those of the skip.
        out_channels: Channels of the output.
        embedding_channels: Number of features of the embedding.
        dropout: Probability of dropping a feature in the residual block.
        attention_heads: Number of heads. None leaves the attention out.
        min_channels_per_group: Least channels that are normalised together.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        dropout: float = 0.0,
        attention_heads: int | None = None,
        min_channels_per_group: int = 4,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.residual = ResidualBlock(in_channels, out_channels, embedding_channels, dropout, min_channels_per_group)
        self.attention = (
            SelfAttention(out_channels, attention_heads, min_channels_per_group) if attention_heads else nn.Identity()
        )

    def forward(self, features: Tensor, embedding: Tensor, skip: Tensor | None = None) -> Tensor:
        """Map features to shape (B, out_channels, h, w). Input channels that neither `features` nor `skip` fill are zero."""
        if skip is not None:
            features = torch.cat([features, skip], dim=1)
        elif features.shape[1] < self.in_channels:
            features = functional.pad(features, (0, 0, 0, 0, 0, self.in_channels - features.shape[1]))
        return self.attention(self.residual(features, embedding))


class Stage(nn.Module):
    """The blocks of one level, one after the other. diffusers' gradient checkpointing looks for this unit.

    Args:
        blocks: Blocks in the order in which they run.
    """

    _gradient_checkpointing_func: Callable[..., Tensor]

    def __init__(self, blocks: Iterable[Block]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.gradient_checkpointing = False

    def forward(
        self, features: Tensor, embedding: Tensor, skips: Sequence[Tensor | None] | None = None
    ) -> list[Tensor]:
        """Run the blocks: the first len(skips) of them if there are skips, otherwise all.

        Args:
            features: Input of the first block, shape (B, C, h, w).
            embedding: Activated embedding, shape (B, E).
            skips: Features that each block's input is joined with, shape (B, C', h, w). None in it stands for zeros.

        Returns:
            The output of every block that ran.
        """
        outputs: list[Tensor] = []
        for block, skip in zip(self.blocks, skips if skips is not None else [None] * len(self.blocks), strict=False):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                features = self._gradient_checkpointing_func(block, features, embedding, skip)
            else:
                features = block(features, embedding, skip)
            outputs.append(features)
        return outputs


class Downsample(nn.Module):
    """Halve height and width, rounding up, with a convolution of stride 2.

    Args:
        channels: Channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, h, w) to shape (B, C, ceil(h / 2), ceil(w / 2))."""
        return self.conv(features)


class Upsample(nn.Module):
    """Enlarge to a given size by nearest neighbours, then apply a convolution.

    Args:
        channels: Channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Map features (B, C, h, w) to shape (B, C, *size)."""
        return self.conv(functional.interpolate(features, size=size, mode="nearest"))


def _modulated(norm: nn.GroupNorm, features: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Compute `gain * norm(features) + shift`, with one gain and shift per sample and channel, in one pass over the features.

    Samples and channels become the channels of one sample, so that the norm's own affine map carries both. So the normalised
    features are neither written nor kept for the backward pass.
    """
    batch, channels = gain.shape
    return functional.group_norm(
        features.reshape(1, batch * channels, *features.shape[2:]),
        batch * norm.num_groups,
        (gain * norm.weight).flatten(),
        torch.addcmul(shift, gain, norm.bias).flatten(),
        norm.eps,
    ).reshape(features.shape)
