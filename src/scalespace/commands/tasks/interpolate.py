"""``scalespace interpolate``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from scalespace.commands.options.tasks import ModelOptions
from scalespace.commands.parsing import read, say
from scalespace.errors import UserError

__all__ = ["Arguments", "run"]


@dataclass(frozen=True, kw_only=True)
class Arguments(ModelOptions):
    """The options of the command."""

    first: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="A")]
    """Picture file of the model's size."""
    second: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="B")]
    """Another one."""
    frames: int = 8
    """Number of pictures, both ends among them."""
    repetitions: int = 3
    """How often the equation of every inverse step is repeated; each repetition is a network call."""


def run(words: list[str]) -> None:
    """Draw the pictures on the way from one to another, through the noise that the model makes both of.

    Whatever the model's solver is, the steps are those of the deterministic one (ddim).

    example: scalespace interpolate cat.png dog.png --frames 9 --output way
    """
    given = read(Arguments, words, run)
    from scalespace.tasks.folder import write_way
    from scalespace.tasks.given import is_file, open_given

    pipeline = given.ready()
    for name in (given.first, given.second):
        if not is_file(name):
            raise UserError(f"{name} is no picture file; give two, to go from one to the other")
    if given.repetitions < 1:
        raise UserError(f"--repetitions is {given.repetitions}; give at least 1")
    ends = open_given([given.first, given.second], [pipeline.scheduler.image_size], pipeline.unet.in_channels)
    way = write_way(
        Path(given.output),
        ends,
        pipeline,
        frames=given.frames,
        steps=given.steps,
        repetitions=given.repetitions,
        class_label=given.label,
        **{name: value for name, value in given.drawing().items() if name != "facts"},
    )
    if given.json:
        say(json.dumps(way.as_json()))
        return
    say(f"pictures   {len(way.pictures)} in {given.output}")
    losses = " and ".join(f"{loss:.2g}" for loss in way.losses)
    say(
        f"inverted   {given.steps} steps bring the ends back but for {losses} levels of 255 (root mean square), which are "
        "added and fade out until the middle"
    )
    say(f"grid       {way.grid}")
