"""Predictions that know a measurement, from a denoiser that does not.

A level's measurement is y = G z + tau n of the clean picture z at r(s) (``told``). If z given x_t were N(m, V), then

    E[z | x_t, y] = m + V G^T (tau^2 + G V G^T)^(-1) (y - G m),

with m the denoiser's prediction. Of V the denoiser tells, by Tweedie's formula, with J the Jacobian of m in x_t,

    V = (sigma_t^2 / alpha_t) J       where the step stays at its level,
    V = B (sigma_t^2 / alpha_t) (M J) B^T + R       where it goes up from t to s,

the second since x_t tells of z nothing but M z, M = M_{s->t}, and of the rest R under the Gaussian of ``prior`` (exact for
Gaussian pictures, and a choice for others). A product with V is one vector-Jacobian product. The guidances differ in the matrix
that is inverted:

    PiGDM   the Gaussian's Cov[z | x_t] in the place of V, in closed form; one vector-Jacobian product in all
    MMPS    V itself, by a few steps of conjugate gradients, each one more vector-Jacobian product

Conjugate gradients are preconditioned by PiGDM's inverse, so that without a step MMPS would be PiGDM, and for Gaussian pictures
both are exact at once. With the white spectrum d^2 PiGDM has its paper's r_t^2 = d^2 sigma^2 / (alpha^2 d^2 + sigma^2).

    DDRM    no Jacobian: in the singular basis of G, a draw of the next state from prediction and measurement (``ddrm``)

Sources: Song, Vahdat, Mardani and Kautz 2023, Pseudoinverse-Guided Diffusion Models; Rozet et al. 2024, Learning Diffusion
Priors from Observations by Expectation Maximization (arXiv 2405.13712), moment matching posterior sampling; the levels are
ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scalespace.diffusion.denoiser import Denoiser
from scalespace.operators.dct import DCTFilter
from scalespace.operators.linear import Size
from scalespace.operators.singular import dense
from scalespace.tasks.restoring.prior import Prior, SpectralCovariance, Step
from scalespace.tasks.restoring.told import Told

__all__ = ["Guided", "conjugate_gradients"]

_DENSE = 1024  # numbers of a measurement for which a matrix is inverted at every step
_CLOSED_STEPS, _CLOSED_TOLERANCE = 200, 1e-6

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Guided:
    """A denoiser that knows a measurement, E[x0_s | x_t, y].

    Args:
        denoiser: Predicts without it, and can be differentiated.
        prior: The Gaussian of the clean pictures.
        told: What the measurement tells at every level.
        iterations: Steps of conjugate gradients of MMPS; 0 is PiGDM.
    """

    denoiser: Denoiser
    prior: Prior
    told: Mapping[Size, Told]
    iterations: int
    _matrices: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, x_t: Tensor, t: int, s: int) -> Tensor:
        process = self.prior.process
        step, told = self.prior.step(s, t), self.told[process.size(s)]
        G, alpha, sigma = told.operator, process.noise.alpha(t), process.noise.sigma(t)
        with torch.enable_grad():
            state = x_t.detach().requires_grad_()
            x0 = self.denoiser(state, t, s)
            seen = x0 if step.stays else step.M(x0)

        def covariance(v: Tensor) -> Tensor:
            (product,) = torch.autograd.grad(seen, state, step.lowered(v), retain_graph=True)
            return step.lift(sigma**2 / alpha * product) + step.rest(v)

        mean = x0.detach()
        rest = told.values - G(mean)
        closed = self._closed(step, told, process.noise.snr(t))
        if self.iterations:
            weights = conjugate_gradients(
                lambda q: told.noise**2 * q + G(covariance(G.adjoint(q))), rest, self.iterations, closed
            )
        else:
            weights = closed(rest)
        return mean + covariance(G.adjoint(weights))

    def _closed(self, step: Step, told: Told, rho: float) -> Product:
        """(tau^2 + G Cov[z | x_t] G^T)^(-1) of the Gaussian, in float64."""
        G, variance = told.operator, told.noise**2
        if step.stays and isinstance(G, DCTFilter) and isinstance(step.large, SpectralCovariance):
            spectrum = step.large.spectrum
            inverse = DCTFilter(1 / (variance + G.gains**2 * spectrum / (1 + rho * spectrum)))
            return lambda r: inverse(r.double()).to(r)
        if G.out_size[0] * G.out_size[1] <= _DENSE:
            rows = self._matrix(told)
            spread = step.posterior(rho, rows.reshape(-1, *G.in_size)).flatten(1)
            root = torch.linalg.cholesky(rows @ spread.mT + variance * torch.eye(len(rows), dtype=torch.float64))

            def solved(r: Tensor) -> Tensor:
                columns = r.reshape(-1, len(rows)).double().cpu().mT
                return torch.cholesky_solve(columns, root).mT.reshape(r.shape).to(r)

            return solved

        def product(q: Tensor) -> Tensor:
            return variance * q + G(step.posterior(rho, G.adjoint(q)))

        return lambda r: conjugate_gradients(product, r.double(), _CLOSED_STEPS, tolerance=_CLOSED_TOLERANCE).to(r)

    def _matrix(self, told: Told) -> Tensor:
        if told.operator not in self._matrices:
            self._matrices[told.operator] = dense(told.operator)
        return self._matrices[told.operator]


def conjugate_gradients(
    product: Product,
    b: Tensor,
    iterations: int,
    preconditioner: Product = lambda r: r,
    tolerance: float = 0.0,
) -> Tensor:
    """A^(-1) b, for every picture of a batch by itself.

    Where a direction has no positive curvature, as of a Jacobian that is not quite a covariance, the picture stays where it is.

    Args:
        product: v -> A v, A symmetric and positive, shape (B, ...) to the same.
        b: Shape (B, ...).
        iterations: Largest number of steps.
        preconditioner: v -> P v, P symmetric and positive, near the inverse of A.
        tolerance: Relative norm of the residual at which all of them end.

    Returns:
        Shape of b.

    Source: Hestenes and Stiefel 1952; Golub and Van Loan, Matrix Computations, section 11.5.
    """
    tiny = torch.finfo(b.dtype).tiny
    x, r = torch.zeros_like(b), b
    z = preconditioner(r)
    p, rz = z, _inner(r, z)
    enough = tolerance**2 * _inner(b, b)
    for _ in range(iterations):
        Ap = product(p)
        curvature = _inner(p, Ap)
        alive = (curvature > 0) & (_inner(r, r) > enough)
        if not bool(alive.any()):
            break
        length = torch.where(alive, rz / curvature.clamp_min(tiny), 0.0)
        x, r = x + length * p, r - length * Ap
        z = preconditioner(r)
        before, rz = rz, _inner(r, z)
        # A picture that has ended gets no new direction, so that it stays.
        p = torch.where(alive, z + rz / before.clamp_min(tiny) * p, 0.0)
    return x


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.dim() - 1))
