"""Steps across a change and predictions for operators that nothing is known of, against dense float64 algebra.

From x_t with noise eps, white, and the exact prediction, x_s is a linear map of eps and of the fresh noise xi,
x_s = alpha_s x0_s + P eps + D xi, and its covariance given x_0 is P P^T + D D^T = sigma_s^2 I in closed form.
"""

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tests.strategies import blurred_subsample, normal, of_matrix, tolerance, with_singular_values
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torch.testing import assert_close

from scalespace.diffusion.degradation import Degradation
from scalespace.diffusion.noise import LinearBeta
from scalespace.diffusion.prediction import Epsilon, Velocity
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.shifted import Shifted
from scalespace.diffusion.solvers import DDIM, Ancestral, Corrected, Multistep
from scalespace.errors import UserError
from scalespace.operators.function import FunctionOperator
from scalespace.operators.linear import Identity, LinearOperator
from scalespace.operators.resize import SeparableProduct

HOWTO = Path(__file__).parents[2] / "docs" / "how-to" / "own-operator.md"
S, T = 499, 500


@dataclass(frozen=True)
class Once(Degradation):
    """One operator, applied at t = 500."""

    M: LinearOperator
    timesteps: int = 1000
    change_points: tuple[int, ...] = (T,)

    def size(self, t):
        return self.M.in_size if t < T else self.M.out_size

    def operator(self, s, t):
        return self.M if s < T <= t else Identity(self.size(t))


def box_average_of_the_documents() -> LinearOperator:
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", HOWTO.read_text(), re.DOTALL) if "box_average" in block
    )
    names = {}
    exec(compile(code, HOWTO.name, "exec"), names)
    return names["process"].degradation.operator(S, T)


def float32_alone() -> LinearOperator:
    """Depthwise convolution with float32 weights, every second pixel."""
    weights = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16

    def function(x: Tensor) -> Tensor:
        pictures = x.reshape(-1, 1, *x.shape[-2:])
        blurred = torch.nn.functional.conv2d(pictures, weights[None, None], stride=2, padding=1)
        return blurred.reshape(*x.shape[:-2], *blurred.shape[-2:])

    return FunctionOperator(function, (16, 12), (8, 6))


OPERATORS = {
    "box average of the documents": box_average_of_the_documents,
    "gaussian blur and every second pixel": lambda: blurred_subsample((20, 20)),
    "random of rank 20 of 48": lambda: with_singular_values(torch.linspace(0.5, 0.05, 20).double(), (12, 10), (8, 6)),
    "random down to rounding": lambda: with_singular_values(torch.logspace(-0.5, -18, 48).double(), (12, 10), (8, 6)),
    "kernel alone": lambda: of_matrix(torch.zeros(48, 120), (12, 10), (8, 6)),
    "to a point": lambda: of_matrix(torch.full((1, 48), 1 / 48), (8, 6), (1, 1)),
    "no kernel": lambda: with_singular_values(torch.linspace(0.9, 0.4, 48).double(), (8, 6), (8, 6)),
    "float32 alone": float32_alone,
}
SOLVERS = {
    "ddim 0": lambda process: DDIM(process, 0.0),
    "ddim 0.5": lambda process: DDIM(process, 0.5),
    "ancestral": Ancestral,
    "multistep": Multistep,
    "corrected": Corrected,
}
CASES = [(kind, dtype) for kind in OPERATORS for dtype in (torch.float32, torch.float64)]
each_case = pytest.mark.parametrize(("kind", "dtype"), CASES)
# Where singular values around rounding may count either way, and both are right.
each_decided_case = pytest.mark.parametrize(("kind", "dtype"), [case for case in CASES if "rounding" not in case[0]])
each_solver = pytest.mark.parametrize("solver", SOLVERS)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def matrix_in_float64(M: LinearOperator) -> Tensor:
    """By single pictures, in the precision that M takes."""
    units = torch.eye(math.prod(M.in_size), dtype=torch.float64).unflatten(1, M.in_size)
    try:
        return M(units).flatten(1).mT
    except RuntimeError:
        return M(units.float()).flatten(1).mT.double()


def directions(size, dtype: torch.dtype, seed: int) -> Tensor:
    """All of a random orthonormal basis: unlike unit pictures, each of them has something of every eigenvector."""
    pixels = math.prod(size)
    return torch.linalg.qr(normal((pixels, pixels), seed, batch=())).Q.to(dtype).reshape(pixels, 1, *size)


def run(new_solver, process: ScaleSpaceProcess, grid, start: Tensor, x0, noise: Tensor) -> Tensor:
    """The chain with the exact prediction: x0 at t = 0, or 0 if left out; the noise is that of the change."""
    solver = new_solver(process)
    for t, s in pairwise(grid):
        M = process.degradation.operator(0, s)
        x0_s = torch.zeros(len(start), 1, *process.size(s), dtype=start.dtype) if x0 is None else M(x0)
        crosses = s < T <= t
        start = solver.step(start, x0_s, t, s, noise if crosses else torch.zeros_like(x0_s))
    return start


def covariance(new_solver, process: ScaleSpaceProcess, grid, dtype: torch.dtype) -> Tensor:
    """Of x at the end of the grid over sigma^2 there, from white noise at its start."""
    old = directions(process.size(grid[0]), dtype, 1)
    fresh = directions(process.size(S), dtype, 2)
    sigma = process.noise.sigma
    P = run(new_solver, process, grid, old * sigma(grid[0]), None, fresh.new_zeros(len(old), *fresh.shape[1:]))
    D = run(new_solver, process, grid, old.new_zeros(len(fresh), *old.shape[1:]), None, fresh)
    P, D = P.flatten(1).double(), D.flatten(1).double()
    return (P.mT @ P + D.mT @ D) / sigma(grid[-1]) ** 2


@each_case
@each_solver
def test_covariance_across_a_change_is_that_of_the_marginal(kind, solver, dtype):
    M = OPERATORS[kind]()
    process = ScaleSpaceProcess(LinearBeta(1000), Once(M))
    # Memoryless solvers cross in one step, the others have been in the lower level before.
    grid = (600, T, S) if solver in ("multistep", "corrected") else (T, S)
    found = covariance(SOLVERS[solver], process, grid, dtype)
    identity = torch.eye(len(found), dtype=torch.float64)
    matrix = matrix_in_float64(M)
    _, values, right = torch.linalg.svd(matrix)
    seen = right[: int((values > 1e-4 * values[0]).sum())]
    range_part = seen.mT @ seen
    kernel_part = identity - range_part
    # The process is as exact as M: where M is float32, its own rounding is left in the posterior.
    rounding = tolerance(dtype) / 10 if kind != "float32 alone" else 1e-4
    for projector in (range_part, kernel_part):
        if projector.trace() > 0.5:
            variance = float((projector @ found).trace() / projector.trace())
            assert variance == pytest.approx(1.0, abs=rounding)
    assert_close(found, identity, rtol=0, atol=rounding)


@each_decided_case
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_ddim_carries_what_its_equation_says(kind, dtype, eta):
    M = OPERATORS[kind]()
    process = ScaleSpaceProcess(LinearBeta(1000), Once(M))
    left, values, right = torch.linalg.svd(matrix_in_float64(M), full_matrices=False)
    rho = math.exp(process.noise.log_snr(T) - process.noise.log_snr(S))
    kept = torch.where(values > 1e-6, (1 - eta**2 * (1 - rho * values**2)).clamp_min(0).sqrt(), 0.0)
    units = torch.eye(math.prod(M.out_size), dtype=dtype).reshape(-1, 1, *M.out_size)
    zeros = torch.zeros(len(units), 1, *M.in_size, dtype=dtype)
    carried = DDIM(process, eta).step(process.noise.sigma(T) * units, zeros, T, S, zeros).flatten(1).mT.double()
    expected = process.noise.sigma(S) * right.mT * kept @ left.mT
    atol = 1e-5 if kind == "float32 alone" else 10 * tolerance(dtype)
    assert_close(carried, expected, rtol=0, atol=atol)


@each_case
def test_mean_across_a_change_is_that_of_the_marginal(kind, dtype):
    M = OPERATORS[kind]()
    process, x0 = ScaleSpaceProcess(LinearBeta(1000), Once(M)), normal(M.in_size, 0, dtype, batch=(2, 3))
    for new_solver in SOLVERS.values():
        grid = (600, T, S)
        start = process.noise.alpha(600) * process.degradation.operator(0, 600)(x0)
        end = run(new_solver, process, grid, start, x0, torch.zeros_like(x0))
        atol = tolerance(torch.float32 if kind == "float32 alone" else dtype)
        assert_close(end, process.noise.alpha(S) * x0, rtol=0, atol=atol)


@each_decided_case
@pytest.mark.parametrize("prediction", [Epsilon, Velocity])
def test_predictions_are_those_of_dense_algebra(kind, dtype, prediction):
    M, noise = OPERATORS[kind](), LinearBeta(1000)
    alpha, sigma = noise.alpha(T), noise.sigma(T)
    output, x_t = normal(M.in_size, 0, dtype, batch=(2, 3)), normal(M.out_size, 1, dtype, batch=(2, 3))
    left, values, right = torch.linalg.svd(matrix_in_float64(M), full_matrices=False)
    values = torch.where(values > 1e-6, values, 0.0)
    inverse = torch.where(values > 0, 1 / values, 0.0)
    flat_output, flat_x = output.double().flatten(2), x_t.double().flatten(2)
    if prediction is Epsilon:
        in_range = flat_output @ right.mT
        N_output = flat_output + (torch.where(values > 0, inverse - 1, 0.0) * in_range) @ right
        expected = ((flat_x @ left * inverse) @ right - sigma * N_output) / alpha
        # The pictures' rounding in float32, besides the matrix's own in float64.
        magnified = float(inverse.max()) / alpha * (M.condition() if dtype == torch.float64 else 1.0)
    else:
        gain = alpha * values / (alpha**2 * values**2 + sigma**2)
        expected = (flat_x @ left * gain) @ right - sigma / (alpha**2 + sigma**2) ** 0.5 * flat_output
        magnified = 1.0
    found = prediction(noise).x0(output, x_t, T, M)
    assert found.dtype == dtype
    # Of a map that computes in float32 the singular values themselves are known to its rounding.
    eps = torch.finfo(torch.float32 if kind == "float32 alone" else dtype).eps
    assert_close(found.double().flatten(2), expected, rtol=0, atol=30 * eps * max(1.0, magnified))


def test_noise_prediction_is_refused_where_rounding_is_all_that_the_inverse_leaves():
    values = torch.logspace(0, -8, 12, dtype=torch.float64)
    M = with_singular_values(values, (6, 5), (4, 3))
    epsilon, F, x_t = Epsilon(LinearBeta(1000)), normal((6, 5)), normal((4, 3))
    assert epsilon.x0(F, x_t, T, M).isfinite().all()
    with pytest.raises(
        UserError, match=r"condition number 1e\+08 leaves no digit of torch.float32 pictures right; predict"
    ):
        epsilon.x0(F.float(), x_t.float(), T, M)
    assert Velocity(LinearBeta(1000)).x0(F.float(), x_t.float(), T, M).isfinite().all()


@pytest.mark.parametrize("solver", ["ddim 0", "ddim 0.5", "ancestral", "corrected"])
@each_dtype
def test_large_maps_keep_the_marginal(solver, dtype):
    # 128 x 128 to 64 x 64, by Lanczos. The covariance is applied to random pictures: its transposes are gradients.
    weights = torch.tensor([1.0, 3.0, 1.0], dtype=torch.float64) / 5

    def function(x: Tensor) -> Tensor:
        kernel = torch.outer(weights, weights).to(x)[None, None]
        blurred = torch.nn.functional.conv2d(x.reshape(-1, 1, *x.shape[-2:]), kernel, stride=2, padding=1)
        return blurred.reshape(*x.shape[:-2], 64, 64)

    M = FunctionOperator(function, (128, 128), (64, 64))
    process = ScaleSpaceProcess(LinearBeta(1000), Once(M))
    grid = (600, T, S) if solver == "corrected" else (T, S)
    sigma = process.noise.sigma
    old = torch.zeros(2, 1, 64, 64, dtype=dtype, requires_grad=True)
    fresh = torch.zeros(2, 1, 128, 128, dtype=dtype, requires_grad=True)

    def step(eps: Tensor, xi: Tensor) -> Tensor:
        return run(SOLVERS[solver], process, grid, sigma(grid[0]) * eps, None, xi)

    v = normal((128, 128), 3, dtype, batch=(2, 1))
    transposed = torch.autograd.grad(step(old, fresh), (old, fresh), v)
    seen = step(*transposed) / sigma(S) ** 2
    error = float((seen - v).norm() / v.norm())
    assert error < 1e-6
    assert float(transposed[0].norm() / v.norm()) > 0.01


def test_large_maps_that_cannot_be_told_from_rank_deficient_ones_are_refused_by_the_steps_that_need_to_know():
    steps = torch.arange(-12, 13, dtype=torch.float64)
    weights = torch.exp(-(steps**2) / 18)
    weights = (weights / weights.sum()).reshape(1, 1, 1, -1)

    def function(x: Tensor) -> Tensor:
        pictures, kernel = x.reshape(-1, 1, *x.shape[-2:]), weights.to(x)
        blurred = torch.nn.functional.conv2d(pictures, kernel, stride=(1, 2), padding=(0, 12))
        blurred = torch.nn.functional.conv2d(blurred, kernel.mT, stride=(2, 1), padding=(12, 0))
        return blurred.reshape(*x.shape[:-2], 66, 66)

    M = FunctionOperator(function, (132, 132), (66, 66))
    process = ScaleSpaceProcess(LinearBeta(1000), Once(M))
    x_t, x0_s = normal((66, 66), batch=(1, 1)), normal((132, 132), batch=(1, 1))
    for refused in (
        lambda: DDIM(process).step(x_t, x0_s, T, S, x0_s),
        lambda: Corrected(process).step(x_t, x0_s, T, S, x0_s),
        lambda: Epsilon(process.noise).x0(x0_s, x_t, T, M),
    ):
        with pytest.raises(
            UserError, match=r"do not tell the kernel of the FunctionOperator from \(132, 132\) to \(66, 66\)"
        ):
            refused()
    assert Ancestral(process).step(x_t, x0_s, T, S, x0_s).isfinite().all()
    assert Velocity(process.noise).x0(x0_s, x_t, T, M).isfinite().all()


def test_what_is_not_linear_makes_no_process():
    for function in (lambda x: avg_pool2d(x, 2).clamp(-1, 1), lambda x: avg_pool2d(x, 2) + 0.1):
        with pytest.raises(UserError, match="not linear"):
            ScaleSpaceProcess(LinearBeta(1000), Once(FunctionOperator(function, (8, 8), (4, 4))))


def test_a_map_to_nothing_makes_a_process_of_any_margin_and_no_shifted_noise():
    degradation = Once(OPERATORS["kernel alone"]())
    assert ScaleSpaceProcess(LinearBeta(1000), degradation).margins() == {T: math.inf}
    with pytest.raises(UserError, match="takes everything away at t = 500, so no shift of the noise fits it"):
        ScaleSpaceProcess(Shifted(LinearBeta(1000), degradation), degradation)


def test_separable_maps_of_directions_that_are_nearly_lost_are_exact_too():
    A = torch.diag(torch.tensor([0.6, 1e-4], dtype=torch.float64)) @ torch.linalg.qr(normal((4, 4), batch=())).Q[:2]
    process = ScaleSpaceProcess(LinearBeta(1000), Once(SeparableProduct(A, A)))
    L = DDIM(process).step(
        process.noise.sigma(T) * directions((2, 2), torch.float64, 1),
        *(torch.zeros(4, 1, 4, 4, dtype=torch.float64), T, S, torch.zeros(4, 1, 4, 4, dtype=torch.float64)),
    )
    L = L.flatten(1) / process.noise.sigma(S)
    # The product of both small ones, 1e-8 of the largest, is range too: all four directions are carried.
    assert_close(L @ L.mT, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-10)
