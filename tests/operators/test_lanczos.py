"""Lanczos: the recurrence's own theorems, and the cases in which it usually fails."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import blur, normal, random_dtype, seeds, tolerance
from torch import Tensor
from torch.testing import assert_close

from scalespace.diffusion.denoiser import dense
from scalespace.operators.eigenvalues import largest_eigenvalue
from scalespace.operators.lanczos import symmetric_function, tridiagonalise

SIZE = (4, 5)


def semidefinite(seed: int, rank: int = 20, largest: float = 1.0) -> Tensor:
    """A 20 x 20 matrix of the given rank, eigenvalues from `largest` down."""
    vectors, _ = torch.linalg.qr(normal((20, 20), seed, batch=()))
    values = torch.cat([torch.linspace(largest, largest / 50, rank, dtype=torch.float64), torch.zeros(20 - rank)])
    return vectors * values @ vectors.mT


def product_with(A: Tensor):
    return lambda v: (v.flatten(-2) @ A.to(v.dtype)).unflatten(-1, SIZE)


def matrix_function(A: Tensor, f, x: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(A)
    return (x.flatten(-2) @ (vectors * f(values.clamp_min(0)) @ vectors.mT)).unflatten(-1, SIZE)


@given(seed=seeds(), steps=st.integers(1, 20), dtype=random_dtype(), rank=st.integers(1, 20))
def test_recurrence_leaves_only_the_residual(seed, steps, dtype, rank):
    # A Q - Q T = r e_k^T, with |r| as returned and r orthogonal to Q.
    A, x = semidefinite(seed, rank), normal(SIZE, seed + 1, dtype, batch=(3,))
    Q, diagonal, off_diagonal, residual = tridiagonalise(product_with(A), x, steps)
    Q = Q.flatten(-2).mT.double()
    T = torch.diag_embed(diagonal) + torch.diag_embed(off_diagonal, 1) + torch.diag_embed(off_diagonal, -1)
    rest = A @ Q - Q @ T.double()
    atol = tolerance(dtype)
    assert_close(rest[..., :-1], torch.zeros_like(rest[..., :-1]), rtol=0, atol=atol)
    assert_close(rest[..., -1].norm(dim=-1), residual.double(), rtol=0, atol=atol)
    assert_close(Q.mT @ rest[..., -1:], torch.zeros_like(Q.mT @ rest[..., -1:]), rtol=0, atol=atol)


@given(seed=seeds(), steps=st.integers(1, 20), dtype=random_dtype(), rank=st.integers(1, 20))
def test_basis_is_orthonormal_and_ends_in_zeros_where_the_space_is_exhausted(seed, steps, dtype, rank):
    A, x = semidefinite(seed, rank), normal(SIZE, seed + 1, dtype, batch=(3,))
    Q, *_ = tridiagonalise(product_with(A), x, steps)
    gram = torch.einsum("...ihw,...jhw->...ij", Q, Q)
    norms = gram.diagonal(dim1=-2, dim2=-1)
    assert_close(gram, torch.diag_embed(norms.round()), rtol=0, atol=tolerance(dtype))
    # x touches every eigenvalue, zero among them. Beyond that a direction of rounding may live on, but not return.
    dimension = min(steps, rank + 1 if dtype == torch.float64 else 1)
    assert_close(norms[:, :dimension], torch.ones_like(norms[:, :dimension]), rtol=0, atol=tolerance(dtype))
    assert (norms.round().diff(dim=-1) <= 0).all()


@given(seed=seeds(), dtype=random_dtype(), rank=st.integers(1, 20))
def test_function_is_exact_at_full_rank(seed, dtype, rank):
    A, x = semidefinite(seed, rank), normal(SIZE, seed + 1, dtype)

    def f(e: Tensor) -> Tensor:
        return torch.cos(5 * e)

    result = symmetric_function(product_with(A), f, x, steps=20)
    assert_close(result.double(), matrix_function(A, f, x.double()), rtol=0, atol=tolerance(dtype, 10.0))


@given(seed=seeds(), rank=st.integers(0, 20), dtype=random_dtype())
def test_square_root_is_finite_and_right_on_singular_matrices(seed, rank, dtype):
    A, x = semidefinite(seed, rank), normal(SIZE, seed + 1, dtype)
    root = symmetric_function(product_with(A), torch.sqrt, x)
    # sqrt turns an error of eps in a zero eigenvalue into one of sqrt(eps).
    atol = 1e-6 if dtype == torch.float64 else 1e-2
    assert_close(root.double(), matrix_function(A, torch.sqrt, x.double()), rtol=0, atol=atol)


def test_vectors_of_zeros_give_zeros_and_disturb_no_other():
    A, x = semidefinite(0), normal(SIZE, 1, batch=(3,))
    x[1] = 0
    result = symmetric_function(product_with(A), torch.rsqrt, x)
    assert torch.equal(result[1], torch.zeros(SIZE, dtype=torch.float64))
    assert_close(result[[0, 2]], matrix_function(A, torch.rsqrt, x[[0, 2]]))


def test_vectors_in_the_kernel_see_the_function_at_zero():
    A = semidefinite(0, rank=12)
    kernel = torch.linalg.eigh(A).eigenvectors[:, 0].unflatten(0, SIZE)
    assert_close(symmetric_function(product_with(A), lambda e: 3 + e, kernel), 3 * kernel)


def test_inverse_root_is_finite_where_the_space_is_exhausted_early():
    # A multiple of the identity exhausts it in one step; its spectrum has no zero, so f is not to be asked there.
    x = normal(SIZE, batch=(2,))
    assert_close(symmetric_function(lambda v: v / 4, torch.rsqrt, x), 2 * x)


def test_iteration_ends_with_the_last_exhausted_space():
    # Three distinct eigenvalues make a space of three dimensions; a few more may pass for rounding.
    vectors, _ = torch.linalg.qr(normal((20, 20), batch=()))
    A = vectors * torch.tensor([1.0, 0.5, 0.25, 0.25], dtype=torch.float64).repeat(5) @ vectors.mT
    products = []

    def product(v: Tensor) -> Tensor:
        products.append(v)
        return product_with(A)(v)

    symmetric_function(product, torch.sqrt, normal(SIZE, batch=(3,)))
    assert 3 <= len(products) <= 8


@given(seed=seeds(), rank=st.integers(1, 20))
def test_batched_equals_one_by_one(seed, rank):
    A, x = semidefinite(seed, rank), normal(SIZE, seed, batch=(2, 3))
    x[0, 1] = 0
    x[1, 0] = torch.linalg.eigh(A).eigenvectors[:, -1].unflatten(0, SIZE)
    batched = symmetric_function(product_with(A), torch.exp, x)
    single = torch.stack([torch.stack([symmetric_function(product_with(A), torch.exp, v) for v in row]) for row in x])
    assert_close(batched, single, rtol=0, atol=1e-12)


@given(seed=seeds(), scale=st.sampled_from([1e-12, 1.0, 1e12]))
def test_function_follows_the_scale_of_its_argument(seed, scale):
    A, x = semidefinite(seed), normal(SIZE, seed + 1)
    small = symmetric_function(product_with(A), torch.sqrt, x)
    assert_close(symmetric_function(product_with(A), torch.sqrt, scale * x), scale * small, rtol=1e-9, atol=0)
    assert_close(symmetric_function(product_with(scale * A), torch.sqrt, x), scale**0.5 * small, rtol=1e-9, atol=0)


def test_numbers_that_are_not_finite_are_not_hidden():
    x = normal(SIZE, batch=(2,))
    x[0, 0, 0] = torch.nan
    result = symmetric_function(product_with(semidefinite(0)), torch.sqrt, x)
    assert result[0].isnan().all()
    assert result[1].isfinite().all()


def test_default_number_of_steps_is_enough_for_a_blur_of_64_pixels():
    # Its spectrum fills [0, 1], with no gap for the iteration to profit from.
    B, x = blur((64, 64)), normal((64, 64), batch=(1,))

    def root(v: Tensor) -> Tensor:
        return B.gram_function(lambda e: (1 - 0.9 * e / B_norm).sqrt(), v)

    B_norm = B.norm_squared()
    error = root(root(x)) - (x - 0.9 / B_norm * B.adjoint(B(x)))
    assert float(error.norm() / x.norm()) < 1e-10


@given(seed=seeds(), rank=st.integers(1, 20))
def test_largest_eigenvalue_is_exact_at_full_rank(seed, rank):
    bound = largest_eigenvalue(product_with(semidefinite(seed, rank, largest=3.0)), SIZE)
    assert bound == pytest.approx(3.0, rel=1e-12)


@pytest.mark.parametrize(("steps", "slack"), [(10, 0.05), (20, 1e-3), (128, 1e-9)])
def test_largest_eigenvalue_is_bounded_from_above_before_convergence(steps, slack):
    # The top of a blur's spectrum is crowded: after 10 of its 576 dimensions the largest Ritz value is 0.4 % too small.
    B = blur((24, 24))
    exact = torch.linalg.matrix_norm(dense(B), ord=2).item() ** 2
    bound = largest_eigenvalue(lambda v: B.adjoint(B(v)), (24, 24), steps)
    assert exact * (1 - 1e-13) <= bound <= exact * (1 + slack)


def test_largest_eigenvalue_of_zero_is_zero():
    assert largest_eigenvalue(lambda v: 0 * v, SIZE) == 0.0


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_are_refused(steps):
    with pytest.raises(ValueError, match="at least 1 step"):
        symmetric_function(lambda v: v, torch.sqrt, normal(SIZE), steps)
