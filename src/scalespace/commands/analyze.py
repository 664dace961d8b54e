"""``scalespace analyze``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from scalespace.commands.parsing import Preset, part, read_with_preset, say, tell
from scalespace.effects import Needs
from scalespace.files import Output, check_writable
from scalespace.reports.figure import check_figure
from scalespace.training.configuration import ModelConfig
from scalespace.training.needs import COMPARED_WITH_DATA

__all__ = ["Arguments", "run"]


def _check_output(folder: Path) -> None:
    from scalespace.planning.information_plot import analysis_files

    *figures, data = analysis_files(folder)
    for path in figures:
        check_figure(path)
    check_writable(data)


@dataclass(frozen=True, kw_only=True)
class Arguments(ModelConfig):
    """The options of the command."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """Folder, zip or tar files of pictures, hf:NAME[:SPLIT] (Hugging Face datasets), or synthetic:shapes."""
    preset: Preset = "tiny"
    output: Annotated[str, Output(_check_output)] | None = None
    """Folder for information.png, information.svg and information.json. None writes no files."""
    json: bool = False
    """Print JSON instead of text."""
    quiet: bool = False
    """Show no progress bars."""

    needs: ClassVar[Needs] = COMPARED_WITH_DATA


def run(words: list[str]) -> None:
    """Print how much of the pictures survives the noise at every t, and compare the paper's resolution schedules with it.

    example: scalespace analyze photos/ --preset celeba64-4l --output information
    """
    given = read_with_preset(Arguments, words, run, data=tyro.MISSING)
    from scalespace.planning.analysis import analyze_pictures
    from scalespace.reports.provenance import provenance, typed

    model = part(ModelConfig, given)
    analysis = analyze_pictures(model, given.data, not given.quiet, lambda lines: tell(lines, given.json))
    source = provenance(typed("scalespace analyze", words))
    say(json.dumps(analysis.as_dict(source)) if given.json else analysis.as_text())
    if given.output is not None:
        from scalespace.planning.information_plot import write_analysis

        figure, *_ = write_analysis(analysis, Path(given.output), source)
        if not given.json:
            say(f"\nfigure              {figure}")
