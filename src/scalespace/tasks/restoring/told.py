"""What a measurement of the full picture tells of the small clean picture at a level.

A network knows x_0 at a low level by its small version z = M x_0 alone, and the measurement y = A x_0 + tau n is of all of it.
With the Gaussian of ``prior`` for what z does not tell, x_0 = B z + r, the measurement is one of z after all,

    y = A B z + (A r + tau n),

with noise that is not white: A R A^T + tau^2 I. No more than what the level's pixels determine is asked of them, and what is
between them counts as noise with the spectrum of pictures. Whitened, this is

    y_s = G_s z + n_s,  n_s ~ N(0, I),

where G_s has as many rows as y tells numbers of z. It is found without A R A^T, from what y tells of x_0 at all:
with K = A C A^T + tau^2 I and D = C - Cov[x_0 | y] = C A^T K^(-1) A C,

    W = P_s^(-1/2) M D M^T P_s^(-1/2) = E w E^T,  w in [0, 1),
    G_s = (w / (1 - w))^(1/2) E^T P_s^(-1/2),
    y_s = (w (1 - w))^(-1/2) E^T P_s^(-1/2) M E[x_0 | y],

since then G_s^T G_s is the precision that Cov[z | y] = M (C - D) M^T has over that of z. Directions with w = 0 tell nothing
and are left out. At the full level G is A and the noise tau, as given. For Gaussian pictures of this spectrum nothing is lost
at any level; for others this is the best linear guess of what the level does not show.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from scalespace.errors import UserError
from scalespace.operators.dct import DCTFilter
from scalespace.operators.linear import LinearOperator, Size, check_size
from scalespace.operators.singular import dense
from scalespace.tasks.restoring.measurement import Measurement
from scalespace.tasks.restoring.prior import Prior, SpectralCovariance

__all__ = ["Told", "ToldByLevel"]

_NOTHING = 1e-8  # of w
_MOST = 64 * 64  # numbers of a measurement whose covariance is inverted


@dataclass(frozen=True, eq=False)
class Told:
    """A measurement of the clean picture at a level: values = G z + noise n.

    Args:
        operator: G.
        noise: Standard deviation of the noise, 1 below the full level.
        values: Shape (B, C, *G.out_size).
    """

    operator: LinearOperator
    noise: float
    values: Tensor


@dataclass(frozen=True, eq=False)
class _Matrix(LinearOperator):
    """A matrix on flattened pictures; what it gives are columns."""

    matrix: Tensor = field(repr=False)
    size: Size

    @property
    def in_size(self) -> Size:
        return self.size

    @property
    def out_size(self) -> Size:
        return len(self.matrix), 1

    def __call__(self, x: Tensor) -> Tensor:
        check_size(x, self.size)
        return (x.flatten(-2) @ self.matrix.mT.to(x))[..., None]

    def adjoint(self, y: Tensor) -> Tensor:
        check_size(y, self.out_size)
        return (y[..., 0] @ self.matrix.to(y)).unflatten(-1, self.size)


@dataclass(frozen=True, eq=False)
class _Gained:
    """D = C A^T K^(-1) A C, for an A of few rows."""

    prior: SpectralCovariance
    operator: LinearOperator
    noise: float

    @cached_property
    def root(self) -> Tensor:
        """L^(-1) of K = L L^T, shape (m, m), float64."""
        A = dense(self.operator)
        height, width = self.operator.in_size
        rows = self.prior.product(A.reshape(-1, height, width)).flatten(1)
        K = rows @ A.mT + self.noise**2 * torch.eye(len(A), dtype=torch.float64)
        return torch.linalg.solve_triangular(
            torch.linalg.cholesky(K), torch.eye(len(A), dtype=torch.float64), upper=False
        )

    def inverse(self, y: Tensor) -> Tensor:
        """K^(-1) y."""
        root = self.root.to(y)
        return (y.flatten(-2) @ root.mT @ root).reshape(y.shape)

    def __call__(self, v: Tensor) -> Tensor:
        """D v."""
        seen = self.operator(self.prior.product(v))
        return self.prior.product(self.operator.adjoint(self.inverse(seen)))


@dataclass(frozen=True, eq=False)
class ToldByLevel:
    """What measurements of one kind tell at every level. The matrices are made once, and do not depend on what was measured.

    Args:
        prior: The Gaussian of the clean pictures.
        measurement: How pictures are measured.

    Raises:
        UserError: If it is of pictures of another size, or gives more than 64 x 64 numbers and is no filter in the DCT basis.
    """

    prior: Prior
    measurement: Measurement
    _maps: dict[Size, tuple[_Matrix, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        A, size = self.measurement.operator, self.prior.process.size(0)
        if A.in_size != size:
            raise UserError(
                f"the measurement is of pictures of {A.in_size}, and the model draws {size}; make them equal"
            )
        if not isinstance(A, DCTFilter) and A.out_size[0] * A.out_size[1] > _MOST:
            raise UserError(
                f"the measurement gives {A.out_size[0]}x{A.out_size[1]} numbers, and covariances are inverted up to 64x64; "
                "take a larger factor"
            )

    def levels(self, measured: Tensor) -> dict[Size, Told]:
        """What is told at every level.

        Args:
            measured: y, shape (B, C, h, w).
        """
        process = self.prior.process
        A, tau = self.measurement.operator, self.measurement.noise
        full = process.size(0)
        found = {full: Told(A, tau, measured)}
        expected = self.expected(measured.double().cpu()) if process.degradation.jumps else measured
        for t in process.degradation.jumps:
            size = process.size(t)
            if size != full:
                G, values_of = self._map(t)
                small = process.degradation.operator(0, t)(expected)
                values = (small.flatten(-2) @ values_of.mT)[..., None]
                found[size] = Told(G, 1.0, values.to(measured))
        return found

    def expected(self, measured: Tensor) -> Tensor:
        """E[x_0 | y] under the prior alone, the Wiener filter, shape (B, C, H, W)."""
        A, full = self.measurement.operator, self._full
        if isinstance(A, DCTFilter):
            gains = A.gains * self.prior.spectrum / (A.gains**2 * self.prior.spectrum + self.measurement.noise**2)
            return DCTFilter(gains)(measured)
        assert isinstance(self._gained, _Gained)
        return full.product(A.adjoint(self._gained.inverse(measured)))

    @cached_property
    def _full(self) -> SpectralCovariance:
        return SpectralCovariance(self.prior.spectrum)

    @cached_property
    def _gained(self) -> Callable[[Tensor], Tensor]:
        A, tau = self.measurement.operator, self.measurement.noise
        if isinstance(A, DCTFilter):
            seen = A.gains**2 * self.prior.spectrum
            return DCTFilter(self.prior.spectrum * seen / (seen + tau**2))
        return _Gained(self._full, A, tau)

    def _map(self, t: int) -> tuple[_Matrix, Tensor]:
        """G_t, and the matrix that makes y_t of M E[x_0 | y]."""
        size = self.prior.process.size(t)
        if size not in self._maps:
            P = self.prior.at(t)
            n = size[0] * size[1]
            root = P.function(torch.rsqrt, torch.eye(n, dtype=torch.float64).reshape(n, *size)).flatten(1)
            w, E = torch.linalg.eigh(root @ self.prior.seen(self._gained, t) @ root)
            told = w > _NOTHING
            # Rounding can take w to 1, where the small picture is known.
            w, rows = w[told].clamp_max(1 - 1e-12), (E[:, told].mT @ root)
            G = _Matrix((w / (1 - w)).sqrt()[:, None] * rows, size)
            self._maps[size] = G, (w * (1 - w)).rsqrt()[:, None] * rows
        return self._maps[size]
