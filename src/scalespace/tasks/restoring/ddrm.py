"""DDRM: the next state from a prediction and a measurement, without a Jacobian.

With y = G z + tau n and G = U S V^T, every direction v_i of S_i > 0 has a measurement of its own, ybar_i = u_i^T y / S_i =
z_i + (tau / S_i) n_i. In terms of x_s / alpha_s = z + q_s eps, with q_s = sigma_s / alpha_s, the next state is drawn around the
prediction m, in each direction alone:

    S_i = 0           m_i + q_s (sqrt(1 - eta^2) eps_i + eta xi_i)
    q_s < tau / S_i   m_i + q_s (sqrt(1 - eta^2) (ybar_i - m_i) S_i / tau + eta xi_i)
    q_s >= tau / S_i  (1 - b) m_i + b ybar_i + sqrt(q_s^2 - b^2 tau^2 / S_i^2) xi_i

with xi fresh white noise. If m is the true picture, all of them have the marginal's variance q_s^2, whatever eta and b.
eps is the noise of the last state; where the resolution rises it is carried up as DDIM carries it, which leaves it white.
At the last step, q = 0, the picture is the prediction.

Source: Kawar, Elad, Ermon and Song 2022, Denoising Diffusion Restoration Models (arXiv 2201.11793), eq. 7, 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.solvers import DDIM
from scalespace.operators.linear import Size
from scalespace.tasks.restoring.told import Told

__all__ = ["DDRM"]


@dataclass(frozen=True, eq=False)
class DDRM:
    """A solver whose steps know a measurement.

    Args:
        process: The process that the network was trained on.
        told: What the measurement tells at every level.
        eta: 0..1, how much of the noise is fresh where the measurement is worse than the state, or tells nothing.
        b: 0..1, the weight of the measurement where it is better than the state.
    """

    process: ScaleSpaceProcess
    told: Mapping[Size, Told]
    eta: float = 0.85
    b: float = 1.0

    def step(self, x_t: Tensor, x0_s: Tensor, t: int, s: int, noise: Tensor, fresh: Tensor) -> Tensor:
        """x_s from x_t.

        Args:
            x_t: State at t, shape (B, C, h, w).
            x0_s: Predicted clean image at r(s), shape (B, C, H, W).
            t: Grid point of x_t.
            s: Grid point to go to; at 0 the step returns x0_s.
            noise: White noise of the shape of x0_s, for what a change of resolution adds to eps.
            fresh: The same for xi.
        """
        if s == 0:
            return x0_s
        alpha, sigma = self.process.noise.alpha(s), self.process.noise.sigma(s)
        q, eta, b = sigma / alpha, self.eta, self.b
        eps = (DDIM(self.process).step(x_t, x0_s, t, s, noise) - alpha * x0_s) / sigma
        told = self.told[self.process.size(s)]
        G, tau = told.operator, told.noise
        kept = (1 - eta**2) ** 0.5

        def better(e: Tensor) -> Tensor:
            """Whether the measurement of a direction with S_i^2 = e is better than the state."""
            return q**2 * e >= tau**2

        def weight(e: Tensor) -> Tensor:
            """Of ybar_i - m_i."""
            return torch.where(better(e), b, kept * q * e.sqrt() / tau)

        def spread(e: Tensor) -> Tensor:
            return torch.where(better(e), (q**2 - b**2 * tau**2 / e).clamp_min(0).sqrt(), eta * q)

        # M^T f(M M^T) r is V S f U^T r, and of r = y - G m the coefficient u_i^T r is S_i (ybar_i - m_i).
        towards = G.adjoint_function(lambda e: weight(e) / e, told.values - G(x0_s))
        unseen = G.gram_function(torch.zeros_like, eps, kernel=kept * q)
        drawn = G.gram_function(spread, fresh, kernel=eta * q)
        return alpha * (x0_s + towards + unseen + drawn)
