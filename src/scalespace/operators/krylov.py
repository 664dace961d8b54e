"""Functions of M^T M for an operator too large to decompose, by Lanczos on M M^T in float64.

With c the value of f in the kernel of M,

    f(M^T M) x = c x + M^T h(M M^T) M x,  h(e) = (f(e) - c) / e,

so that the iteration runs on the pictures that M gives, and from M x, which has nothing of the kernel of M^T. If f has the
limit c at zero, all is smooth. If not, as in projectors and pseudo-inverses, a small singular value that has not been found
yet would be taken for the kernel. So the smallest one is looked for first (``eigenvalues.py``), and M is refused where it
does not show; the error of the iteration is held under the tolerance over M's condition number, since M^T scales it so.
Up to 64 x 64 pixels on both sides M is not refused but decomposed after all, which takes the better part of a minute.

Source: Higham, Functions of Matrices, sections 13.2 and 1.3 (f(AB) A = A f(BA)).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scalespace.errors import UserError
from scalespace.operators.checks import Applied, Size, name_of
from scalespace.operators.eigenvalues import SpectrumEdge, largest_eigenvalue, spectrum_edge
from scalespace.operators.lanczos import symmetric_function, tolerance_in
from scalespace.operators.precision import in_float64
from scalespace.operators.singular import SingularBasis, is_affordable

__all__ = ["KrylovFunctions", "upper_norm_squared"]

# A condition number from which Lanczos takes hundreds of steps.
_HUNDREDS_OF_STEPS = 10.0
# Where f is asked in the place of 0, if it has a limit there.
_TINY = 1e-300


@dataclass(frozen=True)
class KrylovFunctions:
    """Functions of the Gram matrices of M from products with M and M^T alone.

    Args:
        M: The operator, examined.
    """

    M: Applied

    def gram_function(self, f: Callable[[Tensor], Tensor], x: Tensor, kernel: float | None) -> Tensor:
        """f(M^T M) x, as ``LinearOperator.gram_function``."""
        at_zero = self._at_zero(f)
        constant = at_zero if kernel is None else kernel
        jumps = not math.isfinite(at_zero) or at_zero != constant
        if jumps and self._decomposition is not None:
            return self._decomposition.gram_function(f, x, kernel)
        if not math.isfinite(constant):
            if self._sees_less_than_it_takes:
                raise UserError(
                    f"a function is {constant} at 0, and {name_of(self.M.operator)} has a kernel; use one that is finite there"
                )
            constant = 0.0
        seen = self._outside(lambda e: (f(e) - constant) / e, self.M(in_float64(x)), jumps, x.dtype)
        return constant * x + self.M.adjoint(seen).to(x)

    def adjoint_function(self, f: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        """M^T f(M M^T) y, as ``LinearOperator.adjoint_function``."""
        jumps = not math.isfinite(self._at_zero(f))
        if jumps and self._decomposition is not None:
            return self._decomposition.adjoint_function(f, y)
        return self.M.adjoint(self._outside(f, in_float64(y), jumps, y.dtype)).to(y)

    def condition(self) -> float:
        """The largest singular value over the smallest that is not zero; 1 if all are."""
        return self._edge.condition if self._decomposition is None else self._decomposition.condition()

    def _at_zero(self, f: Callable[[Tensor], Tensor]) -> float:
        value = f(torch.zeros((), dtype=torch.float64))
        if value.numel() > 1:
            raise UserError(
                f"{name_of(self.M.operator)} is too large for another function of each picture; "
                "give pictures of one grid point at a time"
            )
        return float(value)

    @cached_property
    def _edge(self) -> SpectrumEdge:
        product, size = _smaller_gram(self.M)
        return spectrum_edge(product, size, self.M.eps, name_of(self.M.operator), self.M.device)

    @cached_property
    def _decomposition(self) -> SingularBasis | None:
        """The decomposition, for functions that jump at the kernel. None if M is too large, or Lanczos is quick."""
        if not is_affordable(self.M.in_size, self.M.out_size):
            return None
        try:
            if self._edge.condition < _HUNDREDS_OF_STEPS:
                return None
        except UserError:
            pass
        return SingularBasis.of(self.M)

    @property
    def _sees_less_than_it_takes(self) -> bool:
        (H, W), (h, w) = self.M.in_size, self.M.out_size
        return h * w < H * W or self._edge.has_kernel

    def _outside(self, f: Callable[[Tensor], Tensor], y: Tensor, jumps: bool, dtype: torch.dtype) -> Tensor:
        """f(M M^T) y outside of the kernel, in float64 but as right as pictures of ``dtype`` can be."""
        tolerance = tolerance_in(self.M.eps)
        if jumps:
            if not self._edge.smallest:
                return torch.zeros_like(y)
            # M^T scales the error by up to the condition number.
            tolerance /= self._edge.condition

        def masked(e: Tensor) -> Tensor:
            if jumps:
                # Half way to zero no eigenvalue is left, so that a Ritz value below stands for none.
                floor = self._edge.smallest / 2
                return torch.where(e > floor, f(e.clamp_min(floor)), 0.0)
            # Below rounding there is nothing to tell from zero, where f - c over e has no value.
            return f(e.clamp_min(_TINY).maximum(self.M.eps * e.amax(-1, keepdim=True)))

        return symmetric_function(
            lambda v: self.M(self.M.adjoint(v)),
            masked,
            y,
            aim=tolerance / 1000 if dtype == torch.float64 else tolerance,
            tolerance=tolerance,
            eps=self.M.eps,
            name=name_of(self.M.operator),
        )


def upper_norm_squared(M: Applied) -> float:
    """lambda_max(M M^T) from above, right to 1e-9 of it where the iteration converges, and to M's own precision."""
    product, size = _smaller_gram(M)
    return largest_eigenvalue(product, size, eps=M.eps) * (1 + 4 * M.eps)


def _smaller_gram(M: Applied) -> tuple[Callable[[Tensor], Tensor], Size]:
    """The products with M M^T or M^T M, whichever is smaller, and its size. Both have the same eigenvalues but for zeros."""
    (H, W), (h, w) = M.in_size, M.out_size
    return (lambda v: M(M.adjoint(v)), (h, w)) if h * w <= H * W else (lambda v: M.adjoint(M(v)), (H, W))
