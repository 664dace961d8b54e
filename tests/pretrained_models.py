"""Tiny models of diffusers with random weights, as folders."""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddim.pipeline_ddim import DDIMPipeline
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

SIZE = 16


def stock_network(**options: Any) -> UNet2DModel:
    torch.manual_seed(0)
    blocks = {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (8, 16),
    }
    shape = {"sample_size": SIZE, "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 8}
    return UNet2DModel(**(blocks | shape | options)).eval()


def stock_pipeline(sampler: str = "ddpm", network: dict[str, Any] | None = None, **noise: Any) -> Any:
    """A DDPMPipeline or a DDIMPipeline."""
    unet: Any = stock_network(**(network or {}))
    if sampler == "ddpm":
        pipeline: Any = DDPMPipeline(unet, DDPMScheduler(**noise))
    else:
        # The pipeline makes the scheduler anew; it would warn of nothing else.
        pipeline = DDIMPipeline(unet, DDIMScheduler(**noise))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def stock_folder(folder: Path, sampler: str = "ddpm", network: dict[str, Any] | None = None, **noise: Any) -> Path:
    stock_pipeline(sampler, network, **noise).save_pretrained(folder)
    return folder
