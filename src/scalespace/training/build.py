"""From configurations to objects: the scheduler (and in it the process), the network, and the weight of the loss."""

from __future__ import annotations

from collections.abc import Sequence

from scalespace.diffusion.degradation import Resizing
from scalespace.diffusion.loss import ConstantWeight, LossWeight, MaxSNR, MinSNR, SNRWeight
from scalespace.diffusion.resolution import ChangesAt, ConvexDecay, Equal, ResolutionSchedule, SigmoidLike, TanhLike
from scalespace.errors import UserError
from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.operators.linear import Size
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.training.configuration import ModelConfig, ProcessConfig, TrainConfig

__all__ = ["build_network", "build_scheduler", "loss_weight"]

# Below it alpha_t is nothing to float32, and no step can lead back.
_SMALLEST_SNR = 1e-30


def build_scheduler(model: ModelConfig) -> ScaleSpaceScheduler:
    """The scheduler of a model; its ``process`` is the one to train on.

    Raises:
        UserError: If image size, levels, schedules and noise do not fit each other.
    """
    config = model.process
    try:
        degradation = _degradation(config)
        scheduler = ScaleSpaceScheduler(
            num_train_timesteps=config.timesteps,
            beta_schedule={"linear": "linear", "cosine": "squaredcos_cap_v2"}[config.noise],
            beta_start=config.beta_start,
            beta_end=config.beta_end,
            sizes=degradation.sizes,
            change_points=degradation.change_points,
            released_quirks=model.released_quirks,
        )
        if scheduler.process.noise.snr(config.timesteps) < _SMALLEST_SNR:
            raise ValueError(
                f"its noise leaves an SNR of less than {_SMALLEST_SNR:g} at t = {config.timesteps}; use smaller betas"
            )
        return scheduler
    except ValueError as error:
        raise UserError(f"the process cannot be built: {error}") from error


def build_network(model: ModelConfig, sizes: Sequence[Size]) -> FlexiUNet:
    """The network of a model for the sizes of its process, with freshly drawn weights.

    Raises:
        UserError: If the widths do not fit the process's sizes.
    """
    network = model.network
    if not 0 <= network.dropout < 1:
        raise UserError(f"the network cannot be built: dropout is {network.dropout}; give at least 0 and less than 1")
    try:
        return FlexiUNet(
            sizes=sizes,
            base_channels=network.base_channels,
            channel_multipliers=network.channel_multipliers,
            blocks_per_level=network.blocks_per_level,
            attention_max_size=network.attention_max_size,
            attention_heads=network.attention_heads,
            dropout=network.dropout,
            num_classes=network.num_classes,
            released_quirks=model.released_quirks,
        )
    except ValueError as error:
        raise UserError(f"the network cannot be built: {error}") from error


def loss_weight(config: TrainConfig) -> LossWeight:
    """The weight of the loss that a configuration names."""
    weights: dict[str, LossWeight] = {
        "min-snr": MinSNR(config.weight_gamma),
        "constant": ConstantWeight(),
        "snr": SNRWeight(),
        "max-snr": MaxSNR(),
    }
    return weights[config.weight]


def _degradation(config: ProcessConfig) -> Resizing:
    if config.timesteps < 2:
        raise ValueError(f"a process of {config.timesteps} timesteps cannot be sampled; give at least 2")
    if min(config.image_size) < 1:
        raise ValueError("an image size of {}x{} holds no pixels; give at least 1x1".format(*config.image_size))
    if config.sizes:
        levels = len(config.sizes)
        points = _schedule(config, levels).change_points(config.timesteps)
        return Resizing(config.sizes, points, config.timesteps)
    return Resizing.octaves(config.image_size, _schedule(config, config.levels), config.timesteps)


def _schedule(config: ProcessConfig, levels: int) -> ResolutionSchedule:
    if config.change_points:
        return ChangesAt(config.change_points)
    if config.resolution == "equal":
        return Equal(levels)
    return {"convex": ConvexDecay, "sigmoid": SigmoidLike, "tanh": TanhLike}[config.resolution](levels, config.gamma)
