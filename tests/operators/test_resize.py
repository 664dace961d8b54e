"""Resize: the same pictures as torch's, and everything about its Gram matrix exact."""

import pytest
import torch
from hypothesis import example, given
from tests.strategies import normal, seeds, sizes
from torch.nn.functional import interpolate
from torch.testing import assert_close

from scalespace.diffusion.denoiser import dense
from scalespace.errors import UserError
from scalespace.operators.checks import examined
from scalespace.operators.krylov import KrylovFunctions
from scalespace.operators.resize import Resize, SeparableProduct


def torchs_resize(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return interpolate(x, size=size, mode="bilinear", antialias=True)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((64, 64), (32, 32)),
        ((8, 8), (4, 4)),
        ((64, 48), (16, 24)),
        ((96, 64), (64, 64)),
        ((12, 20), (24, 20)),
        ((9, 6), (3, 2)),
    ],
)
def test_resize_is_torchs_antialiased_bilinear_in_float32(source, target):
    # Sizes whose sample positions float32 holds exactly: torch computes its weights in the picture's dtype.
    x = normal(source, dtype=torch.float32, batch=(2, 3))
    assert_close(Resize(source, target)(x), torchs_resize(x, target), rtol=0, atol=1e-6)


@given(source=sizes(1, 40), target=sizes(1, 40), seed=seeds())
@example(source=(64, 64), target=(63, 21), seed=0)
@example(source=(3, 100), target=(100, 3), seed=0)
def test_resize_is_torchs_antialiased_bilinear_at_any_factor(source, target, seed):
    x = normal(source, seed, batch=(1, 2))
    assert_close(Resize(source, target)(x), torchs_resize(x, target), rtol=0, atol=1e-11)


@given(source=sizes(1, 20), target=sizes(1, 20))
def test_constants_stay_constant(source, target):
    assert_close(Resize(source, target)(torch.ones(1, *source)), torch.ones(1, *target))


@given(size=sizes(1, 20))
def test_resize_to_the_same_size_is_the_identity(size):
    assert_close(dense(Resize(size, size)), torch.eye(size[0] * size[1], dtype=torch.float64))


@given(source=sizes(2, 12), target=sizes(1, 12), seed=seeds())
def test_exact_and_lanczos_square_roots_agree(source, target, seed):
    M = Resize(source, target)
    x = normal(source, seed)
    rho = 1 / M.norm_squared()
    for f in (torch.sqrt, lambda e: (1 - rho * e).clamp_min(0).sqrt(), lambda e: (1 - 0.99 * rho * e).sqrt()):
        assert_close(M.gram_function(f, x), KrylovFunctions(examined(M)).gram_function(f, x, None), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_and_lanczos_posterior_roots_agree_on_a_picture_of_the_paper(dtype):
    M = Resize((64, 64), (32, 32))
    rho = 1 / (1.01 * M.norm_squared())
    x = normal((64, 64), dtype=dtype, batch=(2, 3))
    exact, iterated = (
        functions.gram_function(lambda e: (1 - rho * e).sqrt(), x, None)
        for functions in (M, KrylovFunctions(examined(M)))
    )
    error = (exact - iterated).norm() / exact.norm()
    assert error < 1e-6


@pytest.mark.parametrize(("source", "expected"), [(64, 0.2508), (8, 0.2546)])
def test_largest_eigenvalue_of_a_halving_is_a_little_over_a_quarter(source, expected):
    assert Resize((source, source), (source // 2, source // 2)).norm_squared() == pytest.approx(expected, abs=6e-5)


def test_gram_eigenvalues_are_those_of_the_matrix_kernel_included():
    M = Resize((6, 5), (3, 4))
    matrix = dense(M)
    expected = torch.linalg.eigvalsh(matrix.mT @ matrix)
    assert_close(M.gram_eigenvalues.flatten().sort().values, expected, rtol=0, atol=1e-13)
    assert int((M.gram_eigenvalues == 0).sum()) == 6 * 5 - 3 * 4


def test_function_acts_on_the_kernel_as_its_value_at_zero():
    M = Resize((8, 8), (2, 2))
    x = normal((8, 8))
    inside_kernel = x - (x.flatten(1) @ torch.linalg.pinv(dense(M)) @ dense(M)).unflatten(1, (8, 8))
    assert_close(M.gram_function(lambda e: 7 + e, inside_kernel), 7 * inside_kernel)


@pytest.mark.parametrize(("source", "target"), [((0, 4), (2, 2)), ((4, 4), (2, 0)), ((4, 4), (-1, 2))])
def test_sides_without_pixels_are_refused(source, target):
    with pytest.raises(ValueError, match="every side needs at least 1 pixel"):
        Resize(source, target)


@pytest.mark.parametrize("device", ["meta", "cuda"])
def test_runs_on_the_device_of_its_argument_whatever_ran_before(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    M = Resize((8, 6), (4, 3))
    for where in (device, "cpu", device):
        x = torch.ones(2, 3, 8, 6, device=where)
        for result in (M.T(M(x)), M.gram_function(torch.sqrt, x)):
            assert result.device.type == where
            assert result.shape == x.shape
    # Matrices left on another device are not always refused: with "meta" the result is whatever was in memory.
    assert_close(M(torch.ones(8, 6)), torch.ones(4, 3))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            torch.ones(2, 4),
            r"the rows of a separable operator are torch.float32 of shape \(2, 4\) on cpu; give a float64",
        ),
        (torch.ones(4, dtype=torch.float64), r"of shape \(4,\)"),
        (torch.ones(0, 4, dtype=torch.float64), r"of shape \(0, 4\)"),
        (torch.full((2, 4), torch.nan, dtype=torch.float64), "not finite"),
        (torch.full((2, 4), torch.inf, dtype=torch.float64), "not finite"),
    ],
)
def test_what_is_no_pair_of_matrices_is_refused(rows, message):
    with pytest.raises(UserError, match=message):
        SeparableProduct(rows, torch.ones(2, 4, dtype=torch.float64))


def test_singular_values_count_as_zero_by_the_rounding_of_float64():
    # A hundred times above and below 3 * eps, the rounding of a matrix of this size.
    for value, condition in ((1e-13, 1e13), (1e-17, 1.0)):
        M = SeparableProduct(torch.diag(torch.tensor([1.0, 1.0, value]).double()), torch.eye(2, dtype=torch.float64))
        assert M.condition() == pytest.approx(condition)
        y = torch.tensor([1.0, 2.0, 3 * value]).double()[:, None].expand(3, 2)
        last = 3.0 if condition > 1 else 0.0
        expected = torch.tensor([1.0, 2.0, last]).double()[:, None].expand(3, 2)
        assert_close(M.adjoint_function(lambda e: 1 / e, y), expected)
