"""``scalespace reproduce``."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Annotated

import tyro

from scalespace.commands.parsing import device_named, read, say
from scalespace.paper.scale import Reproduction

__all__ = ["Arguments", "run"]


@dataclass(frozen=True, kw_only=True)
class Arguments(Reproduction):
    """The options of the command."""

    table: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TABLE")]
    """Table: main, architecture, schedules, anisotropic or steps, which train models; information; or gflops."""
    device: str = "auto"
    """Device to run on: cpu, cuda, mps and so on. auto takes an accelerator if there is one."""
    json: bool = False
    """Print JSON instead of text."""
    quiet: bool = False
    """Show no progress bars."""


def run(words: list[str]) -> None:
    """Print a table of the paper, computed again, as Markdown.

    example: scalespace reproduce main --data photos.zip --output tables

    example: scalespace reproduce main --scale paper --data img_align_celeba/ --inception-weights inception-2015-12-05.pt
    """
    given = read(Arguments, words, run)
    from scalespace.paper.reproduce import reproduce
    from scalespace.reports.provenance import provenance

    source = provenance(f"scalespace reproduce {shlex.join(words)}")
    table = reproduce(given.table, given, source, device=device_named(given.device), progress=not given.quiet)
    say(table.as_json() if given.json else table.as_markdown())
