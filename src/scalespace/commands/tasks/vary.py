"""``scalespace vary``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from scalespace.commands.options.tasks import Guided, report
from scalespace.commands.parsing import read
from scalespace.errors import UserError, cause

__all__ = ["Arguments", "run"]


@dataclass(frozen=True, kw_only=True)
class Arguments(Guided):
    """The options of the command."""

    pictures: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PICTURES")]
    """Pictures of the model's size: files, folders or zips."""
    strength: float = 0.5
    """How far to noise them up, as a share of the timesteps: 0 leaves a picture as it is, 1 next to nothing of it."""


def run(words: list[str]) -> None:
    """Draw variations of pictures: noise them up, at the resolution that the chain has there, and come back.

    example: scalespace vary cat.png --strength 0.4 --variations 8 --output cats

    example: scalespace vary photos/ --model runs/photos/model --strength 0.7 --output other
    """
    given = read(Arguments, words, run)
    from scalespace.tasks.folder import draw_into
    from scalespace.tasks.given import open_given
    from scalespace.tasks.variations import point_of, vary

    pipeline = given.ready(given.solver)
    process = pipeline.scheduler.process
    try:
        t = point_of(given.strength, process.timesteps)
    except ValueError as error:
        raise UserError(f"--{cause(error)}") from error
    size = process.size(0)
    pictures = open_given(given.pictures, [size], pipeline.unet.in_channels, not given.quiet)
    files = draw_into(
        Path(given.output),
        pictures,
        pipeline,
        lambda some, generators: vary(
            pipeline,
            some,
            given.strength,
            generator=generators,
            num_inference_steps=given.steps,
            class_labels=given.label,
            guidance=given.guidance,
        ),
        variations=given.variations,
        **given.drawing(task="vary", solver=given.solver, strength=given.strength),
    )
    height, width = process.size(t)
    line = f"to timestep {t} of {process.timesteps}, where states have {height}x{width} pixels"
    told = {"timestep": t, "size": [height, width]}
    report(files, given.output, told, given.json, {"noised up": line})
