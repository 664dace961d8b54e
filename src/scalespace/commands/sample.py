"""``scalespace sample``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from scalespace.commands.parsing import device_named, read
from scalespace.errors import UserError

__all__ = ["Arguments", "run"]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What the command takes."""

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


def run(words: list[str]) -> None:
    """Draw pictures from a trained model: PNG files and a grid.

    example: scalespace sample runs/photos/model --num-images 64 --steps 50 --output pictures --trajectory
    """
    given = read(Arguments, words, run)
    from scalespace.pipelines.sampling import sample_to_folder, use_solver
    from scalespace.pipelines.saving import load_pipeline

    pipeline = load_pipeline(given.model)
    choices = {
        "solver": given.solver,
        "eta": given.eta,
        "bridge": given.bridge,
        "timestep_spacing": given.spacing,
    }
    upsample = None if given.upsample is None else load_pipeline(given.upsample)
    for model in filter(None, (pipeline, upsample)):
        try:
            use_solver(model, **{name: choice for name, choice in choices.items() if choice is not None})
        except ValueError as error:
            raise UserError(str(error)) from error
        model.to(device_named(given.device))
    files = sample_to_folder(
        pipeline,
        Path(given.output),
        num_images=given.num_images,
        steps=given.steps,
        seed=given.seed,
        batch_size=given.batch_size,
        class_label=given.class_label,
        trajectory=given.trajectory,
        progress=not given.quiet,
        upsample=upsample,
    )
    if given.json:
        print(json.dumps(dataclasses.asdict(files), default=str))
        return
    print(f"pictures   {len(files.pictures)} in {given.output}, {files.network_calls} network calls each")
    print(f"grid       {files.grid}")
    if files.trajectory is not None:
        print(f"trajectory {files.trajectory}")
