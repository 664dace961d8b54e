"""Functions of operators too large to decompose: right to 1e-6, or refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategies import (
    OPERATORS,
    blur,
    box_average,
    normal,
    of_matrix,
    random_dtype,
    seeds,
    with_singular_values,
)
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torch.testing import assert_close

from scalespace.diffusion.denoiser import dense
from scalespace.errors import UserError
from scalespace.operators import krylov
from scalespace.operators.checks import examined
from scalespace.operators.eigenvalues import spectrum_edge
from scalespace.operators.function import FunctionOperator
from scalespace.operators.krylov import KrylovFunctions
from scalespace.operators.lanczos import krylov_function, symmetric_function
from scalespace.operators.resize import SeparableProduct
from scalespace.operators.singular import SingularBasis

CPU = torch.device("cpu")
ACCURACY = 1e-6


@pytest.fixture
def never_decomposed(monkeypatch):
    """Small operators treated as if they were large."""
    monkeypatch.setattr(krylov, "is_affordable", lambda in_size, out_size: False)


def both(M):
    applied = examined(M)
    return KrylovFunctions(applied), SingularBasis.of(applied)


def assert_right(found: Tensor, exact: Tensor, given: Tensor) -> None:
    assert found.dtype == given.dtype
    error = float((found.double() - exact.double()).norm() / max(exact.double().norm(), given.double().norm()))
    assert error < max(ACCURACY, 100 * torch.finfo(given.dtype).eps)


@pytest.mark.usefixtures("never_decomposed")
@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_the_decomposition(kind, dtype):
    M = OPERATORS[kind]((6, 5))
    iterated, exact = both(M)
    x, y = normal(M.in_size, 0, dtype), normal(M.out_size, 1, dtype)
    norm = float(exact.values[0]) ** 2
    for f, kernel in (
        (torch.exp, None),
        (torch.sqrt, None),
        (lambda e: (1 - e / norm).clamp_min(0).sqrt(), None),
        (torch.rsqrt, 1.0),
        (lambda e: 0 * e, 1.0),
        (lambda e: 0.3 + e, 0.0),
    ):
        found, expected = (functions.gram_function(f, x, kernel) for functions in (iterated, exact))
        assert_right(found, expected, x)
    for f in (torch.exp, torch.rsqrt, lambda e: 1 / (0.1 * norm + e), lambda e: 1 / e):
        found, expected = (functions.adjoint_function(f, y) for functions in (iterated, exact))
        assert_right(found, expected, y)
    assert iterated.condition() == pytest.approx(exact.condition(), rel=0.1)


@pytest.mark.usefixtures("never_decomposed")
@settings(max_examples=8)
@given(seed=seeds(), rank=st.integers(0, 30), condition=st.sampled_from([1.0, 10.0, 1e3, 1e4]), dtype=random_dtype())
def test_kernel_is_told_from_range_wherever_it_can_be(seed, rank, condition, dtype):
    # As many steps as there are pixels exhaust the space, so that only rounding is in the way.
    M = with_singular_values(torch.logspace(0, -math.log10(condition), rank, dtype=torch.float64), (7, 6), (6, 5), seed)
    iterated, exact = both(M)
    x, y = normal((7, 6), seed, dtype), normal((6, 5), seed + 1, dtype)
    assert exact.rank == rank
    fresh, expected = (functions.gram_function(lambda e: 0 * e, x, 1.0) for functions in (iterated, exact))
    assert_right(fresh, expected, x)
    lifted, expected = (functions.adjoint_function(torch.rsqrt, y) for functions in (iterated, exact))
    assert_right(lifted, expected, y)


@pytest.mark.usefixtures("never_decomposed")
@pytest.mark.parametrize("smallest", [1e-5, 1e-6, 1e-8])
def test_singular_values_that_products_cannot_resolve_are_refused_where_it_matters(smallest):
    values = torch.cat([torch.linspace(1, 0.5, 10, dtype=torch.float64), torch.tensor([smallest], dtype=torch.float64)])
    M = with_singular_values(values, (7, 6), (6, 5))
    functions, x, y = KrylovFunctions(examined(M)), normal((7, 6)), normal((6, 5))
    if smallest == 1e-8:
        # Below rounding of M M^T it is the kernel, as under the floor of a decomposition.
        assert functions.condition() < 3
        return
    for jump in (
        functions.condition,
        lambda: functions.gram_function(lambda e: 0 * e, x, 1.0),
        lambda: functions.gram_function(torch.rsqrt, x, 1.0),
        lambda: functions.adjoint_function(lambda e: 1 / e, y),
    ):
        with pytest.raises(
            UserError, match=r"do not tell the kernel of the FunctionOperator from \(7, 6\) to \(6, 5\)"
        ):
            jump()
    root = functions.gram_function(lambda e: (1 - e).clamp_min(0).sqrt(), x, None)
    assert_right(root, SingularBasis.of(examined(M)).gram_function(lambda e: (1 - e).clamp_min(0).sqrt(), x, None), x)


@pytest.mark.usefixtures("never_decomposed")
def test_a_spectrum_that_runs_down_to_zero_is_refused_and_says_what_to_do():
    # A wide blur: its singular values fall by a factor at every frequency, to rounding.
    columns = torch.arange(40, dtype=torch.float64)
    A = torch.exp(-((columns[:, None] - columns) ** 2) / 18)
    M = FunctionOperator(lambda x: (A / 7.5) @ x @ (A / 7.5).mT, (40, 40), (40, 40))
    functions, y = KrylovFunctions(examined(M)), normal((40, 40), batch=(1,))
    with pytest.raises(UserError) as refused:
        functions.adjoint_function(torch.rsqrt, y)
    message = str(refused.value)
    assert (
        "steps of Lanczos do not tell the kernel of the FunctionOperator from (40, 40) to (40, 40) from its range"
        in message
    )
    assert "SeparableProduct" in message
    assert "ancestral" in message
    exact = SeparableProduct(A / 7.5, A / 7.5)
    for function in (lambda e: (1 - 0.99 * e).clamp_min(0).sqrt(), torch.exp):
        assert_right(functions.gram_function(function, y, None), exact.gram_function(function, y), y)


def test_what_lanczos_does_not_tell_is_decomposed_where_it_can_be():
    values = torch.logspace(0, -10, 30, dtype=torch.float64)
    M = with_singular_values(values, (7, 6), (6, 5))
    functions, y = KrylovFunctions(examined(M)), normal((6, 5), batch=(30,))
    lifted = functions.adjoint_function(torch.rsqrt, y)
    assert_close(lifted.flatten(1).norm(dim=1), y.flatten(1).norm(dim=1))
    assert functions.condition() == pytest.approx(1e10, rel=1e-4)


def test_a_function_that_lanczos_does_not_get_to_the_end_of_is_refused():
    M = blur((12, 12))

    def gram(v: Tensor) -> Tensor:
        return M.adjoint(M(v))

    x = normal((12, 12))
    # It oscillates a hundred times between zero and the largest eigenvalue, and 64 steps do not make such a polynomial.
    with pytest.raises(
        UserError, match=r"64 steps of Lanczos leave a relative error of about .* in a function of B, above 1e-06"
    ):
        symmetric_function(gram, lambda e: torch.cos(600 * e), x, steps=64, name="B")
    assert symmetric_function(gram, lambda e: torch.cos(600 * e), x).isfinite().all()


@pytest.mark.parametrize("steps", [8, 16, 24, 40])
@pytest.mark.parametrize(
    "f", [torch.exp, torch.sqrt, lambda e: 1 / (0.01 + e), lambda e: (1.13 - e).clamp_min(0).sqrt()]
)
def test_the_error_that_is_estimated_is_no_smaller_than_the_error(f, steps):
    M, x = blur((12, 12)), normal((12, 12), batch=(1,))
    matrix = dense(M)
    values, vectors = torch.linalg.eigh(matrix.mT @ matrix)
    exact = (x.flatten(1) @ (vectors * f(values.clamp_min(0)) @ vectors.mT)).unflatten(1, (12, 12))
    found, estimate = krylov_function(lambda v: M.adjoint(M(v)), f, x, steps)
    error = float((found - exact).norm() / exact.norm())
    assert error <= estimate + 1e-13
    assert error > 1e-13 or estimate < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("float32_only", [False, True])
def test_box_averages_of_128_pixels(dtype, float32_only):
    def function(x: Tensor) -> Tensor:
        return avg_pool2d(x.float() if float32_only else x, 2).to(x.dtype)

    M, half = FunctionOperator(function, (128, 128), (64, 64)), torch.zeros(64, 128, dtype=torch.float64)
    half[range(64), range(0, 128, 2)] = half[range(64), range(1, 128, 2)] = 0.5
    exact, x, y = SeparableProduct(half, half), normal((128, 128), dtype=dtype), normal((64, 64), dtype=dtype)
    fresh = M.gram_function(lambda e: 0 * e, x, kernel=1.0)
    assert_right(fresh, exact.gram_function(lambda e: 0 * e, x, kernel=1.0), x)
    assert_right(M.adjoint_function(lambda e: 1 / e, y), exact.adjoint_function(lambda e: 1 / e, y), y)
    assert_right(M.gram_function(lambda e: (1 - 4 * e).clamp_min(0).sqrt(), x), fresh, x)
    assert 0.25 <= M.norm_squared() <= 0.25 * (1 + (1e-5 if float32_only else 1e-9))
    assert M.condition() == pytest.approx(1.0, rel=1e-4)
    assert M.mean_square() == pytest.approx(0.0625, rel=1e-5)


def test_pixels_that_are_lost_at_64_pixels():
    seen = (torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    M, x = FunctionOperator(lambda x: seen.to(x) * x, (64, 64), (64, 64)), normal((64, 64), dtype=torch.float32)
    assert_close(M.gram_function(lambda e: 0 * e, x, kernel=1.0), (1 - seen.float()) * x)
    assert_close(M.adjoint_function(torch.rsqrt, x), seen.float() * x)


@pytest.mark.usefixtures("never_decomposed")
def test_functions_infinite_at_zero_are_refused_where_there_is_a_kernel():
    full = KrylovFunctions(examined(with_singular_values(torch.linspace(1, 0.5, 30).double(), (6, 5), (6, 5))))
    lacking = KrylovFunctions(examined(with_singular_values(torch.linspace(1, 0.5, 29).double(), (6, 5), (6, 5))))
    x = normal((6, 5))
    assert full.gram_function(torch.rsqrt, x, None).isfinite().all()
    for functions, pictures in ((lacking, x), (KrylovFunctions(examined(box_average((6, 4)))), normal((6, 4)))):
        with pytest.raises(UserError, match=r"a function is inf at 0, and the FunctionOperator .* has a kernel"):
            functions.gram_function(torch.rsqrt, pictures, None)


@pytest.mark.usefixtures("never_decomposed")
def test_gradients_of_functions_that_jump():
    functions = KrylovFunctions(examined(with_singular_values(torch.linspace(1, 0.3, 3).double(), (3, 2), (2, 2))))
    x, y = normal((3, 2), batch=(1,)).requires_grad_(), normal((2, 2), batch=(1,)).requires_grad_()
    for function, argument in (
        (lambda v: functions.gram_function(torch.rsqrt, v, 1.0), x),
        (lambda v: functions.gram_function(torch.exp, v, None), x),
        (lambda v: functions.adjoint_function(torch.rsqrt, v), y),
    ):
        torch.autograd.gradcheck(function, argument)
        torch.autograd.gradgradcheck(function, argument)


@pytest.mark.usefixtures("never_decomposed")
def test_the_map_to_zero_has_everything_in_its_kernel():
    functions = KrylovFunctions(examined(of_matrix(torch.zeros(12, 30), (6, 5), (4, 3))))
    x, y = normal((6, 5)), normal((4, 3))
    assert_close(functions.gram_function(torch.rsqrt, x, 1.0), x)
    assert_close(functions.gram_function(torch.exp, x, None), x)
    assert torch.equal(functions.adjoint_function(torch.rsqrt, y), torch.zeros_like(x))
    assert functions.condition() == 1.0


@pytest.mark.usefixtures("never_decomposed")
def test_one_function_for_each_picture_is_refused():
    functions = KrylovFunctions(examined(blur((4, 4))))
    powers = torch.tensor([1.0, 2.0], dtype=torch.float64).reshape(-1, 1, 1, 1)
    with pytest.raises(
        UserError, match="too large for another function of each picture; give pictures of one grid point"
    ):
        functions.gram_function(lambda e: (1 + e) ** powers, normal((4, 4), batch=(2, 1)), None)


@given(
    seed=seeds(),
    nonzero=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=20),
    zeros=st.integers(0, 10),
)
def test_spectrum_edge_is_that_of_the_matrix(seed, nonzero, zeros):
    values = torch.tensor(nonzero + [0.0] * zeros, dtype=torch.float64)
    vectors = torch.linalg.qr(normal((len(values), len(values)), seed, batch=())).Q
    A = vectors * values @ vectors.mT
    edge = spectrum_edge(lambda v: v @ A, (1, len(values)), 2.3e-16, "A", CPU)
    assert edge.smallest == pytest.approx(min(nonzero), rel=1e-6)
    assert edge.largest == pytest.approx(max(nonzero), rel=1e-9)
    assert edge.has_kernel == (zeros > 0)


@pytest.mark.parametrize("shape", [((64, 64), (32, 32)), ((30, 50), (10, 10))])
def test_norms_of_large_maps_are_never_below(shape):
    # Of an isolated largest value that a single pixel has, which a random start has little of.
    in_size, out_size = shape

    def function(x: Tensor) -> Tensor:
        y = x[..., : out_size[0], : out_size[1]]
        peak = torch.zeros(out_size, dtype=x.dtype)
        peak[3, 5] = 1e-3
        return y + peak * y

    exact = (1 + 1e-3) ** 2
    assert exact * (1 - 1e-13) <= FunctionOperator(function, in_size, out_size).norm_squared() <= exact * (1 + 1e-9)


def test_dense_is_what_the_decomposition_is_made_of():
    assert_close(dense(blur((5, 4))), blur((5, 4))(torch.eye(20).double().unflatten(1, (5, 4))).flatten(1).mT)
