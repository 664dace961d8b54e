"""``scalespace upscale``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from scalespace.commands.options.tasks import Difference, Guided, report
from scalespace.commands.parsing import read
from scalespace.errors import UserError, cause

__all__ = ["Arguments", "run"]


@dataclass(frozen=True, kw_only=True)
class Arguments(Guided):
    """The options of the command."""

    pictures: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PICTURES")]
    """Small pictures: files, folders or zips. They have one of the model's resolutions below the full one."""


def run(words: list[str]) -> None:
    """Enlarge small pictures by the rest of the chain: brought down again, the result is the small picture.

    What the small picture does not tell is drawn, and several variations differ in it.

    example: scalespace upscale thumbnails/ --output large

    example: scalespace upscale face.png tree.png --model runs/photos/model --variations 4 --output large
    """
    given = read(Arguments, words, run)
    from scalespace.pipelines.pictures import to_uint8
    from scalespace.tasks.folder import draw_into
    from scalespace.tasks.given import open_given
    from scalespace.tasks.upscaling import brought_down, small_sizes, upscale

    pipeline = given.ready(given.solver)
    try:
        sizes = small_sizes(pipeline)
    except ValueError as error:
        raise UserError(cause(error)) from error
    pictures = open_given(given.pictures, sizes, pipeline.unet.in_channels, not given.quiet)
    difference = Difference()
    files = draw_into(
        Path(given.output),
        pictures,
        pipeline,
        lambda small, generators: upscale(
            pipeline,
            small,
            generator=generators,
            num_inference_steps=given.steps,
            class_labels=given.label,
            guidance=given.guidance,
        ),
        variations=given.variations,
        # What is in the files is compared, and not what was rounded to it.
        look=lambda small, drawn: difference.add(
            brought_down(pipeline, to_uint8(2 * drawn.cpu() - 1) / 127.5 - 1, pictures.size) - small
        ),
        **given.drawing(task="upscale", solver=given.solver, size=list(pictures.size)),
    )
    levels = difference.levels
    line = f"brought down again they differ from the given ones by {levels:.2g} levels of 255 (root mean square)"
    report(files, given.output, {"difference": levels}, given.json, {"agreement": line})
