"""Functions of a symmetric positive semi-definite operator A, from products A v alone.

Lanczos: with q_1 = x / |x| and A Q = Q T + r e_k^T (Q orthonormal, T tridiagonal), f(A) x is close to |x| Q f(T) e_1,
and equal to it once k reaches the number of distinct eigenvalues that x touches. Every slice (H, W) of a batch runs its
own recurrence, all in one batched call. Basis vectors are orthogonalised twice against all earlier ones, so that no
copies of converged eigenvalues appear. A slice that breaks down (its Krylov space is exhausted, as with a singular A or
x = 0) is finished exactly: its later vectors stay zero, decoupled from the rest.

Source: Golub and Van Loan, Matrix Computations, section 10.1; Higham, Functions of Matrices, section 13.2.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["largest_eigenvalue", "symmetric_function", "tridiagonalise"]

_STEPS = 64
"""Enough for square roots of resizing operators at float64 accuracy; see tests/operators/test_lanczos.py."""


def tridiagonalise(product: Callable[[Tensor], Tensor], x: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the Lanczos recurrence for every slice of a batch.

    Args:
        product: v -> A v on (..., H, W), A symmetric positive semi-definite.
        x: Start vectors, shape (..., H, W).
        steps: Number of basis vectors k, at most H W.

    Returns:
        Q of shape (..., k, H, W); the diagonal of T, (..., k); its off-diagonal, (..., k - 1); and the norm of the last
        residual r, (...).
    """
    tiny, eps = torch.finfo(x.dtype).tiny, torch.finfo(x.dtype).eps
    batch, size = x.shape[:-2], x.shape[-2:]
    start = x.reshape(-1, size.numel())
    norm = torch.linalg.vector_norm(start, dim=1, keepdim=True)
    basis = x.new_zeros(len(start), steps, size.numel())
    diagonal, off_diagonal = x.new_zeros(2, len(start), steps)
    largest = torch.zeros_like(norm)
    basis[:, 0] = torch.where(norm > 0, start / norm.clamp_min(tiny), 0.0)
    for step in range(steps):
        q, known = basis[:, step], basis[:, : step + 1]
        w = product(q.reshape(x.shape)).reshape(start.shape)
        diagonal[:, step] = (w * q).sum(1)
        for _ in range(2):
            coefficients = torch.bmm(known, w[:, :, None])
            w = torch.baddbmm(w[:, None], coefficients.mT, known, alpha=-1)[:, 0]
        beta = torch.linalg.vector_norm(w, dim=1, keepdim=True)
        # What is left below rounding of the largest coefficient seen is noise, not a direction.
        largest = torch.maximum(largest, torch.maximum(diagonal[:, step, None].abs(), beta))
        alive = beta > 10 * eps * largest
        off_diagonal[:, step] = torch.where(alive, beta, 0.0)[:, 0]
        if not alive.any():
            break
        if step + 1 < steps:
            basis[:, step + 1] = torch.where(alive, w / beta.clamp_min(tiny), 0.0)
    diagonal, off_diagonal = diagonal.reshape(*batch, steps), off_diagonal.reshape(*batch, steps)
    return basis.reshape(*batch, steps, *size), diagonal, off_diagonal[..., :-1], off_diagonal[..., -1]


def symmetric_function(
    product: Callable[[Tensor], Tensor],
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    steps: int = _STEPS,
) -> Tensor:
    """f(A) x by Lanczos, batched over all leading dimensions of x.

    Args:
        product: v -> A v on (..., H, W), A symmetric positive semi-definite.
        f: Scalar function, finite on A's spectrum; applied elementwise to float64 Ritz values, which lie between A's
            smallest and largest eigenvalue.
        x: Shape (..., H, W).
        steps: Largest dimension of the Krylov space.

    Returns:
        Shape and dtype of x. Its gradient is f(A) of the incoming gradient, since f(A) is symmetric.

    Raises:
        ValueError: If ``steps`` is not positive.
    """
    if steps < 1:
        raise ValueError(f"Lanczos needs at least 1 step, got {steps}; leave steps out for the default")
    return _SymmetricFunction.apply(x, product, f, steps)  # pyright: ignore[reportReturnType]


def _evaluate(product: Callable[[Tensor], Tensor], f: Callable[[Tensor], Tensor], x: Tensor, steps: int) -> Tensor:
    steps = min(steps, x.shape[-2] * x.shape[-1])
    basis, diagonal, off_diagonal, _ = tridiagonalise(product, x, steps)
    # After a breakdown the zeros of T are no eigenvalues of A: f is to be asked only where A's spectrum lies.
    exhausted = (basis == 0).all(dim=-1).all(dim=-1)
    diagonal = torch.where(exhausted, diagonal[..., :1], diagonal)
    eigenvalues, vectors = torch.linalg.eigh(_tridiagonal(diagonal, off_diagonal))
    # Rounding may leave an eigenvalue of a semi-definite A a little under zero, where f need not be defined.
    weights = vectors @ (f(eigenvalues.clamp_min(0)) * vectors[..., 0, :]).unsqueeze(-1)
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    combined = (weights.mT.to(x.dtype) @ basis.flatten(-2)).reshape(x.shape)
    # A slice of zeros has no T at all, and f may be infinite on what stands there.
    return torch.where(norm == 0, 0.0, norm * combined)


class _SymmetricFunction(torch.autograd.Function):
    # eigh has no finite gradient where eigenvalues meet, and none is needed: f(A) is its own transpose.
    @staticmethod
    def forward(ctx, x: Tensor, product, f, steps: int) -> Tensor:
        ctx.arguments = product, f, steps
        return _evaluate(product, f, x, steps)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        product, f, steps = ctx.arguments
        return symmetric_function(product, f, grad_outputs[0], steps), None, None, None


def largest_eigenvalue(product: Callable[[Tensor], Tensor], size: tuple[int, int], steps: int = 128) -> float:
    """lambda_max(A) from above: the largest Ritz value plus its residual.

    Some eigenvalue lies within the residual of a Ritz value; from a random start this is the largest one after a few
    dozen steps, so that the result errs upwards.

    Args:
        product: v -> A v on (H, W), A symmetric positive semi-definite.
        size: Height and width of v.
        steps: Largest dimension of the Krylov space.

    Returns:
        The eigenvalue in float64, to rounding once the recurrence has converged.
    """
    start = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, diagonal, off_diagonal, residual = tridiagonalise(product, start, min(steps, size[0] * size[1]))
    eigenvalues, vectors = torch.linalg.eigh(_tridiagonal(diagonal, off_diagonal))
    return float(eigenvalues[-1] + residual * vectors[-1, -1].abs())


def _tridiagonal(diagonal: Tensor, off_diagonal: Tensor) -> Tensor:
    main, side = torch.diag_embed(diagonal.double()), off_diagonal.double()
    return main + torch.diag_embed(side, 1) + torch.diag_embed(side, -1)
