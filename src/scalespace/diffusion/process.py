"""The generalized diffusion process, for any noise schedule and any linear degradation M_{s->t}.

    marginal     x_t = alpha_t M_{0->t} x_0 + sigma_t eps
    transition   x_t | x_s ~ N(c M x_s, sigma_t^2 (I - rho M M^T))
    posterior    x_s | x_t, x_0 ~ N(mu_s + c (sigma_s / sigma_t)^2 M^T (x_t - c M mu_s), sigma_s^2 (I - rho M^T M))

with s < t, M = M_{s->t}, c = alpha_t / alpha_s, rho = SNR_t / SNR_s and mu_s = alpha_s M_{0->s} x_0. The
transition, and with it the process, exists only if SNR_t lambda_max(M M^T) <= SNR_s, which is checked once, at
construction. At s = 0 the posterior is the clean image itself. With M the identity everything here is DDPM.

Source: Mukhopadhyay et al. 2026 (arXiv 2603.08709); Ho, Jain and Abbeel 2020 for M the identity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scalespace.diffusion.degradation import Degradation
from scalespace.diffusion.gaussian import Gaussian
from scalespace.diffusion.noise import NoiseSchedule
from scalespace.operators.linear import Identity, LinearOperator, Size

__all__ = ["ScaleSpaceProcess"]


@dataclass(frozen=True)
class ScaleSpaceProcess:
    """A noise schedule and a degradation that fit each other.

    Args:
        noise: Signal and noise levels on the grid 0..T.
        degradation: The operators M_{s->t} on the same grid.

    Raises:
        ValueError: If the grids differ, or a transition would need a negative variance.
        UserError: If an operator is not linear or not of its sizes, or the operators do not compose.
    """

    noise: NoiseSchedule
    degradation: Degradation

    def __post_init__(self):
        if self.noise.timesteps != self.degradation.timesteps:
            raise ValueError(
                f"the noise schedule has {self.noise.timesteps} timesteps and the degradation "
                f"{self.degradation.timesteps}; give both the same"
            )
        # Norms multiply at most, so valid single steps make every longer transition valid.
        changes = set(self.degradation.change_points)
        rises = self.noise.log_snr_table.diff() >= 0
        for t in sorted(changes.union((rises.nonzero().flatten() + 1).tolist())):
            norm = self._norms_squared[t] if t in changes else 1.0
            if not self.noise.snr(t) * norm <= self.noise.snr(t - 1) * (1 + 1e-9):
                raise ValueError(
                    f"no transition from s = {t - 1} to t = {t}: SNR_t * lambda_max(M M^T) = "
                    f"{self.noise.snr(t):.6g} * {norm:.6g} exceeds SNR_s = {self.noise.snr(t - 1):.6g}; "
                    "use a noise schedule whose SNR falls at least as fast there, or a stronger reduction"
                )
        self.degradation.check_operators()

    @property
    def timesteps(self) -> int:
        """T, the last grid point."""
        return self.noise.timesteps

    def size(self, t: int) -> Size:
        """r(t), height and width of x_t."""
        return self.degradation.size(t)

    def margins(self) -> dict[int, float]:
        """SNR_s / (SNR_t lambda_max(M M^T)) of every change from s = t - 1 to t, by t: valid from 1, infinite if M is 0."""
        seen = {t: self.noise.snr(t) * self._norms_squared[t] for t in self.degradation.change_points}
        return {t: self.noise.snr(t - 1) / snr if snr > 0 else math.inf for t, snr in seen.items()}

    def marginal(self, x_0: Tensor, t: int | Tensor) -> Gaussian:
        """Distribution of x_t given the clean image, q(x_t | x_0).

        Args:
            x_0: Clean image, shape (B, C, H, W) with (H, W) = r(0).
            t: Grid point, 0..T; or one for each picture of the batch, shape (B,), with no jump of the degradation between them.

        Returns:
            Gaussian over (B, C, h, w) with (h, w) = r(t).

        Raises:
            ValueError: If x_0 is not of size r(0), or a jump lies between the grid points.
        """
        self._check_size(x_0, 0, "x_0")
        M = self.degradation.operator(0, t) if isinstance(t, int) else self.degradation.operators(0 * t, t)
        x_0t = M(x_0)
        return Gaussian(
            _like(self.noise.alpha(t), x_0) * x_0t,
            Identity(M.out_size),
            torch.ones_like,
            _like(self.noise.sigma(t), x_0),
        )

    def transition(self, x_s: Tensor, s: int, t: int) -> Gaussian:
        """Distribution of x_t given x_s, q(x_t | x_s) for s < t.

        Args:
            x_s: State at s, shape (B, C, H, W) with (H, W) = r(s).
            s: Grid point of x_s, 0..t-1.
            t: Grid point to go to, s+1..T.

        Returns:
            Gaussian over (B, C, h, w) with (h, w) = r(t).

        Raises:
            ValueError: If s >= t, or x_s is not of size r(s).
        """
        self._check_size(x_s, s, "x_s")
        M, c, rho = self.bridge(s, t)
        return Gaussian(c * M(x_s), M.T, lambda e: 1 - rho * e, self.noise.sigma(t))

    def posterior(self, x_t: Tensor, x0_s: Tensor, t: int, s: int) -> Gaussian:
        """Distribution of x_s given x_t and the clean image, q(x_s | x_t, x_0) for s < t.

        Args:
            x_t: Noisy state, shape (B, C, h, w) with (h, w) = r(t).
            x0_s: Clean image at resolution r(s), shape (B, C, H, W); usually a prediction.
            t: Grid point of x_t, 1..T.
            s: Grid point to go to, 0..t-1.

        Returns:
            Gaussian over (B, C, H, W); at s = 0 it is the point x0_s.

        Raises:
            ValueError: If s >= t, or a shape does not fit r(t) or r(s).
        """
        self.check_states(x_t, x0_s, t, s)
        M, c, rho = self.bridge(s, t)
        mu_s = self.noise.alpha(s) * x0_s
        gain = c * (self.noise.sigma(s) / self.noise.sigma(t)) ** 2
        mean = mu_s + gain * M.adjoint(x_t - c * M(mu_s))
        return Gaussian(mean, M, lambda e: 1 - rho * e, self.noise.sigma(s))

    def bridge(self, s: int, t: int) -> tuple[LinearOperator, float, float]:
        """M_{s->t}, c = alpha_t / alpha_s and rho = SNR_t / SNR_s of a step between s and t.

        Raises:
            ValueError: If not 0 <= s < t <= T.
        """
        if not 0 <= s < t <= self.timesteps:
            raise ValueError(f"cannot go between s = {s} and t = {t}; need 0 <= s < t <= {self.timesteps}")
        c = self.noise.alpha(t) / self.noise.alpha(s)
        rho = math.exp(self.noise.log_snr(t) - self.noise.log_snr(s))
        return self.degradation.operator(s, t), c, rho

    def check_states(self, x_t: Tensor, x0_s: Tensor, t: int, s: int) -> None:
        """Refuse what is not of size r(t) and r(s).

        Raises:
            ValueError: If a size does not fit; it names the tensor.
        """
        self._check_size(x_t, t, "x_t")
        self._check_size(x0_s, s, "x0_s")

    @cached_property
    def _norms_squared(self) -> dict[int, float]:
        return {t: self.degradation.norm_squared(t) for t in self.degradation.change_points}

    def _check_size(self, x: Tensor, t: int, name: str) -> None:
        if tuple(x.shape[-2:]) != self.size(t):
            raise ValueError(f"{name} has size {tuple(x.shape[-2:])}, but r({t}) is {self.size(t)}; resize it first")


def _like(value: float | Tensor, x: Tensor) -> float | Tensor:
    # One value for each picture of the batch, in the picture's dtype.
    if isinstance(value, Tensor):
        return value.to(x.device, x.dtype).reshape(-1, *[1] * (x.dim() - 1))
    return value
