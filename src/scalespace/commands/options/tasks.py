"""What the commands that draw pictures of pictures have in common."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from scalespace.commands.options.drawing import GUIDED, GuidanceOptions, guidance_chosen
from scalespace.commands.options.loading import Loading
from scalespace.commands.parsing import device_named, say
from scalespace.effects import Need, Needs
from scalespace.errors import UserError, cause
from scalespace.files import OutputFolder
from scalespace.training.configuration import SolverName

__all__ = ["Difference", "Guided", "ModelOptions", "Variations", "report"]


@dataclass(frozen=True, kw_only=True)
class _Drawing:
    """What is drawn."""

    model: str | None = None
    """Folder of a model, run or checkpoint, or OWNER/NAME on the Hugging Face Hub. None takes the model of the package."""
    output: OutputFolder
    """New folder for the pictures."""
    steps: int = 50
    """Number of network calls of a whole chain, of which those are taken that the task needs."""
    seed: int = 0
    """Seed of the pictures. A picture depends only on the seed and its own number."""
    batch_size: int = 16
    """Number of pictures drawn together."""
    class_label: str | None = None
    """Class of all pictures, by name or by number. None draws without one, if the model can."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Loading, _Drawing):
    """The model, and how it draws."""

    needs: ClassVar[Needs] = {
        **Loading.needs,
        "class_label": (
            Need(
                lambda given: given.pipeline.unet.num_classes is not None,
                "on a model without classes",
                "name a model trained with --network.num-classes",
            ),
        ),
    }

    @property
    def named(self) -> tuple[str | None, ...]:
        return (self.model,)

    @property
    def pipeline(self) -> Any:
        """The model."""
        return self.loaded[0]

    def ready(self, solver: str | None = None) -> Any:
        """The model on its device, with its solver and steps; all that can be refused before pictures are read is.

        Raises:
            UserError: If a choice does not fit the model.
        """
        from scalespace.pipelines.sampling import use_solver

        pipeline = self.pipeline
        try:
            if solver is not None:
                use_solver(pipeline, solver=solver)
            pipeline.scheduler.set_timesteps(self.steps)
            pipeline.label_numbers(self.label)
        except ValueError as error:
            raise UserError(cause(error)) from error
        pipeline.to(device_named(self.device))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @property
    def label(self) -> int | None:
        """Number of the class of all pictures."""
        from scalespace.pipelines.sampling import class_number

        return class_number(self.pipeline, self.class_label)

    def drawing(self, **facts: Any) -> dict[str, Any]:
        """Arguments of ``draw_into`` that all commands have, with facts for the metadata of the pictures."""
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "progress": not self.quiet,
            "facts": {"steps": self.steps, "class": self.label, **facts},
        }


@dataclass(frozen=True, kw_only=True)
class Variations(ModelOptions):
    """Several pictures of one."""

    variations: int = 1
    """Number of pictures that are drawn for each."""
    solver: SolverName | None = None
    """Solver that takes the steps. None takes the model's own."""


@dataclass(frozen=True, kw_only=True)
class Guided(GuidanceOptions, Variations):
    """Several pictures of one, guided."""

    needs: ClassVar[Needs] = {
        **Variations.needs,
        "guidance_interval": (GUIDED,),
        "guidance_model": (GUIDED,),
    }

    @property
    def named(self) -> tuple[str | None, ...]:
        return (self.model, *(() if self.guidance_model is None else (self.guidance_model,)))

    @cached_property
    def guidance(self) -> dict[str, Any]:
        """How the model is guided, as arguments of its call."""
        return guidance_chosen(self)

    def ready(self, solver: str | None = None) -> Any:
        """The model as ``ModelOptions.ready`` gives it, which can be guided so.

        Raises:
            UserError: If a choice does not fit the model.
        """
        from scalespace.pipelines.sampling import check_guidance

        pipeline = super().ready(solver)
        try:
            check_guidance(pipeline, self.guidance)
        except ValueError as error:
            raise UserError(cause(error)) from error
        return pipeline

    def drawing(self, **facts: Any) -> dict[str, Any]:
        """As of ``ModelOptions``, with the guidance among the facts."""
        from scalespace.pipelines.sampling import check_guidance

        guided = check_guidance(self.pipeline, self.guidance)
        others = {"guidance-model": self.guidance["guidance_model"]}
        # Guidance by the model itself runs it on twice the pictures.
        return super().drawing(**facts, **guided) | {"others": others, "copies": 2 if guided else 1}


def report(files: Any, output: str, told: Mapping[str, Any], as_json: bool, lines: Mapping[str, str]) -> None:
    """Tell what was written.

    Args:
        files: The ``Drawn`` of the task.
        output: Its folder.
        told: Further values for JSON.
        as_json: Whether to print JSON instead of text.
        lines: Further lines by their first word.
    """
    if as_json:
        say(json.dumps(files.as_json() | dict(told)))
        return
    count = sum(len(paths) for _, paths in files.pictures)
    say(f"pictures   {count} in {output}, of {len(files.pictures)}")
    for name, line in lines.items():
        say(f"{name:10} {line}")
    say(f"grid       {files.grid}")


class Difference:
    """The root mean square of differences, in levels of 255, of batches that come one after the other."""

    def __init__(self) -> None:
        self._squares, self._count = 0.0, 0

    def add(self, difference: Any) -> None:
        """Count a batch of differences of pictures in [-1, 1]."""
        self._squares += float(difference.double().square().sum())
        self._count += difference.numel()

    @property
    def levels(self) -> float:
        """Of everything that was counted."""
        return 127.5 * math.sqrt(self._squares / max(1, self._count))
