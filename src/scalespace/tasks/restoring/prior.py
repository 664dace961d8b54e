"""The Gaussian that stands for pictures where no network has looked: N(0, C), C diagonal in the DCT basis.

C is known by its spectrum, the mean square of every DCT coefficient. At a level of the degradation the clean picture is
z = M x_0 with M = M_{0->s}, so that

    z ~ N(0, P_s),  P_s = M C M^T,

and between a level s and a smaller one t, z_t = M z_s with M = M_{s->t}. Of z_s the small z_t tells

    z_s = B z_t + r,  B = P_s M^T P_t^(-1),  r ~ N(0, R) independent of z_t,  R = P_s - P_s M^T P_t^(-1) M P_s,

and a state x_t = alpha z_t + sigma eps, with rho = alpha^2 / sigma^2,

    Cov[z_s | x_t] = P_s - P_s M^T (P_t + 1 / rho)^(-1) M P_s.

P_s of the full level is diagonal in the DCT basis; of the others it is decomposed once, up to 64 x 64 pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.errors import UserError
from scalespace.operators.dct import DCTFilter
from scalespace.operators.linear import LinearOperator, Size
from scalespace.operators.singular import dense

__all__ = ["Covariance", "DenseCovariance", "Prior", "SpectralCovariance", "Step", "natural_spectrum"]

_LARGEST = 64 * 64  # pixels of a level that is decomposed
# Of the largest coefficient: a spectrum that falls to zero has no inverse.
_FLOOR = 1e-9

Function = Callable[[Tensor], Tensor]


def natural_spectrum(size: Size, variance: float = 0.25) -> Tensor:
    """The spectrum (1 + k)^(-2) with k = |(k_h, k_w)|, which pictures of any kind have roughly.

    Args:
        size: Height and width of the pictures.
        variance: Mean square of a pixel in [-1, 1].

    Returns:
        Mean square of every orthonormal DCT coefficient, shape (H, W), float64.

    Source: Field 1987, Relations between the statistics of natural images and the response properties of cortical cells.
    """
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in size)
    spectrum = (1 + torch.hypot(rows[:, None], columns[None, :])) ** -2
    return spectrum * (variance / spectrum.mean())


class Covariance(ABC):
    """Abstract: a covariance P whose functions are exact, alike for every channel."""

    @abstractmethod
    def function(self, f: Function, v: Tensor) -> Tensor:
        """f(P) v, shape (..., H, W); f is applied elementwise to float64 eigenvalues."""

    def product(self, v: Tensor) -> Tensor:
        """P v."""
        return self.function(lambda p: p, v)


@dataclass(frozen=True, eq=False)
class SpectralCovariance(Covariance):
    """Diagonal in the DCT basis.

    Args:
        spectrum: Its diagonal, shape (H, W), float64, positive.
    """

    spectrum: Tensor = field(repr=False)

    def function(self, f: Function, v: Tensor) -> Tensor:
        return DCTFilter(f(self.spectrum))(v)


@dataclass(frozen=True, eq=False)
class DenseCovariance(Covariance):
    """Any covariance of small pictures, decomposed.

    Args:
        matrix: Shape (H W, H W), float64.
    """

    matrix: Tensor = field(repr=False)

    @cached_property
    def _decomposed(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.matrix)
        return values.clamp_min(_FLOOR * values[-1]), vectors

    def function(self, f: Function, v: Tensor) -> Tensor:
        values, vectors = self._decomposed
        vectors = vectors.to(v.device, v.dtype)
        found = ((v.flatten(-2) @ vectors) * f(values).to(v.device, v.dtype)) @ vectors.mT
        return found.reshape(v.shape)


@dataclass(frozen=True, eq=False)
class Step:
    """The Gaussian between a level and the same or a smaller one.

    Args:
        large: P_s.
        small: P_t.
        M: The operator M_{s->t}.
    """

    large: Covariance
    small: Covariance
    M: LinearOperator

    @property
    def stays(self) -> bool:
        """Whether both are one level, where B is the identity and R is zero."""
        return self.large is self.small

    def lift(self, v: Tensor) -> Tensor:
        """B v, shape (..., h, w) -> (..., H, W)."""
        return v if self.stays else self.large.product(self.M.adjoint(self.small.function(torch.reciprocal, v)))

    def lowered(self, v: Tensor) -> Tensor:
        """B^T v, shape (..., H, W) -> (..., h, w)."""
        return v if self.stays else self.small.function(torch.reciprocal, self.M(self.large.product(v)))

    def rest(self, v: Tensor) -> Tensor:
        """R v, shape (..., H, W)."""
        return torch.zeros_like(v) if self.stays else self.large.product(v - self.M.adjoint(self.lowered(v)))

    def posterior(self, rho: float, v: Tensor) -> Tensor:
        """Cov[z_s | x_t] v, shape (..., H, W).

        Args:
            rho: SNR of the state, alpha_t^2 / sigma_t^2.
            v: Shape (..., H, W).
        """
        if self.stays:
            return self.large.function(lambda p: p / (1 + rho * p), v)
        seen = self.M.adjoint(self.small.function(lambda p: 1 / (p + 1 / rho), self.M(self.large.product(v))))
        return self.large.product(v - seen)


@dataclass(frozen=True, eq=False)
class Prior:
    """The Gaussian of the clean pictures at every level of a process.

    Args:
        process: A process whose resolution changes at a few points, or never.
        spectrum: Mean square of every orthonormal DCT coefficient of pictures in [-1, 1], shape (H, W), positive.

    Raises:
        UserError: If the spectrum does not fit, the process blurs with every step, or a small level is larger than 64 x 64.
    """

    process: ScaleSpaceProcess
    spectrum: Tensor = field(repr=False)
    _found: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        degradation = self.process.degradation
        if len(degradation.jumps) < len(degradation.change_points):
            raise UserError(
                "a blur that grows with every step has another clean picture at every step; take a model that resizes"
            )
        size = self.process.size(0)
        if tuple(self.spectrum.shape) != size or not bool((self.spectrum > 0).all() & self.spectrum.isfinite().all()):
            raise UserError(
                f"the spectrum has shape {tuple(self.spectrum.shape)} and the model {size}, or it is not positive everywhere; "
                "measure it on pictures of that size that are not flat"
            )
        for t in degradation.jumps:
            height, width = self.process.size(t)
            if height * width > _LARGEST:
                raise UserError(
                    f"the model has a level of {height}x{width} pixels below its full size, and covariances are decomposed up "
                    "to 64x64; take a model whose second level is at most that"
                )
        floored = self.spectrum.double().cpu()
        object.__setattr__(self, "spectrum", floored.clamp_min(_FLOOR * float(floored.max())))

    def at(self, s: int) -> Covariance:
        """P_s."""
        size = self.process.size(s)
        if size not in self._found:
            full = SpectralCovariance(self.spectrum)
            self._found[size] = full if size == self.process.size(0) else DenseCovariance(self.seen(full.product, s))
        return self._found[size]

    def seen(self, product: Callable[[Tensor], Tensor], s: int) -> Tensor:
        """M F M^T of a covariance of full pictures given as v -> F v, with M = M_{0->s}; shape (n, n) of n pixels, float64."""
        rows = self.map_to(s)
        return rows @ product(rows.reshape(-1, *self.process.size(0))).flatten(1).mT

    def map_to(self, s: int) -> Tensor:
        """M_{0->s} as a matrix, shape (h w, H W), float64."""
        key = "map", self.process.size(s)
        if key not in self._found:
            self._found[key] = dense(self.process.degradation.operator(0, s))
        return self._found[key]

    def step(self, s: int, t: int) -> Step:
        """The Gaussian between the level of s and that of t, for s < t."""
        key = "step", self.process.size(s), self.process.size(t)
        if key not in self._found:
            self._found[key] = Step(self.at(s), self.at(t), self.process.degradation.operator(s, t))
        return self._found[key]
