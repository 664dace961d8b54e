"""The objective: w(SNR_t) * mean((prediction - x0_s)^2), the mean over pixels and channels.

The network predicts the clean image at the resolution it steps to, x0_s = M_{0->s} x_0. Weights are functions of
the SNR of x_t.

Sources: min-SNR, Hang et al. 2023 (arXiv 2303.09556); SNR, max-SNR (truncated SNR) and SNR + 1, Salimans and Ho 2022
(arXiv 2202.00512); with d = 0.5, Karras et al. 2022 (arXiv 2206.00364); sigmoid, Hoogeboom et al. 2024, SiD2 (2410.19324).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = [
    "ConstantWeight",
    "LossWeight",
    "MaxSNR",
    "MinSNR",
    "SNRWeight",
    "SigmoidWeight",
    "VelocityWeight",
    "x0_loss",
]


class LossWeight(Protocol):
    """A weight for every SNR."""

    def __call__(self, snr: Tensor) -> Tensor:
        """Weights of the shape of ``snr``."""
        ...


@dataclass(frozen=True)
class MinSNR:
    """min(SNR, gamma), the paper's weight with gamma = 5."""

    gamma: float = 5.0

    def __call__(self, snr: Tensor) -> Tensor:
        return snr.clamp_max(self.gamma)


@dataclass(frozen=True)
class MaxSNR:
    """max(SNR, floor), so that the noisiest steps keep some weight."""

    floor: float = 1.0

    def __call__(self, snr: Tensor) -> Tensor:
        return snr.clamp_min(self.floor)


@dataclass(frozen=True)
class SNRWeight:
    """The SNR itself, which is the plain mean squared error of the noise."""

    def __call__(self, snr: Tensor) -> Tensor:
        return snr


@dataclass(frozen=True)
class VelocityWeight:
    """SNR + 1 / d^2: inside a level the plain mean squared error of ``Velocity``'s output.

    Args:
        sigma_data: d, standard deviation of the pictures.
    """

    sigma_data: float = 1.0

    def __call__(self, snr: Tensor) -> Tensor:
        return snr + self.sigma_data**-2


@dataclass(frozen=True)
class SigmoidWeight:
    """gamma sigmoid(log SNR - log gamma) = SNR gamma / (SNR + gamma), a smooth min(SNR, gamma).

    With the bias b = log gamma it is the sigmoid weight of SiD2, whose squared error of the noise has weight
    sigmoid(b - log SNR).
    """

    gamma: float = 5.0

    def __call__(self, snr: Tensor) -> Tensor:
        return self.gamma / (1 + self.gamma / snr)


@dataclass(frozen=True)
class ConstantWeight:
    """The weight 1 everywhere, which is the plain mean squared error of x_0."""

    def __call__(self, snr: Tensor) -> Tensor:
        return snr.new_ones(snr.shape)


def x0_loss(prediction: Tensor, x0_s: Tensor, weight: Tensor) -> Tensor:
    """Weighted squared error of every picture.

    Args:
        prediction: Predicted clean image at r(s), shape (B, C, H, W).
        x0_s: Clean image at r(s), shape (B, C, H, W).
        weight: Weight of every picture, shape (B,).

    Returns:
        Shape (B,), in the dtype of the error.
    """
    error = (prediction - x0_s).square().flatten(1).mean(1)
    return weight.to(error.device, error.dtype) * error
