"""Typed, frozen configurations, and the presets. Nothing here needs torch, so that the command line answers at once."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from scalespace.effects import Needs
from scalespace.errors import UserError
from scalespace.files import OutputFolder
from scalespace.training.changes import allowed_names, field_names
from scalespace.training.needs import MODEL, TRAINING
from scalespace.values import check_values

__all__ = [
    "PRESETS",
    "DegradationName",
    "DtypeName",
    "ModelConfig",
    "NetworkConfig",
    "ProcessConfig",
    "SolverName",
    "SpacingName",
    "TrainConfig",
    "TransformerConfig",
    "learning_rate",
    "preset",
]


# The scheduler's own names; the commands that draw pictures offer the same.
SolverName = Literal["ancestral", "ddim", "multistep", "corrected"]
SpacingName = Literal["linspace", "trailing", "log_snr"]
DtypeName = Literal["float32", "bfloat16", "float16"]
DegradationName = Literal["bilinear", "orthonormal", "pyramid", "blurring"]


@dataclass(frozen=True)
class ProcessConfig:
    """What the forward process does: picture size, resolutions, noise and degradation."""

    image_size: tuple[int, int] = (64, 64)
    """Height and width of the pictures."""
    channels: int = 3
    """Channels of the pictures: 3 for colour, 1 for grey. Pictures of the other kind are converted."""
    levels: int = 4
    """Number of resolutions, each half of the one before. One level is DDPM."""
    timesteps: int = 1000
    """Number T of noise levels. The clean picture, at t = 0, is not counted."""
    noise: Literal["linear", "scaled_linear", "cosine"] = "linear"
    """Noise schedule: DDPM's linear betas, betas with linear square roots, or the cosine schedule."""
    beta_start: float = 1e-4
    """First beta of the linear noise schedules."""
    beta_end: float = 2e-2
    """Last beta of the linear noise schedules."""
    resolution: Literal["convex", "equal", "sigmoid", "tanh", "auto"] = "convex"
    """Resolution schedule: convex, equal, sigmoid and tanh are the paper's; auto is read off the spectrum of the data."""
    gamma: float = 0.5
    """Exponent of the resolution schedules convex, sigmoid and tanh; the others have none."""
    tolerance: float = 0.01
    """Only with resolution auto: a level ends when the SNR of the detail that the next level loses falls below this."""
    degradation: DegradationName | str = "bilinear"
    """What shrinks pictures, or MODULE:CLASS of your own. Blurring keeps one size and needs prediction epsilon."""
    sigma_blur: float = 20.0
    """Standard deviation of the blur at the last timestep, in pixels. Only used with degradation blurring."""
    shifted: bool = True
    """Raise the log-SNR at every change of resolution as far as is allowed. The paper keeps sigma unchanged instead."""
    change_points: tuple[int, ...] = ()
    """First timestep of every level but the highest, in ascending order. Replaces the resolution schedule."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Height and width of every level, largest first. Replaces image-size and levels."""

    @property
    def awaits_data(self) -> bool:
        """Whether the change points are still to be read off the data."""
        return self.resolution == "auto" and not self.change_points and self.several_levels

    @property
    def several_levels(self) -> bool:
        """Whether there is more than one resolution."""
        return bool(self.change_points) or (len(self.sizes) or self.levels) != 1


@dataclass(frozen=True)
class NetworkConfig:
    """Conditioning of the network, and widths, depth and attention of the Flexi-UNet."""

    base_channels: int = 128
    """Number of channels that a multiplier of 1 stands for."""
    channel_multipliers: tuple[int, ...] = (1, 2, 3, 4)
    """Width of each network level as a multiple of base-channels, from the full resolution down."""
    blocks_per_level: int = 2
    """Number of residual blocks in each encoder level. Each decoder level has one more."""
    attention_max_size: int = 16
    """Levels whose shorter side has at most this many pixels have attention."""
    attention_heads: int = 4
    """Number of heads in every attention layer."""
    dropout: float = 0.0
    """Probability of dropping a feature in the residual blocks, at least 0 and less than 1."""
    num_classes: int | None = None
    """Number of classes to condition on. None makes an unconditional model."""
    paths: Literal["flexi", "shared", "full"] = "shared"
    """shared runs every layer, at a step's resolution; flexi, the paper's, what it needs; full every layer, at the full one."""
    condition_size: tuple[int, int] | None = None
    """Height and width of the small pictures that the second model of a cascade enlarges. None for any other model."""
    min_channels_per_group: int = 4
    """Least channels that are normalised together. 1, ADM's, normalises each channel of a narrow level by itself."""


@dataclass(frozen=True)
class TransformerConfig:
    """Patches, width and depth of the FlexiTransformer, in the place of the Flexi-UNet's; conditioning is the network's."""

    patch_size: int = 4
    """Height and width of a patch in pixels, the same at every level. It divides the sides of all levels."""
    width: int = 768
    """Number of features of a token."""
    depth: int = 12
    """Number of blocks. A step that changes resolution runs half of them at each of its two."""
    heads: int = 12
    """Number of heads in every attention layer. Each has a multiple of 4 features."""


@dataclass(frozen=True)
class ModelConfig:
    """A process, and the network that reverses it."""

    process: ProcessConfig = field(default_factory=ProcessConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    prediction: Literal["sample", "epsilon", "v"] = "sample"
    """What the network predicts: the clean picture (sample, as in the paper), the noise (epsilon) or v."""
    sigma_data: float = 1.0
    """Standard deviation of the pictures. Only used with prediction v or weight v; 1 is the usual v, 0.5 is EDM's."""
    solver: SolverName = "corrected"
    """Solver that the model is sampled with unless another one is chosen. The paper's is ancestral."""
    spacing: SpacingName = "log_snr"
    """Spacing of sampling steps unless another is chosen: equal in time (linspace, trailing) or in log-SNR, the default."""
    label_dropout: float = 0.0
    """Probability that a picture of a training batch has no class, so that the model can be guided; 0.1 is usual."""
    released_quirks: bool = False
    """Do what the paper's released code does where it differs from the paper (docs/notation.md lists the differences)."""
    backbone: Literal["unet", "transformer"] = "unet"
    """Which network: unet is the Flexi-UNet, transformer the FlexiTransformer with the options that begin with transformer."""
    transformer: TransformerConfig = field(default_factory=TransformerConfig)

    needs: ClassVar[Needs] = MODEL


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ModelConfig):
    """A training run. The same configuration and seed on the same data give the same run."""

    data: str
    """Folder, zip or tar files of pictures, hf:NAME[:SPLIT] (Hugging Face datasets), or synthetic:shapes."""
    output_dir: OutputFolder
    """Folder of the run. The same command again resumes the run in it."""
    init_from: str | None = None
    """Folder of a model or run whose weights are the first ones, wherever they fit. None draws them at random."""
    allow_change: tuple[str, ...] = ()
    """Names of options, or data, that may differ from what the run was begun with. They count from the next step on."""
    max_steps: int = 100_000
    """Number of training steps. A larger number continues a finished run, unless its learning rate falls to zero."""
    batch_size: int = 64
    """Number of pictures per step, over all processes. Other kinds of level-sampling than natural keep its mean compute."""
    micro_batch: int | None = None
    """Largest number of pictures that a process runs at once. Larger batches add up their gradients. None sets no limit."""
    level_sampling: Literal["natural", "constant-compute", "constant-memory", "least-variance"] = "natural"
    """Batch size by resolution: equal (natural), for equal compute or memory per step, or for the least gradient variance."""
    times: Literal["uniform", "log-snr", "log-normal"] = "uniform"
    """Density of the timesteps in training: uniform in t (the paper's), uniform in log-SNR, or EDM's log-normal density."""
    seed: int = 0
    """Seed of everything random: initial weights, data order, timesteps, noise, dropout and sample grids."""
    learning_rate: float = 1e-4
    """Largest learning rate of AdamW."""
    learning_rate_schedule: Literal["constant", "cosine", "inverse-sqrt"] = "constant"
    """constant, cosine (falls to zero at max-steps), or inverse-sqrt (falls as 1 / sqrt(step), for a run of any length)."""
    full_rate_steps: int = 10_000
    """Only with learning-rate-schedule inverse-sqrt: number of steps before the learning rate begins to fall."""
    warmup_steps: int = 1000
    """Number of steps over which the learning rate rises linearly from zero."""
    cooldown_steps: int = 0
    """Number of steps at the end of the run over which the learning rate falls linearly to zero."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    gradient_clip: float = 1.0
    """Gradients with a larger norm than this are scaled down to it."""
    ema_decay: float = 0.9999
    """Largest decay of the averaged weights. The final model has the averaged weights."""
    ema_power: float = 0.75
    """The decay of the averaged weights rises to ema-decay as 1 - (1 + step)^-ema-power."""
    average_every: int = 0
    """Steps between two snapshots of averages from which scalespace average makes any other width. 0 keeps none."""
    weight: Literal["min-snr", "constant", "snr", "max-snr", "v", "sigmoid"] = "min-snr"
    """Weight of the squared error of x_0, by SNR. v is SNR + 1 / sigma-data^2. sigmoid, SiD2's, is a smoother min-snr."""
    weight_gamma: float = 5.0
    """gamma in weight min-snr, which is min(SNR, gamma), and in weight sigmoid, which is SNR gamma / (SNR + gamma)."""
    weight_offset: float = 0.0
    """Added to the weight at every SNR, so that noisy steps of small pictures count too; EDM's weight is SNR + 1 or more."""
    weight_snr: Literal["own", "base"] = "own"
    """Which SNR the weight is a function of: the process's own, or that of the base noise schedule before the shift."""
    change_share: float | None = None
    """Fraction of batches drawn at resolution changes. None keeps their natural share of the timesteps, as the paper does."""
    level_shares: tuple[float, ...] = ()
    """How the batches inside levels are shared by the levels, highest first, in any unit. None given: their natural shares."""
    weigh_changes: bool = False
    """Weigh batches down by as much as change-share and level-shares make their kind more frequent, and up where less."""
    condition_noise: float = 0.5
    """Only with network.condition-size: largest level of the noise that is added to the small pictures, 0..1."""
    flip: bool = True
    """Mirror pictures left to right at random."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Precision of the network's arithmetic; weights and losses stay in float32. auto is bf16 if the hardware computes it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, which takes less memory and more time."""
    sharding: Literal["auto", "none", "fsdp2"] = "auto"
    """What each process holds: all weights (none) or its part of them (fsdp2). auto is as accelerate is configured."""
    log_every: int = 10
    """Number of steps between two lines of the log."""
    sample_every: int = 5000
    """Number of steps between two sample grids. 0 draws none."""
    sample_images: int = 16
    """Number of pictures in a sample grid."""
    sample_steps: int = 50
    """Number of sampling steps for a sample grid."""
    checkpoint_every: int = 5000
    """Number of steps between two checkpoints."""
    checkpoint_minutes: float = 10.0
    """Number of minutes after which a checkpoint is saved, besides those every checkpoint-every steps. 0 saves none."""
    keep_checkpoints: int = 2
    """Number of checkpoints to keep. Older ones are deleted."""
    keep_every: int = 0
    """Checkpoints whose step is a multiple of this are never deleted, so that results can be followed over time. 0 is none."""
    max_hours: float | None = None
    """Stop with a checkpoint after this many hours, with exit code 75. The same command goes on. None sets no limit."""
    tracker: Literal["none", "tensorboard", "wandb"] = "none"
    """Where losses are sent besides the log file."""
    cache_gib: float = 4.0
    """Decoded pictures are kept in the user's cache folder, mapped into memory, if all need at most this many GiB there."""

    needs: ClassVar[Needs] = TRAINING

    def __post_init__(self):
        check_values(self)
        positive = (
            *("max_steps", "batch_size", "learning_rate", "gradient_clip", "log_every", "sample_images"),
            *("checkpoint_every", "keep_checkpoints", "weight_gamma", "ema_power", "full_rate_steps"),
            *(name for name in ("micro_batch", "max_hours") if getattr(self, name) is not None),
        )
        for name in positive:
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}; give a number above 0")
        for name in (
            *("seed", "warmup_steps", "cooldown_steps", "weight_decay", "average_every", "weight_offset"),
            *("sample_every", "checkpoint_minutes", "keep_every", "cache_gib"),
        ):
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
        if not all(share > 0 for share in self.level_shares):
            raise UserError(f"level_shares are {self.level_shares}; give numbers above 0")
        if self.change_share is not None and not 0 <= self.change_share <= 1:
            raise UserError(f"change_share is {self.change_share}; a share lies between 0 and 1")
        allowed_names(self.allow_change, set(field_names(self)))


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of a step, counted from 0.

    Source of the inverse square root: Karras et al. 2024 (arXiv 2312.02696).
    """
    shape = {
        "constant": 1.0,
        "cosine": (1 + math.cos(math.pi * min(step / config.max_steps, 1))) / 2,
        "inverse-sqrt": min(1.0, math.sqrt(config.full_rate_steps / max(step, 1))),
    }[config.learning_rate_schedule]
    warm = (step + 1) / max(config.warmup_steps, 1)
    cool = (config.max_steps - step) / max(config.cooldown_steps, 1)
    return config.learning_rate * min(1.0, warm, cool) * shape


def _octaves(pixels: int, levels: int, multipliers: tuple[int, ...], **network) -> ModelConfig:
    return ModelConfig(
        ProcessConfig(image_size=(pixels, pixels), levels=levels),
        NetworkConfig(channel_multipliers=multipliers, **network),
    )


def _paper(pixels: int, levels: int, multipliers: tuple[int, ...], **network) -> ModelConfig:
    model = _octaves(pixels, levels, multipliers, paths="flexi", **network)
    return replace(model, process=replace(model.process, shifted=False), solver="ancestral", spacing="linspace")


_64, _128, _256 = (1, 2, 3, 4), (1, 1, 2, 3, 4), (1, 1, 2, 2, 4, 4)
_TINY = replace(
    _octaves(32, 3, (1, 2, 4), base_channels=32), transformer=TransformerConfig(width=192, depth=8, heads=6)
)
_SHIFTED_64 = _octaves(64, 4, _64)

PRESETS: dict[str, ModelConfig] = {
    "tiny": _TINY,
    "tiny-transformer": replace(_TINY, backbone="transformer"),
    "shifted64-4l": _SHIFTED_64,
    "transformer64-4l": replace(_SHIFTED_64, backbone="transformer"),
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
"""Models by name. "tiny" trains on a CPU. Those named "shifted" have the paper's widths and resolutions, but layers that all
resolutions share, shifted noise and the corrected solver. Those named after the transformer are "tiny" and "shifted64-4l" with
a transformer of as many parameters. All others follow the paper throughout."""


def preset(name: str) -> ModelConfig:
    """The preset of that name.

    Raises:
        UserError: If there is none; it names the nearest ones.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=3, cutoff=0.4) or list(PRESETS)
        raise UserError(f'there is no preset "{name}"; did you mean {" or ".join(near)}?')
    return PRESETS[name]
