"""Self-attention over the pixels of a feature map, as diffusers' tools know it: by processors and attention backends."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

from scalespace.networks.layers import group_norm, start_at_zero

__all__ = ["SelfAttention", "SelfAttentionProcessor", "attention"]

_PLAIN_TOKENS = 256


class SelfAttentionProcessor:
    """Multi-head self-attention by the backend that diffusers has been told, or else by the form that is fastest."""

    # Names that diffusers sets.
    _attention_backend: Any = None
    _parallel_config: Any = None

    def __call__(self, attn: SelfAttention, hidden_states: Tensor) -> Tensor:
        """Map tokens (B, N, C), already normalised, to tokens of the same shape."""
        # (B, N, heads, 3, d) -> three times (B, N, heads, d)
        query, key, value = attn.qkv(hidden_states).unflatten(2, (attn.heads, 3, -1)).unbind(3)
        mixed = attention(query, key, value, self._attention_backend, self._parallel_config)
        return attn.output(mixed.flatten(2))


class SelfAttention(nn.Module, AttentionModuleMixin):
    """Multi-head self-attention over all pixels, added to the input.

    Args:
        channels: Channels of input and output.
        heads: Number of heads, which divides the channels.
        min_channels_per_group: Least channels that are normalised together.
    """

    _default_processor_cls = SelfAttentionProcessor
    _available_processors = (SelfAttentionProcessor,)
    _supports_qkv_fusion = False  # it is fused

    def __init__(self, channels: int, heads: int, min_channels_per_group: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels, min_channels_per_group)
        # Rows are ordered (head, query-key-value, feature), as in the released checkpoints.
        self.qkv = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        start_at_zero(self.output)
        # Any of diffusers' processors, whose types there are those of its own attention layers.
        self.processor: Any = SelfAttentionProcessor()

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C, h, w) to features of the same shape."""
        tokens = self.norm(features).flatten(2).transpose(1, 2)
        mixed = self.processor(self, tokens)
        return features + mixed.transpose(1, 2).unflatten(2, features.shape[2:])


def attention(query: Tensor, key: Tensor, value: Tensor, backend: Any = None, parallel_config: Any = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, in the form that is fastest on the device.

    PyTorch's fused kernel for the CPU is slow in bf16, its backward pass slower than in float32. There the plain products,
    which oneDNN computes in bf16, take half its time; above ``_PLAIN_TOKENS`` their matrix of weights is too large
    for the caches, and the fused kernel runs in float32.

    Args:
        query: Shape (B, N, heads, d).
        key: Shape (B, N, heads, d).
        value: Shape (B, N, heads, d).
        backend: Of diffusers. None takes the one that is active there, which is PyTorch's unless another was chosen.
        parallel_config: Of diffusers' context parallelism.

    Returns:
        Shape (B, N, heads, d).
    """
    if backend is not None or query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return dispatch_attention_fn(query, key, value, backend=backend, parallel_config=parallel_config)
    with torch.autocast("cpu", enabled=False):
        if query.shape[1] > _PLAIN_TOKENS:
            return dispatch_attention_fn(query.float(), key.float(), value.float()).to(query.dtype)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        return (scores.softmax(-1) @ value).transpose(1, 2)
