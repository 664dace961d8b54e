"""What a training run takes of memory and disk at least, so that one that cannot fit is refused before anything is taken."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from scalespace.memory import check_disk, check_memory
from scalespace.networks.flops import path_activations
from scalespace.pipelines.pretrained.unet import PretrainedUNet
from scalespace.pipelines.sampling import check_batch
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.runs.averages import WIDTHS
from scalespace.training.build import build_batches, build_times
from scalespace.training.configuration import TrainConfig

__all__ = ["check_footprint"]

_NUMBERS = 5  # of every parameter: itself, its gradient, two moments and its average
_KEPT_NUMBERS = 4  # of every parameter in a checkpoint, which has no gradient
_FLOAT = 4  # bytes
_BATCHES = 5  # those that are read ahead, and the one in use


def check_footprint(
    config: TrainConfig,
    scheduler: ScaleSpaceScheduler,
    make: Callable[[], Any],
    device: torch.device,
    processes: int = 1,
) -> None:
    """Refuse a run that memory or disk cannot hold.

    Args:
        config: Configuration of the run.
        scheduler: Scheduler with the process of the run.
        make: Builds a network like that of the run.
        device: Device that each process computes on.
        processes: Number of processes that share a step.

    Raises:
        UserError: If it cannot fit.
    """
    # Not on "meta": there attention keeps its matrix of weights, which the fused kernels of CPUs and accelerators do not.
    with FakeTensorMode():
        network, size = make(), scheduler.image_size
        if config.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        activations = path_activations(network, size, size)
    if config.mixed_precision in ("bf16", "fp16"):
        activations //= 2
    parameters = sum(parameter.numel() for parameter in network.parameters())
    batches = build_batches(config, make, build_times(config, scheduler.process)).sizes(0)
    # The first group has the steps at the full resolution.
    together = min(-(-batches[0] // processes), config.micro_batch or batches[0])
    averages = len(WIDTHS) if config.average_every else 0
    # Of a network in shards, pictures are drawn with all of the averaged weights.
    held, whole = (-(-parameters // processes), parameters) if config.sharding == "fsdp2" else (parameters, 0)
    needs = {
        "weights, gradients, moments and averages": _FLOAT * ((_NUMBERS + averages) * held + whole),
        f"the activations of {together:,} pictures": together * activations,
    }
    read = {"the pictures that are read ahead": _BATCHES * max(batches) // processes * 3 * math.prod(size)}
    width = "--network.base-channels" if config.backbone == "unet" else "--transformer.width"
    narrower = "" if isinstance(network, PretrainedUNet) else f" or {width}"
    lower = f"lower --batch-size{narrower}, or give a --micro-batch"
    if device.type == "cpu":
        check_memory("training", needs | read, lower)
    else:
        check_memory("training", needs, lower, device)
        check_memory("training", read, "lower --batch-size")
    if config.sample_every:
        check_batch(network, config.sample_images, device, "lower --sample-images")
    check_disk(
        "checkpoints",
        Path(config.output_dir),
        1,
        (_KEPT_NUMBERS + averages) * _FLOAT * parameters,
        f"name another --output-dir{narrower.replace('or', 'or lower')}",
    )
