"""``scalespace sample``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from scalespace.commands.options.drawing import GUIDED, DrawingOptions, guidance_chosen
from scalespace.commands.options.loading import Loading
from scalespace.commands.parsing import device_named, read, say
from scalespace.data.classes import listed
from scalespace.effects import Need, Needs
from scalespace.errors import UserError, cause
from scalespace.files import Output, OutputFile
from scalespace.processes import join

__all__ = ["Arguments", "run"]


def _check_output(output: Path) -> None:
    from scalespace.pipelines.places import check_place

    check_place(output)


@dataclass(frozen=True, kw_only=True)
class _Drawing(DrawingOptions):
    """What is drawn, and how."""

    model: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="MODEL")] = None
    """Folder of a model, run or checkpoint, or OWNER/NAME on the Hugging Face Hub. None takes the model of the package."""
    output: Annotated[str, Output(_check_output)]
    """Folder for the pictures, or a FILE.npz like guided-diffusion's; where the same command was stopped, it goes on."""
    num_images: int = 16
    """Number of pictures."""
    bridge: Literal["exact", "isotropic", "upsampled-prediction", "upsampled-state"] | None = None
    """How a step raises the resolution: exact is the solver's own way, the others are baselines. None is the model's own."""
    upsample: str | None = None
    """Folder of a second model, trained with --network.condition-size, that enlarges the pictures."""
    stop_at_size: tuple[int, int] | None = None
    """Height and width of one of the model's levels at which to stop, for a first look. None goes up to the full size."""
    seed: int = 0
    """Seed of the pictures. Picture i depends only on the seed and on i."""
    trajectory: bool = False
    """Also draw the states and predictions of four pictures, from the smallest resolution up."""
    preview: OutputFile | None = None
    """File outside of --output: a .png with the pictures after every step, or a .gif or .webp, an animation of the first."""


@dataclass(frozen=True, kw_only=True)
class Arguments(Loading, _Drawing):
    """The options of the command."""

    needs: ClassVar[Needs] = {
        **Loading.needs,
        "trajectory": (
            Need(
                lambda given: not given.output.lower().endswith(".npz"),
                "where --output is one .npz file",
                "give a folder with --output",
            ),
        ),
        "eta": (
            Need(
                lambda given: "ddim" in (given.solver or model.scheduler.config.solver for model in given.models),
                "where the solver is not ddim",
                "give --solver ddim",
            ),
        ),
        "guidance_interval": (GUIDED,),
        "guidance_model": (GUIDED,),
        "bridge": (
            Need(
                lambda given: given.bridge == "exact" or any(len(model.scheduler.sizes) > 1 for model in given.models),
                "on a model of one resolution",
                "name a model of several",
            ),
        ),
        "stop_at_size": (
            Need(
                lambda given: len(given.models[0].scheduler.sizes) > 1,
                "on a model of one resolution",
                "name a model of several",
            ),
            Need(lambda given: given.upsample is None, "with --upsample", "leave --upsample out"),
        ),
        "class_label": (
            Need(
                lambda given: given.models[0].unet.num_classes is not None,
                "on a model without classes",
                "name a model trained with --network.num-classes",
            ),
        ),
    }

    @property
    def named(self) -> tuple[str | None, ...]:
        return (self.model, *(name for name in (self.upsample, self.guidance_model) if name is not None))

    @property
    def models(self) -> tuple[Any, ...]:
        """The pipeline that draws and, where there is one, that which enlarges what it has drawn."""
        return self.loaded[: 1 if self.upsample is None else 2]


def run(words: list[str]) -> None:
    """Draw pictures from a trained model, and write them as PNG files and as one grid, or as one .npz file.

    example: scalespace sample runs/photos/model --num-images 64 --steps 50 --output pictures --trajectory

    example: scalespace sample runs/photos --output so-far --preview now.png

    example: scalespace sample runs/photos --num-images 16 --output pictures --preview growth.gif

    example: scalespace sample runs/photos --num-images 50000 --output samples.npz

    example: scalespace sample --output emoji

    example: scalespace sample --guidance-scale 2.5 --guidance-interval 0.2 1000 --output guided-emoji
    """
    given = read(Arguments, words, run)
    from scalespace.pipelines.sampling import sample_to_files, use_solver

    pipeline, *others = given.models
    choices = {
        "solver": given.solver,
        "eta": given.eta,
        "bridge": given.bridge,
        "timestep_spacing": given.spacing,
    }
    for model in given.models:
        try:
            use_solver(model, **{name: choice for name, choice in choices.items() if choice is not None})
        except ValueError as error:
            raise UserError(cause(error)) from error
        model.to(device_named(given.device))
    processes = join()
    batches = -(-given.num_images // max(given.batch_size, 1))
    if 0 < batches < processes.count and not given.json:
        say(
            f"{batches} of {processes.count} processes have pictures to draw; a smaller --batch-size gives all of them some"
        )
    files = sample_to_files(
        pipeline,
        Path(given.output),
        num_images=given.num_images,
        steps=given.steps,
        seed=given.seed,
        batch_size=given.batch_size,
        class_label=given.class_label,
        trajectory=given.trajectory,
        progress=not given.quiet,
        upsample=others[0] if others else None,
        processes=processes,
        guidance=guidance_chosen(given),
        stop_at_size=given.stop_at_size,
        preview=None if given.preview is None else Path(given.preview),
    )
    if not processes.is_first:
        return
    if given.json:
        say(json.dumps(dataclasses.asdict(files), default=str))
        return
    kept = f" ({files.kept} of them were there already)" if files.kept else ""
    say(f"pictures   {files.count} in {given.output}{kept}, {files.network_calls} network calls each")
    if pipeline.unet.num_classes is not None:
        say(f"{'classes' if files.class_label is None else 'class':10} {_classes(pipeline, files, given.class_label)}")
    if files.grid is not None:
        say(f"grid       {files.grid}")
    if files.trajectory is not None:
        say(f"trajectory {files.trajectory}")
    if given.preview is not None:
        say(f"preview    {files.preview or 'not written, since nothing had to be drawn'}")


def _classes(pipeline: Any, files: Any, asked: str | None) -> str:
    """Which classes were drawn, for people."""
    names = {number: name for name, number in pipeline.labels.items()}
    if files.class_label is None:
        return f"{pipeline.unet.num_classes} in turn{f': {listed(list(pipeline.labels))}' if names else ''}"
    if files.class_name is None:
        return str(files.class_label)
    drawn = f"{files.class_name}, which is number {files.class_label}"
    number = int(asked) if asked is not None and asked.isdecimal() else files.class_label
    # A name that is a number may mean another class than that number.
    other = names.get(number) if number != files.class_label else None
    return drawn if other is None else f"{drawn}; number {number} is {other}"
