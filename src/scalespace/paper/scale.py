"""The settings that the paper's tables are computed with: the paper's own, or small ones for a few minutes on a CPU.

Nothing here needs torch, so that the command line answers at once.

The paper states, for CelebA of 64 / 128 / 256 pixels and ImageNet of 64: 1000 grid points of linear noise; AdamW at 1e-4, 1e-4,
5e-5 and 1e-4 without a schedule, batches of 128, 128, 64 and 128, for 1 million, 300,000, 300,000 and 1 million steps; averaged
weights with a decay of 0.9999; 50,000 pictures by 1000 ancestral steps against the training set. DDPM has the plain loss of
the noise, or predicts x_0 with the weight min-SNR-5 like SSD. Ablations stop at 500,000 steps, and those of the resolution
schedules have batches of 8. What it does not state (weight decay, clipping of gradients, mirroring) is this package's default.

Source: Mukhopadhyay et al. 2026 (arXiv 2603.08709), section 5, tables 5 and 6, caption of figure 5.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from scalespace.files import OutputFolder
from scalespace.training.configuration import NetworkConfig, ProcessConfig, TrainConfig, preset

__all__ = ["PAPER", "TINY", "Arm", "Reproduction", "Sampler", "Scale", "Schedule"]

Resolution = Literal["convex", "equal", "sigmoid", "tanh"]


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What the user chooses when a table of the paper is computed again."""

    data: str | None = None
    """Folder or zip of pictures to train on. Scale paper needs the whole data set."""
    scale: Literal["tiny", "paper"] = "tiny"
    """tiny takes minutes on a CPU, with any pictures. paper has the paper's settings and takes days on a GPU."""
    dataset: Literal["celeba64", "celeba128", "celeba256", "imagenet64"] = "celeba64"
    """Only with --scale paper: the data set that --data holds, and the picture size in pixels."""
    heldout: str | None = None
    """Only with --scale tiny: pictures to compare with. None holds some of --data out for that."""
    inception_weights: str | None = None
    """Only with --scale paper: file of Inception's weights. None takes the variable SCALESPACE_INCEPTION_WEIGHTS."""
    features: Literal["built-in", "efficientnet-lite0"] = "built-in"
    """Only with --scale tiny: features that pictures are compared by. efficientnet-lite0 needs the extra features."""
    seed: int = 0
    """Seed of the held-out split, of every training and of the drawn pictures."""
    tflops: float = 80.0
    """Only with --scale paper: throughput of the machine in TFLOP/s, which the estimate of the hours is based on."""
    yes: bool = False
    """Only with --scale paper: start the work. Without it the cost is printed and nothing starts."""
    output: OutputFolder | None = None
    """Folder for TABLE.md, TABLE.json, figures and models. None is runs/reproduce for tables that train models."""


@dataclass(frozen=True)
class Schedule:
    """A resolution schedule of the paper.

    Args:
        resolution: A name that ``ProcessConfig.resolution`` takes.
        gamma: Exponent of the schedule. "equal" has none.
    """

    resolution: Resolution = "convex"
    gamma: float = 0.5

    @property
    def name(self) -> str:
        """The name in the paper, for example "ConvexDecay 0.5"."""
        names = {"convex": "ConvexDecay", "equal": "Equal", "sigmoid": "SigmoidLikeDecay", "tanh": "TanhLikeDecay"}
        name = names[self.resolution]
        return name if self.resolution == "equal" else f"{name} {self.gamma:g}"


@dataclass(frozen=True)
class Sampler:
    """How pictures are drawn.

    Args:
        steps: Number of equally spaced sampling steps.
        solver: Name of the solver in ``ScaleSpaceScheduler``.
        bridge: Name of the bridge in ``ScaleSpaceScheduler``.
    """

    steps: int
    solver: Literal["ancestral", "ddim"] = "ancestral"
    bridge: Literal["exact", "isotropic"] = "exact"

    @property
    def name(self) -> str:
        """The folder name of this sampler, for example "ancestral-100"."""
        return f"{self.solver}-{self.steps}" + ("" if self.bridge == "exact" else f"-{self.bridge}")

    @property
    def options(self) -> dict[str, Any]:
        """The options that ``use_solver`` takes."""
        return {"solver": self.solver, "timestep_spacing": "linspace", "bridge": self.bridge}


@dataclass(frozen=True)
class Arm:
    """A model to be trained.

    Args:
        name: Name of the folder, different for every arm of a scale.
        method: Name in the tables.
        config: Configuration of the training run. Data, folder and seed are filled in when it is trained.
    """

    name: str
    method: str
    config: TrainConfig


@dataclass(frozen=True)
class Scale:
    """The settings of all tables on one data set.

    Args:
        name: Start of the name of the folder with the results.
        pictures: The training pictures in words, for titles.
        image_size: Height and width of the pictures, in pixels.
        network: Network of every model.
        levels: Numbers of levels in the main table.
        ablation_levels: Numbers of levels in the other tables.
        steps: Training steps of a model.
        ablation_steps: Training steps of a model in the tables of architectures and of schedules, instead of ``steps``.
        batch_size: Pictures per training step.
        schedules_batch_size: Pictures per training step in the table of schedules, instead of ``batch_size``.
        training: Further options of ``TrainConfig``.
        samples: Number of pictures drawn from each model.
        sigma_blur: Standard deviation of Blurring Diffusion's blur at the last timestep, in pixels.
        sampling_steps: Number of equally spaced steps of ancestral sampling.
        fewer_steps: Numbers of ancestral steps in the table of fewer steps, besides ``sampling_steps``.
        ddim_steps: Number of DDIM steps in the table of fewer steps.
        reference: Pictures that drawn ones are compared with.
        heldout_share: Fraction of the pictures that is held out if the user names no held-out pictures.
        heldout_least: Smallest number of held-out pictures.
        heldout_most: Largest number of pictures that are held out by ``heldout_share``.
        draw_batch: Number of pictures drawn together.
        timed_pictures: Number of pictures that are drawn one by one to measure the seconds for one.
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
        """The sampler of all tables. The table of fewer steps and that of noise at changes have further ones."""
        return Sampler(self.sampling_steps)

    def ddpm(self, prediction: Literal["sample", "epsilon"]) -> Arm:
        """DDPM, the baseline with one level, with the loss that the paper gives it."""
        weight = {"sample": "min-snr", "epsilon": "snr"}[prediction]
        name = {"sample": "x0", "epsilon": "eps"}[prediction]
        config = replace(self._config(1, Schedule()), prediction=prediction, weight=weight)
        return Arm(f"ddpm-{name}", f"DDPM-{name}", config)

    def blurring(self) -> Arm:
        """Blurring Diffusion (Hoogeboom and Salimans 2022), which predicts the noise and has the plain loss of the noise."""
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
            levels: Number of resolutions, each half of the one before.
            schedule: Resolution schedule. None is ConvexDecay 0.5, the paper's choice.
            steps: Number of training steps. None takes the scale's.
            batch_size: Pictures per training step. None takes the scale's.
            full: Whether the whole U-Net runs in every step instead of Flexi-UNet.
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
            # The same on every machine, so that what was trained on one can be gone on with on another.
            mixed_precision="no",
            **self.training,
        )


TINY = Scale(
    name="tiny",
    pictures="pictures of 16 pixels",
    image_size=16,
    network=NetworkConfig(
        base_channels=32,
        channel_multipliers=(1, 2, 2),
        blocks_per_level=1,
        attention_max_size=8,
        attention_heads=4,
        paths="flexi",
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
"""Settings with which every table takes minutes on a CPU."""

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
