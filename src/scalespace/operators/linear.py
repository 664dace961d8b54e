"""Linear maps M on pictures, their transposes, and functions of M^T M.

An operator acts on the last two dimensions of a tensor, (..., H, W) -> (..., h, w), alike for every picture and channel
of a batch. It is immutable, works in any floating dtype on any device, and composes with ``@``. Classes are abstract or
final; a new operator implements ``__call__`` and ``adjoint`` and has everything else: f(M^T M) and lambda_max come from
Lanczos (``lanczos.py``) unless a subclass knows them exactly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scalespace.operators.lanczos import largest_eigenvalue, symmetric_function

__all__ = ["Composition", "FunctionOperator", "Identity", "LinearOperator", "Size", "Transpose", "check_size"]

Size = tuple[int, int]
"""Height and width in grid points."""


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

    def gram_function(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """f(M^T M) x for a scalar function f on [0, lambda_max].

        Args:
            f: Applied elementwise to a tensor of eigenvalues (float64). Where they are known exactly, its values may have
                further dimensions in front, which broadcast against those of x: another function for each picture.
            x: Shape (..., H, W).

        Returns:
            Tensor of the shape and dtype of x; linear in x, and differentiable in it.
        """
        return symmetric_function(lambda v: self.adjoint(self(v)), f, x)

    def adjoint_function(self, f: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        """M^T f(M M^T) y, from which pseudo-inverses are made; f as for ``gram_function``, (..., h, w) -> (..., H, W)."""
        return self.adjoint(self.T.gram_function(f, y))

    def norm_squared(self) -> float:
        """lambda_max(M M^T), the largest squared singular value."""
        return largest_eigenvalue(lambda v: self.adjoint(self(v)), self.in_size)


def check_size(x: Tensor, size: Size) -> None:
    """Refuse what an operator cannot take.

    Raises:
        ValueError: If the last two dimensions of ``x`` are not ``size``.
    """
    if x.shape[-2:] != size:
        raise ValueError(f"the operator takes pictures of size {size}, got {tuple(x.shape[-2:])}; resize them first")


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

    def gram_function(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return f(torch.ones((), dtype=torch.float64)).to(x.device, x.dtype) * x

    def norm_squared(self) -> float:
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


@dataclass(frozen=True)
class FunctionOperator(LinearOperator):
    """A linear function of the user's; its transpose is a vector-Jacobian product.

    The function takes (..., H, W) to (..., h, w), must be linear, and must treat the leading dimensions as a batch.
    Where it is not linear the transpose is that of its derivative at zero, and nothing built on it holds.

    Args:
        function: Differentiable by autograd.
        source_size: Height and width it takes.
        target_size: Height and width it gives.
    """

    function: Callable[[Tensor], Tensor]
    source_size: Size
    target_size: Size

    @property
    def in_size(self) -> Size:
        return self.source_size

    @property
    def out_size(self) -> Size:
        return self.target_size

    def __call__(self, x: Tensor) -> Tensor:
        check_size(x, self.source_size)
        return self.function(x)

    def adjoint(self, y: Tensor) -> Tensor:
        check_size(y, self.target_size)
        return _AdjointByVJP.apply(y, self)  # pyright: ignore[reportReturnType]


class _AdjointByVJP(torch.autograd.Function):
    # Differentiating the vector-Jacobian product again would need the function's second derivative formula, which not
    # every kernel has; but the transpose of the transpose is the function itself.
    @staticmethod
    def forward(ctx, y: Tensor, operator: FunctionOperator) -> Tensor:
        ctx.operator = operator
        # Inference mode, under which samplers like to run, records nothing either.
        with torch.inference_mode(False), torch.enable_grad():
            origin = y.new_zeros(*y.shape[:-2], *operator.in_size).requires_grad_()
            (result,) = torch.autograd.grad(operator.function(origin), origin, y)
        return result

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return ctx.operator(grad_outputs[0]), None
