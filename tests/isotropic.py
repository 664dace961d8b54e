"""A sampler that is wrong in one place, for tests that must notice it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scalespace.diffusion.process import ScaleSpaceProcess

__all__ = ["IsotropicAtChanges"]


@dataclass(frozen=True)
class IsotropicAtChanges:
    """Ancestral sampling that draws white noise, of the right total variance, where the resolution changes."""

    process: ScaleSpaceProcess

    def step(self, x_t: Tensor, x0_s: Tensor, t: int, s: int, noise: Tensor) -> Tensor:
        posterior = self.process.posterior(x_t, x0_s, t, s)
        if self.process.size(t) == self.process.size(s):
            return posterior.draw(noise)
        height, width = self.process.size(s)
        unit = torch.eye(height * width, dtype=torch.float64).reshape(-1, height, width)
        variance = posterior.covariance(unit).flatten(1).trace() / (height * width)
        return posterior.mean + float(variance.sqrt()) * noise
