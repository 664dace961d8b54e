"""Attention is attention, in whatever form the device is fastest with."""

import pytest
import torch
from diffusers.models.attention_dispatch import attention_backend
from tests.small_models import small_network
from torch import Tensor
from torch.nn import functional

from scalespace.networks.attention import SelfAttention, SelfAttentionProcessor, attention


def _fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    heads_first = (part.transpose(1, 2) for part in (query, key, value))
    return functional.scaled_dot_product_attention(*heads_first).transpose(1, 2)


@pytest.mark.parametrize("tokens", [16, 256, 300])
def test_bf16_attention_on_a_cpu_is_attention_to_the_precision_of_bf16(tokens: int):
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(2, tokens, 3, 8, generator=generator, dtype=torch.float64) for _ in range(3)]
    inputs = [x.bfloat16().requires_grad_() for x in exact]
    rounded = [x.detach().double().requires_grad_() for x in inputs]
    found, true = attention(*inputs), _fused(*rounded)
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
    inputs = [torch.randn(2, 16, 3, 8) for _ in range(3)]
    assert torch.equal(attention(*inputs), _fused(*inputs))


class _Doubled(SelfAttentionProcessor):
    def __call__(self, attn: SelfAttention, hidden_states: Tensor) -> Tensor:
        return 2 * super().__call__(attn, hidden_states)


def test_diffusers_can_exchange_the_processors():
    network, state = small_network(), torch.randn(2, 3, 8, 8)
    before = network(state, 3).sample
    processors = network.attn_processors
    assert len(processors) == sum(isinstance(module, SelfAttention) for module in network.modules()) > 2
    network.set_attn_processor(_Doubled())
    assert not torch.allclose(network(state, 3).sample, before, atol=1e-3)
    network.set_attn_processor(dict(processors))
    assert torch.equal(network(state, 3).sample, before)


def test_diffusers_can_choose_the_backend():
    network, state = small_network(), torch.randn(2, 3, 8, 8)
    before = network(state, 3).sample
    with attention_backend("native"):  # takes back what the network's own method sets for the whole program
        network.set_attention_backend("_native_math")
        backends = {processor._attention_backend.value for processor in network.attn_processors.values()}
        assert backends == {"_native_math"}
        torch.testing.assert_close(network(state, 3).sample, before)
        network.reset_attention_backend()
    with attention_backend("_native_math"):
        torch.testing.assert_close(network(state, 3).sample, before)
