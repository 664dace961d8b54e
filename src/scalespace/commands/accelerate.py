"""``scalespace accelerate``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from scalespace.commands.parsing import read, say, tell
from scalespace.effects import Need, Needs
from scalespace.errors import UserError
from scalespace.files import OutputPath, write_directory
from scalespace.reading import path_of

__all__ = ["Arguments", "run"]

_SEVERAL = Need(lambda given: given.levels != 1, "with --levels 1, which has no changes to place", "give more --levels")
_WRITTEN = Need(lambda given: not given.plan, "with --plan, which writes nothing", "leave --plan out")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options of the command."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """Folder of a model of pixels that diffusers saved: a UNet2DModel and its scheduler."""
    data: str | None = None
    """Pictures like those that the model draws, in any form that scalespace train takes. Needed with several levels."""
    output: OutputPath | None = None
    """New folder for the model that samples progressively. Needed without --plan."""
    levels: int = 2
    """Number of resolutions, each half the one before. The network was trained at the first alone; 1 only brings it here."""
    tolerance: float = 0.01
    """A level is left where the SNR of the octave that it alone holds sinks below this: 0.01 loses little, 0.1 saves more."""
    plan: bool = False
    """Only tell what would be saved, and write nothing."""
    variant: str | None = None
    """Name of the weights to take, where the model has several, for example fp16. None takes those without a name."""
    json: bool = False
    """Print JSON instead of text."""
    quiet: bool = False
    """Show no progress bars."""

    needs: ClassVar[Needs] = {
        "data": (_SEVERAL,),
        "tolerance": (_SEVERAL,),
        "output": (_WRITTEN,),
        "variant": (_WRITTEN,),
    }


def run(words: list[str]) -> None:
    """Let a pretrained model of diffusers take its noisy steps at lower resolutions, without training.

    Where the resolution may change is read off the spectrum of your pictures. The result is a model folder that scalespace
    sample draws from.

    example: scalespace accelerate ddpm-photos64 --data photos/ --plan

    example: scalespace accelerate ddpm-photos64 --data photos/ --output fast; scalespace sample fast --output pictures
    """
    given = read(Arguments, words, run)
    if given.output is None and not given.plan:
        raise UserError("--output is missing; name a new folder for the model, or give --plan to write nothing")
    if given.data is None and given.levels > 1:
        raise UserError("--data is missing; name pictures like those that the model draws, or give --levels 1")
    from scalespace.pipelines.pretrained.source import read_pretrained
    from scalespace.planning.acceleration import accelerate

    source = read_pretrained(path_of(given.model))
    acceleration = accelerate(source, given.levels, given.tolerance, lambda size: _spectrum(given, source, size))
    found = acceleration.as_dict()
    if given.output is not None:
        pipeline = acceleration.pipeline(given.data and Path(given.data).name, given.variant)
        write_directory(path_of(given.output), lambda folder: pipeline.save_pretrained(folder))
        found["model"] = given.output
    if given.json:
        say(json.dumps(found, indent=2))
        return
    say(acceleration.as_text())
    if given.output is not None:
        say(f"model               {given.output}")


def _spectrum(given: Arguments, source: Any, size: tuple[int, int]) -> Any:
    from scalespace.data.images import open_images
    from scalespace.data.spectrum import mean_spectrum

    # Only the pictures that are measured are decoded.
    channels: int = source.unet.get("in_channels", 3)
    if channels not in (1, 3):
        raise UserError(
            f"the model draws {channels} channels, and pictures from files have 3, or 1 for grey; give --levels 1"
        )
    data = open_images(given.data or "", size, channels=channels, cache_bytes=0, progress=not given.quiet)
    spectrum = mean_spectrum(data, not given.quiet)
    tell((*data.found(), *data.met()), given.json)
    return spectrum
