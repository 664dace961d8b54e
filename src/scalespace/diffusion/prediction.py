"""What the network's output F stands for: from F and the state x_t to the clean image x0_s.

With M = M_{s->t}, x_t = alpha_t M x0_s + sigma_t eps, and x0_s the clean image at the resolution that the step goes to,

    Sample        x0_s = F, the paper's.
    Epsilon       x0_s = (M^+ x_t - sigma_t N F) / alpha_t, with M^+ the pseudo-inverse of M and N = (M^T M)^(-1/2) where M
                  sees something, the identity where it does not. For M the identity or a blur F is eps, wherever the step
                  goes; at a change of resolution it is eps carried up by the isometry M^T (M M^T)^(-1/2), as DDIM does.
    Velocity(d)   x0_s = W x_t - c F,  W = alpha_t d^2 M^T (alpha_t^2 d^2 M M^T + sigma_t^2)^-1,
                  c = sigma_t d / (alpha_t^2 d^2 + sigma_t^2)^(1/2).
                  W is the best linear guess for white pictures of standard deviation d, so F has only what that guess
                  leaves. For M the identity F is v = alpha_t eps - sigma_t x_0 with d = 1, and the (negative) output of the
                  preconditioned network of EDM with d = 0.5.

Epsilon divides by alpha_t and by the singular values of M: it suits DDPM and blurring, and not states that are nearly noise.
What the operator counts as zero (``operators.singular``) M does not see; all other singular values are divided by.
Of a blur only Epsilon's F does not depend on s, which a network is not told.

A network that cannot go up predicts x0_t, with M the identity, and x0_s = M^+ x0_t: what it cannot know is left at zero, and a
solver's step draws the noise there.

Sources: Mukhopadhyay et al. 2026 (arXiv 2603.08709); Ho, Jain and Abbeel 2020 (arXiv 2006.11239); Hoogeboom and Salimans 2022,
Blurring Diffusion Models (arXiv 2209.05557); Salimans and Ho 2022, v (arXiv 2202.00512); Karras et al. 2022, EDM, eq. 7
(arXiv 2206.00364). The extension to changes of resolution is ours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scalespace.diffusion.noise import NoiseSchedule
from scalespace.errors import UserError
from scalespace.operators.linear import Identity, LinearOperator

__all__ = ["Epsilon", "Prediction", "Sample", "Velocity", "clean_image"]


# Of x_t, by the pseudo-inverse of M: the share of the result that rounding may make up.
_MAGNIFIED_ROUNDING = 0.1


@dataclass(frozen=True)
class Prediction(ABC):
    """Abstract: the meaning of a network's output.

    Args:
        noise: The noise of the process.
    """

    noise: NoiseSchedule

    @abstractmethod
    def x0(self, output: Tensor, x_t: Tensor, t: int | Tensor, M: LinearOperator) -> Tensor:
        """The clean image at r(s) that an output stands for.

        Args:
            output: F, shape (B, C, H, W) with (H, W) = r(s).
            x_t: State, shape (B, C, h, w) with (h, w) = r(t).
            t: Grid point of x_t, 1..T; or one for each picture, shape (B,), where M has an exact eigenbasis.
            M: The operator M_{s->t}.

        Returns:
            x0_s, shape (B, C, H, W).
        """

    def _levels(self, t: int | Tensor) -> tuple[float | Tensor, float | Tensor]:
        if isinstance(t, Tensor):
            # In float64 on the CPU, as eigenvalues are, and of a shape that broadcasts against theirs and the pictures'.
            points = t.cpu().reshape(-1, 1, 1, 1)
            return self.noise.alpha(points), self.noise.sigma(points)
        return self.noise.alpha(t), self.noise.sigma(t)


@dataclass(frozen=True)
class Sample(Prediction):
    """The clean image itself."""

    def x0(self, output: Tensor, x_t: Tensor, t: int | Tensor, M: LinearOperator) -> Tensor:
        return output


@dataclass(frozen=True)
class Epsilon(Prediction):
    """The noise in x_t, carried up where the resolution changes.

    The result is right to the rounding of x_t times M's condition number, over alpha_t. Where the rounding of x_t becomes a
    tenth of it, ``x0`` refuses with a UserError.
    """

    def x0(self, output: Tensor, x_t: Tensor, t: int | Tensor, M: LinearOperator) -> Tensor:
        alpha, sigma = self._levels(t)
        inverse = M.adjoint_function(lambda e: 1 / e, x_t)
        carried = M.gram_function(torch.rsqrt, output, kernel=1.0)
        condition = M.condition()
        if condition * torch.finfo(x_t.dtype).eps > _MAGNIFIED_ROUNDING:
            raise UserError(
                f"the pseudo-inverse of a map with condition number {condition:.2g} leaves no digit of {x_t.dtype} pictures "
                "right; predict the clean picture or v, or use float64"
            )
        return _of(1 / alpha, output) * inverse - _of(sigma / alpha, output) * carried


@dataclass(frozen=True)
class Velocity(Prediction):
    """What the best linear guess for white pictures leaves, in units of its own standard deviation.

    Args:
        sigma_data: d, standard deviation of the pictures: 1 is v prediction, 0.5 EDM's preconditioning.

    Raises:
        ValueError: If d is not positive.
    """

    sigma_data: float = 1.0

    def __post_init__(self):
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data is {self.sigma_data}; the standard deviation of pictures is above 0")

    def x0(self, output: Tensor, x_t: Tensor, t: int | Tensor, M: LinearOperator) -> Tensor:
        alpha, sigma = self._levels(t)
        signal, noise = (alpha * self.sigma_data) ** 2, sigma**2
        guess = M.adjoint_function(lambda e: alpha * self.sigma_data**2 / (signal * e + noise), x_t)
        return guess - _of(sigma * self.sigma_data / (signal + noise) ** 0.5, output) * output


def clean_image(
    prediction: Prediction,
    output: Tensor,
    x_t: Tensor,
    t: int | Tensor,
    M: LinearOperator,
    limited: Callable[[Tensor], Tensor] = lambda x0: x0,
) -> Tensor:
    """The clean image at r(s) that the output of any network stands for, also of one that cannot go up.

    Args:
        prediction: What the output means.
        output: F, at r(s); or at r(t), for M the identity, and then M^+ of what it stands for is the result.
        x_t: State, shape (B, C, h, w).
        t: Grid point of x_t, as in ``Prediction.x0``.
        M: The operator M_{s->t}.
        limited: Brings a prediction into the range of pictures.

    Returns:
        x0_s, shape (B, C, H, W).
    """
    stays = M.in_size != M.out_size and tuple(output.shape[-2:]) == M.out_size
    # Before it is carried up, so that M of the result is what the network has predicted.
    x0 = limited(prediction.x0(output, x_t, t, Identity(M.out_size) if stays else M))
    return M.adjoint_function(lambda e: 1 / e, x0) if stays else x0


def _of(value: float | Tensor, x: Tensor) -> float | Tensor:
    return value.to(x.device, x.dtype) if isinstance(value, Tensor) else value
