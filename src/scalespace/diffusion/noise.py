"""Noise schedules on the grid 0..T, where 0 is the clean image and T is noise.

A schedule is its log-SNR, log(alpha_t^2 / sigma_t^2), decreasing from +infinity at t = 0. From it
alpha_t^2 = sigmoid(log-SNR) and sigma_t^2 = sigmoid(-log-SNR), both exact to rounding where the other is close to 1.

The log-SNR may rise only at a change of resolution (see ``shifted``), as far as the transition allows.

Sources: linear betas, Ho, Jain and Abbeel 2020 (arXiv 2006.11239); cosine, Nichol and Dhariwal 2021 (arXiv 2102.09672); no
signal at T, Lin et al. 2023, Common Diffusion Noise Schedules and Sample Steps Are Flawed (arXiv 2305.08891).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import torch
from torch import Tensor

from scalespace.diffusion.limits import check_timesteps
from scalespace.operators.precision import best_dtype

__all__ = ["BetaRange", "Betas", "Cosine", "LinearBeta", "Lookup", "NoiseSchedule", "ScaledLinearBeta", "ZeroTerminal"]


class Lookup:
    """A quantity at grid points: a float at an int, a tensor of its shape and device at an integer tensor.

    The tensor is float64, or float32 on a device that has no float64.
    """

    def __init__(self, table: Tensor):
        self._table = table

    @overload
    def __call__(self, t: int) -> float: ...
    @overload
    def __call__(self, t: Tensor) -> Tensor: ...
    def __call__(self, t: int | Tensor) -> float | Tensor:
        """The value at t, in 0..T."""
        if isinstance(t, Tensor):
            return self._table.to(t.device, best_dtype(t.device))[t]
        return self._table[t].item()


class NoiseSchedule(ABC):
    """Abstract: signal and noise levels with alpha_t^2 + sigma_t^2 = 1."""

    timesteps: int
    """T, the last grid point."""

    @cached_property
    @abstractmethod
    def log_snr_table(self) -> Tensor:
        """log(alpha_t^2 / sigma_t^2) for t = 0..T, shape (T + 1,), float64."""

    @cached_property
    def log_snr(self) -> Lookup:
        """log(alpha_t^2 / sigma_t^2); infinite at t = 0."""
        return Lookup(self.log_snr_table)

    @cached_property
    def snr(self) -> Lookup:
        """alpha_t^2 / sigma_t^2; infinite at t = 0."""
        return Lookup(self.log_snr_table.exp())

    @cached_property
    def alpha(self) -> Lookup:
        """Signal level alpha_t in [0, 1]."""
        return Lookup(self.log_snr_table.sigmoid().sqrt())

    @cached_property
    def sigma(self) -> Lookup:
        """Noise level sigma_t in [0, 1]."""
        return Lookup((-self.log_snr_table).sigmoid().sqrt())


@dataclass(frozen=True)
class Betas(NoiseSchedule):
    """Betas given one by one; alpha_t^2 = prod (1 - beta_i).

    Args:
        betas: beta_1 to beta_T, each in (0, 1).

    Raises:
        ValueError: If there is none, or one is not in (0, 1).
    """

    betas: tuple[float, ...]

    def __post_init__(self):
        check_timesteps(self.timesteps)
        for t, beta in enumerate(self.betas, 1):
            _check_beta(f"beta {t}", beta)

    @property
    def timesteps(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """T, the number of betas."""
        return len(self.betas)

    @cached_property
    def log_snr_table(self) -> Tensor:
        return _log_snr_of_betas(torch.tensor(self.betas, dtype=torch.float64))


@dataclass(frozen=True)
class ZeroTerminal(NoiseSchedule):
    """A schedule that is stretched until T has no signal, and keeps the signal of the first grid point.

    alpha_t <- (alpha_t - alpha_T) alpha_1 / (alpha_1 - alpha_T); at T, where that is zero, alpha_T^2 = 2^-24 stays, the least
    that half precision knows, so that log-SNR is finite.

    Args:
        base: Schedule to stretch.

    Raises:
        ValueError: If it has one grid point only, which cannot be the first and without signal.
    """

    base: NoiseSchedule

    def __post_init__(self):
        if self.base.timesteps < 2:
            raise ValueError("a process of 1 timestep cannot end without signal and begin with some; give at least 2")

    @property
    def timesteps(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """T, the last grid point."""
        return self.base.timesteps

    @cached_property
    def log_snr_table(self) -> Tensor:
        alpha = self.base.log_snr_table[1:].sigmoid().sqrt()
        signal = ((alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))).square()
        # Of a base that is nearly noise long before T no point may fall under the last one.
        floor = 2.0**-24 * torch.arange(self.timesteps, 0, -1, dtype=torch.float64)
        return torch.cat([self.base.log_snr_table[:1], signal.maximum(floor).logit()])


@dataclass(frozen=True)
class BetaRange(NoiseSchedule):
    """Abstract: betas from ``beta_start`` to ``beta_end``; alpha_t^2 = prod (1 - beta_i).

    Args:
        timesteps: Number of timesteps, T.
        beta_start: beta_1, in (0, 1).
        beta_end: beta_T, in (0, 1).

    Raises:
        ValueError: If T is not positive or a beta is not in (0, 1).
    """

    timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 2e-2

    def __post_init__(self):
        check_timesteps(self.timesteps)
        for name in ("beta_start", "beta_end"):
            _check_beta(name, getattr(self, name))

    @property
    @abstractmethod
    def betas(self) -> Tensor:
        """beta_1 to beta_T, shape (T,), float64."""

    @cached_property
    def log_snr_table(self) -> Tensor:
        return _log_snr_of_betas(self.betas)


@dataclass(frozen=True)
class LinearBeta(BetaRange):
    """Betas from ``beta_start`` to ``beta_end`` in equal steps. Arguments and errors as ``BetaRange``."""

    @property
    def betas(self) -> Tensor:
        return torch.linspace(self.beta_start, self.beta_end, self.timesteps, dtype=torch.float64)


@dataclass(frozen=True)
class ScaledLinearBeta(BetaRange):
    """Betas whose square roots go from that of ``beta_start`` to that of ``beta_end`` in equal steps.

    Arguments and errors as ``BetaRange``. Latent diffusion models (Rombach et al. 2021, arXiv 2112.10752) and what descends
    from them have it; diffusers calls it "scaled_linear".
    """

    @property
    def betas(self) -> Tensor:
        ends = self.beta_start**0.5, self.beta_end**0.5
        return torch.linspace(*ends, self.timesteps, dtype=torch.float64).square()


@dataclass(frozen=True)
class Cosine(NoiseSchedule):
    """alpha_t^2 = f(t / T) / f(0), f(u) = cos^2(pi/2 (u + offset) / (1 + offset)), with betas capped at ``beta_max``.

    Args:
        timesteps: Number of timesteps, T.
        offset: Keeps the first betas from vanishing.
        beta_max: Keeps the last one under 1, where the SNR would be zero.

    Raises:
        ValueError: If T is not positive, ``offset`` is negative or ``beta_max`` is not in (0, 1).
    """

    timesteps: int = 1000
    offset: float = 0.008
    beta_max: float = 0.999

    def __post_init__(self):
        check_timesteps(self.timesteps)
        if self.offset < 0 or not 0 < self.beta_max < 1:
            raise ValueError(
                f"cosine schedule with offset {self.offset} and beta_max {self.beta_max}; "
                "the offset cannot be negative and beta_max lies in (0, 1)"
            )

    @cached_property
    def log_snr_table(self) -> Tensor:
        u = torch.arange(self.timesteps + 1, dtype=torch.float64) / self.timesteps
        f = torch.cos(math.pi / 2 * (u + self.offset) / (1 + self.offset)) ** 2
        return _log_snr_of_betas((1 - f[1:] / f[:-1]).clamp_max(self.beta_max))


def _check_beta(name: str, beta: float) -> None:
    if not 0 < beta < 1:
        raise ValueError(f"{name} is {beta}; every beta adds noise and keeps some signal, so give one in (0, 1)")


def _log_snr_of_betas(betas: Tensor) -> Tensor:
    log_alpha_squared = torch.log1p(-betas).cumsum(0)
    log_snr = log_alpha_squared - torch.log(-torch.expm1(log_alpha_squared))
    return torch.cat([log_snr.new_tensor([math.inf]), log_snr])
