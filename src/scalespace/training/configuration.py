"""Typed, frozen configurations, and the presets. Nothing here needs torch, so that the command line answers at once."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from typing import Literal

from scalespace.errors import UserError

__all__ = ["PRESETS", "ModelConfig", "NetworkConfig", "ProcessConfig", "TrainConfig", "preset"]


@dataclass(frozen=True)
class ProcessConfig:
    """What is noised and resized when."""

    image_size: tuple[int, int] = (64, 64)
    """Height and width of the pictures."""
    levels: int = 4
    """Resolutions, each half of the one before; 1 is DDPM."""
    timesteps: int = 1000
    """Grid points T of the process."""
    noise: Literal["linear", "cosine"] = "linear"
    """Noise schedule."""
    beta_start: float = 1e-4
    """First beta of the linear noise schedule."""
    beta_end: float = 2e-2
    """Last beta of the linear noise schedule."""
    resolution: Literal["convex", "equal", "sigmoid", "tanh", "auto"] = "convex"
    """Resolution schedule: the paper's ConvexDecay, Equal, SigmoidLike or TanhLike; auto reads it off the data's spectrum."""
    gamma: float = 0.5
    """Exponent of the resolution schedule (Equal and auto have none)."""
    tolerance: float = 0.01
    """Of auto: a level is left where the signal-to-noise ratio of what it alone holds sinks below this."""
    degradation: Literal["bilinear", "orthonormal", "blurring"] = "bilinear"
    """How a level is resized to the next: the paper's bilinear, or with equal singular values; blurring keeps one level and
    blurs with every step (Blurring Diffusion; with --prediction epsilon)."""
    sigma_blur: float = 20.0
    """Of blurring: standard deviation of the blur at the end, in pixels."""
    shifted: bool = True
    """Raise log-SNR at every change by as much as the transition allows; the paper keeps sigma across it."""
    change_points: tuple[int, ...] = ()
    """First grid point of every level but the highest, by hand, in the place of the resolution schedule."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Height and width of every level, by hand, in the place of image-size and halvings."""

    @property
    def awaits_data(self) -> bool:
        """Whether the change points are still to be read off the data."""
        return self.resolution == "auto" and not self.change_points and (len(self.sizes) or self.levels) != 1


@dataclass(frozen=True)
class NetworkConfig:
    """The Flexi-UNet."""

    base_channels: int = 128
    """Channels that a multiplier of 1 stands for."""
    channel_multipliers: tuple[int, ...] = (1, 2, 3, 4)
    """Width of each network level, from the full resolution down."""
    blocks_per_level: int = 2
    """Residual blocks of each encoder level; the decoder has one more."""
    attention_max_size: int = 16
    """Levels whose shorter side is at most this many pixels have attention."""
    attention_heads: int = 4
    """Heads of every attention."""
    dropout: float = 0.0
    """Probability of dropping a feature in the residual blocks."""
    num_classes: int | None = None
    """Classes to condition on; None for none."""
    paths: Literal["flexi", "full"] = "flexi"
    """flexi runs what the resolutions of a step need; full, a baseline, always every level at the full resolution."""
    condition_size: tuple[int, int] | None = None
    """Height and width of smaller pictures to condition on, for the second model of a cascade; None for none."""


@dataclass(frozen=True)
class ModelConfig:
    """A process and the network that reverses it."""

    process: ProcessConfig = field(default_factory=ProcessConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    prediction: Literal["sample", "epsilon", "v"] = "sample"
    """What the network's output is: the clean image as in the paper, the noise, or v."""
    sigma_data: float = 1.0
    """Of v: the pictures' standard deviation; 1 is the usual v, 0.5 EDM's preconditioning."""
    solver: Literal["ancestral", "ddim", "multistep", "corrected"] = "corrected"
    """How the model is sampled where nothing else is said; the paper's way is ancestral."""
    spacing: Literal["linspace", "log_snr"] = "log_snr"
    """Equal sampling steps of time or, for multistep and corrected, of log-SNR, where nothing else is said."""
    released_quirks: bool = False
    """Reproduce what the paper's released code does differently from the paper (docs/notation.md lists it)."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ModelConfig):
    """A training run; the same configuration and seed on the same data give the same run."""

    data: str
    """Folder of images, zip of images, or synthetic:shapes."""
    output_dir: str
    """Where the run is written; the same command again resumes it."""
    max_steps: int = 100_000
    """Steps after which training ends; a longer run can be resumed from a shorter one."""
    batch_size: int = 64
    """Pictures a step on each process."""
    seed: int = 0
    """Seed of everything drawn: initial weights, data order, times, noise, dropout and sample grids."""
    learning_rate: float = 1e-4
    """AdamW's learning rate after the warm-up."""
    warmup_steps: int = 1000
    """Steps over which the learning rate rises linearly from zero."""
    cooldown_steps: int = 0
    """Steps at the end of the run over which it falls linearly to zero again."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.9999
    """Largest decay of the averaged weights, which are the ones that the final model has."""
    ema_power: float = 0.75
    """The decay rises to ema-decay as 1 - (1 + step)^-ema-power."""
    weight: Literal["min-snr", "constant", "snr", "max-snr", "v"] = "min-snr"
    """Weight of the loss of x_0 as a function of the SNR; v is SNR + 1 / sigma-data^2, the plain error of v."""
    weight_gamma: float = 5.0
    """gamma of min-SNR: min(SNR, gamma)."""
    weight_snr: Literal["own", "base"] = "own"
    """The SNR that the weight is a function of: the process's own, or that of its noise before it was shifted."""
    change_share: float | None = None
    """Share of the batches at resolution changes, where there are any, all together; None leaves them their share of the grid
    points, as the paper does."""
    weigh_changes: bool = False
    """Weigh batches at changes down by as much as change-share makes them more frequent."""
    condition_noise: float = 0.5
    """With network.condition-size: largest level of the noise in the smaller pictures, 0..1."""
    flip: bool = True
    """Mirror pictures left to right at random."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the network's arithmetic; weights, states and losses stay in float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    log_every: int = 10
    """Steps between writes of the log."""
    sample_every: int = 5000
    """Steps between sample grids; 0 for none."""
    sample_images: int = 16
    """Pictures in a sample grid."""
    sample_steps: int = 50
    """Sampling steps of a sample grid."""
    checkpoint_every: int = 5000
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints kept; older ones are deleted."""
    tracker: Literal["none", "tensorboard", "wandb"] = "none"
    """Where losses are sent besides the log."""
    cache_gib: float = 4.0
    """Decoded pictures are kept in memory if they need no more than this."""

    def __post_init__(self):
        positive = (
            *("max_steps", "batch_size", "learning_rate", "gradient_clip", "log_every", "sample_images"),
            *("checkpoint_every", "keep_checkpoints", "weight_gamma", "ema_power"),
        )
        for name in positive:
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}; give a number above 0")
        for name in ("seed", "warmup_steps", "cooldown_steps", "weight_decay", "sample_every", "cache_gib"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} is {getattr(self, name)}; give 0 or more")
        if self.seed >= 2**32:
            raise UserError(f"seed is {self.seed}; give at most {2**32 - 1}")
        if self.sample_steps < 2:
            raise UserError(f"sample_steps is {self.sample_steps}; give at least 2")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay is {self.ema_decay}; give a number from 0 up to but not including 1")
        if not 0 <= self.condition_noise <= 1:
            raise UserError(f"condition_noise is {self.condition_noise}; a level of noise lies between 0 and 1")
        if self.change_share is not None and not 0 <= self.change_share <= 1:
            raise UserError(f"change_share is {self.change_share}; a share lies between 0 and 1")


def _octaves(pixels: int, levels: int, multipliers: tuple[int, ...], **network) -> ModelConfig:
    return ModelConfig(
        ProcessConfig(image_size=(pixels, pixels), levels=levels),
        NetworkConfig(channel_multipliers=multipliers, **network),
    )


def _paper(pixels: int, levels: int, multipliers: tuple[int, ...], **network) -> ModelConfig:
    model = _octaves(pixels, levels, multipliers, **network)
    return replace(model, process=replace(model.process, shifted=False), solver="ancestral", spacing="linspace")


_64, _128, _256 = (1, 2, 3, 4), (1, 1, 2, 3, 4), (1, 1, 2, 2, 4, 4)

PRESETS: dict[str, ModelConfig] = {
    "tiny": _octaves(32, 3, (1, 2, 4), base_channels=32),
    "shifted64-4l": _octaves(64, 4, _64),
    "shifted128-5l": _octaves(128, 5, _128),
    "shifted256-6l": _octaves(256, 6, _256),
    "celeba64-1l": _paper(64, 1, _64),
    "celeba64-2l": _paper(64, 2, _64),
    "celeba64-4l": _paper(64, 4, _64),
    "celeba128-3l": _paper(128, 3, _128),
    "celeba128-5l": _paper(128, 5, _128),
    "celeba256-3l": _paper(256, 3, _256),
    "celeba256-4l": _paper(256, 4, _256),
    "celeba256-6l": _paper(256, 6, _256),
    "imagenet64-2l": _paper(64, 2, _64, num_classes=1000),
}
"""``tiny`` trains on a CPU; ``shifted`` ones have the paper's networks and resolutions with what this package does better, and
the others are the paper's throughout."""


def preset(name: str) -> ModelConfig:
    """The preset of that name.

    Raises:
        UserError: If there is none; it names the nearest ones.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=3, cutoff=0.4) or list(PRESETS)
        raise UserError(f'there is no preset "{name}"; did you mean {" or ".join(near)}?')
    return PRESETS[name]
