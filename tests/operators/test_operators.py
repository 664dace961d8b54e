"""What holds for every linear operator, swept over one registry of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import OPERATORS, blur, box_average, chains, normal, random_dtype, seeds, sizes, tolerance
from torch.testing import assert_close

from scalespace.diffusion.denoiser import dense
from scalespace.operators.function import FunctionOperator
from scalespace.operators.linear import Composition, Identity, LinearOperator
from scalespace.operators.resize import Resize, Separable

every_kind = pytest.mark.parametrize("kind", OPERATORS)


def dense_function(M: LinearOperator, f) -> torch.Tensor:
    matrix = dense(M)
    values, vectors = torch.linalg.eigh(matrix.mT @ matrix)
    return vectors * f(values.clamp_min(0)) @ vectors.mT


@every_kind
@given(size=sizes(), dtype=random_dtype(), seed=seeds())
def test_adjoint_is_transpose(kind, size, dtype, seed):
    M = OPERATORS[kind](size)
    x, y = normal(M.in_size, seed, dtype), normal(M.out_size, seed + 1, dtype)
    scale = float(M(x).norm() * y.norm()) + 1
    assert_close((M(x) * y).sum(), (x * M.adjoint(y)).sum(), rtol=0, atol=tolerance(dtype, scale))


@every_kind
@given(size=sizes(), seed=seeds(), a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_operator_and_adjoint_are_linear(kind, size, seed, a, b):
    M = OPERATORS[kind](size)
    for function, side in ((M, M.in_size), (M.adjoint, M.out_size)):
        x, y = normal(side, seed), normal(side, seed + 1)
        assert_close(function(a * x + b * y), a * function(x) + b * function(y), rtol=0, atol=1e-12)


@every_kind
@given(size=sizes(), dtype=random_dtype())
def test_shapes_and_dtype_are_kept(kind, size, dtype):
    M = OPERATORS[kind](size)
    assert M.in_size == size
    for batch in ((), (2,), (2, 1, 3)):
        x, y = normal(M.in_size, 0, dtype, batch), normal(M.out_size, 0, dtype, batch)
        for result, side in (
            (M(x), M.out_size),
            (M.adjoint(y), M.in_size),
            (M.gram_function(torch.sqrt, x), M.in_size),
        ):
            assert result.shape == (*batch, *side)
            assert result.dtype == dtype


@every_kind
@given(size=sizes(), seed=seeds())
def test_every_picture_of_a_batch_is_treated_alike(kind, size, seed):
    M = OPERATORS[kind](size)
    x, y = normal(M.in_size, seed, batch=(2, 3)), normal(M.out_size, seed, batch=(2, 3))
    for function, argument in ((M, x), (M.adjoint, y), (lambda v: M.gram_function(torch.exp, v), x)):
        one_by_one = torch.stack([torch.stack([function(plane) for plane in picture]) for picture in argument])
        assert_close(function(argument), one_by_one, rtol=0, atol=1e-11)


@every_kind
@given(size=sizes())
def test_transpose_swaps_operator_and_adjoint(kind, size):
    M = OPERATORS[kind](size)
    assert (M.T.in_size, M.T.out_size) == (M.out_size, M.in_size)
    assert_close(dense(M.T), dense(M).mT, rtol=0, atol=1e-14)
    assert_close(dense(M.T.T), dense(M), rtol=0, atol=1e-14)


@given(chain=chains(3), seed=seeds())
def test_composition_is_associative(chain, seed):
    right, middle, left = chain
    x = normal(right.in_size, seed)
    first, second = (left @ middle) @ right, left @ (middle @ right)
    assert (first.in_size, first.out_size) == (right.in_size, left.out_size)
    for M in (first, second):
        assert_close(M(x), left(middle(right(x))), rtol=0, atol=1e-12)


@given(chain=chains(2), seed=seeds())
def test_transpose_of_a_composition_is_the_composition_of_transposes_reversed(chain, seed):
    right, left = chain
    y = normal(left.out_size, seed)
    assert_close((left @ right).T(y), (right.T @ left.T)(y), rtol=0, atol=1e-12)
    assert_close((left @ right).adjoint(y), right.adjoint(left.adjoint(y)), rtol=0, atol=1e-12)


@given(chain=chains(2))
def test_composition_has_the_matrix_product(chain):
    right, left = chain
    assert_close(dense(left @ right), dense(left) @ dense(right), rtol=0, atol=1e-13)


@every_kind
@given(size=sizes(3, 7), dtype=random_dtype(), seed=seeds())
def test_gram_function_is_the_matrix_function(kind, size, dtype, seed):
    M = OPERATORS[kind](size)
    x = normal(M.in_size, seed, dtype)

    def f(e: torch.Tensor) -> torch.Tensor:
        return 1 / (1 + e) + e

    expected = (x.double().flatten(1) @ dense_function(M, f)).unflatten(1, M.in_size)
    assert_close(M.gram_function(f, x).double(), expected, rtol=0, atol=tolerance(dtype, 10.0))


@every_kind
@given(size=sizes(3, 7), dtype=random_dtype(), seed=seeds())
def test_adjoint_function_is_the_adjoint_after_the_matrix_function(kind, size, dtype, seed):
    M = OPERATORS[kind](size)
    y = normal(M.out_size, seed, dtype)

    def f(e: torch.Tensor) -> torch.Tensor:
        return 1 / (1 + e)

    expected = (y.double().flatten(1) @ dense_function(M.T, f) @ dense(M)).unflatten(1, M.in_size)
    assert_close(M.adjoint_function(f, y).double(), expected, rtol=0, atol=tolerance(dtype, 10.0))


@every_kind
@given(size=sizes(3, 7), seed=seeds())
def test_square_root_of_a_posterior_covariance_squares_to_it(kind, size, seed):
    # The function of every draw: with 1 - rho lambda_max = 0 its root is not smooth at the end of the spectrum.
    M = OPERATORS[kind](size)
    rho = 1 / torch.linalg.matrix_norm(dense(M), ord=2).item() ** 2
    x = normal(M.in_size, seed)

    def root(v: torch.Tensor) -> torch.Tensor:
        return M.gram_function(lambda e: (1 - rho * e).clamp_min(0).sqrt(), v)

    assert_close(root(root(x)), x - rho * M.adjoint(M(x)), rtol=0, atol=1e-6)


@every_kind
@given(size=sizes())
def test_norm_squared_is_the_largest_squared_singular_value(kind, size):
    M = OPERATORS[kind](size)
    exact = torch.linalg.matrix_norm(dense(M), ord=2).item() ** 2
    assert M.norm_squared() == pytest.approx(exact, rel=1e-9)
    assert M.T.norm_squared() == pytest.approx(exact, rel=1e-9)


@every_kind
@given(size=sizes())
def test_norm_squared_by_lanczos_is_close_and_never_below(kind, size):
    # The validity check must not pass a process that is a little invalid.
    M = OPERATORS[kind](size)
    exact = torch.linalg.matrix_norm(dense(M), ord=2).item() ** 2
    assert exact * (1 - 1e-13) <= LinearOperator.norm_squared(M) <= exact * (1 + 1e-9)


@every_kind
def test_gradients_of_operator_adjoint_and_gram_function(kind):
    M = OPERATORS[kind]((4, 3))
    x, y = normal(M.in_size, batch=(1,)).requires_grad_(), normal(M.out_size, batch=(1,)).requires_grad_()
    for function, argument in ((M, x), (M.adjoint, y), (lambda v: M.gram_function(torch.exp, v), x)):
        torch.autograd.gradcheck(function, argument)
        torch.autograd.gradgradcheck(function, argument)


@every_kind
def test_works_in_inference_mode_and_leaves_nothing_that_autograd_refuses(kind):
    with torch.inference_mode():
        M = OPERATORS[kind]((6, 4))
        x, y = normal(M.in_size), normal(M.out_size)
        M.norm_squared()
        inferred = M(x), M.adjoint(y), M.gram_function(torch.sqrt, x)
    x, y = normal(M.in_size).requires_grad_(), normal(M.out_size).requires_grad_()
    for result, expected in zip((M(x), M.adjoint(y), M.gram_function(torch.sqrt, x)), inferred, strict=True):
        result.square().sum().backward()
        assert torch.equal(result.detach(), expected)
    # The eigenvalues themselves are part of the graph here, and nothing made of them.
    M.gram_function(lambda e: e, x).sum().backward()
    M.adjoint_function(lambda e: e, y).sum().backward()


@every_kind
def test_pictures_of_another_size_are_refused(kind):
    M = OPERATORS[kind]((6, 4))
    with pytest.raises(ValueError, match=r"takes pictures of size \(6, 4\), got \(7, 4\)"):
        M(normal((7, 4)))
    height, width = M.out_size
    with pytest.raises(ValueError, match=rf"takes pictures of size \({height}, {width}\), got"):
        M.adjoint(normal((height, width + 1)))


def test_composition_of_sizes_that_do_not_fit_is_refused():
    for left in (Identity((4, 4)), Resize((4, 4), (2, 2)), blur((4, 4))):
        for right in (Identity((4, 5)), Resize((8, 8), (4, 5)), blur((4, 5))):
            with pytest.raises(ValueError, match=r"right operator gives \(4, 5\), the left one takes \(4, 4\)"):
                left @ right


def test_identity_disappears_from_compositions():
    M, B = Resize((6, 6), (3, 3)), blur((6, 6))
    for operator in (M, B):
        assert operator @ Identity((6, 6)) is operator
        assert Identity(operator.out_size) @ operator is operator
    assert Identity((6, 6)) == Identity((6, 6)).T


def test_products_and_transposes_of_separable_operators_stay_exact():
    M = Resize((9, 8), (6, 5))
    assert isinstance(Resize((6, 5), (3, 2)) @ M, Separable)
    assert isinstance(M.T, Separable)
    assert isinstance(M.T @ M, Separable)
    assert isinstance(M @ blur((9, 8)), Composition)


def test_adjoint_of_a_function_of_the_users_is_exact_where_autograd_has_no_second_derivative():
    # The vector-Jacobian product need not be differentiable itself: its derivative is the function.
    class Doubling(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, *grads):
            return 2 * grads[0]

    M = FunctionOperator(Doubling.apply, (3, 3), (3, 3))
    y = normal((3, 3)).requires_grad_()
    torch.autograd.gradcheck(M.adjoint, y)


def test_box_average_halves_every_singular_value():
    # An orthonormal average over 2: what the registry's box average is, so its norm is known by hand.
    M = box_average((8, 6))
    assert M.norm_squared() == pytest.approx(0.25, rel=1e-12)
    assert_close(M(M.adjoint(normal((4, 3)))), normal((4, 3)) / 4)
