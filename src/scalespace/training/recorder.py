"""What the steps of a run did, gathered and written: losses by resolution, the norm of the gradient, the pace."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any, NamedTuple, NoReturn

import torch
from accelerate import Accelerator
from torch import Tensor

from scalespace.errors import UserError
from scalespace.processes import Processes
from scalespace.training.configuration import TrainConfig
from scalespace.training.run_directory import RunDirectory
from scalespace.training.time_sampling import TimeGroup

__all__ = ["Recorder", "Skipped", "StepResult"]

_MOST_SKIPPED = 20  # steps in a row; in half precision a scale of 2^16 is down to 1 by then


class Skipped(NamedTuple):
    """Steps that changed no weight, since their gradients were not finite."""

    total: int
    """Since the run began."""
    in_a_row: int
    """How many of them are the latest steps."""

    def after(self, finite: bool) -> Skipped:
        """The same after one more step."""
        return Skipped(self.total, 0) if finite else Skipped(self.total + 1, self.in_a_row + 1)


class StepResult(NamedTuple):
    """What a step did."""

    group: TimeGroup
    pictures: int
    """Number of pictures, over all processes."""
    loss: Tensor
    gradient_norm: Tensor
    skipped: Skipped


class Recorder:
    """Gathers what steps did, and writes it to the run's log and to the tracker.

    Args:
        run: Run directory, which has the log.
        accelerator: Accelerator, which has the tracker.
        config: Configuration of the run.
        processes: Processes that share the steps.
    """

    def __init__(self, run: RunDirectory, accelerator: Accelerator, config: TrainConfig, processes: Processes):
        self.run, self.accelerator, self.config, self.processes = run, accelerator, config, processes
        # Losses stay on the device until they are written, so that a step does not wait for them.
        self.pending: list[tuple[int, StepResult]] = []
        self.since = time.perf_counter()

    def add(self, step: int, result: StepResult) -> None:
        """Keep what a step did, counted from 1, until it is written.

        Raises:
            UserError: If it is one too many that had to be skipped.
        """
        self.pending.append((step, result))
        if result.skipped.in_a_row >= _MOST_SKIPPED:
            self.flush()
            self._stop(f"the last {result.skipped.in_a_row} gradients are not finite", step, result)

    def pause(self, seconds: float) -> None:
        """Leave out of the pace what was no training."""
        self.since += seconds

    def flush(self) -> str:
        """Write what has gathered; returns a word for the progress bar.

        Raises:
            UserError: If the loss of a step that was taken is not finite.
        """
        if not self.pending:
            return ""
        losses: list[float] = torch.stack([result.loss for _, result in self.pending]).tolist()
        norms = torch.stack([result.gradient_norm for _, result in self.pending]).tolist()
        taken: list[float] = []
        by_group: dict[str, list[float]] = {}
        for (step, result), loss, norm in zip(self.pending, losses, norms, strict=True):
            if not math.isfinite(norm):
                continue  # The step was skipped.
            if not math.isfinite(loss):
                self._stop(f"the loss is {loss}", step, result)
            taken.append(loss)
            by_group.setdefault(_name(result.group), []).append(loss)
        finite = [norm for norm in norms if math.isfinite(norm)]
        seconds = time.perf_counter() - self.since
        pictures = sum(result.pictures for _, result in self.pending)
        skipped = self.pending[-1][1].skipped.total
        record: dict[str, Any] = {
            "step": self.pending[-1][0],
            "loss": sum(taken) / len(taken) if taken else None,
            "losses": {name: sum(values) / len(values) for name, values in by_group.items()},
            "gradient_norm": sum(finite) / len(finite) if finite else None,
            "skipped_steps": skipped,
            "pictures_per_second": float(f"{pictures / seconds:.4g}"),
        }
        self.pending.clear()
        self.since = time.perf_counter()
        self.processes.first(partial(self.run.append_log, record))
        scalars = {key: record[key] for key in ("loss", "gradient_norm", "skipped_steps", "pictures_per_second")}
        scalars = {key: value for key, value in scalars.items() if value is not None}
        self.accelerator.log(scalars | {f"loss/{k}": v for k, v in record["losses"].items()}, step=record["step"])
        loss = f"loss {record['loss']:.4f}" if taken else "no finite gradient"
        return loss + (f", {skipped} steps skipped" if skipped else "")

    def _stop(self, what: str, step: int, result: StepResult) -> NoReturn:
        latest = self.run.latest_checkpoint()
        kept = f"the last good checkpoint is {latest[1]}" if latest else "no checkpoint had been written yet"
        half = ", or bf16 in the place of fp16" if self.accelerator.scaler is not None else ""
        raise UserError(
            f"{what} at step {step} ({_name(result.group)}) and training has stopped; {kept}; "
            f"train in a new --output-dir with a lower --learning-rate{half}"
        )


def _name(group: TimeGroup) -> str:
    """16x16 for steps inside a level, 16x16 -> 32x32 for a change."""
    size, target = ("{}x{}".format(*side) for side in (group.size, group.target_size))
    return f"{size} -> {target}" if group.is_change else size
