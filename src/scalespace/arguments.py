"""What the commands take: one frozen class each, whose docstrings are the help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from scalespace.evaluation.scale import Reproduction
from scalespace.training.configuration import ModelConfig, TrainConfig

__all__ = [
    "AnalyzeArguments",
    "EvaluateArguments",
    "PlanArguments",
    "ReproduceArguments",
    "SampleArguments",
    "TrainArguments",
]

_Preset = Annotated[str, tyro.conf.arg(help="Process and network to start from; every other option overrides it.")]


@dataclass(frozen=True, kw_only=True)
class TrainArguments(TrainConfig):
    """Of ``scalespace train``."""

    preset: _Preset = "tiny"
    quiet: bool = False
    """No progress bars."""

    def __post_init__(self):
        # Values are checked when the configuration is taken out of this, where an error is not the parser's.
        pass


@dataclass(frozen=True, kw_only=True)
class PlanArguments(ModelConfig):
    """Of ``scalespace plan``."""

    preset: _Preset = "tiny"
    data: str | None = None
    """Folder of images, zip of images, or synthetic:shapes, to read the resolutions off."""
    tolerance: float | None = None
    """With --data: a level is left where the signal-to-noise ratio of what it alone holds sinks below this (0.01)."""
    plot: str | None = None
    """With --data: picture to draw of the spectrum and of both schedules."""
    json: bool = False
    """Print JSON."""
    quiet: bool = False
    """No progress bars."""


@dataclass(frozen=True, kw_only=True)
class AnalyzeArguments(ModelConfig):
    """Of ``scalespace analyze``."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """Folder of images, zip of images, or synthetic:shapes."""
    preset: _Preset = "tiny"
    output: str | None = None
    """Folder for information.png, information.svg and information.json."""
    json: bool = False
    """Print JSON."""
    quiet: bool = False
    """No progress bars."""


@dataclass(frozen=True, kw_only=True)
class ReproduceArguments(Reproduction):
    """Of ``scalespace reproduce``."""

    table: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TABLE")]
    """main, architecture, schedules, anisotropic, steps (these train models), information (of pictures) or gflops."""
    device: str = "auto"
    """cpu, cuda, mps, ...; auto takes an accelerator where there is one."""
    json: bool = False
    """Print JSON."""
    quiet: bool = False
    """No progress bars."""


@dataclass(frozen=True, kw_only=True)
class SampleArguments:
    """Of ``scalespace sample``."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """Model folder, as training wrote it (RUN/model)."""
    output: str
    """New folder for the pictures."""
    num_images: int = 16
    """Number of pictures."""
    steps: int = 50
    """Sampling steps, up to the process's timesteps: with linspace the equally spaced ones, at least 2, besides which
    resolution changes are kept; with log_snr all of them, at least levels + 1."""
    solver: Literal["ancestral", "ddim", "multistep", "corrected"] | None = None
    """How a step is taken; the model's own if left out."""
    eta: float | None = None
    """Of ddim: 0 is deterministic, 1 is ancestral; the model's own if left out."""
    bridge: Literal["exact", "isotropic", "upsampled-prediction", "upsampled-state"] | None = None
    """How the resolution goes up: exact, which is the solver's own way, or a baseline; the model's own if left out."""
    spacing: Literal["linspace", "log_snr"] | None = None
    """Equal steps of time or of log-SNR (which suits multistep and corrected); the model's own if left out."""
    upsample: str | None = None
    """Folder of the second model of a cascade, trained with --network.condition-size, to enlarge the pictures."""
    seed: int = 0
    """Picture i depends on the seed and i alone."""
    batch_size: int = 16
    """Pictures drawn together."""
    class_label: int | None = None
    """Class of all pictures; left out, a class-conditional model takes its classes in turn."""
    trajectory: bool = False
    """Also draw the states on their way up, from the smallest resolution."""
    device: str = "auto"
    """cpu, cuda, mps, ...; auto takes an accelerator where there is one."""
    json: bool = False
    """Print JSON."""
    quiet: bool = False
    """No progress bars."""


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Of ``scalespace evaluate``."""

    generated: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="GENERATED")]
    """Folder or zip of pictures, statistics (.npz), or a model folder (RUN/model) to draw from."""
    reference: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="REFERENCE")]
    """The same; the pictures it should look like."""
    metrics: str | None = None
    """Comma list of fid, kid, prdc, swd, spectrum, colour; left out, all that the two sides allow."""
    inception_weights: str | None = None
    """inception-2015-12-05.pt, for FID and KID; left out, SCALESPACE_INCEPTION_WEIGHTS, or else built-in features."""
    features: str | None = None
    """TorchScript file of another extractor: float pictures in 0..255, (B, 3, H, W), to (B, d)."""
    features_size: int | None = None
    """With --features: side in pixels that pictures are resized to for it."""
    resize: Literal["clean", "legacy"] = "clean"
    """How pictures are resized for a network: antialiased bicubic, or bilinear without antialiasing as the first FID."""
    neighbours: int = 5
    """Nearest neighbours of precision, recall, density and coverage."""
    bootstrap: int = 100
    """Resamples of the intervals; 0 makes none."""
    num_images: int = 1000
    """Pictures to draw from a side that is a model."""
    steps: int = 50
    """Its sampling steps."""
    solver: Literal["ancestral", "ddim", "multistep", "corrected"] | None = None
    """How it takes a step; the model's own if left out."""
    eta: float | None = None
    """Of ddim: 0 is deterministic, 1 is ancestral; the model's own if left out."""
    spacing: Literal["linspace", "log_snr"] | None = None
    """Equal steps of time or of log-SNR; the model's own if left out."""
    batch_size: int = 16
    """Pictures drawn together."""
    seed: int = 0
    """Of drawn pictures and of everything else that is random."""
    save_statistics: str | None = None
    """File (.npz) for the statistics of the reference, to give in its place the next time."""
    save_features: bool = False
    """With --save-statistics: keep the features of all pictures too, which kid and prdc need."""
    device: str = "auto"
    """cpu, cuda, mps, ...; auto takes an accelerator where there is one."""
    json: bool = False
    """Print JSON."""
    quiet: bool = False
    """No progress bars."""
