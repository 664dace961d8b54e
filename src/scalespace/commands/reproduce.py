"""``scalespace reproduce``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import tyro

from scalespace.commands.parsing import device_named, read, say
from scalespace.effects import Need, Needs
from scalespace.paper.scale import Reproduction

__all__ = ["Arguments", "run"]

# A name that is no table's is refused where the table is made.
_PICTURES = Need(
    lambda given: given.table != "gflops",
    "on the table gflops, which needs no pictures and is of all data sets",
    "name another table",
)
_MODELS = Need(
    lambda given: given.table not in ("gflops", "information"),
    "on the table {table}, for which no models are trained",
    "name another table",
)
_TINY = Need(
    lambda given: given.scale == "tiny",
    "with --scale paper, which compares with the training pictures by Inception's features",
    "give --scale tiny",
)
_PAPER = Need(lambda given: given.scale == "paper", "with --scale tiny", "give --scale paper")


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

    needs: ClassVar[Needs] = {
        "data": (_PICTURES,),
        "scale": (_PICTURES,),
        "dataset": (_PICTURES, _PAPER),
        "heldout": (_MODELS, _TINY),
        "inception_weights": (_MODELS, _PAPER),
        "features": (_MODELS, _TINY),
        "seed": (_MODELS,),
        "tflops": (_MODELS, _PAPER),
        "yes": (_MODELS, _PAPER),
        "device": (_MODELS,),
    }


def run(words: list[str]) -> None:
    """Print a table of the paper, computed again, as Markdown.

    example: scalespace reproduce main --data photos.zip --output tables

    example: scalespace reproduce main --scale paper --data img_align_celeba/ --inception-weights inception-2015-12-05.pt
    """
    given = read(Arguments, words, run)
    from scalespace.paper.reproduce import reproduce
    from scalespace.reports.provenance import provenance, typed

    source = provenance(typed("scalespace reproduce", words))
    table = reproduce(given.table, given, source, device=device_named(given.device), progress=not given.quiet)
    say(table.as_json() if given.json else table.as_markdown())
