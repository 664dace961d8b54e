"""What measures a run while it is trained, and what becomes of the figures.

The room of metrics is above this one, so what measures is handed in; here is what it has to do.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from torch import Tensor

from scalespace.errors import UserError, cause
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.processes import Processes
from scalespace.training.run_directory import RunDirectory
from scalespace.training.trainer import Trainer

__all__ = ["Evaluation", "Evaluator", "Measure"]


class Measure(Protocol):
    """The measuring of one run."""

    def draw(self, model: ScaleSpacePipeline, progress: bool) -> Tensor:
        """Draw pictures on all processes: uint8, shape (N, 3, H, W), the same on every one."""
        ...

    def measure(self, pictures: Tensor, progress: bool) -> dict[str, float]:
        """Figures of the pictures, by their names; called on the first process alone.

        Raises:
            UserError: If there are none to be had of these pictures.
        """
        ...


class Evaluation(Protocol):
    """What measures a run from time to time, for example ``scalespace.metrics.training.held_out.HeldOut``."""

    @property
    def every(self) -> int:
        """Steps between two measurements."""
        ...

    def open(self, model: ScaleSpacePipeline, seed: int, processes: Processes, progress: bool) -> Measure:
        """Make ready on all processes, before the first step.

        Raises:
            UserError: If the model cannot be measured.
        """
        ...


class Evaluator:
    """Measures the averaged weights of a run. It changes nothing that a step depends on.

    Args:
        evaluation: What measures, and how often.
        trainer: Has the weights.
        progress: Whether what takes over two seconds shows a bar on stderr.

    Raises:
        UserError: If the model cannot be measured.
    """

    def __init__(self, evaluation: Evaluation, trainer: Trainer, progress: bool):
        self._every, self._trainer, self._progress = evaluation.every, trainer, progress
        with trainer.averaged() as network:
            model = ScaleSpacePipeline(network, trainer.scheduler)
            self._measure = evaluation.open(model, trainer.config.seed, trainer.processes, progress)

    def due(self, step: int) -> bool:
        """Whether the run is measured after so many steps: at multiples and at its end."""
        return step > 0 and (step % self._every == 0 or step == self._trainer.config.max_steps)

    def evaluate(self, run: RunDirectory, step: int) -> str | None:
        """Measure the run, and write the figures beside its log and to its tracker.

        Returns:
            Why there are no figures of these weights, as a sentence; None where there are.

        Raises:
            UserError: If the pictures cannot be drawn, or the figures cannot be written.
        """
        trainer, started = self._trainer, time.perf_counter()
        with trainer.averaged() as network:
            pictures = self._measure.draw(ScaleSpacePipeline(network, trainer.scheduler), self._progress)

        def measure() -> tuple[dict[str, float], str | None]:
            try:
                figures = self._measure.measure(pictures, self._progress)
            except UserError as error:
                # What weights draw on the way may be such that a figure does not exist; that stops no run.
                return {}, f"the run was not measured at step {step:,}: {cause(error)}"
            seconds = round(time.perf_counter() - started, 1)
            record: dict[str, Any] = {"step": step, "metrics": figures, "pictures": len(pictures), "seconds": seconds}
            run.evaluations.append(record)
            return figures, None

        figures, why = trainer.processes.first(measure)
        if figures:
            trainer.accelerator.log({f"evaluation/{name}": value for name, value in figures.items()}, step=step)
        return why
