"""The singular value decomposition M = U S V^T of an operator that nothing is known of, once and in float64.

M is applied to every unit picture, which gives its matrix, and with it

    f(M^T M) x = V f(S^2) V^T x + c (x - V V^T x),    M^T f(M M^T) y = V S f(S^2) U^T y,

where U and V hold the singular vectors of the range alone and c is f's value in the kernel. Singular values up to

    max(H W, h w) * eps * largest

count as zero, with eps the precision in which M computes: below that they are rounding of the matrix. U and V are
orthonormal to rounding whatever the singular values are, so that V U^T is a partial isometry, and V U^T U V^T + (I - V V^T)
is the identity, however an undecidable singular value is counted.

Source: Golub and Van Loan, Matrix Computations, sections 2.4 and 5.4.1 (numerical rank).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scalespace.operators.checks import Applied, Linear, Size, check_linear, check_transpose, examined

__all__ = ["SingularBasis", "dense", "is_affordable", "is_quick", "sum_of_squares"]

# 32 x 32 and 128 x 128. On one core 64 x 64 to 32 x 32 takes 4 seconds, the largest 15; 60 and 200 MiB are kept.
_QUICK_SMALLER, _QUICK_LARGER = 1024, 16384
# 64 x 64, which on both sides takes 45 seconds; 400 MiB are kept.
_AFFORDABLE = 4096
# Pixels to which M is applied at a time while its matrix is made.
_PIXELS = 2**22


def is_quick(in_size: Size, out_size: Size) -> bool:
    """Whether the decomposition takes seconds: up to 1024 pixels on the smaller side and 16384 on the larger."""
    smaller, larger = sorted((in_size[0] * in_size[1], out_size[0] * out_size[1]))
    return smaller <= _QUICK_SMALLER and larger <= _QUICK_LARGER


def is_affordable(in_size: Size, out_size: Size) -> bool:
    """Whether it takes less than a minute or so: up to 4096 pixels on both sides."""
    return max(in_size[0] * in_size[1], out_size[0] * out_size[1]) <= _AFFORDABLE


def dense(operator: Linear) -> Tensor:
    """The matrix of an operator on flattened pictures, shape (h w, H W), float64 on the CPU.

    Raises:
        UserError: If it is no linear operator (``examined``).
    """
    return _matrix(examined(operator))


@dataclass(frozen=True, eq=False)
class SingularBasis:
    """U, S and V of an operator without its kernels.

    Args:
        left: U, shape (h w, r), float64.
        values: S, shape (r,), float64, falling and above 0.
        right: V, shape (H W, r), float64.
        in_size: Height and width (H, W) of the pictures that M takes.
    """

    left: Tensor = field(repr=False)
    values: Tensor = field(repr=False)
    right: Tensor = field(repr=False)
    in_size: Size
    _casts: dict[tuple[str, torch.dtype, torch.device], Tensor] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, M: Applied) -> SingularBasis:
        """The decomposition of M.

        Raises:
            UserError: If M or its adjoint is not what the unit pictures say.
        """
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(M.device.type, enabled=False):
            matrix = _matrix(M)
            _check_against(matrix, M)
            left, values, right = _decomposed(matrix)
            rank = int((values > max(matrix.shape) * M.eps * values[0]).sum())
            return cls(left[:, :rank].contiguous(), values[:rank], right[:, :rank].contiguous(), M.in_size)

    @property
    def rank(self) -> int:
        """Number of singular values that are not zero."""
        return len(self.values)

    def gram_function(self, f: Callable[[Tensor], Tensor], x: Tensor, kernel: float | None) -> Tensor:
        """f(M^T M) x, as ``LinearOperator.gram_function``."""
        V = self._on(x, "right")
        coefficients = x.flatten(-2).unsqueeze(-2) @ V
        values = f(self.values**2)
        if self.rank == len(V):
            return self._pictures((values.to(x.device, x.dtype) * coefficients) @ V.mT, x)
        constant = f(torch.zeros((), dtype=torch.float64)) if kernel is None else torch.as_tensor(kernel)
        seen = self._pictures(((values - constant).to(x.device, x.dtype) * coefficients) @ V.mT, x)
        return constant.to(x.device, x.dtype) * x + seen

    def adjoint_function(self, f: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        """M^T f(M M^T) y, as ``LinearOperator.adjoint_function``."""
        values = self.values * f(self.values**2)
        coefficients = y.flatten(-2).unsqueeze(-2) @ self._on(y, "left")
        return self._pictures((values.to(y.device, y.dtype) * coefficients) @ self._on(y, "right").mT, y)

    def condition(self) -> float:
        """The largest singular value over the smallest that is not zero; 1 if all are."""
        return float(self.values[0] / self.values[-1]) if self.rank else 1.0

    def transposed(self, in_size: Size) -> SingularBasis:
        """The decomposition of M^T, which takes pictures of ``in_size``."""
        return SingularBasis(self.right, self.values, self.left, in_size)

    def _pictures(self, rows: Tensor, like: Tensor) -> Tensor:
        return rows.reshape(*like.shape[:-2], *self.in_size)

    def _on(self, x: Tensor, name: str) -> Tensor:
        key = name, x.dtype, x.device
        if key not in self._casts:
            # Autograd refuses tensors made in inference mode, and these outlive it.
            with torch.inference_mode(False):
                self._casts[key] = getattr(self, name).to(x.device, x.dtype, copy=True)
        return self._casts[key]


def sum_of_squares(M: Applied) -> float:
    """tr(M^T M), without holding the matrix."""
    return sum(float(block.square().sum()) for block in _columns(M))


def _matrix(M: Applied) -> Tensor:
    return torch.cat(list(_columns(M)), dim=1)


def _columns(M: Applied) -> Iterator[Tensor]:
    """The matrix of M in blocks of columns, float64 on the CPU."""
    (H, W), (h, w) = M.in_size, M.out_size
    at_once = max(1, _PIXELS // max(H * W, h * w))
    for first in range(0, H * W, at_once):
        count = min(at_once, H * W - first)
        units = torch.zeros(count, H * W, dtype=M.dtype)
        units[range(count), range(first, first + count)] = 1
        yield M(units.reshape(-1, 1, H, W).to(M.device)).reshape(count, h * w).cpu().double().mT


def _decomposed(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (n, k), the singular values (k,) and V (m, k) of a matrix (n, m), with k the smaller of both."""
    rows, columns = matrix.shape
    if rows < columns:
        left, values, right = _decomposed(matrix.mT)
        return right, values, left
    if rows < 2 * columns:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return left, values, right.mT
    # Of a tall matrix the QR leaves a small square one, in half the time.
    Q, R = torch.linalg.qr(matrix)
    left, values, right = torch.linalg.svd(R)
    return Q @ left, values, right.mT


def _check_against(matrix: Tensor, M: Applied) -> None:
    # Each pixel of a few random pictures, where <M x, y> alone may miss one among thousands.
    generator = torch.Generator().manual_seed(1)
    allowed = max(matrix.shape) * M.eps
    for side, apply, expected_by, check in (
        (M.in_size, M, matrix.mT, check_linear),
        (M.out_size, M.adjoint, matrix, check_transpose),
    ):
        pictures = torch.randn(4, 1, *side, generator=generator, dtype=torch.float64)
        expected = pictures.flatten(1) @ expected_by
        found = apply(pictures.to(M.device, M.dtype)).cpu().double().flatten(1)
        gap = (found - expected).norm()
        check(M.operator, float(gap / expected.norm()) if gap > 0 else 0.0, allowed)
