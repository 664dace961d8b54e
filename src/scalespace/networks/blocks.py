"""Building blocks of the ADM U-Net, on feature maps of any height and width.

- Residual block: h -> shortcut(h) + conv(dropout(silu((1 + scale) norm(conv(silu(norm(h)))) + shift))), where scale
  and shift are linear in the embedding of time and class.
- Self-attention over the pixels of a feature map, with a residual connection (``scalespace.networks.attention``).
- Down by a stride-2 convolution (n pixels become ceil(n / 2)); up to an explicit size by nearest neighbours and a
  convolution, so that sizes need not be divisible by anything.

The last layer of every residual branch starts at zero, so that a new block is its shortcut.

Source: Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis, 2021, https://arxiv.org/abs/2105.05233.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from scalespace.networks.attention import SelfAttention
from scalespace.networks.layers import adapter, group_norm, start_at_zero

__all__ = [
    "Block",
    "Downsample",
    "ResidualBlock",
    "Stage",
    "Upsample",
]


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
        # As in ADM. Folding gain and shift into the norm's own affine map takes a little less memory and no less time, but
        # it reads the norm's weights outside of its forward pass, where offloading and export do not look for them.
        hidden = functional.silu(torch.addcmul(_maps(shift), self.norm_out(hidden), _maps(1 + scale)))
        return self.shortcut(features) + self.conv_out(self.dropout(hidden))


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


def _maps(features: Tensor) -> Tensor:
    """Features (B, C) as feature maps (B, C, 1, 1)."""
    return features[:, :, None, None]
