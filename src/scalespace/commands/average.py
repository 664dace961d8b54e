"""``scalespace average``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import tyro

from scalespace.commands.options.loading import trusted
from scalespace.commands.parsing import read, say
from scalespace.data.left_out import counted
from scalespace.effects import Needs
from scalespace.files import OutputPath, write_directory
from scalespace.reading import path_of

__all__ = ["Arguments", "run"]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options of the command."""

    trained: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Folder of a run that was trained with --average-every."""
    output: OutputPath
    """New folder for the model."""
    width: float = 0.1
    """Width of the average as a share of the steps so far: the standard deviation of their weights, at most 0.25."""
    step: int | None = None
    """Step to average at. None takes the last that was kept."""
    trust_model: bool = False
    """Import the module of a degradation that the run names, which runs it: know where run and module are from."""

    needs: ClassVar[Needs] = {"trust_model": (trusted(lambda given: (given.trained,)),)}


def run(words: list[str]) -> None:
    """Make a model of another average of a run's weights, after its training.

    Narrow averages follow the last steps, wide ones are smoother; the best width is known only afterwards, from samples.

    example: scalespace average runs/photos --width 0.05 --output runs/photos/narrow
    """
    given = read(Arguments, words, run)
    from scalespace.training.models import averaged_model

    output = path_of(given.output)
    pipeline, step, snapshots = averaged_model(path_of(given.trained), given.width, given.step, given.trust_model)
    write_directory(output, pipeline.save_pretrained)
    say(
        f"model   {output}, the average of width {given.width:g} at step {step:,} from {counted(snapshots, 'snapshot')}"
    )
