"""``scalespace inpaint``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from scalespace.commands.options.tasks import Guided, report
from scalespace.commands.parsing import read
from scalespace.effects import Need, Needs
from scalespace.errors import UserError

__all__ = ["Arguments", "run"]


@dataclass(frozen=True, kw_only=True)
class Arguments(Guided):
    """The options of the command."""

    picture: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PICTURE")]
    """Picture file of the model's size."""
    mask: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MASK")]
    """Picture file of the same size: white where to draw anew, black where the picture stays."""
    resamplings: int = 2
    """How often every stretch of steps is noised up and drawn again, for a better fit; each costs as much as the chain."""
    jump: int = 5
    """Only with --resamplings: number of steps of a stretch."""

    needs: ClassVar[Needs] = {
        **Guided.needs,
        "jump": (Need(lambda given: given.resamplings > 0, "without resampling", "give --resamplings"),),
    }


def run(words: list[str]) -> None:
    """Draw a part of a picture anew. Where the mask is black, the result is the picture as it was.

    example: scalespace inpaint photo.png hole.png --output filled --variations 4

    example: scalespace inpaint photo.png hole.png --model runs/photos/model --resamplings 4 --output filled
    """
    given = read(Arguments, words, run)
    from scalespace.tasks.folder import draw_into
    from scalespace.tasks.given import is_file, open_given, open_mask
    from scalespace.tasks.inpainting import inpaint

    pipeline = given.ready(given.solver)
    size = pipeline.scheduler.image_size
    if given.resamplings < 0 or given.jump < 1:
        raise UserError(f"--resamplings is {given.resamplings} and --jump {given.jump}; give at least 0 and at least 1")
    if not is_file(given.picture):
        raise UserError(f"{given.picture} is no picture file; give one, and a mask for it")
    picture = open_given([given.picture], [size], pipeline.unet.in_channels)
    known = open_mask(given.mask, size)
    files = draw_into(
        Path(given.output),
        picture,
        pipeline,
        lambda some, generators: inpaint(
            pipeline,
            some,
            known,
            resamplings=given.resamplings,
            jump=given.jump,
            generator=generators,
            num_inference_steps=given.steps,
            class_labels=given.label,
            guidance=given.guidance,
        ),
        variations=given.variations,
        **given.drawing(
            task="inpaint", solver=given.solver, resamplings=given.resamplings, jump=given.jump, mask=given.mask
        ),
    )
    share = 100 * float((~known).double().mean())
    told = {"drawn_share": share / 100}
    report(
        files, given.output, told, given.json, {"drawn": f"{share:.3g} % of the pixels; the others are as they were"}
    )
