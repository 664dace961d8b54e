"""``scalespace plan``."""

from __future__ import annotations

import dataclasses
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from scalespace import __version__
from scalespace.commands.parsing import Preset, part, read_with_preset, say, tell
from scalespace.effects import Need, Needs
from scalespace.reports.figure import FigureFile
from scalespace.training.configuration import ModelConfig
from scalespace.training.needs import COMPARED_WITH_DATA, SEVERAL_LEVELS

__all__ = ["Arguments", "run"]

_DATA = Need(lambda given: given.data is not None, "without --data, whose spectrum it is about", "give --data")


@dataclass(frozen=True, kw_only=True)
class Arguments(ModelConfig):
    """The options of the command."""

    preset: Preset = "tiny"
    data: str | None = None
    """Pictures whose spectrum gives the resolutions, in any form that scalespace train takes."""
    tolerance: float | None = None
    """Only with --data: takes the place of --process.tolerance."""
    plot: FigureFile | None = None
    """Only with --data: file for a figure of the spectrum and of both resolution schedules (.png, .svg or .pdf)."""
    speed: str | None = None
    """What scalespace bench train --json printed: also tell how long a training takes at that speed."""
    json: bool = False
    """Print JSON instead of text."""
    quiet: bool = False
    """Show no progress bars."""

    needs: ClassVar[Needs] = {
        **COMPARED_WITH_DATA,
        "process.tolerance": (
            _DATA,
            Need(lambda given: given.tolerance is None, "with --tolerance, which replaces it", "leave --tolerance out"),
            SEVERAL_LEVELS,
        ),
        "tolerance": (_DATA, SEVERAL_LEVELS),
        "plot": (_DATA,),
    }


def run(words: list[str]) -> None:
    """Print what a model will cost: levels, timesteps, parameters, GFLOPs, and whether every change is valid.

    With --data, the resolutions are read off the pictures: a level ends as soon as noise has drowned the detail that the next
    level loses. The plan then has both schedules side by side.

    example: scalespace plan --preset celeba64-4l --process.levels 3

    example: scalespace plan --preset celeba64-4l --data photos/ --tolerance 0.01 --plot resolutions.png

    With --speed, it also tells how long a training takes on the machine where that was measured.

    example: scalespace bench train --preset tiny --json > bench.json; scalespace plan --preset tiny --speed bench.json
    """
    given = read_with_preset(Arguments, words, run)
    from scalespace.planning.cost import Plan, make_plan
    from scalespace.planning.speed import read_training_speed, readable_seconds, training_seconds

    speed = None if given.speed is None else read_training_speed(Path(given.speed))
    model = part(ModelConfig, given)
    command = f"scalespace plan {shlex.join(words)} (version {__version__})"
    plan = make_plan(model) if given.data is None else _plan_from_data(given, model, command)
    found, text = plan.as_dict(), plan.as_text()
    if speed is not None:
        each = training_seconds(plan if isinstance(plan, Plan) else plan.plan, speed)
        found |= {"training_seconds_per_picture": each}
        text += f"\ntraining            a million pictures take {readable_seconds(1e6 * each)} at the speed in {given.speed}"
    say(json.dumps(found, indent=2) if given.json else text)


def _plan_from_data(given: Arguments, model: ModelConfig, command: str) -> Any:
    from scalespace.data.images import open_images
    from scalespace.data.spectrum import mean_spectrum
    from scalespace.planning.cost import make_plan_from_data

    path = given.data or ""
    if given.tolerance is not None:
        model = dataclasses.replace(model, process=dataclasses.replace(model.process, tolerance=given.tolerance))

    def measure(size: tuple[int, int]) -> Any:
        # Only the pictures that are measured are decoded.
        progress, channels = not given.quiet, model.process.channels
        data = open_images(path, size, channels=channels, cache_bytes=0, progress=progress)
        spectrum = mean_spectrum(data, progress)
        tell((*data.found(), *data.met()), given.json)
        return spectrum

    plan = make_plan_from_data(model, measure)
    if given.plot is not None:
        from scalespace.planning.spectrum_plot import plot_spectrum

        plot_spectrum(plan, Path(given.plot), f"Resolutions read off {Path(path).name}", command)
    return plan
