import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from scalespace.diffusion.denoiser import dense
from scalespace.operators.resize import OrthonormalResize, Resize

SIDES = st.integers(1, 20)


@given(height=SIDES, width=SIDES, data=st.data())
def test_orthonormal_resize_is_orthonormal_up_to_its_factor(height, width, data):
    new_height, new_width = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    W = dense(OrthonormalResize((height, width), (new_height, new_width)))
    factor = new_height * new_width / (height * width)
    assert_close(W @ W.mT, factor * torch.eye(len(W), dtype=torch.float64), rtol=0, atol=1e-10)


def test_orthonormal_resize_sees_what_the_bilinear_one_sees():
    W, M = dense(OrthonormalResize((8, 12), (4, 6))), dense(Resize((8, 12), (4, 6)))
    values, vectors = torch.linalg.eigh(M @ M.mT)
    assert_close(W, 0.5 * (vectors * values.rsqrt()) @ vectors.mT @ M, rtol=0, atol=1e-12)


def test_orthonormal_resize_keeps_brightness_and_looks_like_a_downsampled_picture():
    ramp = torch.linspace(-1, 1, 64, dtype=torch.float64).expand(64, 64)
    W, M = OrthonormalResize((64, 64), (32, 32)), Resize((64, 64), (32, 32))
    inside = (slice(4, -4), slice(4, -4))
    assert_close(W(torch.ones_like(ramp))[inside], torch.ones(24, 24, dtype=torch.float64), rtol=0, atol=0.01)
    assert_close(W(ramp)[inside], M(ramp)[inside], rtol=0, atol=0.01)


def test_orthonormal_resize_refuses_to_enlarge():
    with pytest.raises(ValueError, match="no orthonormal map"):
        OrthonormalResize((4, 4), (4, 8))
