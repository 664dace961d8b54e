"""A linear function of the user's as an operator; its transpose is a vector-Jacobian product.

M^T y is the derivative of <y, M x> in x, wherever it is taken, since M is linear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scalespace.errors import UserError
from scalespace.operators.linear import LinearOperator, Size, check_size

__all__ = ["FunctionOperator"]


@dataclass(frozen=True)
class FunctionOperator(LinearOperator):
    """A linear function of the user's; its transpose is a vector-Jacobian product.

    The function takes (..., H, W) to (..., h, w), must be linear, and must treat the leading dimensions as a batch; one that is
    not linear is refused when its norm or a function of it is first needed, which is when a process is built. It is best
    written for any dtype: applied in float64 its singular values are known to 1e-12 of the largest; if it takes nothing but
    float32, in which float64 pictures are then applied, to 1e-4 or so.

    Args:
        function: A linear function of pictures, differentiable by autograd.
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
        try:
            y = self.function(x)
        except RuntimeError:
            # Weights in float32, say; of anything else that is wrong the second time tells as well.
            if x.dtype != torch.float64:
                raise
            y = self.function(x.float())
        if not isinstance(y, Tensor) or y.shape != (*x.shape[:-2], *self.target_size):
            what = f"the shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
            raise UserError(
                f"the function of an operator gives {what} for {tuple(x.shape)}, and was said to give "
                f"{(*x.shape[:-2], *self.target_size)}; correct the function or the sizes"
            )
        # Inside, or under autocast, the function may compute in another dtype.
        return y.to(x.dtype)

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
            image = operator(origin)
            if not image.requires_grad:
                # Zero, or hidden from autograd; that its adjoint is not zero then is found when it is examined.
                return torch.zeros_like(origin.detach())
            (result,) = torch.autograd.grad(image, origin, y)
        return result

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return ctx.operator(grad_outputs[0]), None
