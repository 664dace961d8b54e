"""Functions of operators that nothing is known of, by their singular value decomposition."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import (
    OPERATORS,
    blurred_subsample,
    box_average,
    normal,
    of_matrix,
    random_dtype,
    seeds,
    tolerance,
    with_singular_values,
)
from torch import Tensor
from torch.testing import assert_close

from scalespace.diffusion.denoiser import dense
from scalespace.operators.checks import examined
from scalespace.operators.function import FunctionOperator
from scalespace.operators.linear import Composition, LinearOperator
from scalespace.operators.resize import Resize, SeparableProduct
from scalespace.operators.singular import SingularBasis

IN, OUT = (6, 5), (4, 3)


def projection(M: LinearOperator, x: Tensor) -> Tensor:
    return M.gram_function(torch.ones_like, x, kernel=0.0)


def unit_pictures(size, dtype):
    return torch.eye(math.prod(size), dtype=dtype).unflatten(-1, size)


def matrix_of(linear, size, dtype=torch.float64):
    return linear(unit_pictures(size, dtype)).flatten(1).mT.double()


def scalars(e: Tensor) -> Tensor:
    return torch.where(e > 0, 1 / (0.1 + e), 7.0)


@given(seed=seeds(), rank=st.integers(0, 12), dtype=random_dtype(), swapped=st.booleans())
def test_functions_of_any_rank_are_those_of_the_matrix(seed, rank, dtype, swapped):
    in_size, out_size = (OUT, IN) if swapped else (IN, OUT)
    values = torch.linspace(1.0, 0.1, rank, dtype=torch.float64)
    M = with_singular_values(values, in_size, out_size, seed)
    matrix = matrix_of(M, in_size)
    eigenvalues, vectors = torch.linalg.eigh(matrix.mT @ matrix)
    eigenvalues = torch.where(eigenvalues > 1e-10, eigenvalues, 0.0)
    expected = vectors * scalars(eigenvalues) @ vectors.mT
    rounding = tolerance(dtype, 10.0)
    gram = matrix_of(lambda x: M.gram_function(scalars, x), in_size, dtype)
    assert_close(gram, expected, rtol=0, atol=rounding)
    gram = matrix_of(lambda x: M.gram_function(lambda e: 1 / (0.1 + e), x, kernel=7.0), in_size, dtype)
    assert_close(gram, expected, rtol=0, atol=rounding)
    # The function need not be finite at zero where it has another value in the kernel.
    inverse = matrix_of(lambda y: M.adjoint_function(lambda e: 1 / e, y), out_size, dtype)
    assert_close(inverse, torch.linalg.pinv(matrix, rtol=1e-10), rtol=0, atol=rounding)
    assert M.condition() == pytest.approx(10.0 if rank > 1 else 1.0, rel=1e-6)
    assert M.mean_square() == pytest.approx(float(matrix.square().sum()) / math.prod(in_size), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("smallest", [1e-3, 1e-7, 1e-11, 1e-13, 1e-15, 1e-17])
def test_lift_is_a_partial_isometry_however_small_the_singular_values(smallest, dtype):
    # Those around rounding are counted either way: what counts is that the count is the same for range and kernel.
    M = with_singular_values(torch.logspace(0, math.log10(smallest), 12, dtype=torch.float64), IN, OUT)
    L = matrix_of(lambda y: M.adjoint_function(torch.rsqrt, y), OUT, dtype)
    kernel = matrix_of(lambda x: x - projection(M, x), IN, dtype)
    rounding = tolerance(dtype)
    assert_close(L @ L.mT + kernel, torch.eye(30, dtype=torch.float64), rtol=0, atol=rounding)
    assert_close(kernel @ kernel, kernel, rtol=0, atol=rounding)
    assert_close(L @ L.mT @ L, L, rtol=0, atol=rounding)
    rank = round(float(L.square().sum()))
    known = int((torch.logspace(0, math.log10(smallest), 12) > 1e-13).sum())
    assert rank >= known
    # Every singular value above rounding is range, to the last.
    assert smallest < 1e-12 or rank == 12


# Pictures in float32 are rounded, the matrix is not; in float64 both are, and the inverse magnifies the matrix's rounding.
@pytest.mark.parametrize(("dtype", "magnified"), [(torch.float32, 1.0), (torch.float64, 1e5)])
def test_ill_conditioned_maps_of_full_rank_are_inverted_to_rounding_times_their_condition(dtype, magnified):
    values = torch.logspace(0, -5, 12, dtype=torch.float64)
    M = with_singular_values(values, IN, OUT)
    matrix, y = dense(M), normal(OUT, 3)
    expected = (y.flatten(1) @ torch.linalg.pinv(matrix).mT).unflatten(1, IN)
    found = M.adjoint_function(lambda e: 1 / e, y.to(dtype)).double()
    assert float((found - expected).norm() / expected.norm()) < 10 * magnified * torch.finfo(dtype).eps
    assert M.condition() == pytest.approx(1e5, rel=1e-9)


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_kinds_know_what_their_matrix_says(kind, dtype):
    # The registry's operators that know their own spectrum, against a function that hides it.
    M = OPERATORS[kind]((6, 5))
    hidden = of_matrix(matrix_of(M, M.in_size), M.in_size, M.out_size)
    x, y = normal(M.in_size, 1, dtype), normal(M.out_size, 2, dtype)
    rounding = tolerance(dtype)
    for function in (torch.rsqrt, torch.ones_like):
        exact, found = (of.adjoint_function(function, y) for of in (M, hidden))
        assert_close(exact, found, rtol=0, atol=rounding)
    assert_close(projection(M, x), projection(hidden, x), rtol=0, atol=rounding)
    exact, found = (of.adjoint_function(lambda e: 1 / e, y) for of in (M, hidden))
    assert_close(exact, found, rtol=0, atol=rounding * M.condition())
    assert M.condition() == pytest.approx(hidden.condition(), rel=1e-9)
    assert M.mean_square() == pytest.approx(hidden.mean_square(), rel=1e-12)
    assert M.norm_squared() == pytest.approx(hidden.norm_squared(), rel=1e-9)


def test_the_map_to_zero_has_everything_in_its_kernel():
    M, x, y = of_matrix(torch.zeros(12, 30), IN, OUT), normal(IN), normal(OUT)
    assert M.norm_squared() == M.mean_square() == 0.0
    assert M.condition() == 1.0
    assert torch.equal(M.gram_function(torch.rsqrt, x, kernel=1.0), x)
    assert torch.equal(M.gram_function(torch.exp, x), x)
    assert torch.equal(M.adjoint_function(torch.rsqrt, y), torch.zeros_like(x))
    blind = SeparableProduct(torch.zeros(4, 6, dtype=torch.float64), torch.ones(3, 5, dtype=torch.float64))
    assert torch.equal(blind.adjoint_function(torch.rsqrt, y), torch.zeros_like(x))
    assert_close(blind.gram_function(torch.rsqrt, x, kernel=1.0), x)


@pytest.mark.parametrize("sizes", [((4, 4), (1, 1)), ((1, 1), (1, 1)), ((1, 1), (3, 2)), ((1, 7), (1, 2))])
def test_results_of_a_single_pixel_and_rows_of_pixels(sizes):
    in_size, out_size = sizes
    matrix = normal((math.prod(out_size), math.prod(in_size)), batch=())
    M, y = of_matrix(matrix, in_size, out_size), normal(out_size, 1)
    expected = (y.flatten(1) @ torch.linalg.pinv(matrix).mT).unflatten(1, in_size)
    assert_close(M.adjoint_function(lambda e: 1 / e, y), expected)
    assert M.norm_squared() == pytest.approx(float(torch.linalg.matrix_norm(matrix, ord=2)) ** 2, rel=1e-12)


def test_an_empty_kernel_needs_no_function_there():
    M, x = with_singular_values(torch.linspace(1, 0.5, 30, dtype=torch.float64), IN, IN), normal(IN)
    assert_close(M.gram_function(lambda e: 1 / e, M.adjoint(M(x))), x)
    assert_close(projection(M, x), x)
    with_kernel = of_matrix(dense(M)[:12], IN, OUT)
    assert not with_kernel.gram_function(lambda e: 1 / e, x).isfinite().any()


def test_rows_that_repeat_are_told_from_rows_that_are_nearly_alike():
    rows = normal((3, 30), batch=())
    alike = of_matrix(torch.stack([rows[0], rows[1], rows[0] + rows[1]]), IN, (3, 1))
    nearly = of_matrix(torch.stack([rows[0], rows[1], rows[0] + rows[1] + 1e-9 * rows[2]]), IN, (3, 1))
    for M, rank in ((alike, 2), (nearly, 3)):
        assert round(float(matrix_of(lambda x, M=M: projection(M, x), IN).trace())) == rank


def test_pictures_of_any_layout_in_memory_and_number():
    M = blurred_subsample((8, 6))
    x, y = normal((8, 6), batch=(2, 3)), normal((4, 3), batch=(2, 3))
    for spread in (
        lambda v: v.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        lambda v: v.flip(-1).flip(-1),
        lambda v: v[:1, :1].expand(2, 3, -1, -1) + 0 * v,
    ):
        strided_x, strided_y = spread(x), spread(y)
        assert_close(M.gram_function(torch.sqrt, strided_x), M.gram_function(torch.sqrt, strided_x.contiguous()))
        assert_close(
            M.adjoint_function(torch.rsqrt, strided_y), M.adjoint_function(torch.rsqrt, strided_y.contiguous())
        )
    assert M.gram_function(torch.sqrt, x[:0]).shape == (0, 3, 8, 6)
    assert M.adjoint_function(torch.rsqrt, y[:0]).shape == (0, 3, 8, 6)
    assert_close(M.gram_function(torch.sqrt, x[0, 0]), M.gram_function(torch.sqrt, x)[0, 0])


def test_every_picture_may_have_its_own_function():
    M, x, y = blurred_subsample((8, 6)), normal((8, 6), batch=(3, 2)), normal((4, 3), batch=(3, 2))
    powers = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64).reshape(-1, 1, 1, 1)
    together = M.gram_function(lambda e: (e + 1) ** powers, x), M.adjoint_function(lambda e: e**powers, y)
    for i, power in enumerate((0.5, 1.0, 2.0)):
        assert_close(together[0][i], M.gram_function(lambda e, p=power: (e + 1) ** p, x[i]))
        assert_close(together[1][i], M.adjoint_function(lambda e, p=power: e**p, y[i]))


def test_gradients_of_functions_that_jump():
    M = with_singular_values(torch.linspace(1, 0.2, 7, dtype=torch.float64), IN, OUT)
    x, y = normal(IN, batch=(1,)).requires_grad_(), normal(OUT, batch=(1,)).requires_grad_()
    for function, argument in (
        (lambda v: M.gram_function(torch.rsqrt, v, kernel=1.0), x),
        (lambda v: M.adjoint_function(torch.rsqrt, v), y),
    ):
        torch.autograd.gradcheck(function, argument)
        torch.autograd.gradgradcheck(function, argument)


def test_what_is_found_in_inference_mode_and_under_autocast_serves_later():
    M, y = blurred_subsample((8, 6)), normal((4, 3), dtype=torch.float32, batch=(1, 1))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        M.condition()
    expected = blurred_subsample((8, 6)).adjoint_function(torch.rsqrt, y)
    found = M.adjoint_function(torch.rsqrt, y.requires_grad_())
    assert_close(found.detach(), expected)
    found.sum().backward()
    assert y.grad is not None


@pytest.mark.parametrize("kernel_dtype", ["refuses float64", "float32 inside"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_functions_that_take_nothing_but_float32(kernel_dtype, dtype):
    # Rank 7 of 12: what rounding makes of the other singular values is not taken for range.
    exact = with_singular_values(torch.linspace(1, 0.2, 7, dtype=torch.float64), IN, OUT)
    matrix = dense(exact).float()

    def function(x: Tensor) -> Tensor:
        flat = x.flatten(-2) if kernel_dtype == "refuses float64" else x.flatten(-2).float()
        return (flat @ matrix.mT).unflatten(-1, OUT).to(x.dtype)

    M = FunctionOperator(function, IN, OUT)
    L, expected = (matrix_of(lambda y, of=of: of.adjoint_function(torch.rsqrt, y), OUT, dtype) for of in (M, exact))
    assert round(float(L.square().sum()), 3) == 7
    assert_close(L, expected, rtol=0, atol=1e-5)
    assert_close(L @ L.mT @ L, L, rtol=0, atol=tolerance(dtype))
    norm = float(torch.linalg.matrix_norm(matrix.double(), ord=2)) ** 2
    assert norm <= M.norm_squared() <= norm * (1 + 1e-5)


def test_transposes_share_the_decomposition_and_compositions_have_their_own():
    calls = []

    def counted(x: Tensor) -> Tensor:
        calls.append(len(x))
        return box(x)

    box = box_average((8, 6))
    M, x, y = FunctionOperator(counted, (8, 6), (4, 3)), normal((8, 6)), normal((4, 3))
    M.gram_function(torch.sqrt, x)
    seen = len(calls)
    for _ in range(2):
        M.adjoint_function(torch.rsqrt, y)
        M.T.gram_function(torch.sqrt, y)
        M.T.adjoint_function(torch.rsqrt, x)
        M.condition()
    assert len(calls) == seen
    assert_close(M.T.adjoint_function(torch.rsqrt, x), 2 * M(x), rtol=0, atol=1e-12)
    twice = Composition(Resize((4, 3), (2, 2)), M)
    matrix = dense(twice)
    expected = (normal((2, 2), 1).flatten(1) @ torch.linalg.pinv(matrix).mT).unflatten(1, (8, 6))
    assert_close(twice.adjoint_function(lambda e: 1 / e, normal((2, 2), 1)), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("device", ["meta", "cuda"])
def test_runs_on_the_device_of_its_argument_whatever_ran_before(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    M = box_average((8, 6))
    for where in (device, "cpu", device):
        x, y = torch.ones(2, 3, 8, 6, device=where), torch.ones(2, 3, 4, 3, device=where)
        for result in (M.gram_function(torch.sqrt, x), M.adjoint_function(torch.rsqrt, y)):
            assert result.device.type == where
            assert result.shape == x.shape
    assert_close(M.adjoint_function(torch.rsqrt, torch.ones(4, 3)), torch.full((8, 6), 0.5))


def test_bases_are_orthonormal_and_give_the_matrix_back():
    for M in (blurred_subsample((12, 10)), box_average((7, 4)), blurred_subsample((12, 10)).T):
        basis = SingularBasis.of(examined(M))
        identity = torch.eye(basis.rank, dtype=torch.float64)
        for vectors in (basis.left, basis.right):
            assert_close(vectors.mT @ vectors, identity, rtol=0, atol=1e-13)
        assert_close(basis.left * basis.values @ basis.right.mT, dense(M), rtol=0, atol=1e-14)


@pytest.mark.parametrize("factor", [1e-6, 1e-9])
def test_separable_maps_keep_range_that_is_small_in_both_directions(factor):
    # Each direction has a singular value of the factor, both together one of its square: range as well.
    A = torch.diag(torch.tensor([1.0, factor], dtype=torch.float64)) @ torch.linalg.qr(normal((3, 3), batch=())).Q[:2]
    M = SeparableProduct(A, A)
    L = matrix_of(lambda y: M.adjoint_function(torch.rsqrt, y), (2, 2))
    assert_close(L.mT @ L, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-6)
    assert M.condition() == pytest.approx(factor**-2, rel=1e-5)


def test_separable_maps_that_go_down_and_up_have_a_kernel():
    M = Resize((3, 4), (6, 8)) @ Resize((6, 8), (3, 4))
    kernel = matrix_of(lambda x: x - projection(M, x), (6, 8))
    assert round(float(kernel.trace())) == 36
    assert_close(matrix_of(M, (6, 8)) @ kernel, torch.zeros(48, 48, dtype=torch.float64), rtol=0, atol=1e-13)
    assert int((M.gram_eigenvalues == 0).sum()) == 36
