"""Gaussians with a covariance that is a function of a Gram matrix."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import OPERATORS, normal, seeds, sizes
from torch.testing import assert_close

from scalespace.diffusion.gaussian import Gaussian
from scalespace.operators.linear import Identity
from scalespace.operators.resize import Resize


def unit_pictures(size):
    return torch.eye(size[0] * size[1], dtype=torch.float64).unflatten(-1, size)


@pytest.mark.parametrize("kind", ["identity", "resize by a non-integer factor", "blur", "blurred resize"])
@given(size=sizes(3, 6), share=st.floats(0.0, 0.99))
def test_a_draw_of_white_noise_has_the_covariance(kind, size, share):
    # With draw(xi) = mean + L xi, L L^T is the covariance.
    M = OPERATORS[kind](size)
    rho = share / M.norm_squared()
    gaussian = Gaussian(normal(size, batch=(1,)), M, lambda e: 1 - rho * e, scale=1.7)
    L = (gaussian.draw(unit_pictures(size)) - gaussian.mean).flatten(1)
    assert_close(L @ L.mT, gaussian.covariance(unit_pictures(size)).flatten(1), rtol=0, atol=1e-10)


@given(size=sizes(3, 6), seed=seeds())
def test_a_draw_without_noise_is_the_mean(size, seed):
    gaussian = Gaussian(normal(size, seed), OPERATORS["blur"](size), torch.exp, scale=2.0)
    assert torch.equal(gaussian.draw(torch.zeros(2, *size, dtype=torch.float64)), gaussian.mean)


def test_samples_come_from_the_generator_alone():
    gaussian = Gaussian(normal((4, 4), batch=(3, 1)), Resize((4, 4), (2, 2)), lambda e: 1 - e, scale=0.5)
    first, again, other = (gaussian.sample(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    noise = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.equal(first, gaussian.draw(noise))
    torch.manual_seed(0)
    implicit = gaussian.sample()
    torch.manual_seed(0)
    assert torch.equal(gaussian.sample(), implicit)


def test_a_variance_that_rounding_made_negative_draws_nothing():
    mean = torch.zeros(1, 3, 3)
    gaussian = Gaussian(mean, Identity((3, 3)), lambda e: 1 - (1 + 1e-12) * e, scale=1.0)
    assert torch.equal(gaussian.sample(), mean)


def test_every_picture_may_have_its_own_scale():
    scale = torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1)
    gaussian = Gaussian(torch.zeros(2, 3, 4, 4), Identity((4, 4)), torch.ones_like, scale)
    noise = normal((4, 4), dtype=torch.float32, batch=(2, 3))
    assert torch.equal(gaussian.draw(noise), scale * noise)
    assert torch.equal(gaussian.covariance(noise), scale**2 * noise)
