"""A pipeline whose network is the exact denoiser of Gaussian pictures of one channel."""

from typing import Any

import torch
from tests.small_models import small_network
from torch import Tensor

from scalespace import GaussianDenoiser, ScaleSpacePipeline, ScaleSpaceScheduler, power_law, spectral_covariance
from scalespace.networks.conditioned import DenoiserOutput

SIZES = ((8, 8), (4, 4))
COVARIANCE = spectral_covariance(power_law((8, 8), mean=0.005))
"""Small enough for nearly all pixels to lie in [-1, 1]."""


def exact_pipeline(**options: Any) -> ScaleSpacePipeline:
    """Two levels, 8 and 4 pixels, in 1000 timesteps."""
    options = {"solver": "corrected", "timestep_spacing": "log_snr", "shifted": True, "clip_sample": False} | options
    scheduler = ScaleSpaceScheduler(sizes=SIZES, change_points=(278,), **options)
    denoiser = GaussianDenoiser(scheduler.process, COVARIANCE)
    network = small_network(in_channels=1, out_channels=1)

    def forward(sample: Tensor, timestep: Any, target_size: Any, *others: Any, **more: Any) -> DenoiserOutput:
        s = 0 if target_size == SIZES[0] else 278
        return DenoiserOutput(denoiser(sample, int(timestep) + 1, s))

    network.forward = forward  # pyright: ignore[reportAttributeAccessIssue]
    pipeline = ScaleSpacePipeline(network, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def data(count: int, seed: int = 0) -> Tensor:
    """Pictures of its distribution, shape (count, 1, 8, 8), float32."""
    white = torch.randn(count, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (white @ torch.linalg.cholesky(COVARIANCE).mT).reshape(count, 1, 8, 8).float()
