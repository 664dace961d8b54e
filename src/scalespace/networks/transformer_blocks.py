"""Blocks of a transformer whose layer norms are told time and level (adaptive layer norm with gates that start at zero).

    h = h + g1 * attention((1 + s1) norm(h) + b1)
    h = h + g2 * swiglu((1 + s2) norm(h) + b2)

with norm the division by the root mean square over the features of a token, and the six of s, b, g from the embedding of the
whole network, the same for all blocks, plus a table of the block's own. Queries and keys are divided by their root mean squares
and turned by their places (``scalespace.networks.tokens``). swiglu(h) = W (silu(U h) * V h).

Sources: Peebles and Xie 2022, DiT (arXiv 2212.09748), for the norms and gates; Chen et al. 2023, PixArt (arXiv 2310.00426), for
one map of the embedding with tables of the blocks; Li and He 2025, JiT (arXiv 2511.13720), for root mean squares, normalised
queries and keys and SwiGLU in a transformer on pixels; Shazeer 2020 (arXiv 2002.05202), for SwiGLU.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention import AttentionModuleMixin
from torch import Tensor, nn
from torch.nn import functional

from scalespace.networks.attention import attention
from scalespace.networks.layers import start_at_zero
from scalespace.networks.tokens import turned

__all__ = [
    "HeadNorm",
    "RotaryAttention",
    "RotaryAttentionProcessor",
    "SwiGLU",
    "TransformerBlock",
    "modulated",
    "swiglu_features",
    "zero_linear",
]

Turns = tuple[Tensor, Tensor]
"""Cosines and sines of ``scalespace.networks.tokens.rotary``."""

_EPSILON = 1e-6


class RotaryAttentionProcessor:
    """Multi-head self-attention with turned queries and keys, by the backend that diffusers has been told."""

    # Names that diffusers sets.
    _attention_backend: Any = None
    _parallel_config: Any = None

    def __call__(self, attn: RotaryAttention, hidden_states: Tensor, rotary: Turns) -> Tensor:
        """Map tokens (B, N, C), already normalised, to tokens of the same shape."""
        query, key, value = attn.qkv(hidden_states).unflatten(2, (3, attn.heads, -1)).unbind(2)
        # In float32 up to here, and then in the one number format that backends want.
        query, key = (turned(part, *rotary).to(value.dtype) for part in (attn.query_norm(query), attn.key_norm(key)))
        mixed = attention(query, key, value, self._attention_backend, self._parallel_config)
        return attn.output(mixed.flatten(2))


class RotaryAttention(nn.Module, AttentionModuleMixin):
    """Multi-head self-attention over tokens that have places.

    Args:
        channels: Features of a token.
        heads: Number of heads, each of a multiple of 4 features.
    """

    _default_processor_cls = RotaryAttentionProcessor
    _available_processors = (RotaryAttentionProcessor,)
    _supports_qkv_fusion = False  # it is fused

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.query_norm = HeadNorm(channels // heads)
        self.key_norm = HeadNorm(channels // heads)
        self.output = nn.Linear(channels, channels)
        # Any of diffusers' processors, whose types there are those of its own attention layers.
        self.processor: Any = RotaryAttentionProcessor()

    def forward(self, tokens: Tensor, rotary: Turns) -> Tensor:
        """Map tokens (B, N, C) to tokens of the same shape."""
        return self.processor(self, tokens, rotary)


class HeadNorm(nn.Module):
    """Queries or keys over their root mean squares, times a weight of every feature.

    Args:
        features: Features of a head.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (..., d) to the same shape in float32."""
        # torch's own, in half precision with weights in float32, is slow and warns.
        return functional.rms_norm(features.float(), self.weight.shape, eps=_EPSILON) * self.weight


class SwiGLU(nn.Module):
    """Two layers, the first with a gate, of about as many weights as a plain pair with four times the features inside.

    Args:
        channels: Features of a token.
        dropout: Probability of dropping a feature before the last layer.
    """

    def __init__(self, channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        inside = swiglu_features(channels)
        self.enter = nn.Linear(channels, 2 * inside)
        self.dropout = nn.Dropout(dropout)
        self.leave = nn.Linear(inside, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, C) to tokens of the same shape."""
        gate, value = self.enter(tokens).chunk(2, dim=-1)
        return self.leave(self.dropout(functional.silu(gate) * value))


class TransformerBlock(nn.Module):
    """Attention and SwiGLU, each with a gate and a residual connection. A new block is the identity.

    Args:
        channels: Features of a token.
        heads: Number of heads.
        dropout: Probability of dropping a feature in the SwiGLU.
    """

    def __init__(self, channels: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(channels, _EPSILON, elementwise_affine=False)
        self.attention = RotaryAttention(channels, heads)
        self.mlp_norm = nn.RMSNorm(channels, _EPSILON, elementwise_affine=False)
        self.mlp = SwiGLU(channels, dropout)
        self.table = nn.Parameter(torch.zeros(6, channels))

    def forward(self, tokens: Tensor, modulation: Tensor, rotary: Turns) -> Tensor:
        """Map tokens (B, N, C) to tokens of the same shape.

        Args:
            tokens: Tokens, shape (B, N, C).
            modulation: Shift, scale and gate of attention and of SwiGLU, for all blocks, shape (B, 6, C).
            rotary: Cosines and sines of the tokens' angles.
        """
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (modulation + self.table)[:, :, None].unbind(1)
        tokens = tokens + gate * self.attention(modulated(self.attention_norm(tokens), shift, scale), rotary)
        return tokens + mlp_gate * self.mlp(modulated(self.mlp_norm(tokens), mlp_shift, mlp_scale))


def modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(1 + scale) tokens + shift."""
    return torch.addcmul(shift, tokens, 1 + scale)


def swiglu_features(channels: int) -> int:
    """Features inside a SwiGLU: 8/3 of the channels, in whole eights."""
    return 8 * max(1, round(channels / 3))


def zero_linear(in_channels: int, out_channels: int) -> nn.Linear:
    """A linear layer that starts at zero."""
    layer = nn.Linear(in_channels, out_channels)
    start_at_zero(layer)
    return layer
