"""Solvers: from x_t and a prediction of x0_s to x_s. Where they stop is in ``grids``.

With eps_t = (x_t - alpha_t M x0_s) / sigma_t, M = M_{s->t} and lambda = log(alpha / sigma),

    Ancestral   a draw of the posterior q(x_s | x_t, x0_s); for M the identity it is DDPM's sampler.
    DDIM(eta)   x_s = alpha_s x0_s + sigma_s (L g eps_t + sqrt(1 - g^2) xi), in M's singular basis (singular values e_i)
                with g_i = sqrt(1 - eta^2 (1 - rho e_i^2)) on the range and 0 on the kernel, L = M^T (M M^T)^(-1/2).
                eta = 1 is the posterior. eta = 0 is deterministic but for what M does not see: the noise at the lower
                resolution is carried up by the partial isometry L, and fresh noise enters only in the kernel of M.
    Multistep   inside a level DPM-Solver++(2M),
                x_s = sigma_s / sigma_t x_t + alpha_s (1 - e^-h) D,  D = x0 + (x0 - x0_before) / (2 r),
                h = lambda_s - lambda_t, r = h_before / h; across a change, after it, and at the end, DDIM(0).
    Corrected   the same, but the step that led to x_t is first taken again with the prediction made at x_t, as if x0 had
                been the straight line in lambda between the two: with h the way of that step from a to t,
                x_t = sigma_t / sigma_a x_a + alpha_t [(1 - e^-h) x0_a + (1 - (1 - e^-h) / h) (x0_t - x0_a)].

All keep the marginals for any M when the prediction is exact. DDIM needs no inequality between s and t.

L has orthonormal singular vectors to rounding however small M's singular values are, and those that the operator counts as
zero (``operators.singular``) are the kernel for L and for the fresh noise alike. So both together have covariance sigma_s^2 I
to the rounding of the pictures' dtype, whichever way a singular value next to zero is counted; counted as zero, its noise is
drawn anew instead of carried up. Of operators too large to be decomposed the kernel is known to 1e-6, or the step is refused.

Sources: Mukhopadhyay et al. 2026 (arXiv 2603.08709); Ho, Jain and Abbeel 2020 (arXiv 2006.11239); Song, Meng and Ermon 2020
(arXiv 2010.02502); Lu et al. 2022, DPM-Solver++ (arXiv 2211.01095); a corrector without further calls, Zhao et al. 2023, UniPC
(arXiv 2302.04867). Carrying noise across resolutions for box averages: Jing et al. 2022, Subspace Diffusion (arXiv 2205.01490),
and Jin et al. 2024, Pyramidal Flow Matching (arXiv 2410.05954). The lift for any linear M, with exact marginals, is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.operators.linear import Identity

__all__ = ["DDIM", "Ancestral", "Corrected", "Multistep", "Solver"]


class Solver(Protocol):
    """One step of sampling, linear in state, prediction and noise together.

    A solver that remembers its last step goes on from it only where a step begins at the grid point at which that one ended.
    """

    def step(self, x_t: Tensor, x0_s: Tensor, t: int, s: int, noise: Tensor) -> Tensor:
        """x_s from x_t, the predicted x0_s and white noise of its shape."""
        ...


@dataclass(frozen=True)
class Ancestral:
    """Draws from the posterior with the predicted clean image.

    Args:
        process: The process that the network was trained on.
    """

    process: ScaleSpaceProcess

    def step(self, x_t: Tensor, x0_s: Tensor, t: int, s: int, noise: Tensor) -> Tensor:
        """x_s from x_t.

        Args:
            x_t: State at t, shape (B, C, h, w).
            x0_s: Predicted clean image at r(s), shape (B, C, H, W).
            t: Grid point of x_t, 1..T.
            s: Grid point to go to, 0..t-1; at 0 the step returns x0_s.
            noise: White noise of the shape of x0_s.

        Returns:
            Shape (B, C, H, W).

        Raises:
            ValueError: If s >= t, or a shape does not fit r(t) or r(s).
        """
        return self.process.posterior(x_t, x0_s, t, s).draw(noise)


@dataclass(frozen=True)
class DDIM:
    """The family between the posterior (eta = 1) and the deterministic step (eta = 0), across resolutions too.

    Args:
        process: The process that the network was trained on.
        eta: 0..1, how much of the posterior's noise is fresh.

    Raises:
        ValueError: If eta is not in [0, 1].
    """

    process: ScaleSpaceProcess
    eta: float = 0.0

    def __post_init__(self):
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}; give a number from 0 (deterministic) to 1 (ancestral)")

    def step(self, x_t: Tensor, x0_s: Tensor, t: int, s: int, noise: Tensor) -> Tensor:
        """x_s from x_t; arguments and errors as ``Ancestral.step``.

        Raises:
            UserError: If M is too large to be decomposed and Lanczos cannot tell its kernel.
        """
        self.process.check_states(x_t, x0_s, t, s)
        M, _, rho = self.process.bridge(s, t)
        alpha, sigma = self.process.noise.alpha, self.process.noise.sigma

        def kept(e: Tensor) -> Tensor:
            return (1 - self.eta**2 * (1 - rho * e)).clamp(0, 1).sqrt()

        eps_t = (x_t - alpha(t) * M(x0_s)) / sigma(t)
        carried = M.adjoint_function(lambda e: kept(e) * e.rsqrt(), eps_t)
        fresh = M.gram_function(lambda e: (1 - kept(e) ** 2).sqrt(), noise, kernel=1.0)
        return alpha(s) * x0_s + sigma(s) * (carried + fresh)


@dataclass(eq=False)
class Multistep:
    """Second order: the last two predictions of a level make a straight line in lambda.

    It remembers the prediction of its last step, and uses it where a step begins at the grid point at which the last one
    ended. Every other step begins anew. Take one solver for each chain.

    Args:
        process: The process that the network was trained on.
    """

    process: ScaleSpaceProcess
    _before: tuple[int, int, Tensor] | None = field(default=None, init=False, repr=False)

    def step(self, x_t: Tensor, x0_s: Tensor, t: int, s: int, noise: Tensor) -> Tensor:
        """x_s from x_t; arguments and errors as ``Ancestral.step``. The noise is used at a change alone."""
        before, self._before = self._before, (t, s, x0_s)
        crosses = _degrades(self.process, s, t)
        if crosses:
            # The prediction at a change was made from the lower resolution; what it remembers does not continue.
            self._before = None
        if crosses or before is None or before[1] != t or s == 0:
            return DDIM(self.process).step(x_t, x0_s, t, s, noise)
        self.process.check_states(x_t, x0_s, t, s)
        earlier, _, x0_before = before
        noise_levels = self.process.noise
        half_lambda = {point: noise_levels.log_snr(point) / 2 for point in (earlier, t, s)}
        h = half_lambda[s] - half_lambda[t]
        r = (half_lambda[t] - half_lambda[earlier]) / h
        D = x0_s + (x0_s - x0_before) / (2 * r)
        ratio = noise_levels.sigma(s) / noise_levels.sigma(t)
        return ratio * x_t - noise_levels.alpha(s) * math.expm1(-h) * D


@dataclass(eq=False)
class Corrected:
    """``Multistep``, with every step inside a level taken again once the prediction at its end is known.

    The prediction at the end of a step is needed for the next one anyhow, so this costs no further calls. It remembers its
    last step as ``Multistep`` does.

    Args:
        process: The process that the network was trained on.
    """

    process: ScaleSpaceProcess
    _before: tuple[int, int, Tensor, Tensor] | None = field(default=None, init=False, repr=False)
    _predictor: Multistep = field(init=False, repr=False)

    def __post_init__(self):
        self._predictor = Multistep(self.process)

    def step(self, x_t: Tensor, x0_s: Tensor, t: int, s: int, noise: Tensor) -> Tensor:
        """x_s from x_t; arguments and errors as ``Ancestral.step``. The noise is used at a change alone."""
        self.process.check_states(x_t, x0_s, t, s)
        if self._before is not None and self._before[1] == t:
            # Of a prediction at a higher resolution the degradation makes the one at r(t).
            x_t = self._again(*self._before, self.process.degradation.operator(s, t)(x0_s))
        x_s = self._predictor.step(x_t, x0_s, t, s, noise)
        self._before = None if _degrades(self.process, s, t) else (t, s, x_t, x0_s)
        return x_s

    def _again(self, a: int, t: int, x_a: Tensor, x0_a: Tensor, x0_t: Tensor) -> Tensor:
        noise = self.process.noise
        h = (noise.log_snr(t) - noise.log_snr(a)) / 2
        gained = -math.expm1(-h)
        mean = gained * x0_a + (1 - gained / h) * (x0_t - x0_a)
        return noise.sigma(t) / noise.sigma(a) * x_a + noise.alpha(t) * mean


def _degrades(process: ScaleSpaceProcess, s: int, t: int) -> bool:
    return not isinstance(process.degradation.operator(s, t), Identity)
