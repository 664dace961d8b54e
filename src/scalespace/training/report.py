"""RUN/index.html: the page that shows a run while it goes on and afterwards."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch

from scalespace import __version__
from scalespace.errors import UserError
from scalespace.pipelines.folders.card import Made
from scalespace.reports.machine import device_name
from scalespace.reports.run_page import RunPage, write_page
from scalespace.training.run_directory import RunDirectory
from scalespace.training.trainer import Trainer

__all__ = ["RunReport"]

_EVERY = 30.0
"""Seconds between two versions of the page, at least."""
_SHARE = 0.01  # of the time, at most, that writing it takes


class RunReport:
    """Keeps the page of a run up to date.

    Args:
        run: Run directory.
        trainer: Trains it.
        data: Lines about the pictures.
        first: Steps that were taken before this start.
        say: Takes a line for the user.
    """

    def __init__(
        self, run: RunDirectory, trainer: Trainer, data: Sequence[str], first: int, say: Callable[[str], None]
    ):
        self.run, self.first, self._say = run, first, say
        self._trainer, self._found = trainer, data
        self._max_steps = trainer.config.max_steps
        self._tables = {
            "Run": _run(trainer),
            "Data": {"pictures": trainer.config.data, "found": "; ".join(data)},
            "Configuration": run.options,
            "Changes": {
                f"{name} from step {change['step']:,} on": f"{value['now']}, before {value['before']}"
                for change in run.changes
                for name, value in change["changed"].items()
            },
        }
        self._since = time.monotonic()
        self._next = self._since + _EVERY

    def refresh(self, step: int, state: Literal["running", "finished", "stopped"] = "running") -> None:
        """Write the page, if it is time for that or the run has ended.

        A page that cannot be written is said, and stops nothing.

        Args:
            step: Steps taken.
            state: What the run is doing.
        """
        now = time.monotonic()
        if state == "running" and now < self._next:
            return
        taken = step - self.first
        left = (self._max_steps - step) * (now - self._since) / taken if taken else None
        page = RunPage(
            title=self.run.path.absolute().name,
            state=state,
            step=step,
            max_steps=self._max_steps,
            seconds_left=left,
            log=self.run.read_log(),
            evaluations=self.run.evaluations.read(),
            grids=[(int(path.stem.removeprefix("step-")), f"samples/{path.name}") for path in self._grids()],
            tables=self._tables,
        )
        try:
            write_page(page, self.run.path / "index.html")
        except UserError as error:
            self._say(str(error))
        spent = time.monotonic() - now
        self._next = time.monotonic() + max(_EVERY, spent / _SHARE)

    def made(self) -> Made:
        """What the card of the model says of how it was made. Names of folders and machines stay here."""
        trainer, config = self._trainer, self._trainer.config
        source = config.data if config.data.startswith("synthetic:") else Path(config.data).name
        told = {
            "steps": f"{config.max_steps:,}",
            "pictures seen": f"{trainer.pictures:,}",
            "batch size": config.batch_size,
            "learning rate": f"{config.learning_rate:g} ({config.learning_rate_schedule})",
            "seed": config.seed,
            "precision": config.mixed_precision,
            "device": device_name(trainer.accelerator.device),
            "processes": trainer.processes.count,
            "software": self._tables["Run"]["versions"],
        }
        drawn = ", pictures that scalespace draws itself" if source.startswith("synthetic:") else ""
        grids = self._grids()
        data = [f"{source}{drawn}: {'; '.join(self._found)}.", "", "Its licence is not known to scalespace."]
        return Made(data=data[:1] if drawn else data, compute=told, grid=grids[-1] if grids else None)

    def _grids(self) -> list[Path]:
        return sorted(path for path in (self.run.path / "samples").glob("step-*.png") if path.stem[5:].isdecimal())


def _run(trainer: Trainer) -> Mapping[str, Any]:
    device = trainer.accelerator.device
    return {
        "folder": os.path.abspath(trainer.config.output_dir),  # noqa: PTH100
        "parameters": sum(parameter.numel() for parameter in trainer.network.parameters()),
        "device": f"{device} ({device_name(device)}, {platform.node()})",
        "threads": torch.get_num_threads(),
        "processes": trainer.processes.count,
        "precision": trainer.config.mixed_precision,
        "command": " ".join(sys.argv),
        "versions": f"scalespace {__version__}, torch {torch.__version__}, diffusers {diffusers.__version__}, "
        f"Python {platform.python_version()}",
    }
