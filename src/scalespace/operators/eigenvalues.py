"""The ends of the spectrum of a symmetric positive semi-definite operator A, from products A v alone.

Of a Ritz value and its residual is known that an eigenvalue lies within the residual of it. From random starts the ends of
the spectrum show first, the largest eigenvalue and the smallest, so that a Ritz value at an end whose residual is small is
taken for the end itself. An eigenvalue beyond it is missed only if the starts have almost nothing of its vector, all of them.

Source: Golub and Van Loan, Matrix Computations, section 10.1; Kuczynski and Wozniakowski 1992, Estimating the largest
eigenvalue by the power and Lanczos algorithms with a random start.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scalespace.errors import UserError
from scalespace.operators.lanczos import WAY_OUT, tolerance_in, tridiagonal, tridiagonalise

__all__ = ["SpectrumEdge", "largest_eigenvalue", "spectrum_edge"]

_FIRST_STEPS, _ENOUGH_TO_SEE, _MOST_STEPS = 32, 128, 512
# With singular values crowded between this share of the largest and all of it, functions take a thousand steps and more.
_MOST_CROWDED = 200


@dataclass(frozen=True)
class SpectrumEdge:
    """Where the eigenvalues of A that are not zero begin and end.

    Args:
        smallest: The smallest eigenvalue above zero; 0 if A is zero.
        largest: The largest eigenvalue.
        has_kernel: Whether A has the eigenvalue zero.
    """

    smallest: float
    largest: float
    has_kernel: bool

    @property
    def condition(self) -> float:
        """The root of largest / smallest, as for singular values; 1 if A is zero."""
        return math.sqrt(self.largest / self.smallest) if self.smallest else 1.0


def spectrum_edge(
    product: Callable[[Tensor], Tensor],
    size: tuple[int, int],
    eps: float,
    name: str,
    device: torch.device,
    steps: int = _MOST_STEPS,
) -> SpectrumEdge:
    """Find the gap between zero and the other eigenvalues, or refuse.

    The end at zero has shown once the residual of the smallest Ritz value is a tenth of it; before that it still moves.

    Args:
        product: v -> A v on float64 pictures (n, 1, H, W), A symmetric positive semi-definite.
        size: Height and width of v.
        eps: Relative rounding of the product.
        name: Name of the operator, for the message.
        device: Device that the product is applied on.
        steps: Largest dimension of the Krylov space.

    Returns:
        The edge, with smallest / largest at least eps / the tolerance.

    Raises:
        UserError: If after all the steps there may be eigenvalues between zero and the smallest that was found, or it is
            too small for the tolerance.
    """
    pixels = size[0] * size[1]
    most = min(steps, pixels)
    taken = min(_FIRST_STEPS, most)
    while True:
        ritz, residuals = _ritz_values(product, _white(2, size, device), taken, eps)
        largest = max(0.0, float(ritz.max()))
        # In exact arithmetic zero; rounding of the product and of the sums over all pixels leaves this much.
        above = ritz > 10 * eps * math.sqrt(pixels) * largest
        if not above.any():
            return SpectrumEdge(0.0, largest, has_kernel=True)
        smallest = torch.where(above, ritz, torch.inf).min(-1)
        shown = bool((residuals.gather(-1, smallest.indices[:, None])[:, 0] <= smallest.values / 10).all())
        edge = float(smallest.values.min())
        resolved = edge >= largest * eps / tolerance_in(eps)
        if shown and resolved:
            return SpectrumEdge(edge, largest, has_kernel=bool((~above & (ritz > -largest / 2)).any()))
        hopeless = taken >= _ENOUGH_TO_SEE and not shown and edge * _MOST_CROWDED**2 < largest
        if taken == most or hopeless or (shown and not resolved):
            raise UserError(
                f"{taken} steps of Lanczos do not tell the kernel of {name} from its range: it has singular values down to "
                f"{math.sqrt(edge / largest):.0e} of the largest, or below; {WAY_OUT}, "
                "or sample with the ancestral solver from predictions of the clean picture or v"
            )
        taken = min(2 * taken, most)


def largest_eigenvalue(
    product: Callable[[Tensor], Tensor], size: tuple[int, int], steps: int = 128, eps: float = 0.0
) -> float:
    """lambda_max(A) from above: the largest Ritz value plus its residual.

    Some eigenvalue lies within the residual of a Ritz value; from random starts this is the largest one after a few
    dozen steps, so that the result errs upwards. Of four starts the one with the largest Ritz value counts, since an
    eigenvalue stays hidden from a start that happens to have almost nothing of its vector.

    Args:
        product: v -> A v on float64 pictures (n, 1, H, W) on the CPU, A symmetric positive semi-definite.
        size: Height and width of v.
        steps: Largest dimension of the Krylov space.
        eps: Relative rounding of the product.

    Returns:
        The eigenvalue in float64, to rounding once the recurrence has converged.
    """
    ritz, residuals = _ritz_values(product, _white(4, size), min(steps, size[0] * size[1]), eps)
    best = ritz[:, -1].argmax()
    return max(0.0, float(ritz[best, -1] + residuals[best, -1]))


def _white(count: int, size: tuple[int, int], device: torch.device | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 1, *size, dtype=torch.float64, generator=generator).to(device)


def _ritz_values(product: Callable[[Tensor], Tensor], start: Tensor, steps: int, eps: float) -> tuple[Tensor, Tensor]:
    """Ritz values and their residuals, each of shape (n, steps), ascending; those of exhausted dimensions are negative."""
    basis, diagonal, off_diagonal, residual = (
        part.flatten(0, 1).cpu() for part in tridiagonalise(product, start, steps, eps)
    )
    exhausted = (basis == 0).flatten(-2).all(-1)
    # No less than the norm of T, so that none of them can be taken for a Ritz value.
    outside = -(diagonal.amax(-1, keepdim=True) + 2 * off_diagonal.abs().sum(-1, keepdim=True))
    diagonal = torch.where(exhausted, outside, diagonal)
    ritz, vectors = torch.linalg.eigh(tridiagonal(diagonal, off_diagonal))
    return ritz, residual[:, None] * vectors[:, -1].abs()
