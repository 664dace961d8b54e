"""``scalespace prepare``."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Annotated, ClassVar

import tyro

from scalespace.commands.parsing import read, say
from scalespace.effects import Need, Needs
from scalespace.files import OutputPath

__all__ = ["Arguments", "run"]

_HELD_OUT = Need(lambda given: given.held_out is not None, "where no pictures are held out", "give --held-out")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options of the command."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """Folder, zip or tar files of pictures, hf:NAME[:SPLIT] (Hugging Face datasets), or synthetic:shapes."""
    size: tuple[int, int]
    """Height and width of the new pictures in pixels."""
    output: OutputPath
    """Path of the new set: a zip if the name ends in .zip, otherwise a folder."""
    held_out: OutputPath | None = None
    """Path of a second zip or folder, for randomly chosen pictures that are held out of the first."""
    held_out_share: float | None = None
    """With --held-out: fraction of the pictures that is held out; None takes 0.1."""
    seed: int = 0
    """With --held-out: seed of the random choice."""
    json: bool = False
    """Print JSON instead of text."""
    quiet: bool = False
    """Show no progress bars."""

    needs: ClassVar[Needs] = {"held_out_share": (_HELD_OUT,), "seed": (_HELD_OUT,)}


def run(words: list[str]) -> None:
    """Write pictures at one size as PNG files, cropped around the centre and resized exactly as training does.

    Folders and names stay, so training on the result sees the same pictures as training on the original files.

    example: scalespace prepare photos/ --size 64 64 --output photos64.zip

    example: scalespace prepare photos/ --size 64 64 --output photos64.zip --held-out heldout64.zip --held-out-share 0.1
    """
    given = read(Arguments, words, run)
    from scalespace.data.prepared_sets import HeldOut, prepare
    from scalespace.reports.provenance import provenance

    held_out = None
    if given.held_out is not None:
        share = {} if given.held_out_share is None else {"share": given.held_out_share}
        held_out = HeldOut(given.held_out, **share, seed=given.seed)
    prepared = prepare(given.data, given.size, given.output, held_out, not given.quiet)
    source = provenance(f"scalespace prepare {shlex.join(words)}", given.seed if held_out else None)
    say(json.dumps(prepared.as_dict() | {"source": source.as_dict()}) if given.json else prepared.as_text())
