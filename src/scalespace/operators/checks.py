"""What an operator promises, put to the test before anything is built on it.

    linear      M(2 x - 3 y) = 2 M x - 3 M y,  M(100 x) = 100 M x,  M 0 = 0
    transpose   <M x, y> = <x, M^T y>

for white noise x and y from a fixed seed. What breaks either of them by more than rounding breaks it for almost every x
and y, so a few pictures tell. By how much rounding itself breaks the first line is the precision in which M really
computes, whatever the dtype of its result: below that share of its norm nothing is known of its singular values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeGuard

import torch
from torch import Tensor

from scalespace.errors import UserError, cause
from scalespace.operators.precision import best_dtype

__all__ = [
    "Applied",
    "Linear",
    "Size",
    "check_linear",
    "check_shrinks",
    "check_transpose",
    "composition_defect",
    "examined",
    "name_of",
]

Size = tuple[int, int]
"""Height and width in grid points."""

# A relative defect of linearity up to here is rounding: float32 leaves about 3e-7.
_ROUNDING = 1e-5
# How many times its precision the two sides of <M x, y> = <x, M^T y> may be apart, of |M x| |y|.
_SIDES_APART = 1000


class Linear(Protocol):
    """A linear map on pictures and its transpose."""

    @property
    def in_size(self) -> Size:
        """Height and width of the pictures it takes."""
        ...

    @property
    def out_size(self) -> Size:
        """Height and width of the pictures it gives."""
        ...

    def __call__(self, x: Tensor, /) -> Tensor:
        """M x."""
        ...

    def adjoint(self, y: Tensor, /) -> Tensor:
        """M^T y."""
        ...


@dataclass(frozen=True)
class Applied:
    """An operator that passed, applied in the best precision that it has.

    Args:
        operator: The operator M.
        device: Device on which it passed.
        dtype: Float64, or float32 where M takes nothing better; pictures of any dtype go through it and come back.
        eps: Relative rounding of M x.
    """

    operator: Linear
    device: torch.device
    dtype: torch.dtype
    eps: float

    @property
    def in_size(self) -> Size:
        """Height and width of the pictures it takes."""
        return self.operator.in_size

    @property
    def out_size(self) -> Size:
        """Height and width of the pictures it gives."""
        return self.operator.out_size

    def __call__(self, x: Tensor) -> Tensor:
        return self.operator(x.to(self.dtype)).to(x.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        """M^T y."""
        return self.operator.adjoint(y.to(self.dtype)).to(y.dtype)


def check_shrinks(what: str, source_size: Size, target_size: Size) -> None:
    """Refuse sizes of which a side is less than 1 or grows.

    Args:
        what: What there is not between them, for example "orthonormal map".
        source_size: Height and width of the pictures that are taken.
        target_size: Height and width of the pictures that are given.

    Raises:
        UserError: If there is such a side.
    """
    if not all(1 <= after <= before for before, after in zip(source_size, target_size, strict=True)):
        raise UserError(
            f"no {what} from {source_size} to {target_size}; every side needs at least 1 pixel and cannot grow"
        )


def name_of(M: Linear) -> str:
    """Kind and sizes of an operator, for messages."""
    return f"the {type(M).__name__} from {M.in_size} to {M.out_size}"


def examined(M: Linear, device: torch.device | None = None) -> Applied:
    """Find out whether M is linear, its adjoint its transpose, and how precisely it computes.

    Args:
        M: Takes and gives floating tensors (..., H, W).
        device: Where it is applied. The CPU takes the place of None and of a device that has no float64.

    Returns:
        M in float64 if it can be applied so, else in float32.

    Raises:
        UserError: If it can be applied in neither, gives another shape or numbers that are not finite, is not linear, or
            its adjoint is not its transpose.
    """
    if device is None or device.type == "meta" or best_dtype(device) != torch.float64:
        device = torch.device("cpu")
    failure: Exception | None = None
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        for dtype in (torch.float64, torch.float32):
            x, y = (_white(size).to(device, dtype) for size in (M.in_size, M.out_size))
            given = x, torch.stack([2 * x[0] - 3 * x[1], 100 * x[2]]), 0 * x[:1]
            try:
                seen, lifted = [M(pictures) for pictures in given], M.adjoint(y)
            except UserError:
                raise
            except Exception as error:
                # Weights of the user's in another dtype, kernels without float64: whatever it is, float32 may do.
                failure = error
                continue
            eps = max(torch.finfo(part.dtype).eps for part in (x, *seen, lifted) if _is_floating(part))
            seen = [_result(name_of(M), result, of, M.out_size) for result, of in zip(seen, given, strict=True)]
            lifted = _result(f"the adjoint of {name_of(M)}", lifted, y, M.in_size)
            eps = max(eps, _defect_of_linearity(M, x, *seen))
            gap = _gap_of_transpose(x.cpu().double(), y.cpu().double(), seen[0], lifted)
            check_transpose(M, gap, _SIDES_APART * eps)
            return Applied(M, device, dtype, eps)
    reason = cause(failure) if failure is not None else "no reason given"
    raise UserError(
        f"{name_of(M)} cannot be applied to float32 pictures on the {device} ({reason}); it has to take tensors (..., H, W) "
        "and to move what it needs to their device and dtype"
    ) from failure


def composition_defect(after: Linear, before: Linear, whole: Linear) -> float:
    """How far ``after`` of ``before`` is from ``whole``, of a picture of white noise and relative to its norm.

    The sizes have to fit.
    """
    x = _white(before.in_size)[:1]
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        try:
            composed, at_once = after(before(x)), whole(x)
        except (RuntimeError, TypeError):
            # An operator that takes nothing but float32; what else may be wrong is its own to say.
            composed, at_once = after(before(x.float())), whole(x.float())
    scale = max(float(composed.norm()), float(at_once.norm()))
    return float((composed - at_once).norm()) / scale if scale > 0 else 0.0


def _white(size: Size) -> Tensor:
    return torch.randn(4, 1, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _defect_of_linearity(M: Linear, x: Tensor, seen: Tensor, seen_sums: Tensor, of_nothing: Tensor) -> float:
    if of_nothing.any():
        raise UserError(
            f"{name_of(M)} makes a picture of norm {float(of_nothing.norm()):.3g} of zeros, so it is not linear; "
            "leave out what it adds"
        )
    expected = torch.stack([2 * seen[0] - 3 * seen[1], 100 * seen[2]])
    defect = max(
        _share(seen_sums[0] - expected[0], 2 * seen[0].norm() + 3 * seen[1].norm()),
        _share(seen_sums[1] - expected[1], expected[1].norm()),
    )
    pairs = x.reshape(2, 2, *M.in_size)
    try:
        in_channels = M(pairs)
    except Exception:
        # It takes one channel alone, and says so itself.
        pass
    else:
        in_channels = _result(name_of(M), in_channels, pairs, M.out_size).reshape(seen.shape)
        defect = max(defect, _share(in_channels - seen, seen.norm()))
    check_linear(M, defect, _ROUNDING)
    return defect


def _gap_of_transpose(x: Tensor, y: Tensor, seen: Tensor, lifted: Tensor) -> float:
    x, y, seen, lifted = (pictures.flatten(1) for pictures in (x, y, seen, lifted))
    scale = seen.norm(dim=1) * y.norm(dim=1) + x.norm(dim=1) * lifted.norm(dim=1)
    apart = (seen * y).sum(1) - (x * lifted).sum(1)
    return max(_share(part, whole) for part, whole in zip(apart, scale, strict=True))


def check_linear(M: Linear, defect: float, allowed: float) -> None:
    """Refuse an operator that breaks linearity by more than rounding.

    Raises:
        UserError: If ``defect`` is above ``allowed``.
    """
    if defect > allowed:
        raise UserError(
            f"{name_of(M)} is not linear: of a sum, a multiple or the unit pictures it makes something that is off by "
            f"{defect:.1e} of its norm; give a linear function, computed in float32 or better, that treats every picture of "
            "a batch and every channel by itself"
        )


def check_transpose(M: Linear, gap: float, allowed: float) -> None:
    """Refuse an adjoint whose relative distance from the transpose is more than rounding.

    Raises:
        UserError: If ``gap`` is above ``allowed``.
    """
    if gap > allowed:
        raise UserError(
            f"the adjoint of {name_of(M)} is not its transpose: <M x, y> and <x, M^T y> differ by {gap:.1e} of |M x| |y|; "
            "write M with operations that autograd follows (no detach, no numpy), or an operator with its own adjoint"
        )


def _is_floating(result: object) -> TypeGuard[Tensor]:
    return isinstance(result, Tensor) and result.is_floating_point()


def _result(name: str, result: object, given: Tensor, size: Size) -> Tensor:
    """The result in float64 on the CPU, if it is pictures of ``size``, as many as were given."""
    if not _is_floating(result):
        what = result.dtype if isinstance(result, Tensor) else type(result).__name__
        raise UserError(f"{name} gives {what} for {given.dtype}; let it give a floating tensor")
    if result.shape != (*given.shape[:-2], *size):
        raise UserError(
            f"{name} gives the shape {tuple(result.shape)} for {tuple(given.shape)}; "
            f"let it give {(*given.shape[:-2], *size)}, or correct its sizes"
        )
    if not result.isfinite().all():
        raise UserError(f"{name} gives numbers that are not finite for white noise; let it be finite for every picture")
    return result.cpu().double()


def _share(part: Tensor, whole: Tensor) -> float:
    norm = float(part.norm())
    return norm / float(whole) if norm > 0 else 0.0
