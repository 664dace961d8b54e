"""Functions of a symmetric positive semi-definite operator A, from products A v alone.

Lanczos: with q_1 = x / |x| and A Q = Q T + r e_k^T (Q orthonormal, T tridiagonal), f(A) x is close to |x| Q f(T) e_1,
and equal to it once k reaches the number of distinct eigenvalues that x touches. Every slice (H, W) of a batch runs its
own recurrence, all in one batched call. Basis vectors are orthogonalised twice against all earlier ones, so that no
copies of converged eigenvalues appear. A slice that breaks down (its Krylov space is exhausted, as with a singular A or
x = 0) is finished exactly: its later vectors stay zero, decoupled from the rest.

The error is estimated by how far the result is from that of three quarters of the steps. That is three times too small at
most where the error falls like 1/k, and too large where it falls exponentially. It says nothing of an eigenvalue that has
not shown yet, which matters where f jumps; for that ``eigenvalues.spectrum_edge`` looks for those next to zero.

Source: Golub and Van Loan, Matrix Computations, section 10.1; Higham, Functions of Matrices, section 13.2.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scalespace.errors import UserError

__all__ = ["WAY_OUT", "krylov_function", "symmetric_function", "tolerance_in", "tridiagonal", "tridiagonalise"]

# Largest relative error that is let through.
_TOLERANCE = 1e-6

WAY_OUT = (
    "give M as a SeparableProduct if it treats rows and columns by themselves, or keep both its sides to 64 x 64 pixels"
)
"""What a user can do where Lanczos does not converge."""

_FIRST_STEPS, _MOST_STEPS = 32, 1024
# Bytes of basis vectors that are held at a time.
_BYTES = 2**28


def tridiagonalise(
    product: Callable[[Tensor], Tensor], x: Tensor, steps: int, eps: float = 0.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the Lanczos recurrence for every slice of a batch.

    Args:
        product: v -> A v on (..., H, W), A symmetric positive semi-definite.
        x: Start vectors, shape (..., H, W).
        steps: Number of basis vectors k, at most H W.
        eps: Relative rounding of the product where it is more than that of the dtype of x.

    Returns:
        Q of shape (..., k, H, W); the diagonal of T, (..., k); its off-diagonal, (..., k - 1); and the norm of the last
        residual r, (...).
    """
    tiny, eps = torch.finfo(x.dtype).tiny, max(eps, torch.finfo(x.dtype).eps)
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


def krylov_function(
    product: Callable[[Tensor], Tensor], f: Callable[[Tensor], Tensor], x: Tensor, steps: int, eps: float = 0.0
) -> tuple[Tensor, float]:
    """f(A) x in so many steps, in the dtype of x.

    Args:
        product: v -> A v on (..., H, W), A symmetric positive semi-definite.
        f: Scalar function, finite on A's spectrum; applied elementwise to float64 Ritz values, which lie between A's
            smallest and largest eigenvalue.
        x: Pictures, shape (..., H, W).
        steps: Dimension of the Krylov space.
        eps: As for ``tridiagonalise``.

    Returns:
        Tensor of the shape of x; and the estimate of its relative error, the largest of all slices.

    Raises:
        ValueError: If ``steps`` is not positive.
    """
    if steps < 1:
        raise ValueError(f"Lanczos needs at least 1 step, got {steps}; leave steps out for as many as it takes")
    pixels = x.shape[-2] * x.shape[-1]
    steps = min(steps, pixels)
    basis, diagonal, off_diagonal, residual = tridiagonalise(product, x, steps, eps)
    # After a breakdown the zeros of T are no eigenvalues of A: f is to be asked only where A's spectrum lies.
    exhausted = (basis == 0).all(dim=-1).all(dim=-1)
    diagonal = torch.where(exhausted, diagonal[..., :1], diagonal)
    weights = _first_column(f, diagonal, off_diagonal)
    fewer = max(1, 3 * steps // 4)
    apart = weights.clone()
    apart[..., :fewer] -= _first_column(f, diagonal[..., :fewer], off_diagonal[..., : fewer - 1])
    # An exhausted space is exact, and so is the whole space.
    exact = exhausted.any(-1) | (residual == 0) | (steps == pixels)
    share = 3 * apart.norm(dim=-1) / weights.norm(dim=-1)
    # Not a number where a picture has none, or is zero: that is for the result to show.
    estimate = torch.where(exact | share.isnan(), 0.0, share)
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    combined = (weights.unsqueeze(-2).to(x.dtype) @ basis.flatten(-2)).reshape(x.shape)
    # A slice of zeros has no T at all, and f may be infinite on what stands there.
    return torch.where(norm == 0, 0.0, norm * combined), float(estimate.max()) if estimate.numel() else 0.0


def symmetric_function(
    product: Callable[[Tensor], Tensor],
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    steps: int = _MOST_STEPS,
    aim: float = _TOLERANCE / 1000,
    tolerance: float = _TOLERANCE,
    eps: float = 0.0,
    name: str = "the operator",
) -> Tensor:
    """f(A) x by as many steps of Lanczos as it takes, in float64, batched over all leading dimensions of x.

    Args:
        product: v -> A v on float64 pictures (n, 1, H, W), A symmetric positive semi-definite.
        f: Scalar function, finite on A's spectrum; applied elementwise to float64 Ritz values, which lie between A's
            smallest and largest eigenvalue.
        x: Pictures, shape (..., H, W).
        steps: Largest dimension of the Krylov space.
        aim: Relative error, as estimated, at which the iteration ends.
        tolerance: Largest relative error that is let through when all steps are taken.
        eps: As for ``tridiagonalise``.
        name: Name of the operator, for the message.

    Returns:
        Shape and dtype of x. Its gradient is f(A) of the incoming gradient, since f(A) is symmetric.

    Raises:
        ValueError: If ``steps`` is not positive.
        UserError: If the error is above the tolerance after all the steps.
    """
    return _SymmetricFunction.apply(x, product, f, steps, aim, tolerance, eps, name)  # pyright: ignore[reportReturnType]


def _evaluate(product, f, x: Tensor, most: int, aim: float, tolerance: float, eps: float, name: str) -> Tensor:
    slices, found = x.double().reshape(-1, 1, *x.shape[-2:]), []
    pixels, first = slices[:1].numel(), 0
    steps = min(_FIRST_STEPS, most)
    while first < len(slices):
        at_once = max(1, _BYTES // (8 * max(1, min(steps, pixels)) * pixels))
        result, error = krylov_function(product, f, slices[first : first + at_once], steps, eps)
        if error > aim and steps < min(most, pixels):
            steps = min(2 * steps, most)
        elif error > tolerance:
            raise UserError(
                f"{steps} steps of Lanczos leave a relative error of about {error:.0e} in a function of {name}, above "
                f"{tolerance:.0e}: its singular values are too far apart; {WAY_OUT}"
            )
        else:
            found.append(result)
            first += at_once
    return torch.cat(found).reshape(x.shape).to(x.dtype) if found else x.clone()


class _SymmetricFunction(torch.autograd.Function):
    # eigh has no finite gradient where eigenvalues meet, and none is needed: f(A) is its own transpose.
    @staticmethod
    def forward(ctx, x: Tensor, *arguments) -> Tensor:
        ctx.arguments = arguments
        product, f, steps, aim, tolerance, eps, name = arguments
        return _evaluate(product, f, x, steps, aim, tolerance, eps, name)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return _SymmetricFunction.apply(grad_outputs[0], *ctx.arguments), *[None] * len(ctx.arguments)  # pyright: ignore


def tolerance_in(eps: float) -> float:
    """The largest relative error that is let through where products have a relative rounding of ``eps``."""
    return max(_TOLERANCE, 1000 * eps)


def _first_column(f: Callable[[Tensor], Tensor], diagonal: Tensor, off_diagonal: Tensor) -> Tensor:
    """f(T) e_1, shape (..., k), float64."""
    eigenvalues, vectors = torch.linalg.eigh(tridiagonal(diagonal, off_diagonal))
    # Rounding may leave an eigenvalue of a semi-definite A a little under zero, where f need not be defined.
    return (vectors @ (f(eigenvalues.clamp_min(0)) * vectors[..., 0, :]).unsqueeze(-1)).squeeze(-1)


def tridiagonal(diagonal: Tensor, off_diagonal: Tensor) -> Tensor:
    """T as matrices, shape (..., k, k), float64."""
    main, side = torch.diag_embed(diagonal.double()), off_diagonal.double()
    return main + torch.diag_embed(side, 1) + torch.diag_embed(side, -1)
