"""What diffusers' scripts and pipelines find at every scheduler under these names.

With alpha-bar_t = alpha_t^2, beta_t = 1 - alpha-bar_t / alpha-bar_{t-1}. diffusers counts time from 0: its timestep i is our
grid point i + 1, and the clean image has none.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

from torch import Tensor

from scalespace.diffusion.process import ScaleSpaceProcess

__all__ = ["DiffusersNames"]

_Time = TypeVar("_Time", int, Tensor)


class DiffusersNames:
    """Abstract: tables and small methods in diffusers' names. Entry i of a table is that of timestep i."""

    process: ScaleSpaceProcess

    @abstractmethod
    def _bridge(self, timestep: int | Tensor) -> tuple[int, int]:
        """Grid points t and s of the step from a timestep."""

    def __len__(self) -> int:
        return self.process.timesteps

    @property
    def alphas_cumprod(self) -> Tensor:
        """alpha_t^2, shape (T,), float32."""
        return self._signal()[1:].float()

    @property
    def alphas(self) -> Tensor:
        """alpha_t^2 / alpha_{t-1}^2, shape (T,), float32; above 1 where a shift lets the noise fall."""
        signal = self._signal()
        return (signal[1:] / signal[:-1]).float()

    @property
    def betas(self) -> Tensor:
        """1 - alpha_t^2 / alpha_{t-1}^2, shape (T,), float32; below 0 where a shift lets the noise fall."""
        signal = self._signal()
        return (1 - signal[1:] / signal[:-1]).float()

    def scale_model_input(self, sample: Tensor, timestep: int | Tensor | None = None) -> Tensor:
        """Return the sample unchanged. diffusers' pipelines expect this method of every scheduler."""
        return sample

    def previous_timestep(self, timestep: _Time) -> _Time:
        """The timestep that the step from one of ``timesteps`` leads to; -1 is the clean image.

        Raises:
            ValueError: If ``timestep`` is not one of ``timesteps``.
        """
        t, s = self._bridge(timestep)
        return timestep - (t - s)

    def _signal(self) -> Tensor:
        return self.process.noise.log_snr_table.sigmoid()
