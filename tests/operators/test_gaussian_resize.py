"""A step of a Gaussian pyramid against its definition, cosines, and dense float64. The tests of all operators have it too."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import normal, seeds
from torch.testing import assert_close

from scalespace.diffusion.denoiser import dense
from scalespace.errors import UserError
from scalespace.operators.gaussian_resize import GaussianResize
from scalespace.operators.resize import Separable


@st.composite
def steps(draw) -> GaussianResize:
    source = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    target = tuple(draw(st.integers(1, side)) for side in source)
    return GaussianResize(source, target, draw(st.sampled_from((0.3, 0.5, 1.5))))


@given(M=steps(), seed=seeds())
def test_a_pixel_is_a_gaussian_mean_of_the_mirrored_picture(M, seed):
    x = normal(M.in_size, seed, batch=())
    # Five pictures a side, every second mirrored, hold all that a Gaussian of these widths sees.
    rows = torch.cat([x, x.flip(0)] * 30)
    plane = torch.cat([rows, rows.flip(1)] * 30, 1)
    for i, j in {(0, 0), (M.out_size[0] - 1, M.out_size[1] // 2)}:
        seen = plane
        for axis, index in ((0, i), (1, j)):
            length, new = M.in_size[axis], M.out_size[axis]
            places = torch.arange(60 * length, dtype=torch.float64) + 0.5
            centre = 30 * length + (index + 0.5) * length / new
            weights = torch.exp(-((places - centre) ** 2) / (2 * (M.blur * length / new) ** 2))
            if new == length:
                weights = (places == centre).double()
            seen = torch.tensordot(weights / weights.sum(), seen, ([0], [0]))
        assert_close(M(x)[i, j], seen, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("length", "new"), [(32, 16), (32, 8), (30, 20)])
def test_a_cosine_comes_out_as_itself_with_the_gain_of_the_blur(length, new):
    # Blurring in the continuum, whose gain at frequency w is exp(-w^2 sigma^2 / 2); what is finer is aliased, and is left out.
    M, sigma = GaussianResize((length, 1), (new, 1)), 0.5 * length / new
    for k in range(length // 2):
        wave = torch.cos(math.pi * k / length * (torch.arange(length, dtype=torch.float64) + 0.5))
        centres = (torch.arange(new, dtype=torch.float64) + 0.5) * length / new
        gain = math.exp(-((math.pi * k / length * sigma) ** 2) / 2)
        aliased = math.exp(-(((2 - k / length) * math.pi * sigma) ** 2) / 2)
        expected = gain * torch.cos(math.pi * k / length * centres)
        assert_close(M(wave[:, None])[:, 0], expected, rtol=0, atol=3 * aliased + 1e-7)


def test_a_halving_is_close_to_the_binomial_filter():
    # Between two pixels the binomial filter of standard deviation 1 is (1, 3, 3, 1) / 8 with half a pixel of blur to come.
    row = GaussianResize((32, 1), (16, 1)).matrices[0][8]
    places = torch.arange(32, dtype=torch.float64) + 0.5 - 17
    assert float(row.sum()) == pytest.approx(1, abs=1e-14)
    assert float((row * places).sum()) == pytest.approx(0, abs=1e-12)
    assert float((row * places**2).sum()) == pytest.approx(1, abs=1e-6)


@given(M=steps(), seed=seeds())
def test_functions_of_the_gram_matrix_are_exact(M, seed):
    assert isinstance(M, Separable)
    matrix, x = dense(M), normal(M.in_size, seed)
    values, vectors = torch.linalg.eigh(matrix.mT @ matrix)
    rho = 0.99 / M.norm_squared()
    assert M.norm_squared() == pytest.approx(float(values[-1]), rel=1e-12)
    expected = vectors @ ((1 - rho * values.clamp_min(0)).sqrt()[:, None] * vectors.mT) @ x.flatten(1).mT
    assert_close(M.gram_function(lambda e: (1 - rho * e).sqrt(), x).flatten(1).mT, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((4, 4), (2, 5)), "every side needs at least 1 pixel and cannot grow"),
        (((4, 4), (0, 2)), "every side needs at least 1 pixel"),
        (((4, 4), (2, 2), 0.0), "blur is 0.0; give a standard deviation of 0.1 to 4.0 pixels"),
        (((4, 4), (2, 2), math.nan), "blur is nan"),
        (((4, 4), (2, 2), 5.0), "blur is 5.0"),
    ],
)
def test_steps_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        GaussianResize(*arguments)
