"""Attention is attention, in whatever form the device is fastest with."""

import pytest
import torch
from torch.nn import functional

from scalespace.networks import blocks


@pytest.mark.parametrize("tokens", [16, 256, 300])
def test_bf16_attention_on_a_cpu_is_attention_to_the_precision_of_bf16(tokens: int):
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(2, 3, tokens, 8, generator=generator, dtype=torch.float64) for _ in range(3)]
    inputs = [x.bfloat16().requires_grad_() for x in exact]
    rounded = [x.detach().double().requires_grad_() for x in inputs]
    found, true = blocks.attention(*inputs), functional.scaled_dot_product_attention(*rounded)
    direction = torch.randn(true.shape, generator=generator, dtype=torch.float64)
    (found.double() * direction).sum().backward()
    (true * direction).sum().backward()
    assert found.dtype == torch.bfloat16
    pairs = [(found, true), *((x.grad, y.grad) for x, y in zip(inputs, rounded, strict=True))]
    for ours, theirs in pairs:
        assert ours is not None
        assert theirs is not None
        error = (ours.double() - theirs).norm() / theirs.norm()
        # A rounding to bf16 is 2^-9 of a number; a few of them follow each other.
        assert error < 3 * 2**-8


def test_float32_attention_is_the_fused_kernel():
    inputs = [torch.randn(2, 3, 16, 8) for _ in range(3)]
    assert torch.equal(blocks.attention(*inputs), functional.scaled_dot_product_attention(*inputs))
