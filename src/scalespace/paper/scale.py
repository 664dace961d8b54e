"""At which scale the paper's tables are computed again: the paper's own settings, or ones that a CPU finishes in minutes.

Nothing here needs torch, so that the command line answers at once.

The paper states, for CelebA of 64 / 128 / 256 pixels and ImageNet of 64: 1000 grid points of linear noise; AdamW at 1e-4, 1e-4,
5e-5 and 1e-4 without a schedule, batches of 128, 128, 64 and 128, for 1 million, 300,000, 300,000 and 1 million steps; averaged
weights with a decay of 0.9999; 50,000 pictures by 1000 ancestral steps against the training set. DDPM has the plain loss of
the noise, or predicts x_0 with min-SNR-5 like SSD. Ablations stop at 500,000 steps, and those of the resolution schedules have
batches of 8. What it does not state (weight decay, clipping of gradients, mirroring) is this package's default.

Source: Mukhopadhyay et al. 2026 (arXiv 2603.08709), section 5, tables 5 and 6, caption of figure 5.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from scalespace.training.configuration import NetworkConfig, ProcessConfig, TrainConfig, preset

__all__ = ["PAPER", "TINY", "Arm", "Reproduction", "Sampler", "Scale", "Schedule"]

Resolution = Literal["convex", "equal", "sigmoid", "tanh"]


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """How the paper is to be reproduced."""

    data: str | None = None
    """Folder or zip of pictures to train on; with --scale paper, of the whole data set."""
    scale: Literal["tiny", "paper"] = "tiny"
    """tiny takes minutes on a CPU, on any pictures; paper has the paper's settings and takes days on a GPU."""
    dataset: Literal["celeba64", "celeba128", "celeba256", "imagenet64"] = "celeba64"
    """With --scale paper: what --data is, and the size."""
    heldout: str | None = None
    """With --scale tiny: pictures to compare with; left out, some of --data are held out."""
    inception_weights: str | None = None
    """With --scale paper: file of Inception; left out, the environment's SCALESPACE_INCEPTION_WEIGHTS."""
    seed: int = 0
    """Of everything that is drawn."""
    tflops: float = 80.0
    """With --scale paper: throughput that hours are estimated by."""
    yes: bool = False
    """With --scale paper: start at the cost that has been told."""
    output: str | None = None
    """Folder for TABLE.md, TABLE.json, figures and trained models; tables that train have runs/reproduce if left out."""


@dataclass(frozen=True)
class Schedule:
    """A resolution schedule of the paper.

    Args:
        resolution: As of ``ProcessConfig``.
        gamma: Its exponent; Equal has none.
    """

    resolution: Resolution = "convex"
    gamma: float = 0.5

    @property
    def name(self) -> str:
        """As the paper calls it."""
        names = {"convex": "ConvexDecay", "equal": "Equal", "sigmoid": "SigmoidLikeDecay", "tanh": "TanhLikeDecay"}
        name = names[self.resolution]
        return name if self.resolution == "equal" else f"{name} {self.gamma:g}"


@dataclass(frozen=True)
class Sampler:
    """How pictures are drawn.

    Args:
        steps: Equally spaced sampling steps.
        solver: As of ``ScaleSpaceScheduler``.
        bridge: The same.
    """

    steps: int
    solver: Literal["ancestral", "ddim"] = "ancestral"
    bridge: Literal["exact", "isotropic"] = "exact"

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.solver}-{self.steps}" + ("" if self.bridge == "exact" else f"-{self.bridge}")

    @property
    def options(self) -> dict[str, Any]:
        """Of ``use_solver``."""
        return {"solver": self.solver, "timestep_spacing": "linspace", "bridge": self.bridge}


@dataclass(frozen=True)
class Arm:
    """A model to be trained.

    Args:
        name: Of its folder, different for every arm of a scale.
        method: What it is called in a table.
        config: Its run; data, folder and seed are put in when it is trained.
    """

    name: str
    method: str
    config: TrainConfig


@dataclass(frozen=True)
class Scale:
    """The settings of all tables on one data set.

    Args:
        name: Of the folder of its results.
        pictures: What it is trained on, for people.
        image_size: Pixels a side.
        network: Of every model.
        levels: Of the models of the main table.
        ablation_levels: Of the models of the ablations.
        steps: Of a training.
        ablation_steps: Of the trainings of the ablations.
        batch_size: Of a training step.
        schedules_batch_size: The same in the comparison of resolution schedules.
        training: Further options of a run.
        samples: Pictures drawn.
        sigma_blur: Of Blurring Diffusion: the blur at the end, standard deviation in pixels.
        sampling_steps: Grid points that ancestral sampling stops at.
        fewer_steps: The same in the table of fewer steps.
        ddim_steps: Steps of DDIM in that table.
        reference: What drawn pictures are compared with.
        heldout_share: Share of the pictures that are held out where others are not named.
        heldout_least: No fewer are.
        heldout_most: No more are.
        draw_batch: Pictures drawn together.
        timed_pictures: Pictures that are drawn one by one to measure how long one takes.
    """

    name: str
    pictures: str
    image_size: int
    network: NetworkConfig
    levels: tuple[int, ...]
    ablation_levels: tuple[int, ...]
    steps: int
    ablation_steps: int
    batch_size: int
    schedules_batch_size: int
    training: dict[str, Any] = field(default_factory=dict)
    samples: int = 50_000
    sigma_blur: float = 20.0
    sampling_steps: int = 1000
    fewer_steps: tuple[int, ...] = (250,)
    ddim_steps: int = 25
    reference: Literal["training", "heldout"] = "training"
    heldout_share: float = 0.1
    heldout_least: int = 250
    heldout_most: int = 2000
    draw_batch: int = 256
    timed_pictures: int = 3

    @property
    def sampler(self) -> Sampler:
        """Of all tables but that of fewer steps."""
        return Sampler(self.sampling_steps)

    def ddpm(self, prediction: Literal["sample", "epsilon"]) -> Arm:
        """The baseline of one level, with the loss that the paper gives it."""
        weight = {"sample": "min-snr", "epsilon": "snr"}[prediction]
        name = {"sample": "x0", "epsilon": "eps"}[prediction]
        config = replace(self._config(1, Schedule()), prediction=prediction, weight=weight)
        return Arm(f"ddpm-{name}", f"DDPM-{name}", config)

    def blurring(self) -> Arm:
        """Blurring Diffusion (Hoogeboom and Salimans 2022), which predicts the noise, with the plain loss of it."""
        config = self.ddpm("epsilon").config
        process = replace(config.process, degradation="blurring", sigma_blur=self.sigma_blur)
        return Arm("blurring", "Blurring Diffusion", replace(config, process=process))

    def ssd(
        self,
        levels: int,
        schedule: Schedule | None = None,
        steps: int | None = None,
        batch_size: int | None = None,
        full: bool = False,
    ) -> Arm:
        """Scale Space Diffusion.

        Args:
            levels: Resolutions, each half of the one before.
            schedule: Resolution schedule; ConvexDecay 0.5, the paper's choice, if left out.
            steps: Of the training; the scale's own if left out.
            batch_size: Of a step; the scale's own if left out.
            full: Whether all of the U-Net runs in every step, in the place of Flexi-UNet.
        """
        schedule = schedule or Schedule()
        config = self._config(levels, schedule)
        if full:
            config = replace(config, network=replace(config.network, paths="full"))
        config = replace(config, max_steps=steps or self.steps, batch_size=batch_size or self.batch_size)
        parts = [f"ssd-{levels}l"]
        if schedule != Schedule():
            parts.append(schedule.name.lower().replace(" ", "-"))
        if full:
            parts.append("full-unet")
        if config.max_steps != self.steps:
            parts.append(f"{config.max_steps}-steps")
        if config.batch_size != self.batch_size:
            parts.append(f"batch-{config.batch_size}")
        return Arm("-".join(parts), f"SSD ({levels}L)", config)

    def _config(self, levels: int, schedule: Schedule) -> TrainConfig:
        process = ProcessConfig(
            image_size=(self.image_size, self.image_size),
            levels=levels,
            resolution=schedule.resolution,
            gamma=schedule.gamma,
            shifted=False,
        )
        return TrainConfig(
            data="",
            output_dir="",
            process=process,
            network=self.network,
            solver="ancestral",
            spacing="linspace",
            max_steps=self.steps,
            batch_size=self.batch_size,
            sample_every=0,
            **self.training,
        )


TINY = Scale(
    name="tiny",
    pictures="pictures of 16 pixels",
    image_size=16,
    network=NetworkConfig(
        base_channels=32, channel_multipliers=(1, 2, 2), blocks_per_level=1, attention_max_size=8, attention_heads=4
    ),
    levels=(2, 3),
    ablation_levels=(2, 3),
    steps=400,
    ablation_steps=400,
    batch_size=64,
    schedules_batch_size=64,
    training={
        "learning_rate": 1e-3,
        "warmup_steps": 50,
        "cooldown_steps": 150,
        "ema_decay": 0.99,
        "checkpoint_every": 100,
        # With times drawn evenly, 400 steps would meet most changes never.
        "change_share": 0.04,
    },
    samples=500,
    # As large in the picture as 20 pixels of 64.
    sigma_blur=5.0,
    sampling_steps=100,
    fewer_steps=(25,),
    ddim_steps=10,
    reference="heldout",
    draw_batch=250,
)
"""Everything in minutes on a CPU."""

_TRAINING = {"warmup_steps": 0, "cache_gib": 16.0}


def _paper(data: str, size: int, of: str, levels: tuple[int, ...], ablation: tuple[int, ...], **options: Any) -> Scale:
    settings = {"steps": 1_000_000, "batch_size": 128, "training": _TRAINING | {"learning_rate": 1e-4}} | options
    return Scale(
        name=f"{data.lower()}{size}",
        pictures=f"{data} of {size} pixels",
        image_size=size,
        # The paper draws ImageNet, too, without classes.
        network=replace(preset(of).network, num_classes=None),
        levels=levels,
        ablation_levels=ablation,
        ablation_steps=min(500_000, settings["steps"]),
        schedules_batch_size=8,
        **settings,
    )


PAPER = {
    scale.name: scale
    for scale in (
        _paper("CelebA", 64, "celeba64-4l", (2, 3, 4), (2, 4)),
        _paper("CelebA", 128, "celeba128-5l", (3, 5), (3, 5), steps=300_000),
        _paper(
            "CelebA",
            256,
            "celeba256-6l",
            (3, 4, 5, 6),
            (3, 6),
            steps=300_000,
            batch_size=64,
            training=_TRAINING | {"learning_rate": 5e-5},
            draw_batch=64,
        ),
        _paper("ImageNet", 64, "imagenet64-2l", (2, 4), (2, 4)),
    )
}
"""The paper's settings by data set and size."""
