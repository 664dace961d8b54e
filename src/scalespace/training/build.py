"""From configurations to objects: the scheduler (and in it the process), the network, and the weight of the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from scalespace.diffusion.degradation import Resizing
from scalespace.diffusion.loss import (
    ConstantWeight,
    LossWeight,
    MaxSNR,
    MinSNR,
    SigmoidWeight,
    SNRWeight,
    VelocityWeight,
)
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.resolution import ChangesAt, ConvexDecay, Equal, ResolutionSchedule, SigmoidLike, TanhLike
from scalespace.diffusion.shifted import Shifted
from scalespace.diffusion.spectral import FromSpectrum, check_tolerance
from scalespace.errors import UserError, cause
from scalespace.networks.flexi_transformer import FlexiTransformer
from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.networks.flops import path_activations, path_gflops
from scalespace.operators.linear import Size
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.training.configuration import ModelConfig, ProcessConfig, TrainConfig
from scalespace.training.level_sampling import LevelBatches
from scalespace.training.time_sampling import TimeSampler

__all__ = [
    "build_batches",
    "build_network",
    "build_scheduler",
    "build_times",
    "least_parameters",
    "loss_weight",
    "spectral_schedule",
    "with_data",
    "without_data",
]

_Model = TypeVar("_Model", bound=ModelConfig)

# Below it alpha_t is nothing to float32, and no step can lead back.
_SMALLEST_SNR = 1e-30
# Terabytes of weights; building what has more would take minutes before it fails.
_MOST_PARAMETERS = 10**12


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
            beta_schedule={"cosine": "squaredcos_cap_v2"}.get(config.noise, config.noise),
            beta_start=config.beta_start,
            beta_end=config.beta_end,
            sizes=degradation.sizes,
            change_points=degradation.change_points,
            degradation=config.degradation,
            sigma_blur=config.sigma_blur,
            shifted=config.shifted,
            prediction_type={"v": "v_prediction"}.get(model.prediction, model.prediction),
            sigma_data=model.sigma_data,
            solver=model.solver,
            timestep_spacing=model.spacing,
            released_quirks=model.released_quirks,
        )
        if scheduler.process.noise.snr(config.timesteps) < _SMALLEST_SNR:
            raise ValueError(
                f"its noise leaves an SNR of less than {_SMALLEST_SNR:g} at t = {config.timesteps}; use smaller betas"
            )
        return scheduler
    except ValueError as error:
        raise _no_process(error) from error


def without_data(model: _Model) -> _Model:
    """The model with change points in the place of those that its data has yet to give, so that the rest can be checked.

    Raises:
        UserError: If the levels do not fit on the grid, or the tolerance is none.
    """
    config = model.process
    if not config.awaits_data:
        return model
    try:
        check_tolerance(config.tolerance)
        points = Equal(len(config.sizes) or config.levels).change_points(config.timesteps)
    except ValueError as error:
        raise _no_process(error) from error
    return _with_change_points(model, points)


def with_data(model: _Model, spectrum: Tensor) -> _Model:
    """The model with its change points read off the spectrum of its data; arguments and errors as ``spectral_schedule``."""
    return _with_change_points(model, spectral_schedule(model, spectrum).change_points(model.process.timesteps))


def spectral_schedule(model: ModelConfig, spectrum: Tensor) -> FromSpectrum:
    """The resolution schedule that the spectrum of the data gives a model, whatever schedule the model names.

    Args:
        model: The model, of which levels, noise and tolerance are used.
        spectrum: Spectrum from ``mean_spectrum``, shape (H, W).

    Raises:
        UserError: If the spectrum or the tolerance gives none, or the model cannot be.
    """
    # Without the shift, which only the change points themselves give rise to, the process has the base schedule.
    config = replace(model.process, resolution="auto", change_points=(), shifted=False)
    scheduler = build_scheduler(without_data(replace(model, process=config)))
    try:
        schedule = FromSpectrum(spectrum, scheduler.sizes, scheduler.process.noise, config.tolerance)
        schedule.change_points(config.timesteps)
    except ValueError as error:
        raise _no_process(error) from error
    return schedule


def build_network(model: ModelConfig, sizes: Sequence[Size]) -> FlexiUNet | FlexiTransformer:
    """The network of a model for the sizes of its process, with freshly drawn weights.

    Raises:
        UserError: If the widths, or the patches, do not fit the process's sizes.
    """
    network, transformer = model.network, model.transformer
    if (least := least_parameters(model)) > _MOST_PARAMETERS:
        lower = ("transformer.width", "transformer.depth")
        if model.backbone == "unet":
            lower = ("network.base-channels", "network.blocks-per-level")
        raise UserError(
            f"the network would have at least {least:.2g} parameters, and more than {_MOST_PARAMETERS:.2g} are out of all "
            f"proportion; lower --{lower[0]} or --{lower[1]}"
        )
    if not 0 <= network.dropout < 1:
        raise UserError(f"the network cannot be built: dropout is {network.dropout}; give at least 0 and less than 1")
    if not 0 <= model.label_dropout < 1:
        raise UserError(f"label_dropout is {model.label_dropout}; give at least 0 and less than 1")
    common: dict[str, Any] = {
        "sizes": sizes,
        "in_channels": model.process.channels,
        "out_channels": model.process.channels,
        "dropout": network.dropout,
        "num_classes": network.num_classes,
        "condition_size": network.condition_size,
        "null_class": model.label_dropout > 0,
    }
    try:
        if model.backbone == "transformer":
            return FlexiTransformer(
                patch_size=transformer.patch_size,
                width=transformer.width,
                depth=transformer.depth,
                heads=transformer.heads,
                **common,
            )
        return FlexiUNet(
            base_channels=network.base_channels,
            channel_multipliers=network.channel_multipliers,
            blocks_per_level=network.blocks_per_level,
            attention_max_size=network.attention_max_size,
            attention_heads=network.attention_heads,
            released_quirks=model.released_quirks,
            paths=network.paths,
            min_channels_per_group=network.min_channels_per_group,
            **common,
        )
    except ValueError as error:
        raise UserError(f"the network cannot be built: {cause(error)}") from error


def least_parameters(model: ModelConfig) -> int:
    """A lower bound on the parameters of a network, known before it is built: its widest layers alone, of every block."""
    network, transformer = model.network, model.transformer
    if model.backbone == "transformer":
        # Attention has four matrices of width x width, and the two layers after it have eight more.
        return 12 * transformer.depth * transformer.width**2
    widths = [network.base_channels * multiplier for multiplier in network.channel_multipliers]
    # On the way down and on the way up, each block has a 3 x 3 convolution that keeps the width.
    return 2 * network.blocks_per_level * sum(9 * width**2 for width in widths)


def build_times(config: TrainConfig, process: ScaleSpaceProcess) -> TimeSampler:
    """What draws the times of a run's batches."""
    try:
        return TimeSampler(
            process, config.change_share, config.weigh_changes, config.times, config.level_shares or None
        )
    except ValueError as error:
        raise UserError(f"level_shares: {cause(error)}") from error


def build_batches(config: TrainConfig, make: Callable[[], Any], times: TimeSampler) -> LevelBatches:
    """How many pictures the steps of a run take, over all processes.

    Args:
        config: Configuration of the run.
        make: Builds a network like that of the run.
        times: Draws the groups of its steps.
    """
    pairs = [(group.size, group.target_size) for group in times.groups]
    gflops = activations = [1.0] * len(pairs)
    # Natural batches are of one size whatever their steps cost, and counting takes seconds.
    if config.level_sampling != "natural":
        with torch.device("meta"):
            network = make()
        gflops = [path_gflops(network, *pair) for pair in pairs]
        if config.level_sampling == "constant-memory":
            activations = [path_activations(network, *pair) for pair in pairs]
    return LevelBatches(config.level_sampling, config.batch_size, times.probabilities.tolist(), gflops, activations)


def loss_weight(config: TrainConfig, process: ScaleSpaceProcess) -> Callable[[Tensor], Tensor]:
    """The weight of the loss that a configuration names, as a function of grid points of the process."""
    weights: dict[str, LossWeight] = {
        "min-snr": MinSNR(config.weight_gamma),
        "constant": ConstantWeight(),
        "snr": SNRWeight(),
        "max-snr": MaxSNR(),
        "sigmoid": SigmoidWeight(config.weight_gamma),
        "v": VelocityWeight(config.sigma_data),
    }
    noise = process.noise.base if config.weight_snr == "base" and isinstance(process.noise, Shifted) else process.noise
    return lambda t: weights[config.weight](noise.snr(t)) + config.weight_offset


def _with_change_points(model: _Model, points: Sequence[int]) -> _Model:
    return replace(model, process=replace(model.process, resolution="auto", change_points=tuple(points)))


def _no_process(error: ValueError) -> UserError:
    return UserError(f"the process cannot be built: {cause(error)}")


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
    if config.awaits_data:
        raise ValueError('the resolution schedule "auto" reads its change points off the pictures; give --data')
    if config.change_points or config.resolution == "auto":
        return ChangesAt(config.change_points)
    if config.resolution == "equal":
        return Equal(levels)
    return {"convex": ConvexDecay, "sigmoid": SigmoidLike, "tanh": TanhLike}[config.resolution](levels, config.gamma)
