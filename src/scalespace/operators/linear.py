"""Linear maps M on pictures, their transposes, and functions of M^T M.

An operator acts on the last two dimensions of a tensor, (..., H, W) -> (..., h, w), alike for every picture and channel
of a batch. It is immutable, works in any floating dtype on any device, and composes with ``@``. Classes are abstract or
final; a new operator implements ``__call__`` and ``adjoint`` and has everything else. What a subclass does not know exactly

    up to 1024 pixels on the smaller side (16384 on the larger)   is exact, by a singular value decomposition (``singular.py``)
    beyond that                                                   comes from Lanczos, right to 1e-6 or refused (``lanczos.py``)

in float64, whatever the pictures are in; the result is rounded to their dtype. Before that M is put to the test
(``checks.py``): a function that is not linear or an adjoint that is not the transpose is refused. All of this is done when it
is first needed and stays on the operator, so keep an operator that is used again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scalespace.operators.checks import Applied, Size, examined
from scalespace.operators.krylov import KrylovFunctions, upper_norm_squared
from scalespace.operators.singular import SingularBasis, is_quick, sum_of_squares

__all__ = ["Composition", "Identity", "LinearOperator", "Size", "Transpose", "check_size", "condition", "on_spectrum"]


class LinearOperator(ABC):
    """A linear map from pictures of ``in_size`` to pictures of ``out_size``."""

    @property
    @abstractmethod
    def in_size(self) -> Size:
        """Height and width of the pictures it takes."""

    @property
    @abstractmethod
    def out_size(self) -> Size:
        """Height and width of the pictures it gives."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """M x, shape (..., H, W) -> (..., h, w).

        Raises:
            ValueError: If (H, W) is not ``in_size``.
        """

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """M^T y, shape (..., h, w) -> (..., H, W).

        Raises:
            ValueError: If (h, w) is not ``out_size``.
        """

    @property
    def T(self) -> LinearOperator:
        """The transpose as an operator, so that f(M M^T) is ``M.T.gram_function(f, y)``."""
        return Transpose(self)

    def __matmul__(self, other: LinearOperator) -> LinearOperator:
        """The composition self after other.

        Raises:
            ValueError: If ``other`` gives another size than ``self`` takes.
        """
        if self.in_size != other.out_size:
            raise ValueError(
                f"cannot compose: the right operator gives {other.out_size}, the left one takes {self.in_size}; "
                "make the sizes equal"
            )
        if isinstance(other, Identity):
            return self
        return self._after(other)

    def _after(self, other: LinearOperator) -> LinearOperator:
        return Composition(self, other)

    def gram_function(self, f: Callable[[Tensor], Tensor], x: Tensor, kernel: float | None = None) -> Tensor:
        """f(M^T M) x for a scalar function f on [0, lambda_max].

        Args:
            f: Applied elementwise to a tensor of eigenvalues (float64). Where they are known exactly, its values may have
                further dimensions in front, which broadcast against those of x: another function for each picture.
            x: Pictures, shape (..., H, W).
            kernel: What f is to be in the kernel of M; f(0) if left out. With it f is asked outside of the kernel alone, and
                may jump there.

        Returns:
            Tensor of the shape and dtype of x; linear in x, and differentiable in it.

        Raises:
            ValueError: If (H, W) is not ``in_size``.
            UserError: If M is no linear operator, or so large that Lanczos is needed and does not get there; so too if f
                jumps at the kernel and Lanczos cannot tell the kernel from the range.
        """
        check_size(x, self.in_size)
        return self._functions(x.device).gram_function(f, x, kernel)

    def adjoint_function(self, f: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        """M^T f(M M^T) y, from which pseudo-inverses are made, (..., h, w) -> (..., H, W).

        As ``gram_function``, with f asked outside of the kernel of M^T alone. In its singular vectors M^T f(M M^T) is
        V S f(S^2) U^T, so that f(e) = e^(-1/2) is the partial isometry and 1 / e the pseudo-inverse.
        """
        check_size(y, self.out_size)
        return self._functions(y.device).adjoint_function(f, y)

    def norm_squared(self) -> float:
        """lambda_max(M M^T), the largest squared singular value; it errs by 1e-9 of it at most, and upwards.

        Raises:
            UserError: If M is no linear operator.
        """
        return upper_norm_squared(self._applied())

    def condition(self) -> float:
        """The largest singular value over the smallest that is not zero; 1 if all are.

        Raises:
            UserError: As ``gram_function`` where f jumps.
        """
        return self._functions().condition()

    def mean_square(self) -> float:
        """tr(M^T M) over the number of pixels that M takes."""
        return sum_of_squares(self._applied()) / (self.in_size[0] * self.in_size[1])

    def _applied(self, device: torch.device | None = None) -> Applied:
        """M in the best precision it has, once it has passed the tests."""
        return self._once("applied", lambda: examined(self, device))

    def _functions(self, device: torch.device | None = None) -> SingularBasis | KrylovFunctions:
        kind = SingularBasis.of if is_quick(self.in_size, self.out_size) else KrylovFunctions
        return self._once("functions", lambda: kind(self._applied(device)))

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        # Beside the fields, as functools.cached_property does it, which takes no device.
        found: dict[str, Any] = vars(self).setdefault("_found", {})
        if name not in found:
            found[name] = make()
        return found[name]


def check_size(x: Tensor, size: Size) -> None:
    """Refuse what an operator cannot take.

    Raises:
        ValueError: If the last two dimensions of ``x`` are not ``size``.
    """
    if x.shape[-2:] != size:
        raise ValueError(f"the operator takes pictures of size {size}, got {tuple(x.shape[-2:])}; resize them first")


def on_spectrum(f: Callable[[Tensor], Tensor], eigenvalues: Tensor, kernel: float | None) -> Tensor:
    """Values of f at known eigenvalues, and ``kernel`` where they are zero unless it is None."""
    if kernel is None:
        return f(eigenvalues)
    # f may be infinite at zero, and its gradient then not a number even where it is not taken.
    return torch.where(eigenvalues > 0, f(torch.where(eigenvalues > 0, eigenvalues, 1.0)), kernel)


def condition(singular_values: Tensor) -> float:
    """The largest of known singular values over the smallest that is not zero; 1 if all are."""
    smallest = float(torch.where(singular_values > 0, singular_values, torch.inf).min())
    return float(singular_values.max()) / smallest if smallest < float("inf") else 1.0


@dataclass(frozen=True)
class Identity(LinearOperator):
    """The map that changes nothing; with it the process is DDPM."""

    size: Size

    @property
    def in_size(self) -> Size:
        return self.size

    @property
    def out_size(self) -> Size:
        return self.size

    def __call__(self, x: Tensor) -> Tensor:
        check_size(x, self.size)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        check_size(y, self.size)
        return y

    @property
    def T(self) -> LinearOperator:
        return self

    def _after(self, other: LinearOperator) -> LinearOperator:
        return other

    def gram_function(self, f: Callable[[Tensor], Tensor], x: Tensor, kernel: float | None = None) -> Tensor:
        check_size(x, self.size)
        return f(torch.ones((), dtype=torch.float64)).to(x.device, x.dtype) * x

    def adjoint_function(self, f: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        return self.gram_function(f, y)

    def norm_squared(self) -> float:
        return 1.0

    def condition(self) -> float:
        return 1.0

    def mean_square(self) -> float:
        return 1.0


@dataclass(frozen=True)
class Composition(LinearOperator):
    """``left`` after ``right``, for operators that know nothing better than to be applied one after the other."""

    left: LinearOperator
    right: LinearOperator

    @property
    def in_size(self) -> Size:
        return self.right.in_size

    @property
    def out_size(self) -> Size:
        return self.left.out_size

    def __call__(self, x: Tensor) -> Tensor:
        return self.left(self.right(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.right.adjoint(self.left.adjoint(y))


@dataclass(frozen=True)
class Transpose(LinearOperator):
    """The transpose of ``base``."""

    base: LinearOperator

    @property
    def in_size(self) -> Size:
        return self.base.out_size

    @property
    def out_size(self) -> Size:
        return self.base.in_size

    def __call__(self, x: Tensor) -> Tensor:
        return self.base.adjoint(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.base(y)

    @property
    def T(self) -> LinearOperator:
        return self.base

    def norm_squared(self) -> float:
        return self.base.norm_squared()

    def condition(self) -> float:
        return self.base.condition()

    def mean_square(self) -> float:
        (H, W), (h, w) = self.in_size, self.out_size
        return self.base.mean_square() * (h * w) / (H * W)

    def _applied(self, device: torch.device | None = None) -> Applied:
        return replace(self.base._applied(device), operator=self)

    def _functions(self, device: torch.device | None = None) -> SingularBasis | KrylovFunctions:
        functions = self.base._functions(device)
        if isinstance(functions, SingularBasis):
            return self._once("functions", lambda: functions.transposed(self.in_size))
        return super()._functions(device)
